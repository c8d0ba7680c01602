"""Synthetic defects and variations: they mark what they changed, and depend on the generator alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgead import images
from edgead.cfrg import defects

Kind = Callable[[images.Image, np.random.Generator], tuple[images.Image, images.Mask]]


def grain(rng: np.random.Generator, height: int = 96, width: int = 96) -> images.Image:
    level = rng.uniform(90, 150, (height, width, 1)) + np.linspace(-30, 30, height)[:, None, None]
    return np.repeat(level, 3, 2).astype(np.uint8)


def from_another(image: images.Image, rng: np.random.Generator) -> tuple[images.Image, images.Mask]:
    return defects.patch(image, np.ascontiguousarray(255 - image[::-1]), rng)


@pytest.mark.parametrize("kind", [defects.crack, defects.spot, from_another])
@pytest.mark.parametrize("width", [96, 128])
def test_each_kind_marks_what_it_changed(kind: Kind, width: int) -> None:
    told = 0
    for seed in range(40):
        image = grain(np.random.default_rng(seed), 96, width)
        changed, mask = kind(image, np.random.default_rng(seed))
        again, _ = kind(image, np.random.default_rng(seed))
        assert np.array_equal(changed, again)
        assert (changed.dtype, changed.shape, mask.dtype, mask.shape) == (np.uint8, image.shape, bool, image.shape[:2])
        difference = np.abs(changed.astype(int) - image).max(2)
        if mask.any():
            assert difference[mask].mean() > 2 * difference[~mask].mean()
            told += bool(difference[mask].mean() > 5)
    assert told > 25


def test_a_patch_that_cannot_be_seen_is_no_defect() -> None:
    flat = np.full((64, 64, 3), 120, np.uint8)
    for seed in range(20):
        changed, mask = defects.patch(flat, flat, np.random.default_rng(seed))
        assert not mask.any()
        assert np.abs(changed.astype(int) - 120).max() <= 1


def test_cracks_are_finer_than_spots() -> None:
    image = grain(np.random.default_rng(0), 256, 256)
    cracks, spots = (
        np.mean([kind(image, np.random.default_rng(seed))[1].mean() for seed in range(40)])
        for kind in (defects.crack, defects.spot)
    )
    assert 0.0005 < cracks < spots < 0.05


def test_a_varied_image_stays_one_of_its_kind() -> None:
    rng = np.random.default_rng(2)
    image = grain(rng, 96, 128)
    varied = [defects.vary(image, rng) for _ in range(20)]
    assert all((each.shape, each.dtype) == (image.shape, np.uint8) for each in varied)
    assert len({each.tobytes() for each in varied}) == 20
    means = [float(each.mean()) for each in varied]
    assert 0.5 * image.mean() < min(means) <= max(means) < 1.6 * image.mean()
