"""Cameras behind a GenTL producer, against the one that comes with the genicam wheel: three cameras of a ball game."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from edgead.config import CameraConfig
from edgead.errors import CameraError, ConfigError
from edgead.runtime.cameras import open_cameras
from edgead.runtime.frames import Camera, Frame

genicam = pytest.importorskip("genicam")
pytest.importorskip("harvesters.core")
PRODUCER = Path(genicam.__file__).with_name("viky.cti")


def cameras(*queries: str) -> list[Camera]:
    return open_cameras(
        [
            CameraConfig(name=f"cam{number}", uri=f"cti://{PRODUCER}{query}", view=str(number))
            for number, query in enumerate(queries)
        ]
    )


def frame_of(camera: Camera) -> Frame:
    frame = camera.read(20)
    assert frame is not None
    return frame


def test_a_producer_gives_frames_of_its_cameras_side_by_side() -> None:
    red, blue = cameras("?serial=0", "?serial=VikyTL_DEV_blue")
    seen: dict[str, list[Frame]] = {}

    def read(camera: Camera) -> None:
        seen[camera.name] = [frame_of(camera) for _ in range(5)]

    threads = [threading.Thread(target=read, args=(camera,)) for camera in (red, blue)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for camera in (red, blue):
        frames = seen[camera.name]
        assert {frame.image.shape for frame in frames} == {(400, 400, 3)}
        assert all(frame.image.dtype == np.uint8 and frame.decode_s > 0 for frame in frames)
        numbers = [frame.trigger for frame in frames]
        assert numbers == sorted(set(numbers))
        assert len(numbers) + camera.health.missed == numbers[-1] + 1
        assert not np.array_equal(frames[0].image, frames[-1].image)  # its ball moves, and no buffer is shared
    means = {camera.name: seen[camera.name][0].image.mean(axis=(0, 1)) for camera in (red, blue)}
    assert means[red.name].argmax() == 0
    assert means[blue.name].argmax() == 2
    red.close()
    assert frame_of(blue).image.any()  # the producer is still there for the other
    blue.close()
    blue.close()
    again = cameras("?serial=1&pixel_format=Mono8")[0]
    frame = frame_of(again)
    assert (frame.image[..., 0] == frame.image[..., 2]).all()
    again.close()


def test_features_are_set_and_a_rate_is_the_cameras_own() -> None:
    (camera,) = cameras("?serial=2&set=AcquisitionFrameRate:10&pixel_format=Mono8")
    frames = [frame_of(camera) for _ in range(4)]
    camera.close()
    assert (frames[-1].captured_s - frames[0].captured_s) / (frames[-1].trigger - frames[0].trigger) > 0.08


@pytest.mark.parametrize(
    ("query", "error", "words"),
    [
        ("", CameraError, "has several cameras; say ?serial= one of 0, 1, 2"),
        ("?serial=7", CameraError, "has no camera '7'"),
        ("?serial=VikyTL_DEV_bleu", CameraError, "did you mean 'VikyTL_DEV_blue'?"),
        ("?serial=0&pixel_format=Mono99", CameraError, "Mono99"),
        ("?serial=0&set=AcquisitionFrameRat:3", CameraError, "did you mean 'AcquisitionFrameRate'?"),
        ("?serial=0&set=AcquisitionFrameRate:fast", CameraError, "fast"),
        ("?serial=0&exposure_us=100", CameraError, "has no feature ExposureTime"),
        ("?serial=0&trigger=software", CameraError, "has no feature TriggerSelector"),
        ("?serial=0&set=Width", ConfigError, "expected Name:value"),
        ("?seriel=0", ConfigError, "did you mean 'serial'?"),
        ("?serial=0&counter=CounterValue", ConfigError, "it needs the input that takes them"),
    ],
)
def test_a_wrong_address_is_refused_in_one_line(query: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        cameras(query)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "cam0" in str(caught.value)


def test_a_producer_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    text = tmp_path / "text.cti"
    text.write_text("no library")
    wrong = ((tmp_path / "none.cti", "is no file"), (text, "does not open its camera"), (tmp_path, "is no file"))
    for path, words in wrong:
        with pytest.raises(CameraError) as caught:
            open_cameras([CameraConfig(name="cam", uri=f"cti://{path}")])
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_is_not_installed_is_named_with_its_command() -> None:
    script = (
        "import sys; sys.modules['harvesters.core'] = sys.modules['viva_genicam'] = sys.modules['gi'] = None\n"
        "from pathlib import Path; from edgead.runtime import introspection, cameras\n"
        "introspection.load.__kwdefaults__['distribution'] = Path('/nowhere')\n"
        "from edgead.config import CameraConfig\n"
        "for uri in ('cti:///x.cti', 'gige://1', 'gige://1?driver=viva', 'gige://1?driver=aravis'):\n"
        "    try: cameras.open_cameras([CameraConfig(name='cam', uri=uri)])\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    producer, either, viva, aravis = done.stdout.splitlines()
    assert all(line.startswith("MissingError ") for line in (producer, either, viva, aravis))
    assert "'.[genicam]'" in producer
    assert "apt-get install python3-gi" in either
    assert "'.[viva]'" in either
    assert "'.[viva]'" in viva
    assert "apt-get" not in viva
    assert "viva" not in aravis
