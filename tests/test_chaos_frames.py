"""Frames that are no frames: whatever a camera gives, the station stands, and the other cameras are judged."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgead.config import CameraConfig, StationConfig
from edgead.errors import CameraError, DataError
from edgead.images import resize
from edgead.runtime import station as station_module
from edgead.runtime.cameras import open_cameras
from edgead.runtime.fake import FakeRunner
from edgead.runtime.frames import Camera, Frame, Health
from edgead.runtime.live import Live
from edgead.runtime.live_source import LiveOptions, Shot
from edgead.runtime.parts import Slot
from edgead.runtime.stations import run_station
from edgead.thresholds import Threshold

THRESHOLD = Threshold(2.0, 3.0, "part", 2000, 0.95, 3000, 1000, 1500, "by hand")
DTYPES = (np.uint8, np.uint8, np.uint8, np.int8, np.uint16, np.float32, np.float64, np.bool_, np.complex64, "O", "S3")
SLOT_HW = (16, 16)


def garbage(rng: np.random.Generator) -> npt.NDArray[np.generic]:
    """Return an array as a broken camera, or a broken driver, may give it: any shape, type and layout."""
    shape = tuple(rng.choice([0, 1, 2, 3, 4, 7, 33], int(rng.integers(0, 5))))
    if rng.random() < 0.4:
        shape = (*rng.integers(1, 70, 2).tolist(), int(rng.choice([3, 3, 3, 1, 4])))
    array: npt.NDArray[np.generic] = np.zeros(shape, DTYPES[rng.integers(len(DTYPES))])
    if array.dtype.kind == "f":
        array = np.full_like(array, rng.choice([np.nan, np.inf, -np.inf, 1e30]))
    elif array.dtype == np.uint8:
        array = rng.integers(0, 256, shape).astype(np.uint8)
    match int(rng.integers(6)):
        case 0:
            array = np.asarray(
                array[tuple(slice(None, None, int(step)) for step in rng.choice([-2, -1, 2, 3], array.ndim))]
            )
        case 1:
            array = array.T
        case 2:
            array = np.asarray(np.broadcast_to(array, (2, *array.shape))[1])
        case 3:
            array.setflags(write=False)
        case 4 if array.ndim == 3 and array.shape[2] == 3:
            array = np.broadcast_to(array[:1, :1], array.shape)  # every pixel is the same bytes
    return array


def is_image(array: npt.NDArray[np.generic]) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.size > 0


def test_10_000_arrays_are_resized_right_or_refused_in_one_line() -> None:
    rng = np.random.default_rng(1)
    guarded = np.full((SLOT_HW[0] + 2, SLOT_HW[1], 3), 77, np.uint8)
    slot = guarded[1:-1]
    right = 0
    for _ in range(10_000):
        array = garbage(rng)
        if not is_image(array) and not (array.dtype == np.uint8 and array.ndim == 2 and array.size):
            with pytest.raises(DataError) as refused:
                resize(array, SLOT_HW, out=slot)  # type: ignore[arg-type]
            assert "\n" not in str(refused.value)
            continue
        resize(array, SLOT_HW, out=slot)  # type: ignore[arg-type]
        plain = np.ascontiguousarray(array).astype(np.uint8)
        assert np.array_equal(slot, resize(plain, SLOT_HW, out=np.empty((*SLOT_HW, 3), np.uint8)))
        right += 1
    assert right > 500
    assert (guarded[[0, -1]] == 77).all()


class Broken:
    """A source that gives what it is given; never gone."""

    counted = None

    def __init__(self, arrays: list[npt.NDArray[np.generic]]) -> None:
        self.transport: dict[str, int] = {}
        self._arrays = iter(arrays)

    def open(self, timeout_s: float) -> None:
        pass

    def read(self, timeout_s: float, light: int) -> Shot | None:  # noqa: ARG002 - it is as it is
        return Shot(next(self._arrays), time.monotonic())  # type: ignore[arg-type]

    def close(self) -> None:
        pass


def test_a_live_camera_refuses_10_000_frames_that_are_none_in_one_line_each() -> None:
    rng = np.random.default_rng(2)
    arrays = [garbage(rng) for _ in range(10_000)]
    promised = (33, 44, 3)
    good = [np.zeros(promised, np.uint8) for _ in range(100)]
    arrays[::100] = good
    camera = Live(CameraConfig(name="broken", uri="rtsp://x"), Broken(arrays), LiveOptions(width=44, height=33))
    camera.open()
    frames = refused = 0
    for array in arrays:
        if array.dtype == np.uint8 and array.shape == promised:
            frame = camera.read(5)
            assert frame is not None
            assert frame.image is array
            frames += 1
        else:
            with pytest.raises(CameraError, match=r"^camera 'broken' gave .*; expected [^\n]*$"):
                camera.read(5)
            refused += 1
    assert frames >= 100
    assert refused > 9000
    assert camera.health.frames == frames
    camera.close()


class Garbage:
    """A camera whose frames are none."""

    def __init__(self, config: CameraConfig, parts: int, seed: int) -> None:
        self.name = config.name
        self.slots = (Slot(config.name, "0"),)
        self.triggers: int | None = parts
        self.health = Health()
        self._rng = np.random.default_rng(seed)
        self._next = 0

    def open(self) -> None:
        pass

    def read(self, timeout_s: float) -> Frame | None:  # noqa: ARG002 - it never waits
        if self._next == self.triggers:
            return None
        self._next += 1
        self.health.frames += 1
        array = garbage(self._rng)
        if is_image(array):
            array = array.astype(np.float32)
        trigger = self._next - 1
        return Frame(array, self.name, self.slots[0], trigger, f"P{trigger:04d}", time.monotonic())  # type: ignore[arg-type]

    def stop(self) -> None:
        pass

    def close(self) -> None:
        self._next = self.triggers or 0


def test_cameras_that_give_garbage_leave_the_others_to_be_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, broken = 100, 100
    uri = f"sim://ceramic_tile?parts={parts}&cache=4&size=32&ng_share=0"
    names = [f"broken-{number}" for number in range(broken)]
    cameras = [{"name": name, "uri": uri} for name in (*names, "good")]

    def with_broken(configs: tuple[CameraConfig, ...]) -> list[Camera]:
        opened: list[Camera] = [Garbage(one, parts, number) for number, one in enumerate(configs[:broken])]
        return [*opened, *open_cameras(configs[broken:])]

    monkeypatch.setattr(station_module, "open_cameras", with_broken)
    config = StationConfig.model_validate({"bundle": tmp_path, "output": tmp_path / "out", "cameras": cameras})
    report = run_station(config, runner=FakeRunner(SLOT_HW), threshold=THRESHOLD)
    assert report.is_conserved
    assert (report.triggers, report.verdicts["INCOMPLETE"]) == (parts, parts)
    assert report.frames == parts  # each of the good camera was judged
    assert 1 <= len(report.problems) <= 100
    for problem in report.problems:
        assert "\n" not in problem
        assert "expected uint8 (height, width, 3)" in problem or problem.endswith("frames that were of no use")
    lines = [json.loads(line) for line in report.verdict_file.read_text().splitlines()]
    assert sorted(line["trigger"] for line in lines) == list(range(parts))
    assert all(line["frames"] == 1 and len(line["missing"]) == broken for line in lines)


def test_a_camera_that_changes_size_and_type_in_mid_run_takes_nothing_else_with_it(tmp_path: Path) -> None:
    uri = "sim://magnetic_core?parts=60&cache=4&size=32&ng_share=0&seed=2"
    cameras = [
        {"name": "fuzzed", "view": "front", "uri": f"{uri}&fuzzed_share=0.05"},
        {"name": "good", "view": "back", "uri": uri},
    ]
    config = StationConfig.model_validate({"bundle": tmp_path, "output": tmp_path / "out", "cameras": cameras})
    report = run_station(config, runner=FakeRunner(SLOT_HW), threshold=THRESHOLD)
    assert report.is_conserved
    assert report.triggers == 60
    assert report.frames > 240  # all of the good camera, and those of the other one that were right
    assert report.verdicts["OK"] + report.verdicts["INCOMPLETE"] == 60
    assert report.verdicts["INCOMPLETE"] > 0
    assert report.problems[-1].endswith("frames that were of no use")
    for problem in report.problems:
        assert "camera 'fuzzed' gave" in problem
        assert "\n" not in problem
