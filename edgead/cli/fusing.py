"""What threshold and evaluate say about parts and their fusions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgead.cli.answer import percent, table

if TYPE_CHECKING:
    from rich.table import Table

    from edgead.datasets import Dataset
    from edgead.good_parts import GoodParts, Place
    from edgead.part_accuracy import PartAccuracy
    from edgead.thresholds import Threshold


@dataclass(frozen=True)
class Fused:
    """Good parts, and the threshold that they give to their fused scores.

    Attributes:
        left_out: Good parts without all views and lights.
    """

    good: GoodParts
    left_out: int
    threshold: Threshold

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "kind": "conformal",
            "slots": [list(slot) for slot in self.good.slots],
            "good_parts": len(self.good.scores),
            "left_out": self.left_out,
            "threshold": self.threshold.to_dict(),
            "holds_budget": self.threshold.holds_budget,
            "explanation": self.threshold.explain(),
        }

    def told(self) -> list[Table | str]:
        """Return the same for people."""
        rows = [
            ("views and lights", len(self.good.slots)),
            ("Good parts with all of them", len(self.good.scores)),
            ("Good parts left out", self.left_out),
            ("UNSURE above", f"{self.threshold.unsure:.6g}"),
            ("NG above", f"{self.threshold.ng:.6g}"),
        ]
        title = "Conformal fusion, scores are -log10 p: for stations with 'fusion: conformal'"
        return [table(title, ("", ">"), rows), self.threshold.explain()]


def fuse(wanted: argparse.Namespace, dataset: Dataset, scores: Sequence[float], source: str) -> Fused:
    """Calibrate conformal fusion with the scores of held-out Good images.

    Raises:
        DataError: too few Good parts with all views and lights, or scores that tell nothing.
    """
    from edgead.good_parts import GoodParts
    from edgead.runtime.fusion import calibrated
    from edgead.runtime.parts import Slot

    good = GoodParts.from_samples(
        dataset.validation,
        scores,
        aliases=_simulated(dataset),
        false_reject_ppm=wanted.false_reject_ppm,
        confidence=wanted.confidence,
        unsure_ratio=wanted.unsure_ratio,
        source=source,
    )
    left_out = len({sample.part for sample in dataset.validation}) - len(good.scores)
    judge = calibrated(good, [Slot(*slot) for slot in good.slots])
    return Fused(good, left_out, judge.unit_threshold)


def part_tables(rows: Sequence[PartAccuracy]) -> list[Table | str]:
    """Show what each fusion makes of the test parts; without a threshold no verdicts."""
    ranked = [
        (
            row.fusion,
            row.parts,
            row.defective,
            row.left_out,
            percent(row.part_AUROC),
            _between(row.part_AUROC_interval),
            percent(row.part_F1Max),
            _between(row.part_F1Max_interval),
        )
        for row in rows
    ]
    columns = ("fusion", ">parts", ">defective", ">left out", ">AUROC %", "95 %", ">F1Max %", "95 %")
    body: list[Table | str] = [table("By part, intervals by bootstrap over parts", columns, ranked)]
    told = []
    for row in rows:
        for kind, what, wrong in (
            ("good", "false alarms", row.false_alarms),
            ("defective", "escapes", row.escapes),
        ):
            if row.verdicts is not None and wrong is not None:
                share = f"{percent(wrong.share)} % {_between(wrong.interval)}".rstrip()
                fusion = row.fusion if not row.left_out else f"{row.fusion}, {row.parts} parts"
                told.append((fusion, kind, *row.verdicts[kind].values(), f"{wrong.count} {what}", share))
    if told:
        verdicts = ("fusion", "parts", ">OK", ">UNSURE", ">NG", ">wrong", "of these parts, 95 %")
        body.append(
            table("Verdicts on parts; wrong are Good ones that are NG, and defective ones that are OK", verdicts, told)
        )
    return body


def _between(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def _simulated(dataset: Dataset) -> dict[Place, Place] | None:
    """Return what the simulator's cameras call the views and lights that its files number from 1."""
    from edgead.datasets.simulated import OBJECTS

    spec = next((spec for spec in OBJECTS.values() if spec.folder == dataset.category), None)
    if dataset.name != "sim" or spec is None:
        return None
    return {
        (str(v), str(n)): (view, light)
        for v, view in enumerate(spec.views, 1)
        for n, light in enumerate(spec.illuminations, 1)
    }
