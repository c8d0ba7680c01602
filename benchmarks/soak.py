"""Run a station for a million frames, and hold that its memory does not grow and that no trigger is lost.

    python -m benchmarks.soak --frames 1000000 --save benchmarks/results/soak.json

The full path in one station process and the process that delivers for it: two simulated cameras with four lights each,
which show parts rendered beforehand, a small engine, the journal, the outbox, a real MQTT broker with a subscriber, the
verdict file rolled every few MiB, pictures of NG parts with a limit. Memory is what the two processes have in RAM,
against the triggers that the journal has noted, from a tenth of the run on.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.endurance.conservation import logged, triggers_of
from benchmarks.endurance.engine import set_limits, small_bundle, write_station
from benchmarks.endurance.processes import Broker, StationProcess, memory_mib, wait_until
from benchmarks.endurance.receivers import Subscriber
from benchmarks.results import save
from edgead.errors import EdgeadError, GateError
from edgead.runtime.outputs.outbox import EVENTS, FOLDER

LIMIT_MIB = 20.0
_FRAMES_PER_PART = 8
_CACHED = 48  # parts; one of them is NG
_WARM_UP, _WARM_UP_S = 0.1, 5.0  # share of the run, and life of a process, that it has to find its size
_LOOK_S = 0.2
_POINTS = 400  # that the slope is taken of: it compares each with each
_VIEWS = ("front", "back")


class Sample(NamedTuple):
    """Memory of a process in RAM, MiB, when the station had triggered so many parts."""

    triggers: int
    mib: float
    age_s: float = math.inf


class Growth(NamedTuple):
    """How the memory of a process grew after the warm-up, MiB.

    Attributes:
        by_slope: over the rest of the run, by the median of the slopes between all pairs of samples (Theil and Sen).
        by_ends: median of the last twentieth of the samples, less that of the first one.
        peak: the most that it ever had, before the warm-up's end too.
    """

    by_slope: float
    by_ends: float
    first: float
    last: float
    peak: float
    samples: int

    @property
    def is_flat(self) -> bool:
        """Tell whether it grew by less than the limit, by either measure."""
        return bool(max(self.by_slope, self.by_ends) < LIMIT_MIB)


def growth_of(samples: Sequence[Sample]) -> Growth:
    """Measure how memory grew.

    Raises:
        GateError: fewer samples than make a slope.
    """
    last_trigger = samples[-1].triggers if samples else 0
    least = _WARM_UP * last_trigger
    warm = np.array([one[:2] for one in samples if one.triggers >= least and one.age_s >= _WARM_UP_S], float)
    if len(warm) < 8:
        raise GateError(f"only {len(warm)} samples of memory after the warm-up; take more frames, or fewer a second")
    end = max(1, len(warm) // 20)
    first, last = (float(np.median(part)) for part in (warm[:end, 1], warm[-end:, 1]))
    thin = warm[np.linspace(0, len(warm) - 1, min(_POINTS, len(warm))).astype(int)]
    at, mib = thin.T
    low, high = np.triu_indices(len(thin), 1)
    apart = at[high] > at[low]
    slope = np.median((mib[high] - mib[low])[apart] / (at[high] - at[low])[apart])
    by_slope = float(slope * (at[-1] - at[0]))
    return Growth(by_slope, last - first, first, last, max(sample.mib for sample in samples), len(warm))


def run_soak(folder: Path, *, frames: int, fps: float | None = None, with_mqtt: bool = True) -> dict[str, Any]:
    """Run one station for so many frames in a folder, and return what it came to.

    Args:
        fps: frames a second that the cameras take; None is as fast as the station judges them.

    Raises:
        GateError: the station failed, or lost a verdict; memory is judged by the caller.
        MissingError: mosquitto, paho-mqtt or onnx is not installed.
    """
    bundle = small_bundle(folder / "bundle")
    cached = f"sim://magnetic_core?seed=3&ng_share=0.5&size=64&cache={_CACHED}"
    document: dict[str, Any] = {"name": "soak", "bundle": str(bundle.path)}
    document["cameras"] = [{"name": view, "view": view, "uri": f"{cached}&parts={_CACHED}"} for view in _VIEWS]
    short = write_station(folder / "short.yaml", {**document, "output": str(folder / "short")})
    StationProcess(short, folder / "short").report(120)
    scores = sorted(verdict["score"] for verdict in logged(folder / "short"))
    set_limits(bundle, (scores[-4] + scores[-3]) / 2, (scores[-2] + scores[-1]) / 2)

    parts = -(-frames // _FRAMES_PER_PART)
    uri = f"{cached}&parts={parts}" + (f"&rate={fps / _FRAMES_PER_PART:g}" if fps else "")
    document["cameras"] = [{"name": view, "view": view, "uri": uri} for view in _VIEWS]
    document |= {"sinks": {"roll": {"mib": 4}, "pictures": {"limit": 200}}, "output": str(folder / "out")}
    broker = subscriber = None
    if with_mqtt:
        broker = Broker(folder / "broker")
        subscriber = Subscriber(broker.port, keep=False)
        document |= {"outputs": [{"mqtt": {"host": "127.0.0.1", "port": broker.port}}], "outbox": {"drain_s": 300}}
    begin_s = time.monotonic()
    station = StationProcess(write_station(folder / "soak.yaml", document), folder / "out")
    try:
        samples = _watch(station)
        report = station.report(60)
        wall_s = time.monotonic() - begin_s
        if subscriber is not None:
            heard = subscriber
            wait_until(lambda: sum(map(len, heard.bodies.values())) >= parts, "all verdicts at the subscriber", 30)
    finally:
        station.kill_all()
        if subscriber is not None and broker is not None:
            subscriber.close()
            broker.kill()
    _conserve(folder / "out", report, parts, subscriber)
    growth = {name: growth_of(own) for name, own in samples.items() if own}
    return {
        "frames": report["frames"],
        "triggers": report["triggers"],
        "verdicts": report["verdicts"],
        "pictures": report["pictures"],
        "seconds": wall_s,
        "fps": report["fps"],
        "bottleneck": report.get("bottleneck", ""),
        "memory": {name: {**one._asdict(), "is_flat": one.is_flat} for name, one in growth.items()},
    }


def _watch(station: StationProcess) -> dict[str, list[Sample]]:
    """Look at the memory of a station and of what delivers for it until the station ends."""
    samples: dict[str, list[Sample]] = {"station": [], "deliver": []}
    born_s: dict[int, float] = {}
    while station.process.poll() is None:
        time.sleep(_LOOK_S)
        try:
            _, triggers, _ = triggers_of(station.output)
        except (OSError, ValueError):  # not yet begun
            continue
        for name, pids in (("station", [station.process.pid]), ("deliver", station.children())):
            for pid in pids:
                age_s = time.monotonic() - born_s.setdefault(pid, time.monotonic())
                mib = memory_mib(pid)
                if mib is not None and triggers:
                    samples[name].append(Sample(triggers, mib, age_s))
    return samples


def _conserve(output: Path, report: dict[str, Any], parts: int, subscriber: Subscriber | None) -> None:
    """Hold that every trigger has one verdict in the file, and one at least at the subscriber.

    Raises:
        GateError: one is lost, or there twice.
    """
    triggers = [verdict["trigger"] for verdict in logged(output)]
    if report["triggers"] != parts or sum(report["verdicts"].values()) != parts:
        raise GateError(f"{parts} parts, but {report['triggers']} triggers and the verdicts {report['verdicts']}")
    if sorted(triggers) != list(range(parts)):
        raise GateError(f"the file has {len(triggers)} verdicts on {len(set(triggers))} of {parts} triggers")
    _, noted, unsettled = triggers_of(output)
    if (noted, unsettled) != (parts, 0):
        raise GateError(f"the journal has {noted} triggers, {unsettled} of them unsettled; expected {parts}, 0")
    if subscriber is not None:
        heard = len(next(iter(subscriber.bodies.values()), {}))
        if heard != parts or not (output / FOLDER / EVENTS).exists():
            raise GateError(f"the subscriber has {heard} verdicts of {parts}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a station for many frames, and hold that its memory does not grow."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=main.__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000, help="(default 1000000: about 8 minutes)")
    parser.add_argument("--fps", type=float, help="that the cameras take (default: as fast as they are judged)")
    parser.add_argument("--no-mqtt", action="store_true", help="without outbox, broker and subscriber")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the measurements as JSON")
    given = parser.parse_args(arguments)
    if given.frames < _FRAMES_PER_PART:
        parser.error(f"--frames is {given.frames}; expected {_FRAMES_PER_PART} or more")
    if given.fps is not None and not 1 <= given.fps <= 1e6:
        parser.error(f"--fps is {given.fps:g}; expected 1 to 1000000")
    try:
        with tempfile.TemporaryDirectory() as folder:
            row = run_soak(Path(folder), frames=given.frames, fps=given.fps, with_mqtt=not given.no_mqtt)
    except EdgeadError as error:
        print(error, file=sys.stderr)
        return 1 if isinstance(error, GateError) else error.exit_code
    print(f"{row['frames']} frames in {row['seconds']:.0f} s, {row['fps']:.0f} a second; {row['verdicts']}")
    for name, grown in row["memory"].items():
        print(
            f"{name}: {grown['first']:.1f} to {grown['last']:.1f} MiB, by slope {grown['by_slope']:+.2f}, by ends "
            f"{grown['by_ends']:+.2f}, peak {grown['peak']:.1f}; limit {LIMIT_MIB:g}"
        )
    if given.save is not None:
        conditions = {
            "limit_mib": LIMIT_MIB,
            "warm_up": _WARM_UP,
            "warm_up_s": _WARM_UP_S,
            "engine": "convolution, 64x64, 1 thread",
        }
        command = f"python -m benchmarks.soak --frames {given.frames}{' --no-mqtt' * given.no_mqtt}"
        command += f" --fps {given.fps:g}" if given.fps else ""
        save(given.save, command=f"{command} --save {given.save}", conditions=conditions, rows=[row])
    grown = [name for name, one in row["memory"].items() if not one["is_flat"]]
    if grown:
        print(f"memory grew by {LIMIT_MIB:g} MiB or more: {', '.join(grown)}", file=sys.stderr)
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
