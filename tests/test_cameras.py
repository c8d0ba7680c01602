from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgead.config import CameraConfig
from edgead.datasets.simulated import OBJECTS, render
from edgead.errors import CameraError, ConfigError
from edgead.images import write_png
from edgead.runtime.cameras import open_cameras
from edgead.runtime.frames import Camera, Frame
from edgead.runtime.parts import Slot
from edgead.runtime.sim_camera import defect_of


def grey(level: int, size: int = 8) -> np.ndarray:
    return np.full((size, size, 3), level, np.uint8)


def camera(uri: str, **values: object) -> Camera:
    return open_cameras([CameraConfig.model_validate({"name": "cam", "uri": uri, **values})])[0]


def frames(source: Camera) -> list[Frame]:
    read = []
    while (frame := source.read(1.0)) is not None:
        read.append(frame)
    assert source.read(1.0) is None
    source.close()
    source.close()
    return read


def levels(read: list[Frame]) -> list[int]:
    return [int(frame.image[0, 0, 0]) for frame in read]


def folder_of(folder: Path, *names: str) -> Path:
    for level, name in enumerate(names):
        write_png(folder / f"{name}.png", grey(level))
    return folder


def test_a_folder_of_any_images_is_a_part_an_image_in_natural_order(tmp_path: Path) -> None:
    read = frames(camera(f"dir://{folder_of(tmp_path, 'shot10', 'shot2', 'shot1')}"))
    assert levels(read) == [2, 1, 0]
    assert [frame.trigger for frame in read] == [0, 1, 2]
    assert [frame.part for frame in read] == ["shot1", "shot2", "shot10"]
    assert {frame.slot for frame in read} == {Slot("0", "0")}


def test_a_folder_with_lights_in_turn_makes_a_part_of_as_many_images(tmp_path: Path) -> None:
    source = camera(f"dir://{folder_of(tmp_path, 'a', 'b', 'c', 'd')}", view="top", illuminations=("ring", "dome"))
    assert source.triggers == 2
    read = frames(source)
    assert [(frame.trigger, frame.slot.illumination, frame.part) for frame in read] == [
        (0, "ring", "a"),
        (0, "dome", "a"),
        (1, "ring", "c"),
        (1, "dome", "c"),
    ]
    assert {frame.slot.view for frame in read} == {"top"}


def test_a_folder_named_by_part_view_and_light_is_read_by_name(tmp_path: Path) -> None:
    names = ("P0002_V1_L1", "P0002_V1_L2", "P0010_V1_L1", "P0010_V2_L1")
    source = camera(f"dir://{folder_of(tmp_path, *names)}")
    assert source.slots == (Slot("1", "1"), Slot("1", "2"), Slot("2", "1"))
    assert [(frame.part, frame.trigger, frame.slot) for frame in frames(source)] == [
        ("P0002", 0, Slot("1", "1")),
        ("P0002", 0, Slot("1", "2")),
        ("P0010", 1, Slot("1", "1")),
        ("P0010", 1, Slot("2", "1")),
    ]


def test_cameras_that_share_a_folder_take_their_view_and_number_parts_alike(tmp_path: Path) -> None:
    folder_of(tmp_path, "P1_V1_L1", "P2_V1_L1", "P2_V2_L1", "P3_V1_L1", "P3_V2_L1", "P3_V2_L2")
    first, second = open_cameras(
        [
            CameraConfig(name="one", uri=f"dir://{tmp_path}", view="1"),
            CameraConfig(name="two", uri=f"dir://{tmp_path}", view="2", illuminations=("1",)),
        ]
    )
    assert [(frame.part, frame.trigger) for frame in frames(first)] == [("P1", 0), ("P2", 1), ("P3", 2)]
    assert [(frame.part, frame.trigger) for frame in frames(second)] == [("P2", 1), ("P3", 2)]
    assert first.triggers == second.triggers == 3


