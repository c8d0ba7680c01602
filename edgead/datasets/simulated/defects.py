"""Physical defects: what each does to height, outline, colour and gloss of a surface."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edgead.datasets.simulated.spec import Mark
from edgead.datasets.simulated.surface import Canvas, Colour, Field, Point, Surface, noise, planes, ramp

Path = npt.NDArray[np.float64]  # (n, 2) points of the part


def spot(rng: np.random.Generator, surface: Surface, region: str, margin: float) -> Point:
    """Draw a point of a region at least ``margin`` inside it, or as far inside as the region allows."""
    distance = surface.regions[region]
    canvas = surface.canvas
    rows, columns = np.nonzero(distance >= min(margin, 0.85 * float(distance.max())))
    index = int(rng.random() * len(rows))
    at = rows[index], columns[index]
    return float(canvas.x[at]), float(canvas.y[at])


def rim(rng: np.random.Generator, surface: Surface, region: str = "body") -> tuple[Point, Point]:
    """Draw a point on the outline of a region and the direction that leads inwards."""
    distance = surface.regions[region]
    canvas = surface.canvas
    rows, columns = np.nonzero(np.abs(distance) < max(0.8, 0.8 * canvas.step))
    index = int(rng.random() * len(rows))
    row, column = int(rows[index]), int(columns[index])
    top, left = max(row - 2, 0), max(column - 2, 0)
    patch = distance[top : row + 3, left : column + 3]
    down, right = (float(g.mean()) for g in np.gradient(patch))
    cosine, sine = np.cos(canvas.angle), np.sin(canvas.angle)
    inward = np.array([right * cosine + down * sine, down * cosine - right * sine])
    inward /= max(float(np.hypot(*inward)), 1e-6)
    return (float(canvas.x[row, column]), float(canvas.y[row, column])), (float(inward[0]), float(inward[1]))


def blob(
    rng: np.random.Generator, canvas: Canvas, middle: Point, radius: float, *, rough: float = 0.3, aspect: float = 1.0
) -> Field:
    """Return the distance inside an irregular patch."""
    angle = rng.uniform(0, np.pi)
    dx, dy = canvas.x - np.float32(middle[0]), canvas.y - np.float32(middle[1])
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    stretch = np.sqrt(aspect)
    along, across = (dx * cosine + dy * sine) / np.float32(stretch), (dy * cosine - dx * sine) * np.float32(stretch)
    wobble = noise(rng, canvas, max(radius * 0.7, 3.0), octaves=2 if radius > 8 else 1)
    return np.asarray(np.float32(radius) - cv2.magnitude(along, across) + np.float32(rough * radius) * wobble)


def stroke(canvas: Canvas, path: Path, width: float, *, taper: bool = True) -> Field:
    """Draw a line of ``width`` reference pixels along a path: 1 on it, 0 off it, thinning to its ends."""
    drawn = np.zeros((canvas.size, canvas.size), np.uint8)
    points = np.round(canvas.pixels(path) * 16).astype(np.int32)
    pixels_wide = width / canvas.step
    last = len(points) - 1
    for index in range(last):
        middle = 1 - abs(2 * (index + 0.5) / last - 1) if taper else 1.0
        wide = pixels_wide * min(1.0, 0.35 + 1.3 * middle)
        level = round(255 * min(1.0, wide))
        a, b = points[index], points[index + 1]
        cv2.line(drawn, a.tolist(), b.tolist(), level, max(1, round(wide)), cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(drawn.astype(np.float32), (0, 0), max(0.45, 0.25 * pixels_wide))
    return np.asarray(soft * np.float32(1 / 255), np.float32)


def jagged(rng: np.random.Generator, start: Point, direction: float, length: float, jitter: float) -> Path:
    """Walk from a point: steps of about 4 reference pixels, each turned a little."""
    steps = max(3, round(length / 4))
    drift = np.cumsum(rng.normal(0, jitter * 0.3, steps))
    headings = direction + drift - drift.mean() + rng.normal(0, jitter, steps)
    moves = np.stack((np.cos(headings), np.sin(headings)), axis=1) * (length / steps)
    return np.vstack((np.array(start), np.array(start) + np.cumsum(moves, axis=0)))


def extent_of(path: Path) -> Mark:
    """Return the mark of a path."""
    span = path.max(axis=0) - path.min(axis=0)
    middle = (path.max(axis=0) + path.min(axis=0)) / 2
    return Mark((float(middle[0]), float(middle[1])), float(np.hypot(*span)))


@dataclass(frozen=True)
class Crack:
    """A jagged fissure, deep and dark, with branches when long."""

    region: str = "body"
    from_rim: bool = True
    length: tuple[float, float] = (22, 70)
    width: tuple[float, float] = (1.0, 1.9)
    dark: tuple[float, float] = (0.6, 0.95)
    layered: bool = False  # runs along x, as layers do, and has no branches

    def __call__(self, surface: Surface, rng: np.random.Generator, strength: float) -> Mark:
        if self.from_rim:
            start, inward = rim(rng, surface, self.region)
            direction = float(np.arctan2(inward[1], inward[0])) + rng.uniform(-0.6, 0.6)
        else:
            start, direction = spot(rng, surface, self.region, 14), rng.uniform(0, 2 * np.pi)
        if self.layered:
            direction = float(rng.integers(0, 2)) * np.pi
        length, width = between(self.length, strength), between(self.width, strength)
        path = jagged(rng, start, direction, length, 0.08 if self.layered else 0.35)
        line = stroke(surface.canvas, path, width)
        for _ in range(int(rng.integers(0, 3)) if strength > 0.5 and not self.layered else 0):
            fork = path[int(rng.integers(1, len(path) - 1))]
            branch = jagged(rng, (fork[0], fork[1]), direction + rng.choice((-0.8, 0.8)), length * 0.35, 0.4)
            line = np.maximum(line, stroke(surface.canvas, branch, width * 0.7))
        surface.height -= line * np.float32(0.9 * width)
        surface.tint(1 - line * np.float32(between(self.dark, strength)))
        surface.gloss *= 1 - 0.8 * line
        return extent_of(path)


@dataclass(frozen=True)
class Scratch:
    """One to three nearly straight strokes, shallow: a grazing lamp shows the relief, others the bare colour."""

    region: str = "body"
    colour: Colour = (0.5, 0.5, 0.5)
    length: tuple[float, float] = (24, 75)
    width: tuple[float, float] = (0.9, 1.7)
    bare: tuple[float, float] = (0.35, 0.8)
    depth: tuple[float, float] = (0.5, 1.1)

    def __call__(self, surface: Surface, rng: np.random.Generator, strength: float) -> Mark:
        middle = spot(rng, surface, self.region, 10)
        direction, length = rng.uniform(0, np.pi), between(self.length, strength)
        start = (middle[0] - length / 2 * np.cos(direction), middle[1] - length / 2 * np.sin(direction))
        paths = []
        for index in range(1 + int(rng.integers(0, 3)) * (strength > 0.35)):
            beside = index * rng.uniform(2.0, 4.5)
            here = (start[0] - beside * np.sin(direction), start[1] + beside * np.cos(direction))
            paths.append(jagged(rng, here, direction, length * rng.uniform(0.6, 1.0), 0.03))
        width = between(self.width, strength)
        lines = [stroke(surface.canvas, path, width) for path in paths]
        line = np.clip(np.sum(lines, axis=0), 0, 1) * ramp(surface.regions[self.region], 1.0)
        surface.height -= line * np.float32(between(self.depth, strength))
        surface.paint(line * np.float32(between(self.bare, strength)), self.colour, gloss=0.25)
        return extent_of(np.vstack(paths))


@dataclass(frozen=True)
class Chip:
    """Material broken off at an edge: the outline recedes, the fracture behind it is rough and bare."""

    fracture: Colour
    region: str = "body"
    radius: tuple[float, float] = (5.0, 15.0)
    depth: float = 0.35

    def __call__(self, surface: Surface, rng: np.random.Generator, strength: float) -> Mark:
        at, inward = rim(rng, surface, self.region)
        radius = between(self.radius, strength)
        bowl = blob(rng, surface.canvas, at, radius, rough=0.16, aspect=rng.uniform(1.0, 1.7))
        outside = (at[0] - inward[0] * 0.45 * radius, at[1] - inward[1] * 0.45 * radius)
        gone = blob(rng, surface.canvas, outside, radius * 0.85, rough=0.12, aspect=rng.uniform(1.0, 1.3))
        rough = noise(rng, surface.canvas, 5.0, octaves=3)
        depth = np.clip(bowl * np.float32(1 / radius), 0, 1)
        surface.height -= depth * np.float32(self.depth * radius) + ramp(bowl, 1.5) * (0.30 * rough)
        shade = planes(self.fracture) * (1 + 0.12 * rough)
        weight = ramp(bowl, 1.2)
        surface.albedo += weight * (shade - surface.albedo)
        surface.paint(weight, gloss=0.10, sharpness=15, metal=0)
        surface.inside = np.minimum(surface.inside, -gone)
        return Mark(at, 2 * radius)


@dataclass(frozen=True)
class Pit:
    """One hole, or a cluster of small ones."""

    region: str = "body"
    radius: tuple[float, float] = (1.6, 4.5)
    dark: tuple[float, float] = (0.3, 0.65)
    most: int = 1
    raised_rim: float = 0.0

    def __call__(self, surface: Surface, rng: np.random.Generator, strength: float) -> Mark:
        middle = spot(rng, surface, self.region, 10)
        count = 1 + int(rng.integers(0, self.most))
        spread = 0.0 if count == 1 else 9.0
        for _ in range(count):
            at = (middle[0] + rng.normal(0, spread), middle[1] + rng.normal(0, spread))
            radius = between(self.radius, strength) * rng.uniform(0.75, 1.1)
            distance = blob(rng, surface.canvas, at, radius, rough=0.15, aspect=rng.uniform(1.0, 1.4))
            hole = np.clip(distance * np.float32(1 / radius) + np.float32(0.35), 0, 1)
            surface.height -= hole * np.float32(0.8 * radius)
            if self.raised_rim:
                ring = cv2.exp(-((distance + 0.5) ** 2) * np.float32(0.5))
                surface.height += ring * np.float32(self.raised_rim)
            surface.tint(1 - np.float32(between(self.dark, strength)) * hole)
            surface.gloss *= 1 - 0.7 * hole
        return Mark(middle, 2 * self.radius[1] + 2 * spread)


def between(limits: tuple[float, float], strength: float) -> float:
    """Return the value for a strength, from the subtle limit to the obvious one."""
    return limits[0] + (limits[1] - limits[0]) * strength
