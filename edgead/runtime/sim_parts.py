"""The parts that simulated cameras look at, with a known truth; here those that are rendered."""

from __future__ import annotations

import random
from typing import NamedTuple, Protocol

from pydantic import Field

from edgead.config import CameraConfig
from edgead.datasets.sample import GOOD
from edgead.datasets.simulated import OBJECTS, ObjectSpec, render
from edgead.errors import ConfigError, nearest
from edgead.images import Image
from edgead.runtime.frames import address_of
from edgead.runtime.parts import Slot
from edgead.runtime.sim_faults import FaultOptions


class Shown(NamedTuple):
    """The truth about a trigger: the name of its part, and the part's defect or ``"good"``."""

    part: str
    defect: str


class PartSource(Protocol):
    """What a simulated camera looks at."""

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Frames for each part; known once it is open."""

    def open(self) -> None:
        """Find the parts, and make ready the images that are kept.

        Raises:
            CameraError, ConfigError, DataError: there are none, or not those that are wanted.
        """

    def part(self, trigger: int) -> str:
        """Return the name of the part that a trigger shows."""

    def defect(self, trigger: int) -> str:
        """Return its defect, or ``"good"``."""

    def image(self, trigger: int, shot: int) -> Image:
        """Return the image of a trigger in slot number ``shot``, uint8 ``(H, W, 3)``; not to be written to.

        Raises:
            DataError: its file has gone.
        """

    def close(self) -> None:
        """Forget the images."""


class SimOptions(FaultOptions):
    """What may stand in the query of a ``sim://`` address, besides the faults.

    Attributes:
        view: the view that the camera has; without one it gives all views in turn.
        ng_share: share of the parts that have a defect.
        size: pixels to the side.
        cache: number of parts rendered beforehand and shown again and again; 0 renders each part when it is read.
    """

    view: str | None = None
    ng_share: float = Field(default=0.2, ge=0, le=1)
    size: int = Field(default=256, ge=32, le=4096)
    cache: int = Field(default=0, ge=0)


def defect_of(spec: ObjectSpec, *, seed: int, part: int, ng_share: float) -> str:
    """Return the defect that a simulated part has: the same for all cameras that see it."""
    draw = random.Random(f"defect {seed} {part}")
    return draw.choice(spec.defects) if draw.random() < ng_share else GOOD


class RenderedParts:
    """Parts of a simulated object, called by the number of their trigger: ``P0000`` is the first."""

    def __init__(self, config: CameraConfig, options: SimOptions) -> None:
        self._object = address_of(config)
        if self._object not in OBJECTS:
            raise ConfigError(
                f"camera '{config.name}': there is no simulated object '{self._object}'{nearest(self._object, OBJECTS)}"
            )
        self._spec = OBJECTS[self._object]
        self._options = options
        self.slots = _rendered_slots(config, self._object, options.view)
        self._cache: list[list[Image]] = []

    def open(self) -> None:
        """Render the parts that are shown again and again."""
        parts = range(min(self._options.cache, self._options.parts))
        self._cache = [[self._render(part, slot) for slot in self.slots] for part in parts]

    def part(self, trigger: int) -> str:
        """Return the name of a part: the number of its trigger, also where its images come from the cache."""
        return f"P{trigger:04d}"

    def defect(self, trigger: int) -> str:
        """Return the defect of the part that a trigger shows."""
        kept = min(self._options.cache, self._options.parts)
        return self._defect(trigger % kept if kept else trigger)

    def image(self, trigger: int, shot: int) -> Image:
        """Render an image, or take it from the cache."""
        if self._cache:
            return self._cache[trigger % len(self._cache)][shot]
        return self._render(trigger, self.slots[shot])

    def close(self) -> None:
        """Forget the cache."""
        self._cache = []

    def _defect(self, part: int) -> str:
        return defect_of(self._spec, seed=self._options.seed, part=part, ng_share=self._options.ng_share)

    def _render(self, part: int, slot: Slot) -> Image:
        return render(
            self._object,
            seed=self._options.seed,
            part=part,
            view=slot.view,
            illumination=slot.illumination,
            defect=self._defect(part),
            size=self._options.size,
        ).image


def _rendered_slots(config: CameraConfig, object_name: str, asked: str | None) -> tuple[Slot, ...]:
    spec = OBJECTS[object_name]
    if config.view and asked not in (None, config.view):
        raise ConfigError(
            f"camera '{config.name}': its view is '{config.view}', but its address says '{asked}'; say it once"
        )
    view = config.view or asked
    for word, valid in ((view, spec.views), *((light, spec.illuminations) for light in config.illuminations)):
        if word is not None and word not in valid:
            raise ConfigError(f"camera '{config.name}': {object_name} has no '{word}'{nearest(word, valid)}")
    lights = config.illuminations or spec.illuminations
    return tuple(Slot(seen, light) for seen in ([view] if view else spec.views) for light in lights)
