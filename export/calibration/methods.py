"""From a histogram of ``|x|`` to the range that int8 covers: four methods, symmetric, 127 levels on each side.

Exact zeros are left out of the histograms: symmetric int8 holds zero exactly, so zeros say nothing about the range, and
after a ReLU they would drown the rest.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from edgead.errors import ConfigError, nearest

Method = Literal["max", "percentile", "mse", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)
PERCENTILE = 99.99
LEVELS = 127  # of int8 on each side of zero
UNUSED_AMAX = 1.0  # range of a tensor that was zero everywhere: any positive one is exact for what was seen

_TARGET = 128  # levels that the entropy method compares with, zero's included
_UNLIKELY = 1e-9  # stands for a probability of zero, which would make the divergence infinite
_CELLS = 1 << 20  # of the table that the MSE method holds at once


class Distribution(NamedTuple):
    """How the ``|x|`` of one tensor are spread.

    Attributes:
        counts: of the values above zero, in bins of equal width from 0 to ``top``; ``(bins,)``.
        zeros: number of values that are exactly zero.
        top: upper edge of the last bin.
        peak: largest ``|x|``, below ``top``; 0 for a tensor of zeros.
    """

    counts: npt.NDArray[Any]
    zeros: float
    top: float
    peak: float


def check_method(method: str, percentile: float = PERCENTILE) -> None:
    """Refuse an unknown method, or a percentile outside (50, 100].

    Raises:
        ConfigError: either of them.
    """
    if method not in METHODS:
        raise ConfigError(f"there is no calibration method '{method}'{nearest(method, METHODS)}")
    if not 50 < percentile <= 100:
        raise ConfigError(f"a calibration percentile of {percentile:g} is wrong; expected above 50, at most 100")


def amax_of(distribution: Distribution, method: str, *, percentile: float = PERCENTILE, candidates: int = 256) -> float:
    """Return the ``|x|`` that the largest int8 level stands for: positive, never above the peak.

    Args:
        candidates: number of clipping points that the MSE and entropy methods try.

    Raises:
        ConfigError: an unknown method or a wrong percentile.
    """
    check_method(method, percentile)
    if distribution.peak == 0 or not distribution.counts.any():
        return UNUSED_AMAX
    width = distribution.top / len(distribution.counts)
    if method == "percentile":
        amax = _percentile(distribution, percentile / 100) * width
    elif method == "mse":
        amax = _mse(distribution.counts, candidates) * width
    elif method == "entropy":
        amax = _entropy(distribution.counts, candidates) * width
    else:
        amax = distribution.peak
    return float(min(amax, distribution.peak))


def _percentile(distribution: Distribution, share: float) -> float:
    """Return the bin, as a real number, below which this share of all values lies, zeros included.

    Where that share is zeros alone, the share of the others is taken: a range of zero would lose them all.
    """
    below = np.cumsum(distribution.counts, dtype=np.float64)
    rank = share * (below[-1] + distribution.zeros) - distribution.zeros
    if rank <= 0:
        rank = share * below[-1]
    bin_ = min(int(np.searchsorted(below, rank)), len(below) - 1)
    count = float(distribution.counts[bin_])
    inside = 1.0 - (float(below[bin_]) - rank) / count if count else 1.0
    return float(bin_ + np.clip(inside, 0.0, 1.0))


def _mse(counts: npt.NDArray[Any], candidates: int) -> int:
    """Return the number of bins to cover so that the mean squared error of rounding and clipping is least."""
    (filled,) = np.nonzero(counts)
    weight, centre = counts[filled].astype(np.float64), filled + 0.5
    points = _points(int(filled[-1]) + 1, candidates)
    rows = max(1, _CELLS // len(filled))
    errors = []
    for begin in range(0, len(points), rows):
        step = points[begin : begin + rows, None] / LEVELS
        rounded = np.minimum(np.rint(centre / step), LEVELS) * step
        errors.append(((centre - rounded) ** 2) @ weight)
    return int(points[np.argmin(np.concatenate(errors))])


def _entropy(counts: npt.NDArray[Any], candidates: int) -> int:
    """Return the number of bins to cover so that 128 levels lose the least information.

    The Kullback-Leibler divergence of the clipped histogram from itself in 128 levels, as in Szymon Migacz, "8-bit
    inference with TensorRT", GTC 2017. It needs many more bins than levels: with 128 of them nothing is ever clipped.
    """
    histogram = counts.astype(np.float64)
    points = _points(int(np.nonzero(histogram)[0][-1]) + 1, candidates)
    return int(min(points, key=lambda bins: (_divergence(histogram, int(bins)), bins)))


def _divergence(histogram: npt.NDArray[np.float64], bins: int) -> float:
    """Return the divergence for clipping after ``bins`` bins; what lies beyond counts as the last one of them."""
    kept = histogram[:bins]
    clipped = kept.copy()
    clipped[-1] += histogram[bins:].sum()
    filled = clipped > 0
    levels = min(_TARGET, bins)
    begins = -(-np.arange(levels) * bins // levels)  # bin b is in level b * levels // bins
    shares = np.add.reduceat(kept, begins) / np.maximum(np.add.reduceat(filled.astype(np.float64), begins), 1.0)
    level = np.repeat(np.arange(levels), np.diff([*begins, bins]))
    quantised = shares[level[filled]]
    reference = clipped[filled] / clipped.sum()
    total = quantised.sum()
    if total == 0:
        return float("inf")
    return float(np.sum(reference * np.log(reference / np.maximum(quantised / total, _UNLIKELY))))


def _points(used: int, candidates: int) -> npt.NDArray[np.int64]:
    """Return the clipping points to try, in bins: from one bin a level to all bins that hold anything."""
    return np.unique(np.linspace(min(_TARGET, used), used, candidates).astype(np.int64))
