"""Choose the Good images to calibrate by: every view and light, typical looks and extreme ones.

The first N images of a folder are of one morning, one batch and often one light. A range found by them clips what the
line will show in the afternoon.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edgead.datasets.sample import Dataset, Sample
from edgead.errors import ConfigError, DataError
from edgead.images import Image, read_image, resize
from edgead.progress import task

FEWEST_IMAGES = 2
POOL = 1000  # images looked at; reading more of a large data set buys nothing
METHOD = "views and lights evenly; in each, half at random, half by what looks least like those"

_SIDE = 16  # of the small image that stands for the look
_GLOBAL_WEIGHT = 2.0  # of brightness, contrast and sharpness against the small image

Stratum = tuple[str, str]  # view, illumination
Looks = npt.NDArray[np.float32]  # (N, features); distances between rows are differences of grey level, 0 to about 1


@dataclass(frozen=True)
class Chosen:
    """Images chosen for calibration.

    Attributes:
        samples: by path.
        asked: number asked for; there may be fewer samples than that.
        seed: of the choice.
        method: how they were chosen, in words.
        considered: number of images whose looks were compared.
        radius: largest distance of an image considered from the nearest chosen one, 0 to about 1.
    """

    samples: tuple[Sample, ...]
    asked: int
    seed: int
    method: str
    considered: int
    radius: float


def candidates(dataset: Dataset, count: int) -> tuple[Sample, ...]:
    """Return the images that may be chosen: the training part, and validation only where that has fewer than asked."""
    return dataset.train if len(dataset.train) >= count else dataset.train + dataset.validation


def choose(
    samples: Sequence[Sample],
    count: int,
    size_hw: tuple[int, int],
    *,
    seed: int = 0,
    held_out: Collection[Sample] = (),
) -> Chosen:
    """Choose images that cover the views, the lights and the looks of a category; the same seed gives the same ones.

    Args:
        samples: Good ones, as ``candidates`` returns them.
        count: number wanted; all are taken where there are no more.
        size_hw: height and width at which the network sees them, pixels.
        held_out: samples that must not be chosen: the data set's test part.

    Raises:
        ConfigError: a count too small to cover every view and light.
        DataError: a defective or held out sample, fewer than 2 given or asked for, or an image that cannot be read.
    """
    _refuse_illegal(samples, held_out)
    refuse_too_few(min(len(samples), count), " to choose from" if len(samples) <= count else " asked for")
    strata = _strata(samples)
    quota = _quotas({key: len(members) for key, members in strata.items()}, count)
    source = random.Random(seed)
    pool = _pool(strata, quota, source)
    rows = [sample for members in pool.values() for sample in members]
    groups = [group for group, members in enumerate(pool.values()) for _ in members]
    looks = _looks(rows, size_hw)
    picked = spread_out(looks, groups, [quota[key] for key in pool], source)
    ordered = tuple(sorted((rows[row] for row in picked), key=lambda sample: sample.image.as_posix()))
    return Chosen(ordered, count, seed, METHOD, len(rows), float(_nearest(looks, picked).max()))


def batches(samples: Sequence[Sample], size_hw: tuple[int, int]) -> Iterator[npt.NDArray[np.uint8]]:
    """Read samples one by one as uint8 ``(1, H, W, 3)``, as the network sees them.

    Raises:
        DataError: an image cannot be read.
    """
    for sample in samples:
        yield np.ascontiguousarray(resize(read_image(sample.image), size_hw)[None])


def refuse_too_few(images: int, of: str = "") -> None:
    """Refuse fewer calibration images than a range can be judged by.

    Args:
        of: which images they are, for the error.

    Raises:
        DataError: fewer than 2.
    """
    if images < FEWEST_IMAGES:
        found = "one single calibration image" if images == 1 else "no calibration images"
        raise DataError(
            f"{found}{of}; expected {FEWEST_IMAGES} Good ones or more, better 100 to 500: add Good images to the "
            "training part of the data set, then edgead quantize RUN --choose-again --images 200"
        )


def appearance(image: Image, size_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Describe how an image looks to the network: colours in 16x16 blocks, brightness, contrast and sharpness."""
    seen = resize(image, size_hw)
    small = np.asarray(cv2.resize(seen, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.float32) / 255
    grey = seen.mean(axis=2, dtype=np.float32) / 255
    sharpness = float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())
    overall = np.asarray([grey.mean(), grey.std(), sharpness], np.float32) * np.float32(_GLOBAL_WEIGHT)
    return np.concatenate([small.ravel() / np.sqrt(np.float32(small.size)), overall])


