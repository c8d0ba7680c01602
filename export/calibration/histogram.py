"""A histogram whose range doubles when a value exceeds it, so that one pass over the images is enough.

Its upper edge is always a power of two above the peak. Bins of the next range are then pairs of the old ones, and the
result equals, count by count, the histogram that knowing the range beforehand would give, whatever the images' order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from export.calibration.methods import Distribution

BINS = 4096  # at least half of them below the peak
COARSE = 1024  # bins of the histograms by image
SLOTS = 256  # images with a histogram of their own; from there on they share

_SMALLEST = -100  # exponent of the smallest range; what is smaller is no signal
_CHUNK = 1 << 16  # values at a time: they stay in the cache


class Histogram:
    """Counts of ``|x|`` of one tensor: of all images finely, of each one coarsely.

    Memory is bounded: about 1.1 MB, whatever the number of images and the size of the tensor.

    Attributes:
        top: upper edge of the last bin, a power of two above ``peak``; 0 until a value differs from zero.
        peak: largest ``|x|`` so far.
    """

    def __init__(self) -> None:
        self.top = 0.0
        self.peak = 0.0
        self._counts = np.zeros(BINS, np.int64)
        self._zeros = 0
        self._by_image: list[npt.NDArray[np.uint32]] = []
        self._zeros_by_image: list[int] = []
        self._images = 0

    def add(self, values: npt.NDArray[np.float32], peak: float) -> None:
        """Count the values of one image.

        Args:
            peak: their largest ``|x|``, finite.
        """
        self._grow(peak)
        counts, zeros = self._count(values.reshape(-1))
        self._counts += counts
        self._zeros += zeros
        coarse = counts.reshape(COARSE, -1).sum(axis=1).astype(np.uint32)
        if self._images < SLOTS:
            self._by_image.append(coarse)
            self._zeros_by_image.append(zeros)
        else:
            self._by_image[self._images % SLOTS] += coarse
            self._zeros_by_image[self._images % SLOTS] += zeros
        self._images += 1

    def distribution(self) -> Distribution:
        """Return what was counted."""
        return Distribution(self._counts, self._zeros, self.top, self.peak)

    def resampled(self, weights: npt.NDArray[np.float64]) -> list[Distribution]:
        """Return what would have been counted, in coarse bins, had each slot come so many times; one a row of weights.

        Args:
            weights: ``(N, slots)``.
        """
        counts = weights @ np.stack(self._by_image).astype(np.float64)
        zeros = weights @ np.asarray(self._zeros_by_image, np.float64)
        return [Distribution(row, float(zero), self.top, self.peak) for row, zero in zip(counts, zeros, strict=True)]

    @property
    def slots(self) -> int:
        """Number of histograms by image."""
        return len(self._by_image)

    def _grow(self, peak: float) -> None:
        self.peak = max(self.peak, peak)
        if peak == 0 or peak < self.top:
            return
        top = math.ldexp(1.0, max(math.frexp(peak)[1], _SMALLEST))
        if self.top:
            doublings = round(math.log2(top / self.top))
            self._counts = _merged(self._counts, doublings)
            self._by_image = [_merged(counts, doublings) for counts in self._by_image]
        self.top = top

    def _count(self, values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], int]:
        counts = np.zeros(BINS, np.int64)
        if not self.top:
            return counts, values.size
        scale = np.float32(BINS / self.top)  # a power of two: the product is exact, and below BINS
        other = 0
        for begin in range(0, values.size, _CHUNK):
            some = np.abs(values[begin : begin + _CHUNK])
            other += int(np.count_nonzero(some))
            some *= scale
            counts += np.bincount(some.astype(np.intp), minlength=BINS)
        zeros = values.size - other
        counts[0] -= zeros
        return counts, zeros


def _merged(counts: npt.NDArray[Any], doublings: int) -> npt.NDArray[Any]:
    """Count anew in bins ``2**doublings`` times as wide."""
    bins = len(counts)
    merged = np.zeros_like(counts)
    if doublings >= round(math.log2(bins)):
        merged[0] = counts.sum()
    else:
        merged[: bins >> doublings] = counts.reshape(bins >> doublings, -1).sum(axis=1)
    return merged
