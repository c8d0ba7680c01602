"""Verbs that judge a model by labelled images: threshold and evaluate."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgead.cli.answer import Answer, percent, table
from edgead.cli.dataset import add_dataset_flags, of_bundle
from edgead.cli.evaluation_file import write_evaluation
from edgead.cli.fusing import fuse, part_tables
from edgead.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from edgead.bundle import Bundle
    from edgead.cli.parser import Parser, Verbs
    from edgead.datasets import Dataset, Sample
    from edgead.evaluate import Evaluation
    from edgead.part_accuracy import PartAccuracy
    from edgead.thresholds import Threshold


def add_verbs(verbs: Verbs) -> None:
    """Add threshold and evaluate."""
    parser = verbs.add(
        "threshold",
        threshold,
        summary="set OK, UNSURE and NG from Good images alone, within a budget of false rejects",
        example="edgead threshold runs/my_part --false-reject-ppm 2000 --confidence 0.95",
        more="Scores the Good images held out of training; a part is judged by the largest score of its images. With "
        "--fusion conformal it also keeps what stations with 'fusion: conformal' need; without, that is dropped.",
    )
    add_artefact(parser)
    parser.add_argument(
        "--fusion",
        choices=("max", "conformal"),
        default="max",
        help="conformal also weighs each view and light by its own Good scores (%(default)s)",
    )
    parser.add_argument(
        "--false-reject-ppm",
        type=float,
        default=2000,
        metavar="N",
        help="Good ones rejected of a million (%(default)g)",
    )
    parser.add_argument(
        "--confidence", type=float, default=0.95, metavar="SHARE", help="that the budget is kept (%(default)g)"
    )
    parser.add_argument(
        "--unsure-ratio",
        type=float,
        default=10,
        metavar="X",
        help="UNSURE is NG at an X times looser budget (%(default)g)",
    )
    add_backend(parser)
    add_dataset_flags(parser)

    parser = verbs.add(
        "evaluate",
        evaluate,
        summary="measure accuracy on the test images by the MVTec protocol",
        example="edgead evaluate runs/my_part",
        more="Writes evaluation.<artefact>@<backend>.json into the run, with every image's score. Where parts have\n"
        "several images, it also judges the parts as a station would, by each fusion that the threshold was set for.",
    )
    add_artefact(parser)
    add_backend(parser)
    add_dataset_flags(parser)


def threshold(wanted: argparse.Namespace) -> Answer:
    """Set an artefact's threshold."""
    import numpy as np

    from edgead.bundle import Bundle
    from edgead.metrics import part_maxima
    from edgead.runtime.open import backend_of
    from edgead.thresholds import check_budget, threshold_from_good

    check_budget(wanted.false_reject_ppm, wanted.confidence, wanted.unsure_ratio)
    bundle = Bundle.open(wanted.bundle)
    bundle.file(wanted.artefact)
    backend = backend_of(bundle, wanted.artefact, wanted.backend)
    config, dataset = of_bundle(bundle, wanted)
    if not dataset.validation:
        raise DataError(f"{config.root}: no Good images are held out of training; train again with more Good parts")
    parts = [sample.part for sample in dataset.validation]
    scores = np.array(_scores(bundle, wanted, dataset.validation))
    source = f"validation of {dataset.name} {dataset.category} on {backend}"
    by_part = len(set(parts)) < len(parts)
    found = threshold_from_good(
        part_maxima(parts, scores) if by_part else scores,
        unit="part" if by_part else "image",
        false_reject_ppm=wanted.false_reject_ppm,
        confidence=wanted.confidence,
        unsure_ratio=wanted.unsure_ratio,
        source=source,
    )
    fused = fuse(wanted, dataset, scores.tolist(), source) if wanted.fusion == "conformal" else None
    bundle.set_threshold(wanted.artefact, found, fused.good if fused else None)
    missing = max(0, found.needed_good - found.n_good)
    document = {
        "bundle": str(bundle.path),
        "artefact": wanted.artefact,
        "backend": backend,
        "threshold": found.to_dict(),
        "holds_budget": found.holds_budget,
        "missing_good": missing,
        "explanation": found.explain(),
        "fusion": fused.to_dict() if fused else None,
    }
    rows = [
        ("UNSURE above", f"{found.unsure:.6g}"),
        ("NG above", f"{found.ng:.6g}"),
        (f"Good {found.unit}s scored", found.n_good),
        ("false rejects, at most", f"{found.guaranteed_ppm:.0f} of a million"),
        ("budget", f"{found.false_reject_ppm:g} of a million: {'kept' if found.holds_budget else 'not yet kept'}"),
        (f"more Good {found.unit}s needed", missing),
    ]
    title = f"Threshold of {wanted.artefact} on {backend}"
    return Answer(document, [table(title, ("", ">"), rows), found.explain(), *(fused.told() if fused else ())])


