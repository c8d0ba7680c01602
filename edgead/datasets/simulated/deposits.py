"""Physical defects that add or move material: stains, lumps, coats, dents and warped outlines."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edgead.datasets.simulated.defects import Pit, Scratch, between, blob, rim, spot
from edgead.datasets.simulated.spec import Mark
from edgead.datasets.simulated.surface import Colour, Field, Surface, noise, planes, ramp


@dataclass(frozen=True)
class Stain:
    """A film that changes colour and gloss but not the relief, denser at its border as dried drops are."""

    colour: Colour
    region: str = "body"
    radius: tuple[float, float] = (7, 22)
    density: tuple[float, float] = (0.3, 0.75)
    gloss: float = 0.2
    border: float = 0.5

    def __call__(self, surface: Surface, rng: np.random.Generator, strength: float) -> Mark:
        middle, radius = spot(rng, surface, self.region, 8), between(self.radius, strength)
        distance = blob(rng, surface.canvas, middle, radius, rough=0.35, aspect=rng.uniform(1.0, 1.8))
        cloud = np.clip(0.8 + 0.25 * noise(rng, surface.canvas, 8, octaves=2), 0.3, 1.3)
        edge = self.border * cv2.exp(-(((distance - 1.5) / 1.8) ** 2))
        film = ramp(distance, 4.0) * cloud * (1 - self.border * 0.5) + edge
        weight = np.clip(film * between(self.density, strength), 0, 1) * ramp(surface.regions[self.region], 1.0)
        surface.paint(weight.astype(np.float32), self.colour, gloss=self.gloss, metal=0)
        return Mark(middle, 2 * radius)


@dataclass(frozen=True)
class Lump:
    """Foreign material or a burr stuck on: it stands up, and out over the outline where it sits at the rim."""

    colour: Colour
    region: str = "body"
    at_rim: bool = False
    radius: tuple[float, float] = (3.0, 9.0)
    height: float = 0.5
    gloss: float = 0.2
    sharpness: float = 20
    metal: float = 0.0
    rough: float = 0.25
    aspect: tuple[float, float] = (1.0, 1.8)

    def __call__(self, surface: Surface, rng: np.random.Generator, strength: float) -> Mark:
        radius = between(self.radius, strength)
        middle = rim(rng, surface, self.region)[0] if self.at_rim else spot(rng, surface, self.region, radius)
        distance = blob(rng, surface.canvas, middle, radius, rough=self.rough, aspect=rng.uniform(*self.aspect))
        dome = np.clip(distance * np.float32(1 / radius), 0, 1)
        dome = dome * (2 - dome)
        weight = ramp(distance, 1.2)
        grain = noise(rng, surface.canvas, 3, octaves=2)
        outside = ramp(surface.inside, 2.0)
        surface.height *= np.maximum(outside, 1 - weight)
        surface.height += dome * np.float32(self.height * radius) * (1 + np.float32(0.5 * self.rough) * grain)
        surface.paint(weight, self.colour, gloss=self.gloss, sharpness=self.sharpness, metal=self.metal)
        if not self.metal:
            surface.tint(1 + 0.12 * weight * grain)
        surface.inside = np.maximum(surface.inside, distance)
        return Mark(middle, 2 * radius)


@dataclass(frozen=True)
class Coat:
    """A patch that lacks its coat, or has one where none belongs: colour, gloss and a small step."""

    colour: Colour
    region: str
    radius: tuple[float, float] = (8, 24)
    step: float = -0.5
    gloss: float = 0.15
    sharpness: float = 15
    metal: float = 0.0
    at_rim: bool = False

    def __call__(self, surface: Surface, rng: np.random.Generator, strength: float) -> Mark:
        radius = between(self.radius, strength)
        middle = rim(rng, surface, self.region)[0] if self.at_rim else spot(rng, surface, self.region, 3)
        distance = blob(rng, surface.canvas, middle, radius, rough=0.2, aspect=rng.uniform(1.0, 1.6))
        limit: Field = surface.regions["body"] if self.at_rim else surface.regions[self.region]
        weight = ramp(np.minimum(distance, limit), 1.3)
        grain = 1 + 0.06 * noise(rng, surface.canvas, 3, octaves=2)
        surface.height += np.float32(self.step) * weight
        surface.albedo += weight * (planes(self.colour) * grain - surface.albedo)
        surface.paint(weight, gloss=self.gloss, sharpness=self.sharpness, metal=self.metal)
        return Mark(middle, 2 * radius)


@dataclass(frozen=True)
class Dent:
    """The surface pressed in, smoothly: nothing changes but the relief, and a scuff at its middle."""

    region: str = "body"
    radius: tuple[float, float] = (6, 15)
    depth: tuple[float, float] = (0.14, 0.30)
    scuff: float = 0.15

    def __call__(self, surface: Surface, rng: np.random.Generator, strength: float) -> Mark:
        radius = between(self.radius, strength)
        middle = spot(rng, surface, self.region, radius * 0.8)
        distance = blob(rng, surface.canvas, middle, radius, rough=0.06, aspect=rng.uniform(1.0, 1.7))
        bowl = np.clip(distance * np.float32(1 / radius), 0, 1)
        bowl = bowl * bowl * (3 - 2 * bowl)
        surface.height -= bowl * np.float32(radius * between(self.depth, strength) * 2)
        surface.tint(1 - np.float32(self.scuff) * bowl)
        return Mark(middle, 2 * radius)


@dataclass(frozen=True)
class Warp:
    """The outline pulled in or out over a stretch, with the surface beside it."""

    region: str = "body"
    radius: tuple[float, float] = (10, 20)
    pull: tuple[float, float] = (4.0, 9.0)

    def __call__(self, surface: Surface, rng: np.random.Generator, strength: float) -> Mark:
        at, inward = rim(rng, surface, self.region)
        canvas, radius = surface.canvas, between(self.radius, strength)
        away = (canvas.x - np.float32(at[0])) ** 2 + (canvas.y - np.float32(at[1])) ** 2
        pull = between(self.pull, strength) * rng.choice((-1.0, 1.0)) / canvas.step
        bump = np.clip(1 - away * np.float32(1 / radius**2), 0, 1) ** 2 * np.float32(pull)
        cosine, sine = np.cos(canvas.angle), np.sin(canvas.angle)
        right, down = inward[0] * cosine - inward[1] * sine, inward[0] * sine + inward[1] * cosine
        line = np.arange(canvas.size, dtype=np.float32)
        columns = line[None, :] - bump * np.float32(right)
        rows = line[:, None] - bump * np.float32(down)

        def moved(array: Field) -> Field:
            shifted = cv2.remap(array, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            return np.asarray(shifted, np.float32)

        surface.inside, surface.height = moved(surface.inside), moved(surface.height)
        surface.gloss, surface.sharpness = moved(surface.gloss), moved(surface.sharpness)
        surface.metal, surface.albedo = moved(surface.metal), np.stack([moved(plane) for plane in surface.albedo])
        return Mark(at, 2 * radius)


def wear(surface: Surface, rng: np.random.Generator) -> None:
    """Add what a Good part may have: a few hairlines, specks and faint films below the specification."""
    for _ in range(int(rng.poisson(0.8))):
        _HAIRLINE(surface, rng, 0.0)
    for _ in range(int(rng.poisson(1.2))):
        _SPECK(surface, rng, float(rng.random()))
    if rng.random() < 0.35:
        _FILM(surface, rng, float(rng.random()))


_HAIRLINE = Scratch(colour=(0.4, 0.4, 0.4), length=(8, 16), width=(0.4, 0.5), bare=(0.05, 0.08), depth=(0.2, 0.2))
_SPECK = Pit(radius=(0.5, 0.9), dark=(0.08, 0.16))
_FILM = Stain((0.3, 0.28, 0.25), radius=(8, 26), density=(0.015, 0.04), border=0.1)
