"""What a report is about: everything measured of one artefact, gathered from where it was written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report.station import StationLog
from benchmarks.results import Results
from edgead.bundle import Artefact, Bundle
from edgead.datasets.sample import GOOD, Sample
from edgead.errors import DataError
from edgead.evaluate import Accuracy
from edgead.part_accuracy import PartAccuracy, has_parts, part_accuracies
from edgead.runtime.open import backend_of
from edgead.thresholds import Threshold, Verdict


class Unit(NamedTuple):
    """What a threshold judges: an image, or a part with the largest score of its images.

    Attributes:
        defect: ``"good"``, or its defect types.
        image: index of the sample whose score it is.
    """

    name: str
    defect: str
    score: float
    image: int

    @property
    def is_good(self) -> bool:
        """Tell whether it has no defect."""
        return self.defect == GOOD


@dataclass(frozen=True)
class Findings:
    """All that a report shows; None or empty where it was not measured.

    Attributes:
        interval: of ``image_AUROC``, at 95 % confidence, by bootstrap over parts.
        speed: what ``edgead bench`` measured of this bundle.
        history: lines of ``training/metrics.jsonl``.
    """

    bundle: Bundle
    artefact: str
    backend: str
    samples: tuple[Sample, ...]
    scores: tuple[float, ...]
    accuracy: Accuracy
    interval: tuple[float, float] | None
    threshold: Threshold | None
    speed: Results | None
    history: tuple[dict[str, Any], ...]
    stations: tuple[StationLog, ...]

    @property
    def path(self) -> Path:
        """Folder of the bundle."""
        return self.bundle.path

    @property
    def record(self) -> Artefact:
        """The bundle's record of the artefact."""
        return self.bundle.artefacts[self.artefact]

    @property
    def parity(self) -> dict[str, Any] | None:
        """Certificate of the artefact on the backend of this report; None where there is none."""
        return self.record.parity.get(backend_of(self.bundle, self.artefact))

    @property
    def unit(self) -> str:
        """What is judged: ``"image"`` or ``"part"``."""
        return self.threshold.unit if self.threshold else "image"

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """Everything judged, in the order in which it first comes."""
        best: dict[str, int] = {}
        defects: dict[str, set[str]] = {}
        for index, sample in enumerate(self.samples):
            name = sample.part if self.unit == "part" else str(index)
            defects.setdefault(name, set()).update({sample.defect} - {GOOD})
            if name not in best or self.scores[index] > self.scores[best[name]]:
                best[name] = index
        return tuple(
            Unit(name, ", ".join(sorted(defects[name])) or GOOD, self.scores[index], index)
            for name, index in best.items()
        )

    @cached_property
    def fusions(self) -> tuple[PartAccuracy, ...]:
        """Each fusion of a station on the test parts; empty where every image is a part of its own."""
        if not has_parts(self.samples):
            return ()
        good = self.bundle.good_parts(self.artefact) if self.record.good_parts else None
        return part_accuracies(self.samples, self.scores, threshold=self.threshold, good_parts=good)

    @property
    def span(self) -> tuple[float, float]:
        """Range of the scores and limits."""
        limits = [self.threshold.unsure, self.threshold.ng] if self.threshold else []
        low, high = min([*self.scores, *limits]), max([*self.scores, *limits])
        return (low, high) if high > low else (low - 1, high + 1)

    def tally(self, *, good: bool) -> dict[Verdict, int]:
        """Count the verdicts of Good or of defective units.

        Raises:
            ValueError: there is no threshold.
        """
        if self.threshold is None:
            raise ValueError("no threshold, no verdicts")
        counts = dict.fromkeys(Verdict, 0)
        for unit in self.units:
            if unit.is_good == good:
                counts[self.threshold.verdict(unit.score)] += 1
        return counts

    def speed_rows(self) -> list[dict[str, Any]]:
        """Return the speed rows of this artefact, the smallest batch first."""
        rows = [row for row in self.speed.rows if row.get("runner") == self.artefact] if self.speed else []
        return sorted(rows, key=lambda row: row["batch"])

    def speed_is_stale(self) -> bool:
        """Tell whether speed was measured with other bytes of an artefact than the bundle holds."""
        measured = self.speed.conditions.get("sha256") if self.speed else None
        if not isinstance(measured, dict):
            return False
        now = {name: record.sha256 for name, record in self.bundle.artefacts.items()}
        return any(now.get(name) != sha256 for name, sha256 in measured.items())


def read_history(path: Path) -> tuple[dict[str, Any], ...]:
    """Read a training's metrics, one JSON object a line; empty where there is no file.

    Raises:
        DataError: a line that is none; a last line cut short by a kill is left out.
    """
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8").splitlines()
    history = []
    for index, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
        except ValueError as error:
            if index == len(lines):
                break
            raise DataError(f"{path}: line {index} is no JSON ({error}); train again, or delete the file") from error
        if isinstance(fields, dict):
            history.append(fields)
    return tuple(history)


def curves_of(
    history: Sequence[dict[str, Any]], word: str, *, without: str | None = None
) -> dict[str, list[tuple[float, float]]]:
    """Return curves over the epoch, counted from 1, of all numbers whose name holds a word and not another one."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for index, fields in enumerate(history):
        epoch = float(fields.get("epoch", index)) + 1
        for name, value in fields.items():
            if word in name and (without is None or without not in name) and isinstance(value, (int, float)):
                label = name.removeprefix(f"{word}_").removesuffix("_loss").replace("_", " ")
                curves.setdefault(label, []).append((epoch, float(value)))
    return curves
