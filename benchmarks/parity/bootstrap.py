"""The paired bootstrap: both runners are judged on the same drawn images, so what the images have in common cancels.

A draw is a row of weights: how often each image is in it. A statistic takes many rows at once and gives a value for
each, NaN where that draw cannot define it. Two thousand draws of 200 images take well under a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from edgead.metrics import part_maxima

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # weights (rows, N) -> (rows,)

DRAWS = 2000
_AT_ONCE = 64  # bounds the memory: 64 draws of 16,000 images are 8 MB


def draws(parts: Sequence[str], defective: npt.ArrayLike, *, seed: int, count: int = DRAWS) -> Iterator[Floats]:
    """Yield weights ``(rows, N)`` of ``count`` draws with replacement.

    Whole parts are drawn, because images of one part are alike, and Good and defective parts apart, so that every draw
    has as many of each as the data. Where every image is a part of its own, images are drawn.
    """
    labels = np.asarray(defective, dtype=np.bool_)
    part = np.unique(np.asarray(parts, dtype=np.str_), return_inverse=True)[1]
    defective_part = part_maxima(parts, labels) > 0
    random = np.random.default_rng(seed)
    for begin in range(0, count, _AT_ONCE):
        rows = min(_AT_ONCE, count - begin)
        drawn = np.zeros((rows, len(defective_part)))
        for kind in (False, True):
            members = np.flatnonzero(defective_part == kind)
            if len(members):
                share = np.full(len(members), 1 / len(members))
                drawn[:, members] = random.multinomial(len(members), share, size=rows)
        yield drawn[:, part]


def change_interval(
    reference: Statistic, candidate: Statistic, weights: Iterator[Floats], *, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Return the percentile interval of candidate less reference; None where no draw defines it."""
    changes = np.concatenate([candidate(rows) - reference(rows) for rows in weights])
    changes = changes[np.isfinite(changes)]
    if not len(changes):
        return None
    low, high = np.quantile(changes, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


class Ranking:
    """Scores in their order, to read image AUROC of weighted images off."""

    def __init__(self, scores: npt.ArrayLike, defective: npt.ArrayLike) -> None:
        values, labels = np.asarray(scores, dtype=np.float64), np.asarray(defective, dtype=np.bool_)
        self._order = np.argsort(values, kind="stable")
        self._begins = np.flatnonzero(np.diff(values[self._order], prepend=-np.inf))  # of each run of equal scores
        self._bad = labels[self._order]

    def auroc(self, weights: Floats) -> Floats:
        """Return AUROC of each row of weights ``(rows, N)``, ties counting half; NaN where a class is missing."""
        ordered = weights[:, self._order]
        good = np.add.reduceat(ordered * ~self._bad, self._begins, axis=1)
        bad = np.add.reduceat(ordered * self._bad, self._begins, axis=1)
        pairs = good.sum(axis=1) * bad.sum(axis=1)
        won = (bad * (np.cumsum(good, axis=1) - good / 2)).sum(axis=1)
        areas = np.full(len(weights), np.nan)
        np.divide(won, pairs, out=areas, where=pairs > 0)
        return areas
