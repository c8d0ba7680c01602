"""Frames a second against accuracy: every artefact of one or more runs, measured side by side.

Accuracy of each artefact on each backend over the same test images; speed of all of them in one run, in turns. What is
on the Pareto front is marked: nothing measured is at least as fast and more accurate. For boards that are not here the
speed of fp32, fp16 and int8 is projected from their data sheets (``roofline``), and marked as such; such points are on
no front.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.speed import Images, measure
from benchmarks.tradeoff.roofline import BOARDS, projected_fps, work_of
from edgead.bundle import Bundle
from edgead.bundle_file import write_whole
from edgead.datasets import Sample
from edgead.errors import DataError
from edgead.evaluate import evaluate
from edgead.progress import task
from edgead.runtime.open import open_runner

CSV_NAME, JSON_NAME, PICTURE_NAME = "results.csv", "results.json", "tradeoff.png"
_PROJECTED = {"fp32": "fp32", "fp16": "fp16", "int8-fp16": "int8"}  # artefact that TensorRT takes, by its precision


class Candidate(NamedTuple):
    """An artefact of a run on a backend."""

    run: str
    bundle: Bundle
    artefact: str
    backend: str

    @property
    def name(self) -> str:
        """What a point of it is called."""
        return f"{self.run} {self.artefact}@{self.backend}"


@dataclass(frozen=True)
class Point:
    """One artefact at one batch size and number of threads.

    Attributes:
        where: this machine's processor, or the board that its speed is projected for.
        projected: its speed comes from a data sheet, not from a clock.
        batch, threads, n, p50_ms, iqr_ms: of the measurement; None where there is none.
        fps: images a second, by the median; of a projection at batch 1.
        image_AUROC, pixel_AUPRO: on ``images`` test images, measured here in either case.
        front_AUROC, front_AUPRO: nothing measured is at least as fast and more accurate.
    """

    run: str
    network: str
    artefact: str
    backend: str
    where: str
    projected: bool
    batch: int | None
    threads: int | None
    n: int | None
    p50_ms: float | None
    iqr_ms: float | None
    fps: float
    image_AUROC: float | None
    pixel_AUPRO: float | None
    images: int
    front_AUROC: bool = False
    front_AUPRO: bool = False


class Accurate(NamedTuple):
    """What an artefact says about the test images."""

    image_AUROC: float | None
    pixel_AUPRO: float | None
    images: int


def accuracies(
    candidates: Sequence[Candidate], samples: Mapping[str, Sequence[Sample]], threads: int
) -> dict[str, Accurate]:
    """Evaluate each candidate on the test images of its run; by name."""
    found = {}
    for candidate in candidates:
        own = samples[candidate.run]
        with (
            open_runner(candidate.bundle, candidate.artefact, backend=candidate.backend, threads=threads) as runner,
            task(f"Evaluating {candidate.name}", len(own)) as advance,
        ):
            accuracy = evaluate(runner, own, progress=advance).accuracy
        found[candidate.name] = Accurate(accuracy.image_AUROC, accuracy.pixel_AUPRO, accuracy.counts.images)
    return found


def measured(
    candidates: Sequence[Candidate],
    accurate: Mapping[str, Accurate],
    images: Mapping[tuple[int, int], Images],
    *,
    where: str,
    batches: Sequence[int],
    threads: Sequence[int],
    n: int | None,
) -> list[Point]:
    """Time all candidates of one image size in turns, for each batch size and number of threads.

    Args:
        images: real ones, by the size that the candidates take.
    """
    points = []
    for size_hw in sorted({candidate.bundle.info.size_hw for candidate in candidates}):
        own = {one.name: one for one in candidates if one.bundle.info.size_hw == size_hw}
        for count in threads:
            for batch in batches:
                with ExitStack() as stack:
                    runners = {
                        name: stack.enter_context(
                            open_runner(
                                one.bundle, one.artefact, backend=one.backend, threads=count, max_batch=max(batches)
                            )
                        )
                        for name, one in own.items()
                    }
                    speeds = measure(runners, images[size_hw], batch=batch, n=n)
                points += [
                    Point(
                        run=own[speed.runner].run,
                        network=own[speed.runner].bundle.info.network,
                        artefact=own[speed.runner].artefact,
                        backend=own[speed.runner].backend,
                        where=where,
                        projected=False,
                        batch=batch,
                        threads=speed.threads,
                        n=speed.n,
                        p50_ms=speed.p50_ms,
                        iqr_ms=speed.iqr_ms,
                        fps=1e3 * batch / speed.p50_ms,
                        **accurate[speed.runner]._asdict(),
                    )
                    for speed in speeds
                ]
    return points


def projections(
    candidates: Sequence[Candidate], accurate: Mapping[str, Accurate], boards: Sequence[str]
) -> list[Point]:
    """Project the speed of what TensorRT would be built from, for boards that are not here."""
    points = []
    seen = set()
    for candidate in candidates:
        precision = _PROJECTED.get(candidate.artefact)
        if precision is None or (candidate.run, precision) in seen:
            continue
        seen.add((candidate.run, precision))
        work = work_of(candidate.bundle.file(candidate.artefact))
        points += [
            Point(
                run=candidate.run,
                network=candidate.bundle.info.network,
                artefact=candidate.artefact,
                backend="tensorrt",
                where=board,
                projected=True,
                batch=1,
                threads=None,
                n=None,
                p50_ms=None,
                iqr_ms=None,
                fps=projected_fps(work, BOARDS[board]),
                **accurate[candidate.name]._asdict(),
            )
            for board in boards
        ]
    return points


def with_fronts(points: Sequence[Point]) -> list[Point]:
    """Mark the Pareto fronts of the measured points, by image AUROC and by AUPRO."""
    real = [point for point in points if not point.projected]

    def leads(point: Point, metric: str) -> bool:
        own = getattr(point, metric)
        if point.projected or own is None:
            return False
        others = [(other.fps, getattr(other, metric)) for other in real if getattr(other, metric) is not None]
        return not any(fps >= point.fps and value >= own and (fps > point.fps or value > own) for fps, value in others)

    return [
        replace(point, front_AUROC=leads(point, "image_AUROC"), front_AUPRO=leads(point, "pixel_AUPRO"))
        for point in points
    ]


def to_csv(points: Iterable[Point]) -> str:
    """Return the points as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    return text.getvalue()


def write(folder: Path, points: Sequence[Point], *, command: str, conditions: Mapping[str, Any]) -> list[Path]:
    """Write results.csv, results.json and tradeoff.png; return their paths.

    Raises:
        DataError: the folder cannot be written.
        MissingError: matplotlib is not installed.
    """
    from benchmarks import results
    from benchmarks.tradeoff.picture import draw

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror}); name another folder: --out") from error
    table, document, picture = (folder / name for name in (CSV_NAME, JSON_NAME, PICTURE_NAME))
    write_whole(table, lambda temporary: _save(temporary, to_csv(points)))
    results.save(document, command=command, conditions=conditions, rows=[asdict(point) for point in points])
    draw(points, picture)
    return [table, document, picture]


def _save(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
