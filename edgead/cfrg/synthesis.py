"""Synthetic defects: Good images corrupted under a mask, so that CFRG learns from Good images alone.

Every function draws from the generator that it is given, so a sample is a function of (seed, epoch, index) however many
workers share the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from edgead import images
from edgead.cfrg import defects
from edgead.cfrg.defects import Field
from edgead.config import Synthesis
from edgead.errors import DataError


class Textures(Protocol):
    """A source of foreign textures."""

    def draw(self, rng: np.random.Generator, size_hw: tuple[int, int]) -> Field:
        """Return float32 ``(H, W, 3)`` in [0, 255]."""


class FolderTextures:
    """Photographs of a folder tree, such as DTD's ``images``; a fresh one each step.

    Raises:
        DataError: the folder holds no image.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in images.SUFFIXES)
        if not self._paths:
            raise DataError(f"{folder}: no image in it; expected a folder of textures such as DTD's images/")

    def draw(self, rng: np.random.Generator, size_hw: tuple[int, int]) -> Field:
        """Return one photograph at the size wanted."""
        path = self._paths[rng.integers(len(self._paths))]
        return images.resize(images.read_image(path), size_hw).astype(np.float32)


class ProceduralTextures:
    """Octave noise, bands, cells and speckle in random colours: needs no dataset."""

    def draw(self, rng: np.random.Generator, size_hw: tuple[int, int]) -> Field:
        """Return one texture at the size wanted."""
        kind = rng.integers(4)
        octaves = 2.0 ** rng.integers(1, 6, size=3)
        field = sum((value_noise(rng, size_hw, int(cells)) for cells in octaves), np.zeros(size_hw, np.float32)) / 3
        if kind == 1:  # bands, bent by the noise
            y, x = np.mgrid[: size_hw[0], : size_hw[1]].astype(np.float32) / max(size_hw)
            angle, frequency = rng.uniform(0, np.pi), rng.uniform(5, 60)
            field = 0.5 + 0.5 * np.sin(2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)) + 6 * field)
        elif kind == 2:  # cells with hard borders
            levels = int(rng.integers(2, 6))
            field = np.floor(field * levels * 1.5) % levels / (levels - 1)
        elif kind == 3:  # speckle
            field = 0.4 * field + 0.6 * rng.random(size_hw, dtype=np.float32)
        low, high = rng.uniform(0, 255, (2, 3)).astype(np.float32)
        mixed: Field = (low + (high - low) * field[..., None]).astype(np.float32)
        return mixed


def textures(folder: Path | None) -> Textures:
    """Open a folder of textures, or the procedural ones where none is given."""
    return ProceduralTextures() if folder is None else FolderTextures(folder)