def evaluate(wanted: argparse.Namespace) -> Answer:
    """Measure accuracy and keep it beside the artefact."""
    import time

    from edgead.bundle import Bundle
    from edgead.evaluate import evaluate as measure
    from edgead.part_accuracy import has_parts, part_accuracies
    from edgead.progress import task
    from edgead.runtime.open import backend_of, open_runner

    bundle = Bundle.open(wanted.bundle)
    bundle.file(wanted.artefact)
    backend = backend_of(bundle, wanted.artefact, wanted.backend)
    config, dataset = of_bundle(bundle, wanted)
    if not dataset.test:
        raise DataError(
            f"{config.root}: '{dataset.category}' has no test images; add test/good and test/<defect> folders"
        )
    begin = time.monotonic()
    with (
        open_runner(bundle, wanted.artefact, backend=backend, threads=wanted.threads) as runner,
        task("Evaluating", len(dataset.test)) as advance,
    ):
        found = measure(runner, dataset.test, progress=advance)
    record = bundle.artefacts[wanted.artefact]
    limits = bundle.threshold(wanted.artefact) if record.threshold else None
    good = bundle.good_parts(wanted.artefact) if record.good_parts else None
    verdicts = _verdicts(limits, dataset.test, found.scores) if limits else None
    parts: tuple[PartAccuracy, ...] = ()
    if has_parts(dataset.test):
        parts = part_accuracies(dataset.test, found.scores, threshold=limits, good_parts=good)
    document: dict[str, Any] = {
        "bundle": str(bundle.path),
        "artefact": wanted.artefact,
        "backend": backend,
        "dataset": config.model_dump(mode="json"),
        "accuracy": found.accuracy.to_dict(),
        "verdicts": verdicts,
        "parts": [row.to_dict() for row in parts],
        "seconds": round(time.monotonic() - begin, 3),
    }
    document["file"] = str(write_evaluation(bundle, document, dataset.test, found))
    return Answer(document, _shown(wanted, backend, dataset, found, verdicts, parts))


def _shown(
    wanted: argparse.Namespace,
    backend: str,
    dataset: Dataset,
    found: Evaluation,
    verdicts: dict[str, Any] | None,
    parts: Sequence[PartAccuracy],
) -> list[Table | str]:
    from benchmarks.mvtec_evaluation import METRICS

    accuracy, counts = found.accuracy, found.accuracy.counts
    title = (
        f"Accuracy of {wanted.artefact} by {backend} on {dataset.category}: {counts.images} images of "
        f"{counts.parts} parts, {counts.defective_parts} of them defective"
    )
    rows = [(name, percent(getattr(accuracy, name))) for name in METRICS]
    by_defect = [(name, percent(value)) for name, value in accuracy.image_AUROC_by_defect.items()]
    body: list[Table | str] = [
        table(title, ("metric", ">%"), rows),
        table("image_AUROC by defect", ("defect", ">%"), by_defect),
    ]
    if verdicts is not None and not (parts and verdicts["unit"] == "part"):
        columns = (f"{verdicts['unit']}s", ">OK", ">UNSURE", ">NG")
        told = [(kind, *verdicts[kind].values()) for kind in ("good", "defective")]
        body.append(table("Verdicts with the bundle's threshold", columns, told))
    return [*body, *(part_tables(parts) if parts else ())]


def add_artefact(parser: Parser) -> None:
    """Add a bundle, and which of its artefacts on how many threads."""
    parser.add_argument("bundle", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--artefact", default="fp32", metavar="NAME", help="which of its artefacts (%(default)s)")
    parser.add_argument(
        "--threads", type=_threads, default=0, metavar="N", help="CPU threads; 0: all cores (%(default)s)"
    )


def add_backend(parser: Parser, instead: str = "onnxruntime for a model") -> None:
    """Add what runs the artefact."""
    words = "torch, onnxruntime, openvino, openvino-bf16, tensorrt or tensorrt-rtx"
    parser.add_argument("--backend", metavar="NAME", help=f"{words} ({instead})")


def _threads(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is no number of threads; expected 0 or more")
    return int(text)


def _scores(bundle: Bundle, wanted: argparse.Namespace, samples: Sequence[Sample]) -> list[float]:
    from edgead.evaluate import score_samples
    from edgead.progress import task
    from edgead.runtime.open import open_runner

    scores = []
    with (
        open_runner(bundle, wanted.artefact, backend=wanted.backend, threads=wanted.threads) as runner,
        task("Scoring Good images", len(samples)) as advance,
    ):
        for scored in score_samples(runner, samples):
            scores.append(scored.score)
            advance(1)
    return scores


def _verdicts(limits: Threshold, samples: Sequence[Sample], scores: Sequence[float]) -> dict[str, Any]:
    """Count the verdicts on Good and on defective units."""
    from edgead.thresholds import Verdict

    best: dict[str, tuple[float, bool]] = {}
    for number, (sample, score) in enumerate(zip(samples, scores, strict=True)):
        name = sample.part if limits.unit == "part" else str(number)
        before, good = best.get(name, (score, True))
        best[name] = (max(before, score), good and sample.is_good)
    counts = Counter((good, limits.verdict(score)) for score, good in best.values())
    told = {
        kind: {verdict.value: counts[good, verdict] for verdict in Verdict}
        for kind, good in (("good", True), ("defective", False))
    }
    return {"unit": limits.unit, **told}
