"""The verb simulate: parts as a data set on the disk, or as frames of cameras in real time."""

from __future__ import annotations

import argparse
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgead.cli.answer import Answer, table
from edgead.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from edgead.cli.parser import Parser, Verbs
    from edgead.runtime.sim_camera import LineCamera
    from edgead.runtime.sim_line import Standing

_DATASET = {"good": 100, "defective": 5, "size": 256, "seed": 1}  # flags of the data set, and what they are without
_DRAW_S, _LOG_EVERY_S = 0.25, 5.0


def add_verbs(verbs: Verbs) -> None:
    """Add simulate."""
    parser = verbs.add(
        "simulate",
        simulate,
        summary="render parts of a simulated object, Good and defective, with masks; or stream them as cameras",
        example="edgead simulate chip_inductor --out data/sim\n         edgead simulate --stream line.yaml --gige",
        more="Writes the layout of MV-AD2025. Objects: magnetic_core, chip_inductor, chip_capacitor, ceramic_tile.\n"
        "With --stream, drives the cameras of a line in real time, over GigE Vision with --gige, until they have no\n"
        "more parts, or Ctrl-C. docs/simulator.md says what may stand in line.yaml.",
    )
    parser.add_argument("object", nargs="?", metavar="OBJECT", help="what to render")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="root of the dataset to write")
    for name, metavar, told in (
        ("good", "N", "Good parts"),
        ("defective", "N", "parts of each defect type"),
        ("size", "PIXELS", "side of the images"),
        ("seed", "N", "other seeds, other parts"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar=metavar, help=f"{told} ({_DATASET[name]})")
    _add_stream_flags(parser)


def _add_stream_flags(parser: Parser) -> None:
    group = parser.add_argument_group("stream")
    group.add_argument("--stream", type=Path, metavar="line.yaml", help="drive the cameras of a line instead")
    group.add_argument(
        "--gige", action="store_true", help="serve them as GigE Vision cameras, for gige:// of a station"
    )
    group.add_argument("--truth", type=Path, metavar="FILE", help="write trigger, part and defect of each part as CSV")
    group.add_argument("--seconds", type=float, metavar="S", help="end after so long (when there are no more parts)")


def simulate(wanted: argparse.Namespace) -> Answer:
    """Write a simulated data set, or stream."""
    dataset = [f"--{name}" for name in ("out", *_DATASET) if getattr(wanted, name) is not None]
    if wanted.stream is None:
        if wanted.object is None:
            raise ConfigError("what? give an OBJECT and --out FOLDER for a data set, or --stream line.yaml for cameras")
        if wanted.out is None:
            raise ConfigError(f"where to? add --out FOLDER, such as --out data/{wanted.object}")
        for flag, value in (("--gige", wanted.gige), ("--truth", wanted.truth), ("--seconds", wanted.seconds)):
            if value:
                raise ConfigError(f"{flag} belongs to --stream line.yaml; leave it out for a data set")
        return _write(wanted)
    if wanted.object is not None or dataset:
        raise ConfigError(
            f"--stream takes its objects from line.yaml; leave out {wanted.object or dataset[0]}, or --stream"
        )
    if wanted.seconds is not None and not 0 < wanted.seconds < threading.TIMEOUT_MAX:
        raise ConfigError(f"--seconds is {wanted.seconds:g}; expected more than 0")
    return _stream(wanted)


def _write(wanted: argparse.Namespace) -> Answer:
    """Write a simulated dataset."""
    from edgead.datasets.simulated import OBJECTS, write_dataset

    good, defective, size, seed = (
        value if (value := getattr(wanted, name)) is not None else usual for name, usual in _DATASET.items()
    )
    folder = write_dataset(
        wanted.out, wanted.object, seed=seed, good_parts=good, defect_parts_per_type=defective, size=size
    )
    spec = OBJECTS[wanted.object]
    parts = {"good": good, **dict.fromkeys(spec.defects, defective)}
    document = {
        "folder": str(folder),
        "root": str(wanted.out),
        "category": spec.folder,
        "parts": parts,
        "images": sum(parts.values()) * len(spec.views) * len(spec.illuminations),
        "views": list(spec.views),
        "illuminations": list(spec.illuminations),
    }
    following = f"edgead train --dataset sim --root {wanted.out} --category {spec.folder} --out runs/{wanted.object}"
    lines = f"{folder}: {document['images']} images of {sum(parts.values())} parts"
    shown = table("Simulated parts", ("kind", ">parts"), list(parts.items()))
    return Answer(document, [shown, lines, f"next: {following}"])


class _Line(Protocol):
    """A line that runs, whoever takes its frames."""

    def run(self, stop: threading.Event) -> None: ...

    def standing(self) -> list[Standing]: ...

    def close(self) -> None: ...


def _stream(wanted: argparse.Namespace) -> Answer:
    """Drive the cameras of a line, with their addresses on the network if they are asked for."""
    from edgead.line_config import load_line
    from edgead.runtime.sim_line import DrivenLine, write_truth

    config = load_line(wanted.stream)
    line: _Line
    sources: Sequence[LineCamera]
    problems: list[str] = []
    if wanted.gige:
        from edgead.runtime.gige_line import GigeLine

        line = served = GigeLine(config)
        sources = [server.camera for server in served.cameras]
        for server in served.cameras:
            print(f"camera '{server.camera.name}': gige://{server.serial} at {server.address}", file=sys.stderr)
    else:
        line = driven = DrivenLine(config)
        sources, problems = driven.cameras, driven.problems
    try:
        parts = write_truth(wanted.truth, sources) if wanted.truth else None
        print(f"line '{config.name}' runs; Ctrl-C ends it", file=sys.stderr, flush=True)
        seconds = _run(line, config.name, wanted.seconds)
        return _summary(config.name, line.standing(), seconds, problems, parts, wanted.truth)
    finally:
        line.close()


def _run(line: _Line, name: str, limit_s: float | None) -> float:
    """Let a line run, and show how it does, until it ends, the time is up, or a signal comes; return the seconds."""
    from edgead.runtime.signals import stop_signals

    events: queue.SimpleQueue[str] = queue.SimpleQueue()
    stop = threading.Event()
    errors: list[BaseException] = []

    def live() -> None:
        try:
            line.run(stop)
        except BaseException as error:
            errors.append(error)
        events.put("over")

    thread = threading.Thread(target=live, name=f"line {name}")
    begin_s = time.monotonic()
    with stop_signals(events), _shown(name, line, begin_s) as draw:
        thread.start()
        while limit_s is None or time.monotonic() - begin_s < limit_s:
            left_s = _DRAW_S if limit_s is None else max(0.0, min(_DRAW_S, begin_s + limit_s - time.monotonic()))
            try:
                events.get(timeout=left_s)
                break
            except queue.Empty:
                draw()
        stop.set()
        thread.join()
    if errors:
        raise errors[0]
    return time.monotonic() - begin_s


@contextmanager
def _shown(name: str, line: _Line, begin_s: float) -> Iterator[Callable[[], None]]:
    """Yield what shows how a line does: a table on a terminal, else a line every few seconds."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live

        def render() -> Table:
            return _table(name, line.standing(), time.monotonic() - begin_s)

        with Live(get_renderable=render, console=Console(stderr=True), auto_refresh=False, transient=True) as shown:
            yield shown.refresh
        return
    last_s = begin_s

    def log() -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= _LOG_EVERY_S:
            last_s = time.monotonic()
            cameras = ", ".join(f"{one.camera} {one.frames}" for one in line.standing())
            print(f"line '{name}': {last_s - begin_s:.0f} s, frames: {cameras}", file=sys.stderr, flush=True)

    yield log


def _table(name: str, standing: Sequence[Standing], seconds: float) -> Table:
    rows = [
        (one.camera, one.frames, one.frames / max(seconds, 1e-9), one.missed, _told(one.faults)) for one in standing
    ]
    columns = ("camera", ">frames", ">a second", ">missed", "faults")
    return table(f"Line '{name}', {seconds:.1f} s", columns, rows)


def _told(faults: Any) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(faults.items()) if count)


def _summary(
    name: str,
    standing: Sequence[Standing],
    seconds: float,
    problems: Sequence[str],
    parts: dict[str, int] | None,
    truth: Path | None,
) -> Answer:
    document = {
        "line": name,
        "seconds": round(seconds, 3),
        "cameras": {
            one.camera: {"frames": one.frames, "missed": one.missed, "faults": dict(one.faults)} for one in standing
        },
        "problems": list(problems),
        "truth": str(truth) if truth else None,
        "parts": parts,
    }
    body: list[Table | str] = [_table(name, standing, seconds), *problems]
    if parts is not None:
        body += [table("Parts", ("kind", ">parts"), sorted(parts.items())), f"truth: {truth}"]
    return Answer(document, body)
