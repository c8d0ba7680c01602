"""The statistics of agreement: ranks, exact bounds, verdicts that flip, and how near the others are to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgead.thresholds import Threshold

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
TIE = 1e-5
"""Two scores this near to a limit, relative to it, lie on it: a Good image set the threshold and sits exactly there."""


@dataclass(frozen=True)
class Flips:
    """Verdicts of two runners at one threshold.

    Attributes:
        count: images whose verdict differs.
        ties: verdicts that differ, too, but both scores lie on the limit within ``TIE``.
        at_most: upper bound of the flip rate at 95 % confidence.
        images: which ones flip, by their place.
    """

    count: int
    ties: int
    at_most: float
    images: tuple[int, ...]


def rank_correlation(a: Floats, b: Floats) -> float | None:
    """Return Spearman's rho, ties ranked by their average; None where one side has no order."""
    ranks = []
    for values in (a, b):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    if min(ranks[0].std(), ranks[1].std()) == 0:
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def binomial_upper(events: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """Return the one-sided upper bound of a rate (Clopper and Pearson, 1934): about 3 / trials after no event."""
    if events >= trials:
        return 1.0

    def at_most(rate: float) -> float:
        """Return P(Binomial(trials, rate) <= events)."""
        logs = [
            math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
            + k * math.log(rate) + (trials - k) * math.log1p(-rate)
            for k in range(events + 1)
        ]  # fmt: skip
        return math.fsum(math.exp(log) for log in logs)

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(middle) > 1 - confidence else (low, middle)
    return high


def bound_sentence(events: int, trials: int, at_most: float) -> str:
    """Say a count and its bound: ``0 flips in 1000: below 0.30 % at 95 %``."""
    # Rounded up: a bound that is rounded down is none.
    share = math.ceil(at_most * 1e4 - 1e-9) / 100
    return f"{events} {'flip' if events == 1 else 'flips'} in {trials}: below {share:.2f} % at {100 * CONFIDENCE:g} %"


def flips(wanted: Floats, found: Floats, threshold: Threshold) -> Flips:
    """Count the verdicts that differ between two runners' scores of the same images."""
    changed, ties = [], 0
    for place, (a, b) in enumerate(zip(wanted.tolist(), found.tolist(), strict=True)):
        if threshold.verdict(a) == threshold.verdict(b):
            continue
        limits = (threshold.unsure, threshold.ng)
        if any(max(abs(a - limit), abs(b - limit)) <= TIE * abs(limit) for limit in limits):
            ties += 1
        else:
            changed.append(place)
    return Flips(len(changed), ties, binomial_upper(len(changed), len(wanted)), tuple(changed))


def room(wanted: float, found: float, threshold: Threshold | None) -> float:
    """Return how many times its present difference a score could move before the verdict flips.

    Below 1 it may have flipped. Without a threshold: the inverse of the difference, so that the largest comes first.
    """
    difference = max(abs(wanted - found), 1e-12)
    if threshold is None:
        return 1 / difference
    return min(abs(wanted - limit) for limit in (threshold.unsure, threshold.ng)) / difference
