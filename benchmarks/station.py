"""What a station costs around its engine: frames a second of the whole path over those of the bare runner.

Both run in turns in one process, so that a busy machine slows them alike. Cameras show parts that were rendered before,
so that rendering is not what is measured. ``edgead bench --station`` measures it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
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
from edgead.runtime.report import StationReport
from edgead.runtime.runner import Runner
from edgead.runtime.stations import Stations, by_largest
from edgead.thresholds import Threshold

_CACHED_PARTS = 2
# Scores never reach it: what is timed is the path of good parts, which nearly all are.
_NEVER_NG = Threshold(1e30, 1e30, "part", 2000, 0.95, 1, 1e6, 1497, "none: for timing only")


@dataclass(frozen=True)
class StationSpeed:
    """Stations that share an engine against the bare engine; medians of the rounds.

    Attributes:
        cameras, parts, frames: of all stations together, in a round.
        bare_fps: frames a second of ``infer`` alone, on full batches.
        station_fps: from the first image in its slot to the last score, with verdicts on disk.
        station_over_engine: median of the rounds' ratios; ``low`` and ``high`` are the smallest and the largest.
        overhead_us: what a frame takes longer in the station than in the bare engine, by the clock.
        overhead_cpu_us: processor time that a frame costs more, all threads together: steadier on a busy machine, but
            an engine of several threads spins while it waits, which counts.
        mean_batch: frames that the station's engine took at once.
        part_p50_ms, part_p99_ms: from trigger to verdict, the source held back by the engine.
        stage_us: by stage, what it takes of the wall clock a frame: resize, fuse, publish. They run beside the engine.
    """

    runner: str
    size_hw: tuple[int, int]
    image_hw: tuple[int, int]
    stations: int
    cameras: int
    parts: int
    frames: int
    rounds: int
    bare_fps: float
    station_fps: float
    station_over_engine: float
    low: float
    high: float
    overhead_us: float
    overhead_cpu_us: float
    mean_batch: float
    part_p50_ms: float
    part_p99_ms: float
    stage_us: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def measure_station(
    runner: Runner,
    *,
    object_name: str = "magnetic_core",
    stations: int = 1,
    image_size: int | None = None,
    frames: int | None = None,
    rounds: int = 9,
    round_s: float = 2.0,
) -> StationSpeed:
    """Time stations of one camera a view against the runner that they share, in turns.

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
    parts = max(wanted // (a_part * stations), 4 * runner.max_batch // a_part, 1)
    frames = stations * parts * a_part
    bare: list[_Pace] = []
    full: list[_Pace] = []
    with tempfile.TemporaryDirectory() as folder, task("Measuring the station", rounds) as advance:
        configs = [_config(object_name, Path(folder) / str(number), parts, size) for number in range(stations)]
        for number in range(rounds):
            if number % 2:
                bare.append(_run_bare(runner, images, frames))
            full.append(_run_stations(runner, configs))
            if not number % 2:
                bare.append(_run_bare(runner, images, frames))
            advance(1)
    return _speed(runner, configs, (size, size), bare, full)


class _Pace(NamedTuple):
    """One round; ``cpu_us`` of processor time a frame."""

    fps: float
    cpu_us: float
    reports: Sequence[StationReport] = ()


def _speed(
    runner: Runner, configs: list[StationConfig], image_hw: tuple[int, int], bare: list[_Pace], full: list[_Pace]
) -> StationSpeed:
    reports = [report for pace in full for report in pace.reports]
    pairs = list(zip(full, bare, strict=True))
    bare_fps, station_fps = (median(pace.fps for pace in paces) for paces in (bare, full))
    ratios = [ours.fps / alone.fps for ours, alone in pairs]
    a_part = reports[0].frames / reports[0].triggers
    frames = {"resize": 1.0, "fuse": a_part, "publish": a_part}  # in one of what the stage is timed for
    return StationSpeed(
        runner=runner.name,
        size_hw=runner.size_hw,
        image_hw=image_hw,
        stations=len(configs),
        cameras=sum(len(config.cameras) for config in configs),
        parts=sum(report.triggers for report in full[0].reports),
        frames=sum(report.frames for report in full[0].reports),
        rounds=len(pairs),
        bare_fps=bare_fps,
        station_fps=station_fps,
        station_over_engine=median(ratios),
        low=min(ratios),
        high=max(ratios),
        overhead_us=1e6 * (1 / station_fps - 1 / bare_fps),
        overhead_cpu_us=median(ours.cpu_us - alone.cpu_us for ours, alone in pairs),
        mean_batch=median(report.mean_batch for report in reports),
        part_p50_ms=median(report.latency_ms["part"].p50 for report in reports),
        part_p99_ms=median(report.latency_ms["part"].p99 for report in reports),
        stage_us={
            stage: round(median(1e3 * report.latency_ms[stage].mean / count for report in reports), 2)
            for stage, count in frames.items()
        },
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


def _run_stations(runner: Runner, configs: list[StationConfig]) -> _Pace:
    engine = Engine(runner)
    with Stations() as stations:
        for config in configs:  # renders what its cameras show, which is not timed
            stations.add(config, engine, by_largest(_NEVER_NG))
        begin_cpu_s = time.process_time()
        reports = stations.run()
        cpu_s = time.process_time() - begin_cpu_s
    for report in reports:
        if report.verdicts["OK"] != report.triggers:
            found = f"{report.verdicts['OK']} of {report.triggers} parts"
            raise GateError(f"only {found} got their verdict: {report.problems}")
    return _Pace(engine.fps, 1e6 * cpu_s / engine.frames, reports)


def _config(object_name: str, folder: Path, parts: int, size: int) -> StationConfig:
    uri = f"sim://{object_name}?seed=0&parts={parts}&ng_share=0&cache={_CACHED_PARTS}&size={size}"
    cameras = tuple(CameraConfig(name=view, uri=uri, view=view) for view in OBJECTS[object_name].views)
    return StationConfig(
        name=f"s{folder.name}", bundle=folder, cameras=cameras, output=folder, sinks=SinksConfig(pictures=None)
    )