def value_noise(rng: np.random.Generator, size_hw: tuple[int, int], cells: int) -> Field:
    """Draw smooth noise in [0, 1]: a random lattice of ``cells`` x ``cells``, interpolated."""
    lattice = rng.random((cells + 1, cells + 1), dtype=np.float32)
    noise = cv2.resize(lattice, size_hw[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(noise, 0, 1).astype(np.float32)


def perlin(rng: np.random.Generator, size_hw: tuple[int, int], lattice_hw: tuple[int, int]) -> Field:
    """Draw Perlin gradient noise with a quintic fade, scaled to about [-1, 1]."""
    height, width = size_hw
    rows, columns = lattice_hw
    angle = rng.uniform(0, 2 * np.pi, (rows + 1, columns + 1)).astype(np.float32)
    y = np.arange(height, dtype=np.float32) * (rows / height)
    x = np.arange(width, dtype=np.float32) * (columns / width)
    row, column = y.astype(int), x.astype(int)
    dy, dx = (y - row)[:, None], (x - column)[None, :]
    gradient_y, gradient_x = np.sin(angle), np.cos(angle)

    def corner(down: int, right: int) -> Field:
        index = np.ix_(row + down, column + right)
        return gradient_y[index] * (dy - down) + gradient_x[index] * (dx - right)  # type: ignore[no-any-return]

    fade_y, fade_x = (t**3 * (t * (t * 6 - 15) + 10) for t in (dy, dx))
    top = corner(0, 0) * (1 - fade_x) + corner(0, 1) * fade_x
    bottom = corner(1, 0) * (1 - fade_x) + corner(1, 1) * fade_x
    return np.asarray(np.sqrt(2) * (top * (1 - fade_y) + bottom * fade_y), np.float32)


def perlin_mask(rng: np.random.Generator, size_hw: tuple[int, int]) -> images.Mask:
    """Draw the mask of CFRG's corruption: rotated Perlin noise above 0.5, lattice 2^a x 2^b with a, b in 0..5."""
    rows, columns = 2 ** rng.integers(0, 6, size=2)
    noise = perlin(rng, size_hw, (int(rows), int(columns)))
    turn = cv2.getRotationMatrix2D(((size_hw[1] - 1) / 2, (size_hw[0] - 1) / 2), rng.uniform(-90, 90), 1.0)
    mask: images.Mask = cv2.warpAffine(noise, turn, size_hw[::-1]) > 0.5
    return mask


def corrupt(
    image: images.Image,
    rng: np.random.Generator,
    source: Textures,
    *,
    synthesis: Synthesis,
    donor: images.Image | None = None,
) -> tuple[images.Image, images.Mask]:
    """Corrupt a Good image; returns the image and the mask of what changed (possibly empty).

    Args:
        image: uint8 ``(H, W, 3)``.
        source: where foreign textures come from.
        synthesis: ``"reference"`` is the paper's textures; ``"rich"`` mixes them with scratches, patches of the image
            itself and shading; ``"wide"`` mixes those with patches of other Good images, fine cracks and spots.
        donor: another Good image of the same size, for ``"wide"``; None takes the patches from ``image``.
    """
    if synthesis == "wide":
        wide = rng.choice(4, p=(0.31, 0.31, 0.19, 0.19))
        if wide == 1:
            return defects.patch(image, image if donor is None else donor, rng)
        if wide:
            return (defects.crack if wide == 2 else defects.spot)(image, rng)
    size_hw = (image.shape[0], image.shape[1])
    kind = 0 if synthesis == "reference" else rng.choice(4, p=(0.4, 0.25, 0.15, 0.2))
    if kind == 1:
        return _scratch(image, rng)
    if kind == 2:
        return _blend(image, _shifted(image, rng), perlin_mask(rng, size_hw), rng)
    if kind == 3:
        return _shade(image, rng)
    return _blend(image, source.draw(rng, size_hw), perlin_mask(rng, size_hw), rng)


def _blend(
    image: images.Image, foreign: Field | images.Image, mask: images.Mask, rng: np.random.Generator
) -> tuple[images.Image, images.Mask]:
    """Mix foreign pixels in under a mask, opacity drawn from 0.2 to 1 (CFRG's beta)."""
    opacity = 1 - 0.8 * rng.random()
    mixed = np.where(mask[..., None], image + opacity * (foreign.astype(np.float32) - image), image)
    return np.clip(mixed, 0, 255).astype(np.uint8), mask


def _shifted(image: images.Image, rng: np.random.Generator) -> images.Image:
    """Mirror and roll the image: its own texture in the wrong place."""
    flipped = image[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    height, width = image.shape[:2]
    shift = rng.integers((height // 8, width // 8), (height - height // 8, width - width // 8))
    return np.roll(flipped, (int(shift[0]), int(shift[1])), (0, 1))


def _scratch(image: images.Image, rng: np.random.Generator) -> tuple[images.Image, images.Mask]:
    """Draw thin crooked lines, darker or brighter than what they cross."""
    height, width = image.shape[:2]
    stroke = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, 4)):
        points = [rng.uniform(0, (width, height))]
        heading, step = rng.uniform(0, 2 * np.pi), rng.uniform(0.01, 0.06) * max(height, width)
        for _ in range(rng.integers(4, 20)):
            heading += rng.normal(0, 0.35)
            points.append(points[-1] + step * np.array((np.cos(heading), np.sin(heading))))
        line = np.round(np.array(points)).astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(stroke, [line], False, 255, int(rng.integers(1, 4)), cv2.LINE_AA)
    strength = rng.uniform(0.15, 0.7) * rng.choice((-1, 1), p=(0.7, 0.3))
    level = float(image.mean()) * 0.7 + 40
    changed = image + strength * level * (stroke[..., None] / 255.0)
    return np.clip(changed, 0, 255).astype(np.uint8), stroke > 64


def _shade(image: images.Image, rng: np.random.Generator) -> tuple[images.Image, images.Mask]:
    """Lighten or darken a large soft patch: unevenness that no local texture shows."""
    size_hw = (image.shape[0], image.shape[1])
    noise = value_noise(rng, size_hw, int(rng.integers(2, 6)))
    cut = np.quantile(noise, rng.uniform(0.7, 0.95))
    soft = np.clip((noise - cut) / (float(noise.max()) - float(cut) + 1e-6), 0, 1)
    soft = np.clip(soft * rng.uniform(1, 4), 0, 1)
    gain = 1 + rng.choice((-1, 1)) * rng.uniform(0.12, 0.5) * soft[..., None]
    return np.clip(image * gain, 0, 255).astype(np.uint8), soft > 0.3
