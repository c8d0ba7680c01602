"""Accuracy of scores and anomaly maps: exact for images and parts, streamed in constant memory for pixels.

Names follow anomalib. A metric that the data cannot define (one class only, no masks) is None, never NaN or 0. A higher
score means more anomalous; equal scores count half (AUROC) or together (average precision, F1, AUPRO).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgead.errors import DataError
from edgead.images import AnomalyMap, Mask

Scores = npt.ArrayLike  # (N,) numbers
Labels = npt.ArrayLike  # (N,) True where defective
Interval = tuple[float, float]
_Floats = npt.NDArray[np.float64]

_DROPPED_BITS = 10
BINS = 1 << (32 - _DROPPED_BITS)
RESOLUTION = 2.0 ** (_DROPPED_BITS - 23)
"""Width of a bin of ``PixelAccuracy``, relative to the value: 2^-13."""

_DRAWS_AT_ONCE = 64  # bounds the bootstrap's memory: 64 draws of 16,000 images are 8 MB


def auroc(scores: Scores, defective: Labels) -> float | None:
    """Return the area under the ROC curve: the chance that a defect outscores a Good one, ties counting half."""
    good, bad = _tally(*_checked(scores, defective))
    return _area(good, bad, limit=1.0)


def f1_max(scores: Scores, defective: Labels) -> float | None:
    """Return the largest F1 over all thresholds, flagging scores at or above the threshold."""
    good, bad = _tally(*_checked(scores, defective))
    if not good.sum() or not bad.sum():
        return None
    flagged_good, flagged_bad = np.cumsum(good), np.cumsum(bad)
    return float(np.max(2 * flagged_bad / (flagged_bad + flagged_good + bad.sum())))


def part_maxima(parts: Sequence[str], values: Scores) -> _Floats:
    """Return the largest value of each part, in the order of ``sorted(set(parts))``."""
    names, index = np.unique(np.asarray(parts, dtype=np.str_), return_inverse=True)
    maxima = np.full(len(names), -np.inf)
    np.maximum.at(maxima, index, np.asarray(values, dtype=np.float64))
    return maxima


def part_auroc(scores: Scores, defective: Labels, parts: Sequence[str]) -> float | None:
    """Return AUROC by part: its score is the maximum over its images, it is defective when any of them is."""
    values, labels = _checked(scores, defective)
    return auroc(part_maxima(parts, values), part_maxima(parts, labels) > 0)


def bootstrap_auroc(
    scores: Scores, defective: Labels, parts: Sequence[str], *, seed: int, draws: int = 1000, confidence: float = 0.95
) -> Interval | None:
    """Return the percentile bootstrap interval of AUROC, drawing whole parts because images of one part are alike.

    Good and defective parts are drawn separately, so that every draw has as many of each as the data.
    """
    return _bootstrap(_areas, scores, defective, parts, seed=seed, draws=draws, confidence=confidence)


def bootstrap_f1_max(
    scores: Scores, defective: Labels, parts: Sequence[str], *, seed: int, draws: int = 1000, confidence: float = 0.95
) -> Interval | None:
    """Return the percentile bootstrap interval of the largest F1, drawn as ``bootstrap_auroc`` draws."""
    return _bootstrap(_best_f1, scores, defective, parts, seed=seed, draws=draws, confidence=confidence)


def rate_interval(events: int, trials: int, confidence: float = 0.95) -> Interval | None:
    """Return the score interval of a rate (Wilson 1927): after no event at all it still says how high it may be.

    A bootstrap cannot do that: drawn from data without an event, no draw has one.
    """
    if not trials:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = events / trials
    middle = share + z * z / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


class PixelAccuracy:
    """Pools the pixels of a dataset into histograms and reads AUROC, AP and AUPRO off them.

    A bin is a run of float32 values that share sign, exponent and the first 13 bits of their mantissa: 2^22 bins, each
    ``RESOLUTION`` (2^-13, 0.012 %) of its value wide, whatever the range. So the metrics are exact for maps cut to 13
    mantissa bits; against the uncut maps AUROC errs by at most half the share of (good, defective) pixel pairs that
    fall into one bin, and AUPRO likewise with each region's pixels sharing its weight.

    Memory is constant: 96 MiB are reserved, and only the pages of bins in use are ever touched.
    """

    def __init__(self) -> None:
        self._good = np.zeros(BINS, dtype=np.int64)
        self._defective = np.zeros(BINS, dtype=np.int64)
        self._regions = np.zeros(BINS, dtype=np.float64)  # each region has weight 1, shared by its pixels
        self.region_count = 0

    @property
    def nbytes(self) -> int:
        """Bytes that the histograms reserve."""
        return self._good.nbytes + self._defective.nbytes + self._regions.nbytes

    def add(self, anomaly_map: AnomalyMap, mask: Mask | None) -> None:
        """Count the pixels of one image.

        Args:
            anomaly_map: float32 ``(H, W)``, raw.
            mask: bool ``(H, W)``, True where defective; None for a good image, all of whose pixels are good.

        Raises:
            DataError: the mask has another size, or the map holds NaN or infinity.
        """
        bins = _bins(anomaly_map)
        if mask is None:
            np.add.at(self._good, bins.ravel(), 1)
            return
        if mask.shape != bins.shape:
            raise DataError(f"the mask is {mask.shape} but its anomaly map is {bins.shape}; resize the mask to the map")
        regions, labels, areas = label_regions(mask)
        np.add.at(self._good, bins[~mask], 1)
        np.add.at(self._defective, bins[mask], 1)
        np.add.at(self._regions, bins[mask], 1 / areas[labels[mask]])
        self.region_count += regions

    def auroc(self) -> float | None:
        """Return pixel_AUROC over all pixels of all images."""
        good, defective, _ = self._occupied()
        return _area(good, defective, limit=1.0)

    def average_precision(self) -> float | None:
        """Return pixel_AP: precision weighted by the recall that each threshold gains, without interpolation."""
        good, defective, _ = self._occupied()
        if not good.sum() or not defective.sum():
            return None
        precision = np.cumsum(defective) / (np.cumsum(defective) + np.cumsum(good))
        return float((defective * precision).sum() / defective.sum())

    def aupro(self, fpr_limit: float = 0.3) -> float | None:
        """Return the normalised area under the per-region overlap curve, up to a false positive rate.

        Pooled over the dataset: the overlap is the mean over all 8-connected defect regions, the false positive rate
        is over all good pixels, those of good images included; the curve is cut at ``fpr_limit`` by interpolation and
        its area divided by it (Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021).
        """
        good, _, regions = self._occupied()
        return _area(good, regions, limit=fpr_limit)

    def _occupied(self) -> tuple[_Floats, _Floats, _Floats]:
        """Return the three histograms over occupied bins, highest values first."""
        bins = np.flatnonzero(self._good | self._defective)[::-1]
        return self._good[bins].astype(np.float64), self._defective[bins].astype(np.float64), self._regions[bins]


def label_regions(mask: Mask) -> tuple[int, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return the number of 8-connected regions, the label of each pixel (0 outside), and areas by label."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    return count - 1, np.asarray(labels), np.asarray(stats[:, cv2.CC_STAT_AREA])


def pro_3cad(anomaly_map: AnomalyMap, mask: Mask) -> float | None:
    """Return the per-region overlap of one defective image as the 3CAD code counts it; average it over images.

    For comparison with that paper only: 200 thresholds span this image's own range, its own good pixels make the false
    positive rate, and the curve below 0.3 is stretched by the largest rate kept. So it is blind to scores that differ
    between images, and a good image never counts. None where that stretch divides by zero.
    """
    regions, labels, areas = label_regions(mask)
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    if not regions or mask.all() or low == high:
        return None
    thresholds = low + (high - low) / 200 * np.arange(200)
    flagged_by = np.searchsorted(thresholds, anomaly_map.astype(np.float64), side="left")  # thresholds below the value
    good = np.bincount(flagged_by[~mask], minlength=201)
    overlap = np.bincount(flagged_by[mask], weights=1 / areas[labels[mask]], minlength=201)
    fpr = np.cumsum(good[::-1])[:200] / good.sum()  # from the highest threshold down
    pro = np.cumsum(overlap[::-1])[:200] / regions
    fpr, pro = fpr[fpr < 0.3], pro[fpr < 0.3]
    if not len(fpr) or fpr[-1] == 0:
        return None
    return float(np.sum(np.diff(fpr) * (pro[1:] + pro[:-1]) / 2) / fpr[-1])


def _checked(scores: Scores, defective: Labels) -> tuple[_Floats, npt.NDArray[np.bool_]]:
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(defective, dtype=np.bool_)
    if values.ndim != 1 or values.shape != labels.shape:
        raise DataError(f"{values.shape} scores but {labels.shape} labels; expected one label a score")
    if not np.isfinite(values).all():
        first = int(np.argmin(np.isfinite(values)))
        raise DataError(f"score number {first} is {values[first]}; expected raw, finite numbers")
    return values, labels


def _tally(values: _Floats, labels: npt.NDArray[np.bool_]) -> tuple[_Floats, _Floats]:
    """Count good and defective at each distinct score, highest first."""
    distinct, index = np.unique(-values, return_inverse=True)
    good = np.bincount(index[~labels], minlength=len(distinct)).astype(np.float64)
    return good, np.bincount(index[labels], minlength=len(distinct)).astype(np.float64)


def _area(good: _Floats, bad: _Floats, *, limit: float) -> float | None:
    """Integrate the share of ``bad`` over that of ``good``, both by falling score, up to ``limit``, divided by it."""
    if not good.sum() or not bad.sum():
        return None
    across = np.concatenate(([0.0], np.cumsum(good) / good.sum()))
    up = np.concatenate(([0.0], np.cumsum(bad) / bad.sum()))
    last = int(np.searchsorted(across, limit, side="right"))  # points up to here lie at or below the limit
    if last < len(across):
        share = (limit - across[last - 1]) / (across[last] - across[last - 1])
        across = np.append(across[:last], limit)
        up = np.append(up[:last], up[last - 1] + share * (up[last] - up[last - 1]))
    return float(np.sum(np.diff(across) * (up[1:] + up[:-1]) / 2) / limit)


def _bins(values: AnomalyMap) -> npt.NDArray[np.int64]:
    """Map float32 to bins in the same order: the bits of a positive float order as integers, a negative's reversed."""
    floats = np.ascontiguousarray(values, dtype=np.float32) + np.float32(0)  # -0.0 becomes 0.0, its equal
    if not np.isfinite(floats).all():
        raise DataError("the anomaly map holds NaN or infinity; expected raw, finite numbers")
    bits = floats.view(np.uint32)
    ordered = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(0x80000000))
    return (ordered >> _DROPPED_BITS).astype(np.int64)


