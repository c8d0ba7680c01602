"""A camera over simulated parts: ``sim://<object>?seed=1&parts=100&view=top&ng_share=0.2``."""

from __future__ import annotations

import random
import threading
import time

from pydantic import BaseModel, ConfigDict, Field

from edgead.config import CameraConfig
from edgead.datasets.sample import GOOD
from edgead.datasets.simulated import OBJECTS, ObjectSpec, render
from edgead.errors import CameraError, ConfigError, nearest
from edgead.images import Image
from edgead.runtime.frames import Frame, Health, address_of, options_of
from edgead.runtime.parts import Slot


class SimOptions(BaseModel):
    """What may stand in the query of a ``sim://`` address.

    Attributes:
        view: the view that the camera has; without one it gives all views in turn.
        ng_share: share of the parts that have a defect.
        rate: parts a second at most; without one as fast as they can be rendered.
        size: pixels to the side.
        cache: number of parts rendered beforehand and shown again and again; 0 renders each part when it is read.
        vanish_after: number of frames after which the camera is gone.
        lost_share: share of the frames that never arrive.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    seed: int = Field(default=0, ge=0)
    parts: int = Field(default=100, ge=1)
    view: str | None = None
    ng_share: float = Field(default=0.2, ge=0, le=1)
    rate: float | None = Field(default=None, gt=0)
    size: int = Field(default=256, ge=32, le=4096)
    cache: int = Field(default=0, ge=0)
    vanish_after: int | None = Field(default=None, ge=0)
    lost_share: float = Field(default=0, ge=0, le=1)


def defect_of(spec: ObjectSpec, *, seed: int, part: int, ng_share: float) -> str:
    """Return the defect that a simulated part has: the same for all cameras that see it."""
    draw = random.Random(f"defect {seed} {part}")
    return draw.choice(spec.defects) if draw.random() < ng_share else GOOD


class SimCamera:
    """Frames of simulated parts, which are called by their number: ``P0000`` is the part of trigger 0."""

    def __init__(self, config: CameraConfig) -> None:
        self.name = config.name
        self.health = Health()
        self._object = address_of(config)
        if self._object not in OBJECTS:
            raise ConfigError(
                f"camera '{self.name}': there is no simulated object '{self._object}'{nearest(self._object, OBJECTS)}"
            )
        self._spec = OBJECTS[self._object]
        self._options = options_of(config, SimOptions)
        self.triggers: int | None = self._options.parts
        self.slots = self._chosen_slots(config)
        self._cache: dict[tuple[int, Slot], Image] = {}
        self._next = 0
        self._opened_s = 0.0
        self._stopped = threading.Event()

    def open(self) -> None:
        """Render the parts that are shown again and again."""
        parts = range(min(self._options.cache, self._options.parts))
        self._cache = {(part, slot): self._render(part, slot) for part in parts for slot in self.slots}
        self._opened_s = time.monotonic()

    def read(self, timeout_s: float) -> Frame | None:
        """Render the next frame, or take it from the cache."""
        options, slots = self._options, self.slots
        while True:
            trigger, index = divmod(self._next, len(slots))
            if trigger >= options.parts:
                return None
            if options.vanish_after is not None and self._next >= options.vanish_after:
                raise CameraError(f"camera '{self.name}' has vanished after {self._next} frames; check its cable")
            if options.rate is not None:
                self._wait_for(trigger / options.rate, timeout_s)
            if self._stopped.is_set():
                return None
            self._next += 1
            if not options.lost_share or not self._is_lost(trigger, slots[index]):
                break
            self.health.missed += 1
        self.health.frames += 1
        shown = trigger % options.cache if options.cache else trigger
        image = self._cache[shown, slots[index]] if options.cache else self._render(trigger, slots[index])
        return Frame(image, self.name, slots[index], trigger, f"P{trigger:04d}", time.monotonic())

    def stop(self) -> None:
        """Wake a read that waits for its time."""
        self._stopped.set()

    def close(self) -> None:
        """Forget the cache and give no more frames."""
        self._cache = {}
        self._next = self._options.parts * len(self.slots)

    def _chosen_slots(self, config: CameraConfig) -> tuple[Slot, ...]:
        if config.view and self._options.view not in (None, config.view):
            raise ConfigError(
                f"camera '{self.name}': its view is '{config.view}', but its address says '{self._options.view}'; "
                "say it once"
            )
        view = config.view or self._options.view
        for word, valid in (
            (view, self._spec.views),
            *((light, self._spec.illuminations) for light in config.illuminations),
        ):
            if word is not None and word not in valid:
                raise ConfigError(f"camera '{self.name}': {self._object} has no '{word}'{nearest(word, valid)}")
        lights = config.illuminations or self._spec.illuminations
        return tuple(Slot(seen, light) for seen in ([view] if view else self._spec.views) for light in lights)

    def _render(self, part: int, slot: Slot) -> Image:
        seed = self._options.seed
        defect = defect_of(self._spec, seed=seed, part=part, ng_share=self._options.ng_share)
        size = self._options.size
        return render(
            self._object, seed=seed, part=part, view=slot.view, illumination=slot.illumination, defect=defect, size=size
        ).image

    def _is_lost(self, trigger: int, slot: Slot) -> bool:
        return random.Random(f"lost {self._options.seed} {trigger} {slot}").random() < self._options.lost_share

    def _wait_for(self, due_s: float, timeout_s: float) -> None:
        wait_s = self._opened_s + due_s - time.monotonic()
        if wait_s <= 0:
            return
        stopped = self._stopped.wait(min(wait_s, timeout_s))
        if wait_s > timeout_s and not stopped:
            raise CameraError(
                f"camera '{self.name}' gave no frame for {timeout_s:g} s; check its cable and its trigger"
            )
