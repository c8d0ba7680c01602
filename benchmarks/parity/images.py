"""The images of a parity: which ones, one by one, and a fingerprint by which two certificates know the same ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgead.datasets.sample import Sample
from edgead.errors import ConfigError, DataError
from edgead.images import Image, Mask, decode_image, read_mask, resize, resize_mask

DEFAULT_COUNT = 200
"""Images that a parity takes where it is not told: minutes on a CPU, and 0 flips in 200 is below 1.5 %."""


@dataclass(frozen=True, eq=False)
class Shown:
    """One labelled image as the runners see it.

    Attributes:
        image: uint8 ``(H, W, 3)`` RGB at the size of the runners.
        mask: bool ``(H, W)`` of a defective image; None for Good ones and where there is no mask.
        digest: of the image's bytes, its label and its mask.
    """

    sample: Sample
    image: Image
    mask: Mask | None
    digest: str


def choose(samples: Sequence[Sample], count: int | None = DEFAULT_COUNT) -> tuple[Sample, ...]:
    """Choose samples, half of them Good as far as there are any; the same ones every time.

    Within Good and within defective ones they are evenly spaced, defects sorted by their type, so that every type is
    among them in its share.

    Args:
        count: how many at most; None takes all.

    Raises:
        ConfigError: fewer than one is wanted.
        DataError: there are no samples.
    """
    if count is not None and count < 1:
        raise ConfigError(f"--n is {count}; expected 1 or more")
    if not samples:
        raise DataError("no images to compare on; expected at least one test image")
    if count is None or count >= len(samples):
        return tuple(samples)
    order = range(len(samples))
    good = [index for index in order if samples[index].is_good]
    defective = sorted((index for index in order if not samples[index].is_good), key=lambda i: (samples[i].defect, i))
    few = min(len(good), len(defective), count // 2)
    n_good, n_defective = (count - few, few) if len(good) > len(defective) else (few, count - few)
    n_good, n_defective = min(n_good, len(good)), min(n_defective, len(defective))
    return tuple(samples[index] for index in sorted(_spaced(good, n_good) + _spaced(defective, n_defective)))


def shown(samples: Iterable[Sample], size_hw: tuple[int, int]) -> Iterator[Shown]:
    """Yield samples read and resized, one at a time.

    Raises:
        DataError: an image or a mask that cannot be read; it is named and never skipped.
    """
    for sample in samples:
        data = _read(sample.image)
        image = decode_image(data, name=str(sample.image))
        mask = None
        digest = hashlib.sha256(data)
        digest.update(b"\0" + sample.defect.encode())
        if not sample.is_good and sample.mask is not None:
            digest.update(b"\0" + _read(sample.mask))
            mask = resize_mask(read_mask(sample.mask, expected_hw=(image.shape[0], image.shape[1])), size_hw)
        yield Shown(sample, resize(image, size_hw), mask, digest.hexdigest())


def fingerprint(digests: Iterable[str]) -> str:
    """Return one sha256 over the images' own, in their order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def names(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return what to call each image: its path below the folder that all have in common."""
    paths = [sample.image.absolute().as_posix() for sample in samples]
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    return tuple(os.path.relpath(path, common).replace(os.sep, "/") for path in paths)


def _spaced(places: list[int], count: int) -> list[int]:
    steps = np.linspace(0, len(places) - 1, count).round().astype(int).tolist()
    return [places[step] for step in sorted(set(steps))]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected an image file") from error