def test_a_folder_is_read_by_its_own_pattern(tmp_path: Path) -> None:
    folder_of(tmp_path, "tile-7.ring", "tile-7.dome")
    read = frames(camera(f"dir://{tmp_path}?pattern=(?P<part>tile-[0-9]+)[.](?P<light>.*)"))
    assert [(frame.part, frame.slot) for frame in read] == [
        ("tile-7", Slot("0", "dome")),
        ("tile-7", Slot("0", "ring")),
    ]


def test_a_folder_that_is_deleted_while_it_is_read_ends_in_one_line(tmp_path: Path) -> None:
    source = camera(f"dir://{folder_of(tmp_path, 'a', 'b')}")
    assert source.read(1.0) is not None
    (tmp_path / "b.png").unlink()
    with pytest.raises(CameraError, match=r"camera 'cam' has vanished: .*b\.png: cannot be read") as caught:
        source.read(1.0)
    assert "\n" not in str(caught.value)


def test_a_corrupt_image_ends_the_camera_in_one_line(tmp_path: Path) -> None:
    folder_of(tmp_path, "a")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    source = camera(f"dir://{tmp_path}")
    assert source.read(1.0) is not None
    with pytest.raises(CameraError, match=r"b\.png: the file is truncated"):
        source.read(1.0)


