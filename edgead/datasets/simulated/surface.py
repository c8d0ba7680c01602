"""What a simulated part is made of: coordinates, noise, shapes, and a surface of height, colour and gloss.

Lengths are in reference pixels, 256 to the side of an image of any size, so a part looks the same at all sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]  # (H, W), or (3, H, W) for colours: planes are several times faster than pixels
Colour = tuple[float, float, float]  # linear RGB reflectance
Point = tuple[float, float]  # x to the right, y down, reference pixels from the middle of the part

REFERENCE = 256


@dataclass(frozen=True)
class Canvas:
    """Coordinates of the part for every pixel.

    Attributes:
        x, y: float32 ``(size, size)``, the part's own coordinates.
        size: pixels to the side of the image.
        angle, shift: pose of the part in the image, radians and reference pixels.
    """

    x: Field
    y: Field
    size: int
    angle: float
    shift: Point

    @classmethod
    def posed(cls, size: int, angle: float, shift: Point) -> Canvas:
        """Lay coordinates over an image in which the part is turned by ``angle`` and moved by ``shift``."""
        line = (np.arange(size, dtype=np.float32) + 0.5) * (REFERENCE / size) - REFERENCE / 2
        u, v = (line - shift[0])[None, :], (line - shift[1])[:, None]
        cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return cls(u * cosine + v * sine, v * cosine - u * sine, size, angle, shift)

    @property
    def step(self) -> float:
        """Reference pixels to one pixel."""
        return REFERENCE / self.size

    def pixels(self, points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return column and row of points ``(n, 2)`` given in the part's coordinates."""
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        turned = points @ np.array([[cosine, sine], [-sine, cosine]]) + np.array(self.shift)
        return np.asarray((turned + REFERENCE / 2) / self.step - 0.5, dtype=np.float64)


@dataclass
class Surface:
    """A part under the camera; defects change its arrays in place.

    Attributes:
        inside: distance to the part's outline, positive inside.
        height: towards the camera.
        albedo: float32 ``(3, H, W)``, linear reflectance.
        gloss: strength of the mirror reflection, 0 to 1.
        sharpness: how narrow that reflection is, from 10 (sintered) to 400 (glazed).
        metal: 1 where the reflection carries the material's colour and nothing is scattered.
        bare: albedo without the print, for objects that are printed.
        regions: named areas where a kind of defect can lie; float32, positive within.
    """

    canvas: Canvas
    inside: Field
    height: Field
    albedo: Field
    gloss: Field
    sharpness: Field
    metal: Field
    bare: Field | None = None
    regions: dict[str, Field] = field(default_factory=dict)

    @classmethod
    def of(cls, canvas: Canvas, inside: Field, albedo: Colour, *, gloss: float, sharpness: float) -> Surface:
        """Make a flat surface of one material."""
        shape = inside.shape

        def flat(value: float) -> Field:
            return np.full(shape, value, np.float32)

        colour: Field = np.empty((3, *shape), np.float32)
        colour[:] = planes(albedo)
        regions = {"body": inside}
        return cls(canvas, inside, flat(0), colour, flat(gloss), flat(sharpness), flat(0), regions=regions)

    def copy(self) -> Surface:
        """Copy the arrays that defects change; regions and the bare albedo stay shared."""
        names = ("inside", "height", "albedo", "gloss", "sharpness", "metal")
        return replace(self, **{name: getattr(self, name).copy() for name in names})

    def paint(
        self,
        weight: Field,
        albedo: Colour | None = None,
        *,
        gloss: float | None = None,
        sharpness: float | None = None,
        metal: float | None = None,
    ) -> None:
        """Lay another material over the surface, ``weight`` 0 to 1 a pixel."""
        if albedo is not None:
            self.albedo += weight * (planes(albedo) - self.albedo)
        for array, value in ((self.gloss, gloss), (self.sharpness, sharpness), (self.metal, metal)):
            if value is not None:
                array += weight * (np.float32(value) - array)

    def tint(self, factor: npt.NDArray[np.floating[Any]]) -> None:
        """Multiply the reflectance."""
        self.albedo *= factor


def planes(colour: Colour) -> Field:
    """Return a colour as float32 ``(3, 1, 1)``."""
    return np.array(colour, np.float32).reshape(3, 1, 1)


def noise(rng: np.random.Generator, canvas: Canvas, cell: float, *, octaves: int = 1) -> Field:
    """Draw smooth noise of about unit deviation with features of ``cell`` pixels, each octave half the size and weight.

    The draws do not depend on the size of the image.
    """
    total: Field | None = None
    for octave in range(octaves):
        side = max(2, round(REFERENCE / max(cell * 0.5**octave, 1.0)))
        grid = rng.standard_normal((side, side), dtype=np.float32)
        total = grid if total is None else _resized(total, side) + np.float32(0.5**octave) * grid
    assert total is not None
    return _resized(total, canvas.size)


def _resized(grid: Field, size: int) -> Field:
    if len(grid) == size:
        return grid
    interpolation = cv2.INTER_AREA if len(grid) > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(grid, (size, size), interpolation=interpolation), np.float32)


def streaks(rng: np.random.Generator, canvas: Canvas, angle: float, pitch: float = 1.5) -> Field:
    """Draw brushed or ground marks: noise that runs along ``angle``, radians, in the part's coordinates."""
    profile = rng.standard_normal((8, round(2 * REFERENCE / pitch)), dtype=np.float32)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along = canvas.x * cosine + canvas.y * sine
    across = canvas.y * cosine - canvas.x * sine
    return np.asarray(
        cv2.remap(
            profile,
            (across + REFERENCE) / np.float32(pitch),
            (along + REFERENCE) * np.float32(7 / (2 * REFERENCE)),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        ),
        np.float32,
    )


def box(canvas: Canvas, half_width: float, half_height: float, radius: float, middle: Point = (0.0, 0.0)) -> Field:
    """Return the distance inside a rectangle with round corners, negative outside."""
    dx = np.abs(canvas.x - np.float32(middle[0])) - np.float32(half_width - radius)
    dy = np.abs(canvas.y - np.float32(middle[1])) - np.float32(half_height - radius)
    corner = cv2.magnitude(np.maximum(dx, 0), np.maximum(dy, 0))
    return np.asarray(np.float32(radius) - corner - np.minimum(np.maximum(dx, dy), 0), np.float32)


def disc(canvas: Canvas, radius: float, middle: Point = (0.0, 0.0), aspect: float = 1.0, angle: float = 0.0) -> Field:
    """Return the distance inside a disc, or an ellipse ``aspect`` times longer along ``angle``."""
    dx, dy = canvas.x - np.float32(middle[0]), canvas.y - np.float32(middle[1])
    if aspect != 1.0:
        cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        dx, dy = (dx * cosine + dy * sine) / np.float32(aspect), dy * cosine - dx * sine
    return np.asarray(np.float32(radius) - cv2.magnitude(dx, dy), np.float32)


def ramp(distance: Field, width: float) -> Field:
    """Return 0 outside and 1 inside, smoothly over ``width`` about the outline."""
    return np.asarray(np.clip(distance * np.float32(1 / width) + np.float32(0.5), 0, 1), np.float32)


def bevel(distance: Field, width: float) -> Field:
    """Return a rounded edge: 0 at the outline, 1 from ``width`` inwards, level there."""
    rest = 1 - np.clip(distance * np.float32(1 / width), 0, 1)
    return np.asarray(1 - rest * rest, np.float32)
