"""What threshold and evaluate say about conformal fusion."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgead.cli.answer import percent, table

if TYPE_CHECKING:
    from rich.table import Table

    from edgead.datasets import Dataset, Sample
    from edgead.good_parts import GoodParts, Place
    from edgead.runtime.fusion import Judge
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


@dataclass(frozen=True)
class Compared:
    """Both fusions on the parts that have all views and lights.

    Attributes:
        left_out: parts that have not.
        auroc: by fusion.
        verdicts: by fusion, then ``"good"`` or ``"defective"``, then verdict.
    """

    parts: int
    left_out: int
    auroc: Mapping[str, float | None]
    verdicts: Mapping[str, Mapping[str, Mapping[str, int]]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        rows = {name: {"part_AUROC": self.auroc[name], **self.verdicts[name]} for name in self.auroc}
        return {"parts": self.parts, "left_out": self.left_out, **rows}

    def told(self) -> Table:
        """Return the same for people."""
        rows = [
            (name, kind, percent(self.auroc[name]), *counts.values())
            for name, kinds in self.verdicts.items()
            for kind, counts in kinds.items()
        ]
        title = f"Fusions on {self.parts} parts with all views and lights ({self.left_out} left out)"
        return table(title, ("fusion", "parts", ">part AUROC %", ">OK", ">UNSURE", ">NG"), rows)


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


def compare(good: GoodParts, largest: Threshold, samples: Sequence[Sample], scores: Sequence[float]) -> Compared:
    """Judge test parts by both fusions, each with its own threshold."""
    from edgead.metrics import auroc
    from edgead.runtime.fusion import Largest, calibrated
    from edgead.runtime.parts import Slot
    from edgead.thresholds import Verdict

    slots = [Slot(*slot) for slot in good.slots]
    by_part: dict[str, dict[Slot, float]] = {}
    images: dict[str, int] = {}
    defective: dict[str, bool] = {}
    for sample, score in zip(samples, scores, strict=True):
        by_part.setdefault(sample.part, {})[Slot(sample.view, sample.illumination)] = score
        images[sample.part] = images.get(sample.part, 0) + 1
        defective[sample.part] = defective.get(sample.part, False) or not sample.is_good
    whole = [part for part, row in by_part.items() if images[part] == len(slots) and row.keys() == set(slots)]
    judges: dict[str, Judge] = {"max": Largest(largest), "conformal": calibrated(good, slots)}
    areas, verdicts = {}, {}
    for name, judge in judges.items():
        judged = [judge.judge(by_part[part]) for part in whole]
        areas[name] = auroc([each.score for each in judged], [defective[part] for part in whole])
        verdicts[name] = {
            kind: {
                verdict.value: sum(
                    each.verdict is verdict and defective[part] is is_defective
                    for each, part in zip(judged, whole, strict=True)
                )
                for verdict in Verdict
            }
            for kind, is_defective in (("good", False), ("defective", True))
        }
    return Compared(len(whole), len(by_part) - len(whole), areas, verdicts)


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