def video(path: Path, count: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    assert writer.isOpened()
    for index in range(count):
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[..., 2] = 20 * index  # red, in OpenCV's order
        writer.write(picture)
    writer.release()
    return path


def test_a_video_gives_its_frames_as_rgb_with_lights_in_turn(tmp_path: Path) -> None:
    source = camera(f"file://{video(tmp_path / 'line.avi', 6)}", illuminations=("1", "2"))
    assert source.triggers == 3
    read = frames(source)
    assert [frame.trigger for frame in read] == [0, 0, 1, 1, 2, 2]
    assert [frame.slot.illumination for frame in read] == ["1", "2"] * 3
    assert [frame.part for frame in read][::2] == ["line-0", "line-1", "line-2"]
    for index, frame in enumerate(read):
        assert frame.image.shape == (48, 64, 3)
        assert abs(int(frame.image[..., 0].mean()) - 20 * index) < 6
        assert frame.image[..., 2].mean() < 6


def test_a_truncated_video_ends_in_one_line(tmp_path: Path) -> None:
    path = video(tmp_path / "line.avi", 10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CameraError, match=r"truncated or corrupt|no video"):
        frames(camera(f"file://{path}"))


def test_a_simulated_camera_shows_what_the_simulator_renders() -> None:
    source = camera("sim://chip_capacitor?seed=5&parts=2&ng_share=1&size=64", view="side")
    spec = OBJECTS["chip_capacitor"]
    assert source.slots == tuple(Slot("side", light) for light in spec.illuminations)
    read = frames(source)
    assert [frame.trigger for frame in read] == [0, 0, 0, 1, 1, 1]
    for frame in read:
        defect = defect_of(spec, seed=5, part=frame.trigger, ng_share=1)
        assert defect != "good"
        expected = render(
            "chip_capacitor",
            seed=5,
            part=frame.trigger,
            view="side",
            illumination=frame.slot.illumination,
            defect=defect,
            size=64,
        )
        assert np.array_equal(frame.image, expected.image)


def test_a_simulated_camera_shows_cached_parts_again_and_again() -> None:
    read = frames(camera("sim://ceramic_tile?parts=5&cache=2&size=32"))
    assert [frame.trigger for frame in read] == [0, 1, 2, 3, 4]
    assert read[0].image is read[2].image is read[4].image
    assert read[1].image is read[3].image
    assert not np.array_equal(read[0].image, read[1].image)


def test_the_share_of_defects_is_what_was_asked_for() -> None:
    spec = OBJECTS["ceramic_tile"]
    defects = [defect_of(spec, seed=1, part=part, ng_share=0.3) for part in range(1000)]
    assert 240 < sum(defect != "good" for defect in defects) < 360
    assert set(defects) == {"good", *spec.defects}


def test_a_simulated_camera_keeps_its_rate_and_vanishes_when_told() -> None:
    source = camera("sim://ceramic_tile?parts=9&cache=1&size=32&rate=50&vanish_after=4")
    begin_s = time.monotonic()
    for _ in range(4):
        assert source.read(1.0) is not None
    assert time.monotonic() - begin_s >= 3 / 50 - 0.005
    with pytest.raises(CameraError, match="camera 'cam' has vanished after 4 frames"):
        source.read(1.0)


def test_a_silent_camera_times_out() -> None:
    source = camera("sim://ceramic_tile?parts=9&cache=1&size=32&rate=0.1")
    assert source.read(0.05) is not None
    begin_s = time.monotonic()
    with pytest.raises(CameraError, match=r"gave no frame for 0\.05 s"):
        source.read(0.05)
    assert time.monotonic() - begin_s < 10


def test_lost_frames_are_left_out_and_the_others_keep_their_triggers() -> None:
    read = frames(camera("sim://magnetic_core?parts=50&cache=1&size=32&lost_share=0.25&view=front"))
    kept = [(frame.trigger, frame.slot) for frame in read]
    assert 110 < len(kept) < 190
    assert kept == sorted(kept, key=lambda pair: pair[0])
    assert len(set(kept)) == len(kept)


@pytest.mark.parametrize(
    ("uri", "values", "error", "words"),
    [
        ("dri://x", {}, ConfigError, "unknown scheme 'dri', did you mean 'dir'?"),
        ("rtmp://x", {}, ConfigError, "unknown scheme 'rtmp', did you mean 'rtsp'?"),
        ("images", {}, ConfigError, "'images' is no address"),
        ("dir://", {}, ConfigError, "is no address"),
        ("dir:///nowhere/at/all", {}, CameraError, "/nowhere/at/all is no folder"),
        ("dir://{empty}", {}, CameraError, "holds no image"),
        ("dir://{named}", {"view": "9"}, CameraError, "has 1/1, 1/2"),
        ("dir://{named}?patern=x", {}, ConfigError, "unknown key 'patern', did you mean 'pattern'?"),
        ("dir://{named}?pattern=(", {}, ConfigError, "is no regular expression"),
        ("dir://{named}?pattern=x", {}, ConfigError, "has no group 'part'"),
        ("dir://{mixed}", {}, CameraError, "'other.png' does not match the pattern"),
        ("file:///nowhere/line.mp4", {}, CameraError, "is no file"),
        ("file://{text}", {}, CameraError, "is no video"),
        ("file://{text}?loop=1", {}, ConfigError, "unknown key 'loop'"),
        ("sim://ceramic_tyle", {}, ConfigError, "did you mean 'ceramic_tile'?"),
        ("sim://ceramic_tile?sed=1", {}, ConfigError, "unknown key 'sed', did you mean 'seed'?"),
        ("sim://ceramic_tile?parts=many", {}, ConfigError, "parts: 'many' is wrong"),
        ("sim://ceramic_tile?rate=nan", {}, ConfigError, "rate"),
        ("sim://magnetic_core", {"view": "frnt"}, ConfigError, "did you mean 'front'?"),
        ("sim://magnetic_core", {"illuminations": ("rings",)}, ConfigError, "did you mean 'ring'?"),
        ("sim://magnetic_core?view=back", {"view": "front"}, ConfigError, "say it once"),
    ],
)
def test_a_wrong_camera_is_refused_in_one_line(
    tmp_path: Path, uri: str, values: dict[str, object], error: type[Exception], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    folder_of(tmp_path / "named", "P1_V1_L1", "P1_V1_L2")
    folder_of(tmp_path / "mixed", "P1_V1_L1", "other")
    (tmp_path / "text").write_text("no video at all")
    paths = {name: str(tmp_path / name) for name in ("empty", "named", "mixed", "text")}
    for name, path in paths.items():
        uri = uri.replace("{" + name + "}", path)
    with pytest.raises(error) as caught:
        camera(uri, **values)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "cam" in str(caught.value)


def test_two_cameras_for_one_view_are_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, "a")
    with pytest.raises(ConfigError, match="cameras 'one' and 'two' both give view '0'"):
        open_cameras([CameraConfig(name=name, uri=f"dir://{tmp_path}") for name in ("one", "two")])