def spread_out(looks: Looks, groups: Sequence[int], quota: Sequence[int], source: random.Random) -> list[int]:
    """Pick rows, ``quota`` of each group: half of them at random, the others always farthest from all picked so far.

    The random half keeps common looks in proportion. Farthest-first picking then fills the gaps that it left (Gonzalez,
    "Clustering to minimize the maximum intercluster distance", 1985); alone it would take rare looks only. Distances
    count across groups, so that the views of one part do not all fill the same gap.

    Args:
        looks: ``(N, features)``.
        groups: number of each row's group, ``(N,)``.
        quota: by group; at most its size.
    """
    left = np.asarray(quota)
    group_of = np.asarray(groups)
    picked: list[int] = []
    for group, wanted in enumerate(quota):
        picked += source.sample(np.flatnonzero(group_of == group).tolist(), wanted // 2)
    left = left - np.bincount(group_of[picked], minlength=len(left))
    nearest = _nearest(looks, picked)
    if not picked:  # the most typical row comes first
        nearest = -np.linalg.norm(looks - looks.mean(axis=0), axis=1)
    while left.any():
        nearest[picked] = -np.inf  # so that one of several equal rows is not picked twice
        row = int(np.argmax(np.where(left[group_of] > 0, nearest, -np.inf)))
        distance = np.linalg.norm(looks - looks[row], axis=1)
        nearest = np.minimum(nearest, distance) if picked else distance
        picked.append(row)
        left[group_of[row]] -= 1
    return picked


def _nearest(looks: Looks, picked: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return the distance of each row from the nearest picked one."""
    nearest = np.full(len(looks), np.inf)
    for row in picked:
        nearest = np.minimum(nearest, np.linalg.norm(looks - looks[row], axis=1))
    return nearest


def _refuse_illegal(samples: Sequence[Sample], held_out: Collection[Sample]) -> None:
    forbidden = {sample.image for sample in held_out}
    for sample in samples:
        if not sample.is_good:
            raise DataError(
                f"{sample.image}: shows the defect '{sample.defect}'; calibration takes Good images only: move it to "
                "the data set's test part, then edgead quantize RUN --choose-again"
            )
        if sample.image in forbidden:
            raise DataError(
                f"{sample.image}: a test image; calibrating by it would flatter the accuracy: give training images "
                "only, then edgead quantize RUN --choose-again"
            )


def _strata(samples: Sequence[Sample]) -> dict[Stratum, list[Sample]]:
    strata: dict[Stratum, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: sample.image.as_posix()):
        strata[sample.view, sample.illumination].append(sample)
    return dict(sorted(strata.items()))


def _quotas(sizes: Mapping[Stratum, int], count: int) -> dict[Stratum, int]:
    """Share ``count`` out evenly; what a small stratum cannot fill goes to the others."""
    if count < len(sizes):
        raise ConfigError(
            f"{count} calibration images cannot cover {len(sizes)} combinations of view and light; expected as many or "
            f"more, better 100 to 500: edgead quantize RUN --choose-again --images {max(200, 8 * len(sizes))}"
        )
    quota: dict[Stratum, int] = {}
    left = min(count, sum(sizes.values()))
    for place, (key, size) in enumerate(sorted(sizes.items(), key=lambda item: (item[1], item[0]))):
        quota[key] = min(size, left // (len(sizes) - place))
        left -= quota[key]
    return quota


def _pool(
    strata: Mapping[Stratum, list[Sample]], quota: Mapping[Stratum, int], source: random.Random
) -> dict[Stratum, list[Sample]]:
    """Draw the images to compare, at random where there are too many to read."""
    most = POOL // len(strata)
    pool = {}
    for key, members in strata.items():
        size = min(len(members), max(most, 2 * quota[key]))
        pool[key] = (
            members if size == len(members) else [members[i] for i in sorted(source.sample(range(len(members)), size))]
        )
    return pool


def _looks(samples: Sequence[Sample], size_hw: tuple[int, int]) -> Looks:
    rows = []
    with task("Choosing images", len(samples)) as advance:
        for sample in samples:
            rows.append(appearance(read_image(sample.image), size_hw))
            advance(1)
    return np.stack(rows)
