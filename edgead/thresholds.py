"""Thresholds from Good images alone: a budget of false rejects in, order statistics out.

If n Good scores are drawn from a line, and ``t`` is the one that r of them lie above, then the chance that the line's
false reject rate P(score > t) exceeds b is at most P(Binomial(n, b) <= r), whatever the distribution of the scores
(Wilks 1941; ties only make it smaller). ``t`` is the smallest score for which that chance is at most 1 - confidence.

A score is NG when strictly greater than ``ng``, UNSURE when strictly greater than ``unsure``, else OK: the Good image
that set a threshold is itself not rejected by it.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgead.errors import ConfigError, DataError

Unit = Literal["image", "part"]
_MILLION = 1_000_000


class Verdict(str, enum.Enum):
    """What is decided about an image or a part."""

    OK = "OK"
    UNSURE = "UNSURE"
    NG = "NG"


@dataclass(frozen=True)
class Threshold:
    """Two limits on a score, and what they promise.

    Attributes:
        unsure: scores above it, up to ``ng``, are UNSURE; never above ``ng``.
        ng: scores above it are NG.
        unit: what a score belongs to: an image, or a part (the maximum over its images, or what else fuses them).
        false_reject_ppm: budget: Good units rejected per million.
        confidence: chance, over draws of the Good scores, that the promise holds.
        n_good: number of Good scores used.
        guaranteed_ppm: the false rejects per million that ``ng`` keeps below at that confidence.
        needed_good: number of Good scores from which on the budget can be promised.
        source: where the Good scores came from, in words.
    """

    unsure: float
    ng: float
    unit: Unit
    false_reject_ppm: float
    confidence: float
    n_good: int
    guaranteed_ppm: float
    needed_good: int
    source: str

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise ConfigError(f"threshold unit is {self.unit!r}; expected one of {', '.join(get_args(Unit))}")
        if not (math.isfinite(self.unsure) and math.isfinite(self.ng) and self.unsure <= self.ng):
            raise ConfigError(f"threshold unsure={self.unsure}, ng={self.ng}; expected finite numbers, unsure <= ng")

    @property
    def holds_budget(self) -> bool:
        """Tell whether there were enough Good scores for the budget."""
        return self.n_good >= self.needed_good

    def verdict(self, score: float) -> Verdict:
        """Judge one score of this threshold's unit.

        Raises:
            DataError: the score is NaN or infinite; a broken model must not pass as OK.
        """
        if not math.isfinite(score):
            raise DataError(f"the score is {score}; expected a finite number: the model or its input is broken")
        if score > self.ng:
            return Verdict.NG
        return Verdict.UNSURE if score > self.unsure else Verdict.OK

    def explain(self) -> str:
        """Say in one line what the threshold promises, or how many Good units the budget still needs."""
        promise = (
            f"NG above {self.ng:.6g}: at most {self.guaranteed_ppm:.0f} of a million Good {self.unit}s are rejected, "
            f"at {self.confidence:.1%} confidence, from {self.n_good} Good {self.unit}s ({self.source})"
        )
        if self.holds_budget:
            return promise
        missing = self.needed_good - self.n_good
        return f"{promise}; the budget of {self.false_reject_ppm:g} needs {missing} more Good {self.unit}s"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Threshold:
        """Read what ``to_dict`` wrote.

        Raises:
            ConfigError: keys missing or unknown, or a value out of range.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            wrong = ", ".join(sorted(names.symmetric_difference(values)))
            raise ConfigError(f"threshold keys missing or unknown: {wrong}; set it again: edgead threshold")
        try:
            return cls(
                unsure=float(values["unsure"]),
                ng=float(values["ng"]),
                unit=values["unit"],
                false_reject_ppm=float(values["false_reject_ppm"]),
                confidence=float(values["confidence"]),
                n_good=int(values["n_good"]),
                guaranteed_ppm=float(values["guaranteed_ppm"]),
                needed_good=int(values["needed_good"]),
                source=str(values["source"]),
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(f"threshold value is no number ({error}); set it again: edgead threshold") from error


def threshold_from_good(
    scores: npt.ArrayLike,
    *,
    unit: Unit,
    false_reject_ppm: float = 2000,
    confidence: float = 0.95,
    source: str,
    unsure_ratio: float = 10,
) -> Threshold:
    """Choose the lowest threshold that keeps a false reject budget, from scores of Good units only.

    With too few scores for the budget the threshold is the largest score, ``guaranteed_ppm`` is what that does promise
    and ``needed_good`` what the budget needs.

    Args:
        scores: ``(N,)``, raw, held out of training; one a part when ``unit`` is ``"part"`` (``metrics.part_maxima``).
        false_reject_ppm: Good units rejected per million.
        source: where the scores came from, in words.
        unsure_ratio: the UNSURE band begins where a budget looser by this factor would put its threshold.

    Raises:
        DataError: no scores, or NaN or infinity among them.
        ConfigError: a budget or a confidence out of range.
    """
    good = _checked_scores(scores)
    check_budget(false_reject_ppm, confidence, unsure_ratio)
    n, budget, doubt = len(good), false_reject_ppm / _MILLION, 1 - confidence
    coefficients = _log_binomials(n)
    above = _scores_above(coefficients, budget, doubt)
    above_unsure = max(above, _scores_above(coefficients, budget * unsure_ratio, doubt))
    return Threshold(
        unsure=float(good[n - 1 - above_unsure]),
        ng=float(good[n - 1 - above]),
        unit=unit,
        false_reject_ppm=float(false_reject_ppm),
        confidence=float(confidence),
        n_good=n,
        guaranteed_ppm=_guaranteed(coefficients, above, doubt) * _MILLION,
        needed_good=needed_good(false_reject_ppm, confidence),
        source=source,
    )


def needed_good(false_reject_ppm: float, confidence: float) -> int:
    """Return the number of Good scores from which on a budget can be promised."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-false_reject_ppm / _MILLION))


def _checked_scores(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    good = np.asarray(scores, dtype=np.float64)
    if good.ndim != 1 or not good.size:
        raise DataError(f"Good scores have shape {good.shape}; expected a list with at least one score")
    bad = good.size - int(np.isfinite(good).sum())
    if bad:
        raise DataError(f"{bad} of {good.size} Good scores are NaN or infinite; the model or its input is broken")
    return np.sort(good)


def check_budget(false_reject_ppm: float, confidence: float, unsure_ratio: float) -> None:
    """Refuse what no threshold can keep.

    Raises:
        ConfigError: a budget, a confidence or a ratio out of range.
    """
    if not 0 < false_reject_ppm < _MILLION:
        raise ConfigError(f"false_reject_ppm is {false_reject_ppm}; expected a number between 0 and {_MILLION}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95")
    if not 1 <= unsure_ratio < _MILLION / false_reject_ppm:
        highest = _MILLION / false_reject_ppm
        raise ConfigError(
            f"unsure_ratio is {unsure_ratio}; expected 1 or more, and less than {highest:g} at this budget"
        )


def _log_binomials(n: int) -> npt.NDArray[np.float64]:
    """Return log C(n, j) for j = 0 to n - 1."""
    return np.array([math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) for j in range(n)])


def _tails(coefficients: npt.NDArray[np.float64], n: int, share: float) -> npt.NDArray[np.float64]:
    """Return P(Binomial(n, share) <= j) for every j that has a coefficient."""
    j = np.arange(len(coefficients))
    logarithms = coefficients + j * math.log(share) + (n - j) * math.log1p(-share)
    tails: npt.NDArray[np.float64] = np.cumsum(np.exp(logarithms))
    return tails


def _scores_above(coefficients: npt.NDArray[np.float64], share: float, doubt: float) -> int:
    """Return how many Good scores may lie above the threshold for a budget; 0 also when there are too few scores."""
    allowed = int(np.searchsorted(_tails(coefficients, len(coefficients), share), doubt, side="right"))
    return max(0, allowed - 1)


def _guaranteed(coefficients: npt.NDArray[np.float64], above: int, doubt: float) -> float:
    """Solve P(Binomial(n, share) <= above) = doubt for share: the Clopper-Pearson upper limit of the reject rate."""
    n = len(coefficients)
    if above == 0:
        return -math.expm1(math.log(doubt) / n)
    low, high = 0.0, 1.0
    for _ in range(50):  # stops short of 1.0 itself, whose complement has no logarithm
        middle = (low + high) / 2
        if _tails(coefficients[: above + 1], n, middle)[-1] > doubt:
            low = middle
        else:
            high = middle
    return high
