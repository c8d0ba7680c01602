"""AUPRO of drawn images at a small cost: what each image adds to the curve is kept as two sparse histograms.

AUPRO pools pixels, so a draw's curve is the weighted sum of its images' histograms over map values: one of good pixels,
one of defect regions, each region of weight 1 shared by its pixels. Two thousand draws are then two matrix products
instead of two thousand passes over all maps. The bins keep 7 bits of a value's mantissa (0.8 % of it), coarser than
``edgead.metrics.PixelAccuracy``; so point estimates come from there, and only the spread of a change from here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgead.images import AnomalyMap, Mask
from edgead.metrics import label_regions

Floats = npt.NDArray[np.float64]

_DROPPED_BITS = 16
BINS = 1 << (32 - _DROPPED_BITS)


def bins_of(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Map float32 to bins in the same order: bits of a positive float order as integers, a negative's reversed."""
    bits = (np.ascontiguousarray(values, dtype=np.float32) + np.float32(0)).view(np.uint32)
    ordered = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(0x80000000))
    return (ordered >> _DROPPED_BITS).astype(np.int64)


def upper_edge(index: int) -> float:
    """Return the largest value of a bin of values from 0 up."""
    bits = np.array([(((index + 1) << _DROPPED_BITS) - 1) & 0x7FFFFFFF], dtype=np.uint32)
    return float(bits.view(np.float32)[0])


class Overlaps:
    """Histograms of images, a few kilobytes each, from which AUPRO of weighted images is read."""

    def __init__(self) -> None:
        self._images: list[tuple[npt.NDArray[np.int64], Floats, Floats]] = []
        self._dense: tuple[Floats, Floats] | None = None

    def add(self, anomaly_map: AnomalyMap, mask: Mask | None, *, good: bool) -> None:
        """Keep one image; a defective one without a mask, or with an empty one, adds nothing to the curve."""
        bins = bins_of(anomaly_map)
        outside: Floats = np.zeros(BINS)
        inside: Floats = np.zeros(BINS)
        if good:
            outside += np.bincount(bins.ravel(), minlength=BINS)
        elif mask is not None and mask.any():
            _, labels, areas = label_regions(mask)
            outside += np.bincount(bins[~mask], minlength=BINS)
            inside += np.bincount(bins[mask], weights=1 / areas[labels[mask]], minlength=BINS)
        used = np.flatnonzero((outside > 0) | (inside > 0))
        self._images.append((used, outside[used], inside[used]))
        self._dense = None

    def aupro(self, weights: Floats, *, fpr_limit: float = 0.3) -> Floats:
        """Return AUPRO of each row of weights ``(rows, N)``; NaN where it has no good pixels or no regions."""
        good, regions = self._matrices()
        across, up = np.cumsum(weights @ good, axis=1), np.cumsum(weights @ regions, axis=1)
        area = np.full(len(weights), np.nan)
        if not good.shape[1]:
            return area
        defined = (across[:, -1] > 0) & (up[:, -1] > 0)
        across, up = across[defined] / across[defined, -1:], up[defined] / up[defined, -1:]
        across, up = np.pad(across, ((0, 0), (1, 0))), np.pad(up, ((0, 0), (1, 0)))
        x0, x1, y0, y1 = across[:, :-1], across[:, 1:], up[:, :-1], up[:, 1:]
        end = np.minimum(x1, fpr_limit)
        # Of the step across the limit the part before it counts; steps beyond it have no width.
        share = np.divide(end - x0, x1 - x0, out=np.zeros_like(x0), where=(x1 > x0) & (end > x0))
        width, y_end = share * (x1 - x0), y0 + share * (y1 - y0)
        area[defined] = (width * (y0 + y_end) / 2).sum(axis=1) / fpr_limit
        return area

    def _matrices(self) -> tuple[Floats, Floats]:
        """Return both histograms of all images over the bins in use, highest values first: each ``(N, bins)``."""
        if self._dense is None:
            used = np.unique(np.concatenate([bins for bins, _, _ in self._images]))[::-1]
            place = np.zeros(BINS, dtype=np.int64)
            place[used] = np.arange(len(used))
            good, regions = np.zeros((2, len(self._images), len(used)))
            for row, (bins, outside, inside) in enumerate(self._images):
                good[row, place[bins]] = outside
                regions[row, place[bins]] = inside
            self._dense = good, regions
        return self._dense
