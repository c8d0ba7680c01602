"""Two runners on the same images, one image at a time: what differs, and what that does to accuracy and verdicts."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.parity.bootstrap import Ranking, change_interval, draws
from benchmarks.parity.images import Shown
from benchmarks.parity.overlap import BINS, Overlaps, bins_of, upper_edge
from benchmarks.parity.statistics import Flips, Floats, flips, rank_correlation, room
from edgead.datasets.sample import Sample
from edgead.errors import ArtefactError, DataError
from edgead.evaluate import AccuracyMeter, Counts, Scored
from edgead.images import AnomalyMap
from edgead.progress import task
from edgead.runtime.runner import Runner, check_prediction
from edgead.thresholds import Threshold

SEED = 0
_SHOWN = 6  # images nearest to flipping whose maps are kept


@dataclass(frozen=True)
class Spread:
    """How large differences are: the largest, their mean, and what 99 % of them stay below."""

    max: float
    mean: float
    p99: float


@dataclass(frozen=True)
class Change:
    """A metric of both runners on the same images; None where the images cannot define it.

    Attributes:
        name: as in ``edgead.evaluate.Accuracy``.
        low, high: 95 % interval of the change by the paired bootstrap; None where it is not computed.
    """

    name: str
    reference: float | None
    candidate: float | None
    low: float | None = None
    high: float | None = None

    @property
    def change(self) -> float | None:
        """Candidate less reference; a loss is negative."""
        return None if self.reference is None or self.candidate is None else self.candidate - self.reference


@dataclass(frozen=True, eq=False)
class Near:
    """An image near to flipping, with both maps.

    Attributes:
        place: among the images compared.
        flipped: its verdict differs.
        room: how many times the present difference of its scores would flip its verdict.
    """

    place: int
    shown: Shown
    reference_map: AnomalyMap
    candidate_map: AnomalyMap
    reference_score: float
    candidate_score: float
    flipped: bool
    room: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """Agreement of a candidate with a reference.

    Attributes:
        reference, candidate: names of the runners.
        digests: of the images, in their order.
        reference_scores, candidate_scores: float64 ``(N,)``, raw.
        maps: absolute differences over all pixels; p99 to 1 % of itself.
        scores: absolute differences over all images.
        score_relative: largest difference of a score relative to the reference's.
        flips: None without a threshold.
        changes: of metrics; image_AUROC and pixel_AUPRO first, with intervals.
        counts: what these were measured on.
        near: images that flip, then those nearest to it; without a threshold those whose scores differ most.
    """

    reference: str
    candidate: str
    samples: tuple[Sample, ...]
    digests: tuple[str, ...]
    reference_scores: Floats
    candidate_scores: Floats
    maps: Spread
    scores: Spread
    score_relative: float
    rank_correlation: float | None
    flips: Flips | None
    changes: tuple[Change, ...]
    counts: Counts
    near: tuple[Near, ...]

    def change(self, name: str) -> Change:
        """Return the change of one metric."""
        return next(each for each in self.changes if each.name == name)


class _Side:
    """What is kept of one runner's answers: numbers, no maps."""

    def __init__(self) -> None:
        self.meter, self.overlaps = AccuracyMeter(), Overlaps()
        self.scores: list[float] = []

    def add(self, shown: Shown, anomaly_map: AnomalyMap, score: float) -> None:
        self.meter.add(Scored(shown.sample, anomaly_map, score), shown.mask)
        self.overlaps.add(anomaly_map, shown.mask, good=shown.sample.is_good)
        self.scores.append(score)


def compare(
    reference: Runner,
    candidate: Runner,
    images: Iterable[Shown],
    *,
    total: int = 0,
    threshold: Threshold | None = None,
    seed: int = SEED,
) -> Comparison:
    """Compare two runners, image by image; memory grows by a few kilobytes an image.

    Args:
        total: number of images, for the progress bar.
        threshold: at which verdicts are compared; without it they are not.
        seed: of the bootstrap.

    Raises:
        DataError: no images, or one that cannot be read.
        ArtefactError: a runner gives NaN, infinity, or maps of another size.
    """
    tally = _Tally(threshold)
    with task(f"Parity of {candidate.name}", total) as advance:
        for shown in images:
            tally.add(shown, _infer(reference, shown), _infer(candidate, shown))
            advance(1)
    return tally.comparison(reference.name, candidate.name, seed)


