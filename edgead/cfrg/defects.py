"""More ways to corrupt a Good image than the paper's, and to vary it: what ``cfrg-duo0`` learns from.

Every function draws from the generator that it is given. Patches follow NSA (Schlüter et al., ECCV 2022) in spirit:
a piece of a Good image, resized and in the wrong place, with its rim softened.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edgead import images

Field = npt.NDArray[np.float32]  # (H, W)

_SEEN = 2.0  # grey levels, mean: a patch that changes less is no defect
_BITS = 3  # of a pixel's fraction, in cv2's fixed-point coordinates


def vary(image: images.Image, rng: np.random.Generator) -> images.Image:
    """Return the image as the next Good part might look: mirrored, turned, moved and resized a little, re-exposed."""
    height, width = image.shape[:2]
    mirrored = image[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-3, 3), rng.uniform(0.97, 1.06))
    turn[:, 2] += rng.uniform(-0.024, 0.024, 2) * np.array((width, height))
    border = (cv2.BORDER_REFLECT, cv2.BORDER_REPLICATE)[rng.integers(2)]
    moved = cv2.warpAffine(np.ascontiguousarray(mirrored), turn, (width, height), borderMode=border)
    return expose(np.asarray(moved, np.uint8), rng, 0.2)


def expose(image: images.Image, rng: np.random.Generator, jitter: float) -> images.Image:
    """Change gain and gamma as an ageing lamp or another exposure would."""
    gain, gamma = np.exp(rng.uniform(-jitter, jitter, 2))
    table = np.clip(255 * gain * (np.arange(256) / 255) ** gamma, 0, 255).astype(np.uint8)
    exposed: images.Image = table[image]
    return exposed


def patch(image: images.Image, donor: images.Image, rng: np.random.Generator) -> tuple[images.Image, images.Mask]:
    """Paste one to three pieces of another Good image of the same size, or of this one; returns image and mask."""
    height, width = image.shape[:2]
    changed, mask = image.astype(np.float32), np.zeros((height, width), bool)
    for _ in range(rng.integers(1, 4)):
        h, w = (int(side * 2 ** rng.uniform(-5.4, -0.8)) for side in (height, width))
        h, w = max(3, h), max(3, w)
        y, x = int(rng.integers(height - h)), int(rng.integers(width - w))
        piece = _piece(donor, rng, (y, x), (h, w))
        place = (slice(y, y + h), slice(x, x + w))
        here = changed[place]
        if rng.random() < 0.6:  # as bright as its place: texture alone tells
            piece = piece + (here.mean() - piece.mean())
        soft = _soft_rim(rng, (h, w)) * rng.uniform(0.4, 1)
        difference = soft[..., None] * (piece - here)
        changed[place] = here + difference
        if np.abs(difference).mean() > _SEEN:
            mask[place] |= soft > 0.25
    return np.clip(changed, 0, 255).astype(np.uint8), mask


def _piece(donor: images.Image, rng: np.random.Generator, at: tuple[int, int], size_hw: tuple[int, int]) -> Field:
    """Cut a piece out, half the time from near the place it goes to, and bring it to its size; ``(h, w, 3)``."""
    sides = donor.shape[:2]
    scale = float(np.exp(rng.uniform(-0.35, 0.35)))
    near = rng.random() < 0.5
    cut = []
    for side, target, start in zip(sides, size_hw, at, strict=True):
        length = min(side, max(2, int(target * scale)))
        reach = int(0.16 * side)
        first = start + rng.integers(-reach, reach + 1) if near else rng.integers(side - length + 1)
        first = int(np.clip(first, 0, side - length))
        cut.append(slice(first, first + length))
    piece = donor[tuple(cut)][:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    return cv2.resize(np.ascontiguousarray(piece), size_hw[::-1]).astype(np.float32)


def _soft_rim(rng: np.random.Generator, size_hw: tuple[int, int]) -> Field:
    h, w = size_hw
    shape = np.zeros((h + 8, w + 8), np.float32)
    if rng.random() < 0.5:
        cv2.ellipse(shape, (4 + w // 2, 4 + h // 2), (max(1, w // 2), max(1, h // 2)), 0, 0, 360, 1, -1)
    else:
        shape[4:-4, 4:-4] = 1
    return np.asarray(cv2.GaussianBlur(shape, (0, 0), 0.6 + float(rng.integers(4))), np.float32)[4:-4, 4:-4]


def crack(image: images.Image, rng: np.random.Generator) -> tuple[images.Image, images.Mask]:
    """Draw one or two fine lines, short ones too, that often begin at the border; returns image and mask."""
    height, width = image.shape[:2]
    stroke = np.zeros((height, width), np.uint8)
    unit = max(height, width) / 256
    for _ in range(rng.integers(1, 3)):
        point = rng.uniform(0, (width, height))
        if rng.random() < 0.5:
            axis = int(rng.integers(2))
            point[axis] = rng.choice((0.0, (width, height)[axis] - 1.0))
        heading, points = rng.uniform(0, 2 * np.pi), [point]
        for _ in range(rng.integers(2, 14)):
            heading += rng.normal(0, 0.25)
            step = rng.uniform(2, 8) * unit
            points.append(points[-1] + step * np.array((np.cos(heading), np.sin(heading))))
        cv2.polylines(stroke, [_fixed_point(np.array(points))], False, 255, int(rng.integers(1, 3)), cv2.LINE_AA, _BITS)
    soft = cv2.GaussianBlur(stroke, (0, 0), rng.uniform(0.3, 1.0)).astype(np.float32) / 255
    strength = rng.uniform(0.2, 0.8)
    dark = rng.random() < 0.8
    changed = image * (1 - strength * soft[..., None]) if dark else image + 90 * strength * soft[..., None]
    return np.clip(changed, 0, 255).astype(np.uint8), soft > 0.2


def spot(image: images.Image, rng: np.random.Generator) -> tuple[images.Image, images.Mask]:
    """Draw one to three ragged spots of one brightness, mostly dark; returns image and mask."""
    height, width = image.shape[:2]
    changed, mask = image.astype(np.float32), np.zeros((height, width), bool)
    for _ in range(rng.integers(1, 4)):
        radius = np.exp(rng.uniform(np.log(2), np.log(25))) * max(height, width) / 256
        angles = np.linspace(0, 2 * np.pi, 10, endpoint=False)
        rim = radius * rng.uniform(0.5, 1.3, 10)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        shape = np.zeros((height, width), np.uint8)
        cv2.fillPoly(shape, [_fixed_point(rng.uniform(0, (width, height)) + rim)], 255, cv2.LINE_AA, _BITS)
        soft = cv2.GaussianBlur(shape, (0, 0), rng.uniform(0.4, 2)).astype(np.float32) / 255
        level = rng.uniform(0, 255) if rng.random() < 0.5 else rng.uniform(0, 60)
        changed += soft[..., None] * rng.uniform(0.4, 1) * (level - changed)
        mask |= soft > 0.3
    return np.clip(changed, 0, 255).astype(np.uint8), mask


def _fixed_point(points: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    fixed: npt.NDArray[np.int32] = np.round(points * 2**_BITS).astype(np.int32).reshape(-1, 1, 2)
    return fixed
