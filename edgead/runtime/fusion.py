"""From the scores of a part's frames to its verdict: the largest of them, or their conformal p-values combined.

The largest score is right where all views and lights score alike. Where one of them scores higher on Good parts than
the others do, only its defects are seen. Conformal fusion first asks how unusual each score is for its own view and
light, and then combines that:

1. With n Good scores of a slot, p = (1 + number of them >= score) / (n + 1) is at most x with probability at most x on
   a Good part, whatever the distribution (Laxhammar & Falkman 2010; Bates et al. 2023). ``Curve`` takes its negative
   decimal logarithm as evidence, interpolated from one Good score to the next, never above the step function.
2. The harmonic mean of the p-values of K slots, times min(K, e ln K for K > 2, 1 + 1/2 + ... + 1/(n + 1)), is a p-value
   however the frames of a part depend on each other (Vovk & Wang 2020 for the second; Bonferroni and Markov for the
   others). One slot that is sure is enough, and several that are half sure add up. ``Conformal.p_value`` gives it.
3. No p is below 1 / (n + 1), so all that is worse than every Good part would tie. Beyond the largest Good score,
   evidence goes on along an exponential tail with the Good scores' mean difference as its scale. That orders defective
   parts; it promises nothing.
4. What is promised comes from the threshold: an order statistic of the fused scores of Good parts. Where there are
   enough, other parts than those calibrate the slots, and the promise is exact. Where there are not, each part is
   fused by slots calibrated with all others. The promise is then close, not proven (measured in
   benchmarks/results/fusion_promise.json), and the threshold never claims to hold its budget.

Papers: Laxhammar, Falkman: Conformal prediction for distribution-independent anomaly detection in streaming vessel
data, 2010. Vovk, Wang: Combining p-values via averaging, Biometrika 107, 2020. Bates, Candes, Lei, Romano, Sesia:
Testing for outliers with conformal p-values, Annals of Statistics 51, 2023.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edgead.errors import ConfigError, DataError
from edgead.thresholds import Threshold, Verdict, needed_good, threshold_from_good

if TYPE_CHECKING:  # parts.py imports this module
    from edgead.bundle import Bundle
    from edgead.good_parts import GoodParts
    from edgead.runtime.parts import Slot

FUSIONS = ("max", "conformal")
_FOR_SLOTS = 100  # Good parts that calibrate the slots, where the threshold has enough without them


class Judged(NamedTuple):
    """What is decided about a part.

    Attributes:
        score: of the part, on the scale of its judge's threshold.
        worst: the frame that speaks most against it.
    """

    score: float
    worst: Slot
    verdict: Verdict


class Judge(Protocol):
    """Turns the scores of all frames of a part into a verdict; called under a lock, so it costs microseconds."""

    @property
    def unit_threshold(self) -> Threshold:
        """Threshold of a part's score."""

    def judge(self, scores: Mapping[Slot, float]) -> Judged:
        """Judge a part by the raw ``pred_score`` of each of its frames.

        The verdict counts only when no frame is missing; that is for the caller to see.

        Raises:
            DataError: no score, or one is NaN or infinite; a broken model must not pass as OK.
        """

    def limit(self, slot: Slot) -> float:
        """Return the raw score that the worst frame of an NG part lies above, if it is this one: worth a picture."""


class Largest:
    """The score of a part is the largest of its frames."""

    def __init__(self, threshold: Threshold) -> None:
        self._threshold = threshold

    @property
    def unit_threshold(self) -> Threshold:
        """Threshold of a part's score."""
        return self._threshold

    def judge(self, scores: Mapping[Slot, float]) -> Judged:
        """Judge a part by its largest score; see ``Judge.judge``."""
        _refuse_broken(scores)
        worst = max(scores, key=scores.__getitem__)
        score = scores[worst]
        return Judged(score, worst, self._threshold.verdict(score))

    def limit(self, slot: Slot) -> float:  # noqa: ARG002 - the same for all
        """Return the NG threshold."""
        return self._threshold.ng