class _Tally:
    """All that is kept while images go by."""

    def __init__(self, threshold: Threshold | None) -> None:
        self._threshold = threshold
        self._sides = _Side(), _Side()
        self._pixels, self._kept = _PixelDifferences(), _Kept()
        self._samples: list[Sample] = []
        self._digests: list[str] = []

    def add(self, shown: Shown, reference: tuple[AnomalyMap, float], candidate: tuple[AnomalyMap, float]) -> None:
        at, (wanted_map, wanted), (found_map, found) = self._threshold, reference, candidate
        self._sides[0].add(shown, wanted_map, wanted)
        self._sides[1].add(shown, found_map, found)
        self._pixels.add(wanted_map, found_map)
        flipped = at is not None and at.verdict(wanted) != at.verdict(found)
        place, left = len(self._samples), room(wanted, found, at)
        self._kept.offer(Near(place, shown, wanted_map, found_map, wanted, found, flipped, left))
        self._samples.append(shown.sample)
        self._digests.append(shown.digest)

    def comparison(self, reference: str, candidate: str, seed: int) -> Comparison:
        if not self._samples:
            raise DataError("no images to compare on; expected at least one")
        wanted, found = (np.array(side.scores, dtype=np.float64) for side in self._sides)
        apart = np.abs(wanted - found)
        samples = tuple(self._samples)
        return Comparison(
            reference=reference,
            candidate=candidate,
            samples=samples,
            digests=tuple(self._digests),
            reference_scores=wanted,
            candidate_scores=found,
            maps=self._pixels.spread(),
            scores=Spread(float(apart.max()), float(apart.mean()), float(np.quantile(apart, 0.99))),
            score_relative=float((apart / np.maximum(np.abs(wanted), 1e-12)).max()),
            rank_correlation=rank_correlation(wanted, found),
            flips=None if self._threshold is None else flips(wanted, found, self._threshold),
            changes=_changes(self._sides, samples, seed),
            counts=self._sides[1].meter.evaluation().accuracy.counts,
            near=self._kept.nearest(),
        )


class _PixelDifferences:
    """Absolute differences of maps, pixel by pixel, as a histogram."""

    def __init__(self) -> None:
        self._counts: npt.NDArray[np.int64] = np.zeros(BINS, dtype=np.int64)
        self._sum, self._max = 0.0, 0.0

    def add(self, reference: AnomalyMap, candidate: AnomalyMap) -> None:
        apart = np.abs(reference - candidate)
        self._counts += np.bincount(bins_of(apart).ravel(), minlength=BINS)
        self._sum += float(apart.sum(dtype=np.float64))
        self._max = max(self._max, float(apart.max()))

    def spread(self) -> Spread:
        total = int(self._counts.sum())
        place = int(np.searchsorted(np.cumsum(self._counts), 0.99 * total))
        return Spread(self._max, self._sum / total, min(self._max, upper_edge(place)))


class _Kept:
    """The few images nearest to flipping so far, with their maps."""

    def __init__(self) -> None:
        self._heap: list[tuple[bool, float, int, Near]] = []

    def offer(self, near: Near) -> None:
        heapq.heappush(self._heap, (near.flipped, -near.room, near.place, near))
        if len(self._heap) > _SHOWN:
            heapq.heappop(self._heap)

    def nearest(self) -> tuple[Near, ...]:
        return tuple(near for *_, near in sorted(self._heap, reverse=True))


def _infer(runner: Runner, shown: Shown) -> tuple[AnomalyMap, float]:
    maps, scores = check_prediction(runner.infer(shown.image[None]), runner.name)
    if maps.shape != (1, *shown.image.shape[:2]) or scores.shape != (1,):
        raise ArtefactError(
            f"{runner.name} gives maps {maps.shape} and scores {scores.shape}; "
            f"expected {(1, *shown.image.shape[:2])} and (1,): make the model again"
        )
    return maps[0], float(scores[0])


def _changes(sides: tuple[_Side, _Side], samples: tuple[Sample, ...], seed: int) -> tuple[Change, ...]:
    """Compare accuracy; both intervals come from the same draws."""
    defective = [not sample.is_good for sample in samples]
    parts = [sample.part for sample in samples]
    before, after = (side.meter.evaluation().accuracy for side in sides)
    first, second = (Ranking(side.scores, defective) for side in sides)
    ranked, overlapped = (
        change_interval(one, other, draws(parts, defective, seed=seed))
        for one, other in (
            (first.auroc, second.auroc),
            (sides[0].overlaps.aupro, sides[1].overlaps.aupro),
        )
    )
    if overlapped is not None and before.pixel_AUPRO is not None and after.pixel_AUPRO is not None:
        # The coarse bins shift the change as a whole a little: the interval is laid around the exact one.
        all_once = np.ones((1, len(samples)))
        coarse = float((sides[1].overlaps.aupro(all_once) - sides[0].overlaps.aupro(all_once))[0])
        shift = after.pixel_AUPRO - before.pixel_AUPRO - coarse
        overlapped = overlapped[0] + shift, overlapped[1] + shift
    none = (None, None)
    return (
        Change("image_AUROC", before.image_AUROC, after.image_AUROC, *(ranked or none)),
        Change("pixel_AUPRO", before.pixel_AUPRO, after.pixel_AUPRO, *(overlapped or none)),
        *(
            Change(name, getattr(before, name), getattr(after, name))
            for name in ("image_F1Max", "pixel_AUROC", "pixel_AP", "part_AUROC")
        ),
    )
