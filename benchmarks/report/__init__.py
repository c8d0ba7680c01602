"""A report of one model: one HTML file, without scripts or anything from elsewhere, to be opened, printed or mailed.

It shows what was measured, says what was not and which command measures it, and draws no figure from thin air.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.report.findings import Findings, read_history
from benchmarks.report.gallery import gallery
from benchmarks.report.headline import headline
from benchmarks.report.markup import Markup, tag
from benchmarks.report.sections import (
    accuracy_section,
    parity_section,
    provenance_section,
    speed_section,
    training_section,
)
from benchmarks.report.station import logs_below, station_section
from benchmarks.report.style import CSS
from edgead.bundle import Bundle
from edgead.bundle_file import write_whole
from edgead.datasets.sample import Sample
from edgead.errors import DataError
from edgead.evaluate import Evaluation, evaluate
from edgead.metrics import bootstrap_auroc
from edgead.progress import task
from edgead.runtime.open import open_runner
from edgead.runtime.runner import Runner

__all__ = ["SPEED_NAME", "write_report"]

SPEED_NAME = "speed.json"
"""Where ``edgead bench`` leaves its rows in a bundle, as ``benchmarks.results.save`` writes them."""

_HISTORY = "training/metrics.jsonl"


def write_report(
    bundle: Bundle,
    out: Path | None = None,
    *,
    artefact: str = "fp32",
    samples: Sequence[Sample],
    evaluation: Evaluation | None = None,
    threads: int = 0,
    batch: int = 8,
    seed: int = 0,
) -> Path:
    """Write the report of an artefact and return its path.

    Besides the test images it reads what lies in the bundle's folder: threshold and parity of the artefact,
    ``speed.json``, ``training/metrics.jsonl``, and the verdict logs of stations anywhere below.

    Args:
        out: the file; None writes ``report.html`` into the bundle.
        samples: test images, Good and defective.
        evaluation: of this artefact on these samples, where it is known; None measures it.
        seed: of the bootstrap.

    Raises:
        ArtefactError: the artefact is missing or changed, or the report cannot be written.
        DataError: no samples, an unreadable image, or an evaluation of other samples.
    """
    target = out or bundle.path / "report.html"
    with open_runner(bundle, artefact, threads=threads) as runner:
        if evaluation is None:
            with task("Evaluating", len(samples)) as advance:
                evaluation = evaluate(runner, samples, batch=batch, progress=advance)
        elif len(evaluation.scores) != len(samples):
            raise DataError(
                f"an evaluation of {len(evaluation.scores)} samples for {len(samples)}; evaluate these anew"
            )
        page = _page(_gather(bundle, artefact, runner, samples, evaluation, seed), runner)
    write_whole(target, lambda temporary: _write(temporary, page))
    return target


def _gather(
    bundle: Bundle, artefact: str, runner: Runner, samples: Sequence[Sample], evaluation: Evaluation, seed: int
) -> Findings:
    parts = [sample.part for sample in samples]
    defective = [not sample.is_good for sample in samples]
    speed = bundle.path / SPEED_NAME
    return Findings(
        bundle=bundle,
        artefact=artefact,
        backend=runner.name,
        samples=tuple(samples),
        scores=evaluation.scores,
        accuracy=evaluation.accuracy,
        interval=bootstrap_auroc(evaluation.scores, defective, parts, seed=seed),
        threshold=bundle.threshold(artefact) if bundle.artefacts[artefact].threshold else None,
        speed=results.read(speed) if speed.is_file() else None,
        history=read_history(bundle.path / _HISTORY),
        stations=logs_below(bundle.path),
    )


def _page(found: Findings, runner: Runner) -> str:
    category = found.bundle.info.category
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"edgead report: {category}"),
        tag("style", Markup(CSS)),
    )
    sections = (
        headline(found),
        gallery(found, runner),
        accuracy_section(found),
        station_section(found.stations, found.path),
        speed_section(found),
        parity_section(found),
        training_section(found),
        provenance_section(found),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", tag("main", *sections)), lang="en") + "\n"


def _write(path: Path, page: str) -> None:
    path.write_text(page, encoding="utf-8")
