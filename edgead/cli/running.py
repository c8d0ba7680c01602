"""Verbs that run a station, write a report, and look at the machine: stream, report, doctor."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgead.cli.answer import Answer, table
from edgead.cli.dataset import add_dataset_flags, of_bundle
from edgead.cli.evaluation_file import read_evaluation
from edgead.cli.measuring import add_artefact, add_backend

if TYPE_CHECKING:
    from rich.table import Table

    from edgead.cli.parser import Verbs
    from edgead.runtime.report import StationReport


def add_verbs(verbs: Verbs) -> None:
    """Add stream, report and doctor."""
    parser = verbs.add(
        "stream",
        stream,
        summary="run stations: frames of their cameras to verdicts on parts",
        example="edgead stream station.yaml",
        more="Ends when all cameras have ended, or at Ctrl-C, when what was admitted is judged first.\n"
        "Stations with the same bundle, artefact, backend and threads share one engine.",
    )
    parser.add_argument("config", type=Path, nargs="+", metavar="station.yaml", help="configurations, one a station")
    add_backend(parser, "instead of the configuration's")
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="write the times of the last 2000 parts, for ui.perfetto.dev"
    )

    parser = verbs.add(
        "report",
        report,
        summary="write report.html of a run: accuracy, pictures, thresholds, speed",
        example="edgead report runs/my_part",
        more="Takes what evaluate, threshold, parity, bench and stream have left in the run, and says what is missing.",
    )
    add_artefact(parser)
    add_dataset_flags(parser)

    verbs.add(
        "doctor",
        doctor,
        summary="say what this machine has, what is missing, and what each is for",
        example="edgead doctor",
    )


def stream(wanted: argparse.Namespace) -> Answer:
    """Run stations to their end."""
    from edgead.cli.live import live
    from edgead.config import load_station
    from edgead.runtime.sinks import LOG_NAME
    from edgead.runtime.stations import run_stations

    configs = [load_station(path) for path in wanted.config]
    if wanted.backend is not None:
        configs = [config.model_copy(update={"backend": wanted.backend}) for config in configs]
    if wanted.trace is not None:
        traces = [wanted.trace.with_stem(f"{wanted.trace.stem}-{config.name}") for config in configs]
        traces = [wanted.trace] if len(configs) == 1 else traces
        configs = [config.model_copy(update={"trace": trace}) for config, trace in zip(configs, traces, strict=True)]
    found = run_stations(configs, progress=live([config.output / LOG_NAME for config in configs]))
    document = found[0].to_dict() if len(found) == 1 else {"stations": [report.to_dict() for report in found]}
    return Answer(document, [line for report in found for line in _station(report)])


def _station(found: StationReport) -> list[Table | str]:
    """Show what a station came to."""
    rows = [(outcome, count) for outcome, count in found.verdicts.items()]
    rows.append(("parts", found.triggers))
    stages = [(stage, *(f"{ms:.2f}" for ms in spread)) for stage, spread in found.latency_ms.items()]
    takt = found.takt
    return [
        table(f"Station '{found.station}' on {found.runner}", ("verdict", ">parts"), rows),
        table("Latency, ms", ("stage", ">p50", ">p95", ">p99", ">p99.9", ">mean"), stages),
        f"{found.frames} frames in {found.wall_s:.1f} s, {found.fps:.1f} a second; {found.pictures} pictures",
        f"bottleneck: {found.bottleneck}" + "".join(f"; {name} {share:.0%}" for name, share in found.busy.items()),
        *(
            [
                f"{takt.missed} of {takt.parts} parts ({takt.share:.2%}) had no verdict in {takt.deadline_ms:g} ms; "
                f"the chance of that is below {takt.upper:.2%}, at 95 % confidence"
            ]
            if takt
            else []
        ),
        *_cameras(found),
        *_outputs(found),
        *found.problems,
        *([f"times of the parts: {found.trace}; open it in ui.perfetto.dev"] if found.trace else []),
        f"verdicts: {found.verdict_file}",
    ]


def _cameras(found: StationReport) -> list[Table | str]:
    """Show the cameras if one of them was in trouble."""
    rows = [
        (name, seen.frames, seen.incomplete, seen.missed, seen.reconnects, seen.last_error or "")
        for name, seen in found.cameras.items()
    ]
    if not any(any(row[2:]) for row in rows):
        return []
    columns = ("camera", ">frames", ">incomplete", ">missed", ">reconnects", "last error")
    return [table("Cameras", columns, rows)]


def _outputs(found: StationReport) -> list[Table | str]:
    if not found.outputs:
        return []
    rows = [(one.name, one.delivered, one.pending, one.refused, one.errors, one.last_error) for one in found.outputs]
    return [table("Outputs", ("output", ">delivered", ">pending", ">refused", ">errors", "last error"), rows)]


def report(wanted: argparse.Namespace) -> Answer:
    """Write a run's report."""
    from benchmarks.report import write_report
    from edgead.bundle import Bundle
    from edgead.runtime.open import backend_of

    bundle = Bundle.open(wanted.bundle)
    bundle.file(wanted.artefact)
    _, dataset = of_bundle(bundle, wanted)
    evaluation = read_evaluation(bundle, wanted.artefact, backend_of(bundle, wanted.artefact), dataset.test)
    path = write_report(
        bundle, artefact=wanted.artefact, samples=dataset.test, evaluation=evaluation, threads=wanted.threads
    )
    document = {"bundle": str(bundle.path), "artefact": wanted.artefact, "report": str(path)}
    return Answer(document, [f"{path}: open it in a browser"])


def doctor(_wanted: argparse.Namespace) -> Answer:
    """Examine this machine."""
    from edgead.doctor import examine

    found = examine()
    machine = [(name.replace("_", " "), value) for name, value in found.machine.items()]
    have = [(part.name, part.version, part.purpose) for part in found.parts if part.version is not None]
    missing = [(part.name, part.purpose, part.remedy) for part in found.parts if part.version is None]
    body = [
        table("This machine", ("", ""), machine),
        table("Installed", ("part", "version", "for"), have),
        table("Not installed", ("part", "for", "get it"), missing) if missing else "Nothing is missing.",
        f"\nFor this machine: {found.advice.why}" + (", in edgead's folder:" if found.advice.commands else ""),
        *(f"  {command}" for command in found.advice.commands),
    ]
    return Answer(found.to_dict(), body)
