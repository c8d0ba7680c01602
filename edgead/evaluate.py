"""Score labelled samples with a runner and measure accuracy, in memory that does not grow with the dataset."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from edgead.datasets.sample import Sample
from edgead.errors import ArtefactError, DataError
from edgead.images import AnomalyMap, Image, Mask, read_image, read_mask, resize, resize_mask
from edgead.metrics import PixelAccuracy, auroc, f1_max, part_auroc, part_maxima, pro_3cad
from edgead.runtime.runner import Runner, check_prediction, usable_cores

_DECODERS = min(4, usable_cores())
Advance = Callable[[int], object]


@dataclass(frozen=True)
class Counts:
    """What the metrics were measured on.

    Attributes:
        masked: defective images whose pixels entered the pixel metrics.
        without_mask: defective images left out of the pixel metrics, having no mask or an empty one.
        regions: connected defect regions of the masked images.
    """

    images: int
    good: int
    defective: int
    parts: int
    defective_parts: int
    masked: int
    without_mask: int
    regions: int


@dataclass(frozen=True)
class Accuracy:
    """Metrics of one model on one category, 0 to 1; None where the samples cannot define one.

    Attributes:
        image_AUROC: by image, the folder's label against the score.
        image_F1Max: largest F1 over all thresholds, by image.
        pixel_AUROC: over all pixels of good and masked defective images, to the resolution of ``PixelAccuracy``.
        pixel_AP: average precision over the same pixels.
        pixel_AUPRO: pooled per-region overlap up to a false positive rate of 0.3, divided by it.
        pixel_AUPRO_005: the same up to 0.05.
        part_AUROC: by part: score is the maximum over its images, defective when any of them is.
        pro_3cad: mean over defective images of the 3CAD code's per-image overlap, only to compare with that paper.
        image_AUROC_by_defect: all good images against those of one defect type.
        counts: what they were measured on.
    """

    image_AUROC: float | None
    image_F1Max: float | None
    pixel_AUROC: float | None
    pixel_AP: float | None
    pixel_AUPRO: float | None
    pixel_AUPRO_005: float | None
    part_AUROC: float | None
    pro_3cad: float | None
    image_AUROC_by_defect: Mapping[str, float | None]
    counts: Counts

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """Accuracy, and the scores it came from.

    Attributes:
        scores: ``pred_score`` of each sample, in the order of the samples.
    """

    accuracy: Accuracy
    scores: tuple[float, ...]


class Scored(NamedTuple):
    """A sample with its raw result: anomaly map float32 ``(H, W)`` and ``pred_score``."""

    sample: Sample
    anomaly_map: AnomalyMap
    score: float


class AccuracyMeter:
    """Takes scored samples one by one and keeps no map."""

    def __init__(self) -> None:
        self._pixels = PixelAccuracy()
        self._samples: list[Sample] = []
        self._scores: list[float] = []
        self._pro_3cad: list[float] = []
        self._masked = 0

    def add(self, scored: Scored, mask: Mask | None) -> None:
        """Count one sample; ``mask`` has the size of its map, and is None for good samples and where there is none."""
        sample, anomaly_map, score = scored
        self._samples.append(sample)
        self._scores.append(score)
        if sample.is_good:
            self._pixels.add(anomaly_map, None)
        elif mask is not None and mask.any():
            self._masked += 1
            self._pixels.add(anomaly_map, mask)
            overlap = pro_3cad(anomaly_map, mask)
            if overlap is not None:
                self._pro_3cad.append(overlap)

    def evaluation(self) -> Evaluation:
        """Return the accuracy over all samples so far."""
        scores = np.array(self._scores, dtype=np.float64)
        defective = np.array([not sample.is_good for sample in self._samples], dtype=np.bool_)
        parts = [sample.part for sample in self._samples]
        defects = np.array([sample.defect for sample in self._samples], dtype=np.str_)
        by_defect = {}
        for defect in sorted(set(defects[defective].tolist())):
            chosen = ~defective | (defects == defect)
            by_defect[defect] = auroc(scores[chosen], defective[chosen])
        accuracy = Accuracy(
            image_AUROC=auroc(scores, defective),
            image_F1Max=f1_max(scores, defective),
            pixel_AUROC=self._pixels.auroc(),
            pixel_AP=self._pixels.average_precision(),
            pixel_AUPRO=self._pixels.aupro(0.3),
            pixel_AUPRO_005=self._pixels.aupro(0.05),
            part_AUROC=part_auroc(scores, defective, parts),
            pro_3cad=float(np.mean(self._pro_3cad)) if self._pro_3cad else None,
            image_AUROC_by_defect=by_defect,
            counts=Counts(
                images=len(scores),
                good=int((~defective).sum()),
                defective=int(defective.sum()),
                parts=len(set(parts)),
                defective_parts=int(part_maxima(parts, defective).sum()),
                masked=self._masked,
                without_mask=int(defective.sum()) - self._masked,
                regions=self._pixels.region_count,
            ),
        )
        return Evaluation(accuracy, tuple(self._scores))


def evaluate(
    runner: Runner, samples: Sequence[Sample], *, batch: int = 8, progress: Advance | None = None
) -> Evaluation:
    """Score samples and measure accuracy.

    Args:
        batch: images a call, or ``runner.max_batch`` where that is smaller.
        progress: called with the number of samples done since the last call.

    Raises:
        DataError: no samples, or an image or a mask that cannot be read; it is named and never skipped.
        ArtefactError: the model gives NaN, infinity or maps of another size.
    """
    meter = AccuracyMeter()
    for scored, mask in _scored_with_masks(runner, samples, batch, masks=True):
        meter.add(scored, mask)
        if progress is not None:
            progress(1)
    return meter.evaluation()


def score_samples(runner: Runner, samples: Sequence[Sample], *, batch: int = 8) -> Iterator[Scored]:
    """Yield samples in order with their raw maps and scores; raises as ``evaluate`` does.

    Images are decoded ahead by a few threads, no further than two batches. A kept map keeps its batch in memory.
    """
    for scored, _ in _scored_with_masks(runner, samples, batch, masks=False):
        yield scored


def load_mask(sample: Sample, size_hw: tuple[int, int], *, image_hw: tuple[int, int] | None = None) -> Mask | None:
    """Read the mask of a defective sample at the size of its map; None for good samples and where there is no mask.

    Raises:
        DataError: unreadable, or not of its image's size where ``image_hw`` gives it.
    """
    if sample.is_good or sample.mask is None:
        return None
    return resize_mask(read_mask(sample.mask, expected_hw=image_hw), size_hw)


def _scored_with_masks(
    runner: Runner, samples: Sequence[Sample], batch: int, *, masks: bool
) -> Iterator[tuple[Scored, Mask | None]]:
    if not samples:
        raise DataError("there are no samples to score; expected at least one image")
    if batch < 1:
        raise DataError(f"batch is {batch}; expected 1 or more")
    size = min(batch, runner.max_batch, len(samples))
    pool = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode")
    try:
        waiting: deque[Future[tuple[Image, Mask | None]]] = deque()
        upcoming = iter(samples)
        for begin in range(0, len(samples), size):
            for sample in upcoming:
                waiting.append(pool.submit(_load, sample, runner.size_hw, masks))
                if len(waiting) >= 2 * size:
                    break
            members = samples[begin : begin + size]
            loaded = [waiting.popleft().result() for _ in members]
            yield from _infer(runner, members, loaded, size)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _load(sample: Sample, size_hw: tuple[int, int], masks: bool) -> tuple[Image, Mask | None]:
    image = read_image(sample.image)
    mask = load_mask(sample, size_hw, image_hw=(image.shape[0], image.shape[1])) if masks else None
    return resize(image, size_hw), mask


def _infer(
    runner: Runner, members: Sequence[Sample], loaded: list[tuple[Image, Mask | None]], size: int
) -> Iterator[tuple[Scored, Mask | None]]:
    """Run one batch, filled up with its last image to the size of all others, which engines and caches prefer."""
    images = [image for image, _ in loaded]
    images += [images[-1]] * (size - len(images))
    maps, scores = check_prediction(runner.infer(np.stack(images)), runner.name)
    if maps.shape != (size, *runner.size_hw) or scores.shape != (size,):
        raise ArtefactError(
            f"{runner.name} gives maps {maps.shape} and scores {scores.shape}; "
            f"expected {(size, *runner.size_hw)} and {(size,)}: export the model again"
        )
    for index, (sample, (_, mask)) in enumerate(zip(members, loaded, strict=True)):
        yield Scored(sample, maps[index], float(scores[index])), mask
