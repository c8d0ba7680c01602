"""What describes a simulated object: its views, lights and the flaws that it can have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgead.datasets.simulated.light import Ground, Light
from edgead.datasets.simulated.surface import Canvas, Point, Surface


@dataclass(frozen=True)
class Lot:
    """What all images of one part share.

    Attributes:
        scale: the part's dimensions relative to nominal, width and height.
        tone: reflectance relative to nominal.
        age: of the station's lamps, 0 new to 1 old; old lamps are darker and warmer.
    """

    scale: tuple[float, float]
    tone: float
    age: float


@dataclass(frozen=True)
class Mark:
    """Where a defect lies in its view: middle and extent, reference pixels of the part."""

    middle: Point
    extent: float


@dataclass(frozen=True)
class Flaw:
    """One kind of defect.

    Attributes:
        views: where it can lie; a part has it in one of them.
        apply: changes a surface; takes the strength, 0 subtle to 1 obvious.
        shared: chance that it also reaches a second of these views, weaker (defects at edges do).
    """

    views: tuple[str, ...]
    apply: Callable[[Surface, np.random.Generator, float], Mark]
    shared: float = 0.0


@dataclass(frozen=True)
class ObjectSpec:
    """One of the four simulated objects.

    Attributes:
        folder: name of its folder in the dataset's layout.
        views: names of the cameras.
        lights: illuminations by name.
        flaws: defect types by name.
        build: makes the Good surface of one view and what it lies on.
        pose: largest turn, radians, and shift, reference pixels.
    """

    folder: str
    views: tuple[str, ...]
    lights: Mapping[str, Light]
    flaws: Mapping[str, Flaw]
    build: Callable[[str, Canvas, Lot, np.random.Generator], tuple[Surface, Ground]]
    pose: tuple[float, float] = (0.025, 2.5)

    @property
    def illuminations(self) -> tuple[str, ...]:
        """Names of the lights."""
        return tuple(self.lights)

    @property
    def defects(self) -> tuple[str, ...]:
        """Names of the defect types."""
        return tuple(self.flaws)
