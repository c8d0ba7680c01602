"""A moulded power inductor: a body of pressed iron powder with printed value and two tinned electrodes."""

from __future__ import annotations

import cv2
import numpy as np

from edgead.datasets.simulated.defects import Chip, Crack, Scratch
from edgead.datasets.simulated.deposits import Coat, Dent, Lump, Stain
from edgead.datasets.simulated.light import Ground, Light, nest
from edgead.datasets.simulated.spec import Flaw, Lot, Mark, ObjectSpec
from edgead.datasets.simulated.surface import Canvas, Field, Point, Surface, bevel, box, noise, ramp, streaks

BODY = (0.082, 0.082, 0.086)
TIN = (0.62, 0.61, 0.58)
INK = (0.44, 0.44, 0.41)
COPPER = (0.45, 0.17, 0.07)
VIEWS = ("top", "bottom", "side", "end")
HALF = {"top": (92.0, 84.0), "bottom": (92.0, 84.0), "side": (92.0, 46.0), "end": (84.0, 46.0)}
PAD_Y = 58.0


def build(view: str, canvas: Canvas, lot: Lot, rng: np.random.Generator) -> tuple[Surface, Ground]:
    """Make one face of a Good inductor, and the nest that holds it."""
    half = HALF[view][0] * lot.scale[0], HALF[view][1] * lot.scale[1]
    body = box(canvas, half[0], half[1], 7)
    surface = Surface.of(canvas, body, BODY, gloss=0.10, sharpness=16)
    grain, coarse = noise(rng, canvas, 1.7), noise(rng, canvas, 36, octaves=2)
    surface.height = 7 * bevel(body, 6) + 0.10 * grain + 0.12 * coarse
    glitter = np.clip(noise(rng, canvas, 1.6) - 1.9, 0, 0.8)
    surface.tint(lot.tone * (1 + 0.09 * grain + 0.05 * coarse + 0.7 * glitter))
    surface.regions["plain"] = body - 6
    pads = _pads(view, canvas, half)
    if pads is not None:
        _tin(surface, pads, rng)
    if view == "top":
        surface.bare = surface.albedo.copy()
        _print(surface, *_marking_pose(rng))
    return surface, nest(rng, canvas, (0.055, 0.06, 0.075))


def _pads(view: str, canvas: Canvas, half: Point) -> Field | None:
    wide, high = half
    match view:
        case "bottom":
            left, right = (box(canvas, 21, PAD_Y, 4, (side * (wide - 27), 0.0)) for side in (-1, 1))
        case "side":
            left, right = (box(canvas, 9, 22, 3, (side * (wide - 6), high - 20)) for side in (-1, 1))
        case "end":
            return box(canvas, PAD_Y, 27, 4, (0.0, high - 26))
        case _:
            left, right = (box(canvas, 5, PAD_Y, 2.5, (side * (wide + 2), 0.0)) for side in (-1, 1))
    return np.asarray(np.maximum(left, right), np.float32)


def _tin(surface: Surface, pads: Field, rng: np.random.Generator) -> None:
    """Plate the pads: a little proud of the body, brushed, uneven as hot-dipped tin is."""
    canvas = surface.canvas
    weight = ramp(pads, 1.2)
    swell = noise(rng, canvas, 26, octaves=2)
    brushed = streaks(rng, canvas, 1.45)
    base = np.maximum(surface.height, 7 * ramp(pads, 3.0))
    surface.height += weight * (base + 1.3 * bevel(pads, 5) + 0.38 * swell + 0.045 * brushed - surface.height)
    surface.paint(weight, TIN, gloss=0.62, sharpness=42, metal=0.72)
    surface.tint(1 + weight * (0.05 * swell + 0.03 * brushed))
    surface.inside = np.maximum(surface.inside, pads)
    surface.regions["electrode"] = pads
    surface.regions["plain"] = np.minimum(surface.regions["plain"], -pads - 1)


def _marking_pose(rng: np.random.Generator) -> tuple[Point, float]:
    return (rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.8)), rng.uniform(-0.008, 0.008)


def _print(surface: Surface, middle: Point, angle: float) -> None:
    """Print the value in ink, and the dot of pin 1."""
    stamp = np.zeros((256, 512), np.uint8)
    cv2.putText(stamp, "4R7", (92, 178), cv2.FONT_HERSHEY_SIMPLEX, 5.2, 255, 26, cv2.LINE_AA)
    cv2.circle(stamp, (40, 50), 20, 255, -1, cv2.LINE_AA)
    canvas = surface.canvas
    cosine, sine = np.cos(angle), np.sin(angle)
    dx, dy = canvas.x - np.float32(middle[0]), canvas.y - np.float32(middle[1])
    columns = (dx * np.float32(cosine) + dy * np.float32(sine)) * np.float32(3.4) + 256
    rows = (dy * np.float32(cosine) - dx * np.float32(sine)) * np.float32(3.4) + 128
    soft = cv2.GaussianBlur(stamp, (0, 0), 1.6 * canvas.step)
    ink = np.asarray(cv2.remap(soft, columns, rows, cv2.INTER_LINEAR), np.float32) * np.float32(0.92 / 255)
    surface.paint(ink * np.clip(surface.inside, 0, 1), INK, gloss=0.12)


def skewed_marking(surface: Surface, rng: np.random.Generator, strength: float) -> Mark:
    """Print the marking turned and out of place, over a body that never had the right one."""
    assert surface.bare is not None
    printed = np.abs(surface.albedo[0] - surface.bare[0]) > 0.02
    np.copyto(surface.albedo, surface.bare, where=printed)
    side = rng.choice((-1.0, 1.0))
    middle = (side * (2 + 5 * strength), rng.uniform(-6, 6) * (0.4 + strength))
    _print(surface, middle, side * (0.07 + 0.20 * strength))
    return Mark(middle, 130.0)


CHIP_INDUCTOR = ObjectSpec(
    folder="Category2_ChipInductor",
    views=VIEWS,
    lights={
        "ring": Light(None, 58, 1.0, 0.70),
        "left": Light(180, 26, 1.8, 0.26, (1.0, 0.97, 0.93)),
        "right": Light(0, 26, 1.8, 0.26, (1.0, 0.97, 0.93)),
        "dome": Light(None, 84, 0.30, 1.25, spread=4.0),
    },
    flaws={
        "solder_overflow": Flaw(("bottom", "side", "end"), Lump(TIN, "electrode", True, (5, 13), 0.35, 0.65, 42, 0.72)),
        "electrode_missing": Flaw(("bottom", "end"), Coat((0.13, 0.125, 0.12), "electrode", (10, 30), -1.2)),
        "crack": Flaw(VIEWS, Crack(length=(22, 64))),
        "broken_edge": Flaw(VIEWS, Chip((0.15, 0.148, 0.15), radius=(9, 20)), shared=0.4),
        "exposed_wire": Flaw(
            ("top", "side"), Lump(COPPER, "plain", False, (3, 7), 0.25, 0.6, 30, 0.6, 0.1, (2.5, 5.0))
        ),
        "stain": Flaw(VIEWS, Stain((0.27, 0.22, 0.14), "plain", density=(0.4, 0.8))),
        "scratch": Flaw(VIEWS, Scratch("plain", (0.44, 0.44, 0.45))),
        "dent": Flaw(("top", "bottom", "side"), Dent("plain")),
        "skew_marking": Flaw(("top",), skewed_marking),
    },
    build=build,
    pose=(0.018, 1.6),
)
