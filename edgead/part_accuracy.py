"""Accuracy by part: what a station would decide about the test parts, with its own fusions and thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgead.datasets.sample import Sample
from edgead.good_parts import GoodParts
from edgead.metrics import Interval, auroc, bootstrap_auroc, bootstrap_f1_max, f1_max, rate_interval
from edgead.runtime.fusion import Judge, Judged, Largest, calibrated
from edgead.runtime.parts import Slot
from edgead.thresholds import Threshold, Verdict, threshold_from_good

KINDS = ("good", "defective")

Counts = Mapping[str, int]  # by verdict


@dataclass(frozen=True)
class Rate:
    """Parts that were judged wrongly, of all of their kind.

    Attributes:
        interval: of the share, 95 %, after Wilson.
    """

    count: int
    share: float | None
    interval: Interval | None


@dataclass(frozen=True)
class PartAccuracy:
    """One fusion on the test parts; a part is defective when any of its images is.

    Attributes:
        fusion: what stations call it.
        parts: those judged.
        left_out: those that are not, lacking an image of some view and light, or having two.
        part_AUROC, part_F1Max: of the fused scores, over all thresholds; None without Good or without defective parts.
        part_AUROC_interval, part_F1Max_interval: 95 %, by bootstrap over parts.
        part_F1: of the parts that are NG; None without a threshold, as is all that follows.
        verdicts: by ``"good"`` or ``"defective"``, then by verdict.
        escapes: defective parts that are OK.
        false_alarms: Good parts that are NG.
    """

    fusion: str
    parts: int
    defective: int
    left_out: int
    part_AUROC: float | None
    part_AUROC_interval: Interval | None
    part_F1Max: float | None
    part_F1Max_interval: Interval | None
    part_F1: float | None
    verdicts: Mapping[str, Counts] | None
    escapes: Rate | None
    false_alarms: Rate | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass
class _Part:
    images: int = 0
    is_defective: bool = False
    scores: dict[Slot, float] = field(default_factory=dict)


def has_parts(samples: Iterable[Sample]) -> bool:
    """Tell whether some part has several images, so that parts are something else than images."""
    seen = [sample.part for sample in samples]
    return len(set(seen)) < len(seen)


def part_accuracies(
    samples: Sequence[Sample],
    scores: Sequence[float],
    *,
    threshold: Threshold | None,
    good_parts: GoodParts | None,
    seed: int = 0,
) -> tuple[PartAccuracy, ...]:
    """Judge test parts as stations do.

    The largest score judges every part; of two images of one view and light it takes the larger score, too. Conformal
    fusion, where it has been calibrated, judges those with one image of every view and light; if that leaves some out,
    the largest score is there a second time, on just these.

    Args:
        threshold: of the largest score; None leaves the verdicts out.
        good_parts: what conformal fusion is calibrated with, None where there are none.
        seed: of the bootstrap.

    Raises:
        DataError: a score is NaN or infinite, or the Good scores of a view and light are all alike.
    """
    found = _gathered(samples, scores)
    largest: Judge = Largest(threshold or _placeholder())
    judged = threshold is not None
    rows = [_measure("max", largest, judged, found, len(found), seed)]
    if good_parts is not None:
        slots = [Slot(*place) for place in good_parts.slots]
        whole = {
            name: part for name, part in found.items() if part.images == len(slots) and part.scores.keys() == set(slots)
        }
        if len(whole) < len(found):
            rows.append(_measure("max", largest, judged, whole, len(found), seed))
        rows.append(_measure("conformal", calibrated(good_parts, slots), True, whole, len(found), seed))
    return tuple(rows)


def _gathered(samples: Sequence[Sample], scores: Sequence[float]) -> dict[str, _Part]:
    found: dict[str, _Part] = {}
    for sample, score in zip(samples, scores, strict=True):
        part = found.setdefault(sample.part, _Part())
        slot = Slot(sample.view, sample.illumination)
        part.images += 1
        part.is_defective |= not sample.is_good
        part.scores[slot] = max(part.scores.get(slot, score), score)
    return found


def _placeholder() -> Threshold:
    """Return a threshold for a judge whose verdicts nobody reads."""
    return threshold_from_good([0.0], unit="part", source="none")


def _measure(
    fusion: str, judge: Judge, has_threshold: bool, parts: Mapping[str, _Part], every: int, seed: int
) -> PartAccuracy:
    names = list(parts)
    bad = [part.is_defective for part in parts.values()]
    judged = [judge.judge(part.scores) for part in parts.values()]
    fused = [each.score for each in judged]
    verdicts = _counted(judged, bad) if has_threshold else None
    return PartAccuracy(
        fusion=fusion,
        parts=len(names),
        defective=sum(bad),
        left_out=every - len(names),
        part_AUROC=auroc(fused, bad),
        part_AUROC_interval=bootstrap_auroc(fused, bad, names, seed=seed),
        part_F1Max=f1_max(fused, bad),
        part_F1Max_interval=bootstrap_f1_max(fused, bad, names, seed=seed),
        part_F1=None if verdicts is None else _f1(verdicts),
        verdicts=verdicts,
        escapes=None if verdicts is None else _rate(verdicts["defective"], Verdict.OK),
        false_alarms=None if verdicts is None else _rate(verdicts["good"], Verdict.NG),
    )


def _counted(judged: Sequence[Judged], bad: Sequence[bool]) -> dict[str, dict[str, int]]:
    counts = {kind: {verdict.value: 0 for verdict in Verdict} for kind in KINDS}
    for each, is_defective in zip(judged, bad, strict=True):
        counts[KINDS[is_defective]][each.verdict.value] += 1
    return counts


def _f1(verdicts: Mapping[str, Counts]) -> float | None:
    """Return F1 of NG as the answer to "defective?"; None without defective parts, or without Good ones."""
    found, alarms = (verdicts[kind][Verdict.NG.value] for kind in ("defective", "good"))
    defective, good = (sum(verdicts[kind].values()) for kind in ("defective", "good"))
    return 2 * found / (found + alarms + defective) if defective and good else None


def _rate(counts: Counts, wrong: Verdict) -> Rate:
    count, every = counts[wrong.value], sum(counts.values())
    return Rate(count, count / every if every else None, rate_interval(count, every))