class Curve:
    """How unusual a score is for its slot: evidence, minus the decimal logarithm of a conformal p-value.

    Args:
        good: Good scores of the slot, ``(N,)``.

    Raises:
        DataError: too few different ones to tell a spread.
    """

    def __init__(self, good: npt.ArrayLike) -> None:
        ordered = np.sort(np.asarray(good, np.float64))
        n = len(ordered)
        # The mean difference of two scores: for exponential scores their scale, and steadier than the tail alone.
        spread = float(2 * np.dot(2 * np.arange(1, n + 1) - n - 1, ordered) / (n * max(1, n - 1)))
        if not spread > 1e-6 * abs(float(ordered[-1])):
            raise DataError(
                f"its {n} Good scores are all {ordered[-1]:.6g}; expected scores that differ: "
                "the image does not change, or the model is broken"
            )
        at_least = n - np.searchsorted(ordered, ordered, side="left")
        self._good: list[float] = ordered.tolist()
        self._evidence: list[float] = np.log10((n + 1) / (1 + at_least)).tolist()
        self._slope = 1 / (spread * math.log(10))

    def __call__(self, score: float) -> float:
        """Return the evidence of a finite score; 0 where it is as low as the lowest Good one."""
        good, evidence = self._good, self._evidence
        place = bisect_left(good, score)
        if not place:
            return 0.0
        low, below = good[place - 1], evidence[place - 1]
        if place == len(good):
            return below + (score - low) * self._slope
        return below + (evidence[place] - below) * ((score - low) / (good[place] - low))

    def many(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the evidence of scores of any shape."""
        beyond = np.maximum(0.0, scores - self._good[-1]) * self._slope
        return np.asarray(np.interp(scores, self._good, self._evidence) + beyond, np.float64)

    def score(self, evidence: float) -> float:
        """Return the score that has this evidence; the lowest Good one for none."""
        top = self._evidence[-1]
        if evidence > top:
            return self._good[-1] + (evidence - top) / self._slope
        return float(np.interp(evidence, self._evidence, self._good))


class Conformal:
    """The score of a part is minus the decimal logarithm of the harmonic mean of its frames' p-values.

    Args:
        curves: one a slot, all from equally many Good scores.
        count: their number.
        threshold: of parts, on this scale.
    """

    def __init__(self, curves: Mapping[Slot, Curve], count: int, threshold: Threshold) -> None:
        self._curves = dict(curves)
        self._most = count + 1  # 1 / the smallest p-value
        self._threshold = threshold

    @property
    def unit_threshold(self) -> Threshold:
        """Threshold of a part's score."""
        return self._threshold

    def judge(self, scores: Mapping[Slot, float]) -> Judged:
        """Judge a part by how unusual its frames are for their slots; see ``Judge.judge``."""
        evidence = self._evidence(scores)
        worst = max(evidence, key=lambda slot: (evidence[slot], slot))
        score = _fuse(evidence.values())
        return Judged(score, worst, self._threshold.verdict(score))

    def limit(self, slot: Slot) -> float:
        """Return the score of the slot whose evidence is the NG threshold; what is fused never exceeds the largest."""
        return self._curves[slot].score(self._threshold.ng)

    def p_value(self, scores: Mapping[Slot, float]) -> float:
        """Return a p-value of the hypothesis that the part is Good, valid whatever the dependence of its frames."""
        most = self._most
        inverse = [min(10 ** min(each, 300.0), most) for each in self._evidence(scores).values()]
        k = len(inverse)
        factor = min(k, math.e * math.log(k) if k > 2 else k, sum(1 / number for number in range(1, most + 1)))
        return min(1.0, factor * k / math.fsum(inverse))

    def many(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the scores of many parts, ``(N,)``, from those of their frames, ``(N, K)`` in the order of slots."""
        evidence = np.column_stack(
            [curve.many(own) for curve, own in zip(self._curves.values(), scores.T, strict=True)]
        )
        largest = evidence.max(axis=1, keepdims=True)
        return np.asarray(largest[:, 0] + np.log10(np.mean(10 ** (evidence - largest), axis=1)), np.float64)

    def _evidence(self, scores: Mapping[Slot, float]) -> dict[Slot, float]:
        _refuse_broken(scores)
        curves = self._curves
        try:
            return {slot: curves[slot](score) for slot, score in scores.items()}
        except KeyError as error:
            raise DataError(
                f"a frame of {error.args[0]} came, which no Good part has; expected {list(curves)}"
            ) from error


def judge_of(bundle: Bundle, artefact: str, fusion: str, slots: Collection[Slot]) -> Judge:
    """Return what judges the parts of a station.

    Args:
        fusion: one of ``FUSIONS``.
        slots: the frames of its parts.

    Raises:
        ConfigError: another fusion, or a slot that no Good part was scored by.
        ArtefactError: the artefact has no threshold, or no scores of Good parts.
        DataError: the Good scores of a slot are all alike.
    """
    if fusion not in FUSIONS:
        raise ConfigError(f"there is no fusion '{fusion}'; valid: {', '.join(FUSIONS)}")
    if fusion == "max":
        return Largest(bundle.threshold(artefact))
    return calibrated(bundle.good_parts(artefact), slots)


def calibrated(good: GoodParts, slots: Collection[Slot]) -> Judge:
    """Return conformal fusion of some of the slots, with a threshold for just them; for one slot its own threshold.

    Raises:
        ConfigError: no Good part was scored by one of the slots.
        DataError: the Good scores of a slot are all alike.
    """
    rows = good.columns(slots)
    if len(slots) == 1:
        return Largest(_threshold([row[0] for row in rows], good, "one view and light"))
    needed = needed_good(good.false_reject_ppm, good.confidence)
    spare = len(rows) - needed
    if spare >= _FOR_SLOTS:
        first = min(max(_FOR_SLOTS, len(rows) // 4), spare)
        curves = _curves(rows[:first], slots)
        threshold = _threshold(
            [_fuse([curve(score) for curve, score in zip(curves.values(), row, strict=True)]) for row in rows[first:]],
            good,
            f"conformal fusion of {len(slots)} views and lights, calibrated with {first} other Good parts",
        )
        return Conformal(curves, first, threshold)
    held_out = []
    for index, row in enumerate(rows):
        others = _curves(rows[:index] + rows[index + 1 :], slots)
        held_out.append(_fuse([curve(score) for curve, score in zip(others.values(), row, strict=True)]))
    words = f"conformal fusion of {len(slots)} views and lights, each part calibrated with the others: approximate"
    threshold = replace(_threshold(held_out, good, words), needed_good=needed + _FOR_SLOTS)
    return Conformal(_curves(rows, slots), len(rows), threshold)


def _curves(rows: Sequence[Sequence[float]], slots: Collection[Slot]) -> dict[Slot, Curve]:
    curves = {}
    for slot, column in zip(slots, zip(*rows, strict=True), strict=True):
        try:
            curves[slot] = Curve(column)
        except DataError as error:
            raise DataError(f"view '{slot[0]}', light '{slot[1]}': {error}") from error
    return curves


def _threshold(scores: Sequence[float], good: GoodParts, words: str) -> Threshold:
    return threshold_from_good(
        scores,
        unit="part",
        false_reject_ppm=good.false_reject_ppm,
        confidence=good.confidence,
        unsure_ratio=good.unsure_ratio,
        source=f"{good.source}; {words}",
    )


def _fuse(evidence: Collection[float]) -> float:
    """Return minus the decimal logarithm of the harmonic mean of 10**-e; the order does not matter."""
    largest = max(evidence)
    return largest + math.log10(math.fsum([10 ** (each - largest) for each in evidence]) / len(evidence))


def _refuse_broken(scores: Mapping[Slot, float]) -> None:
    if not scores:
        raise DataError("a part without frames has no score; expected at least one")
    if not math.isfinite(sum(scores.values())):
        (view, light), score = next((pair for pair in scores.items() if not math.isfinite(pair[1])), (("?", "?"), 0.0))
        raise DataError(
            f"the score of view '{view}', light '{light}' is {score}; expected a finite number: "
            "the model or its input is broken"
        )