def _bootstrap(
    measure: Callable[[_Floats, _Floats], _Floats],
    scores: Scores,
    defective: Labels,
    parts: Sequence[str],
    *,
    seed: int,
    draws: int,
    confidence: float,
) -> Interval | None:
    """Return the interval of what ``measure`` says of draws of parts.

    Args:
        measure: takes how many good and defective ones a draw has at each distinct score, lowest first, both
            ``(rows, distinct)``; NaN where a draw cannot define it.
    """
    values, labels = _checked(scores, defective)
    if not labels.any() or labels.all():
        return None
    part = np.unique(np.asarray(parts, dtype=np.str_), return_inverse=True)[1]
    defective_part = part_maxima(parts, labels) > 0
    strata = [np.flatnonzero(defective_part == kind) for kind in (False, True)]
    order = np.argsort(values, kind="stable")
    begins = np.flatnonzero(np.diff(values[order], prepend=-np.inf))  # the first of each group of equal scores
    random = np.random.default_rng(seed)
    found = []
    for begin in range(0, draws, _DRAWS_AT_ONCE):
        weight = _part_weights(random, min(_DRAWS_AT_ONCE, draws - begin), strata)[:, part[order]]
        good = np.add.reduceat(weight * ~labels[order], begins, axis=1)
        bad = np.add.reduceat(weight * labels[order], begins, axis=1)
        found.append(measure(good, bad))
    every = np.concatenate(found)
    low, high = np.quantile(every[np.isfinite(every)], [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _areas(good: _Floats, bad: _Floats) -> _Floats:
    pairs = good.sum(axis=1) * bad.sum(axis=1)
    won = (bad * (np.cumsum(good, axis=1) - good / 2)).sum(axis=1)
    areas: _Floats = np.full(len(won), np.nan)
    np.divide(won, pairs, out=areas, where=pairs > 0)
    return areas


def _best_f1(good: _Floats, bad: _Floats) -> _Floats:
    flagged_good, flagged_bad = (np.cumsum(each[:, ::-1], axis=1) for each in (good, bad))
    every = bad.sum(axis=1, keepdims=True)
    best: _Floats = np.max(2 * flagged_bad / np.maximum(flagged_bad + flagged_good + every, 1), axis=1)
    best[(every[:, 0] == 0) | (good.sum(axis=1) == 0)] = np.nan
    return best


def _part_weights(random: np.random.Generator, rows: int, strata: Sequence[npt.NDArray[Any]]) -> _Floats:
    """Draw parts with replacement within each stratum; return how often each was drawn, ``(rows, parts)``."""
    weights = np.zeros((rows, sum(len(stratum) for stratum in strata)))
    for stratum in strata:
        if len(stratum):
            drawn = stratum[random.integers(len(stratum), size=(rows, len(stratum)))]
            np.add.at(weights, (np.arange(rows)[:, None], drawn), 1)
    return weights
