"""What a station costs around its engine: frames a second of the whole path over those of the bare runner.

Both run in turns in one process, so that a busy machine slows them alike. Cameras show parts that were rendered before,
so that rendering is not what is measured. ``edgead bench --station`` measures it.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from edgead.config import CameraConfig, SinksConfig, StationConfig
from edgead.datasets.simulated import OBJECTS, render
from edgead.errors import GateError
from edgead.images import Image, resize
from edgead.progress import task
from edgead.runtime.engine import Engine
from edgead.runtime.fusion import Largest
from edgead.runtime.report import StationReport
from edgead.runtime.runner import Runner
from edgead.runtime.stations import Stations
from edgead.thresholds import Threshold

_CACHED_PARTS = 2
# Scores never reach it: what is timed is the path of good parts, which nearly all are.
_NEVER_NG = Threshold(1e30, 1e30, "part", 2000, 0.95, 1, 1e6, 1497, "none: for timing only")


@dataclass(frozen=True)
class StationSpeed:
    """A station against its bare engine; medians of the rounds.

    Attributes:
        bare_fps: frames a second of ``infer`` alone, on full batches.
        station_fps: from the first image in its slot to the last score, with verdicts on disk.
        station_over_engine: median of the rounds' ratios.
        overhead_us: what a frame takes longer in the station than in the bare engine, by the clock.
        overhead_cpu_us: processor time that a frame costs more, all threads together: steadier on a busy machine, but
            an engine of several threads spins while it waits, which counts.
        mean_batch: frames that the station's engine took at once.
        part_p50_ms, part_p99_ms: from trigger to verdict, the source held back by the engine.
    """

    runner: str
    size_hw: tuple[int, int]
    cameras: int
    parts: int
    frames: int
    rounds: int
    bare_fps: float
    station_fps: float
    station_over_engine: float
    overhead_us: float
    overhead_cpu_us: float
    mean_batch: float
    part_p50_ms: float
    part_p99_ms: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def measure_station(
    runner: Runner,
    *,
    object_name: str = "magnetic_core",
    image_size: int | None = None,
    frames: int | None = None,
    rounds: int = 5,
    round_s: float = 2.0,
) -> StationSpeed:
    """Time a station of one camera a view against its runner, in turns.

    Args:
        image_size: pixels to the side of what the cameras give; None gives the engine's size.
        frames: about how many in a round; None takes what the bare runner judges in ``round_s``.
    """
    spec = OBJECTS[object_name]
    size = image_size or max(runner.size_hw)
    shots = [
        render(object_name, seed=0, part=part, view=view, illumination=light, size=size).image
        for part in range(_CACHED_PARTS)
        for view in spec.views
        for light in spec.illuminations
    ]
    images = _batches(runner, shots)
    runner.infer(images[: runner.max_batch])
    a_part = len(spec.views) * len(spec.illuminations)
    wanted = frames or round(round_s * _run_bare(runner, images, 4 * runner.max_batch).fps)
    parts = max(wanted // a_part, 4 * runner.max_batch // a_part, 1)
    bare: list[_Pace] = []
    station: list[_Pace] = []
    with tempfile.TemporaryDirectory() as folder, task("Measuring the station", rounds) as advance:
        config = _config(object_name, Path(folder), parts, size)
        for number in range(rounds):
            if number % 2:
                bare.append(_run_bare(runner, images, parts * a_part))
            station.append(_run_station(runner, config))
            if not number % 2:
                bare.append(_run_bare(runner, images, parts * a_part))
            advance(1)
    return _speed(runner, config, parts * a_part, bare, station)


class _Pace(NamedTuple):
    """One round; ``cpu_us`` of processor time a frame."""

    fps: float
    cpu_us: float
    report: StationReport | None = None


def _speed(runner: Runner, config: StationConfig, frames: int, bare: list[_Pace], station: list[_Pace]) -> StationSpeed:
    reports = [pace.report for pace in station if pace.report is not None]
    pairs = list(zip(station, bare, strict=True))
    bare_fps, station_fps = (median(pace.fps for pace in paces) for paces in (bare, station))
    return StationSpeed(
        runner=runner.name,
        size_hw=runner.size_hw,
        cameras=len(config.cameras),
        parts=reports[0].triggers,
        frames=frames,
        rounds=len(pairs),
        bare_fps=bare_fps,
        station_fps=station_fps,
        station_over_engine=median(ours.fps / alone.fps for ours, alone in pairs),
        overhead_us=1e6 * (1 / station_fps - 1 / bare_fps),
        overhead_cpu_us=median(ours.cpu_us - alone.cpu_us for ours, alone in pairs),
        mean_batch=median(report.mean_batch for report in reports),
        part_p50_ms=median(report.latency_ms["part"].p50 for report in reports),
        part_p99_ms=median(report.latency_ms["part"].p99 for report in reports),
    )


def _batches(runner: Runner, shots: list[Image]) -> Image:
    """Repeat the shots at the engine's size until they fill whole batches."""
    sized = [resize(shot, runner.size_hw) for shot in shots]
    count = max(len(sized), runner.max_batch)
    count += -count % runner.max_batch
    return np.stack([sized[index % len(sized)] for index in range(count)])


def _run_bare(runner: Runner, images: Image, frames: int) -> _Pace:
    largest, done, first = runner.max_batch, 0, 0
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    while done < frames:
        count = min(largest, frames - done)
        runner.infer(images[first : first + count])
        done += count
        first = (first + largest) % len(images)
    wall_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
    return _Pace(frames / wall_s, 1e6 * cpu_s / frames)


def _run_station(runner: Runner, config: StationConfig) -> _Pace:
    with Stations() as stations:
        stations.add(config, Engine(runner), Largest(_NEVER_NG))  # renders what its cameras show, which is not timed
        begin_cpu_s = time.process_time()
        (report,) = stations.run()
        cpu_s = time.process_time() - begin_cpu_s
    if report.verdicts["OK"] != report.triggers:
        raise GateError(f"only {report.verdicts['OK']} of {report.triggers} parts got their verdict: {report.problems}")
    return _Pace(report.fps, 1e6 * cpu_s / report.frames, report)


def _config(object_name: str, folder: Path, parts: int, size: int) -> StationConfig:
    uri = f"sim://{object_name}?seed=0&parts={parts}&ng_share=0&cache={_CACHED_PARTS}&size={size}"
    cameras = tuple(CameraConfig(name=view, uri=uri, view=view) for view in OBJECTS[object_name].views)
    return StationConfig(bundle=folder, cameras=cameras, output=folder, sinks=SinksConfig(pictures=None))
