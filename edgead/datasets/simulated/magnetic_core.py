"""A sintered ferrite ring core, seen on its pressed and on its ground face."""

from __future__ import annotations

import numpy as np

from edgead.datasets.simulated.defects import Chip, Crack, Pit, Scratch
from edgead.datasets.simulated.deposits import Lump, Stain, Warp
from edgead.datasets.simulated.light import Ground, Light, belt
from edgead.datasets.simulated.spec import Flaw, Lot, ObjectSpec
from edgead.datasets.simulated.surface import Canvas, Surface, bevel, disc, noise, ramp, streaks

FERRITE = (0.052, 0.053, 0.058)
FACES = ("front", "back")


def build(view: str, canvas: Canvas, lot: Lot, rng: np.random.Generator) -> tuple[Surface, Ground]:
    """Make one face of a Good core, and the belt under it."""
    radius = canvas.x * np.float32(1 / lot.scale[0]), canvas.y * np.float32(1 / lot.scale[1])
    distance = np.sqrt(radius[0] ** 2 + radius[1] ** 2)
    inside = np.minimum(np.float32(97) - distance, distance - np.float32(49 * lot.scale[1]))
    surface = Surface.of(canvas, inside, FERRITE, gloss=0.08, sharpness=14)
    surface.regions["face"] = inside - 9
    flat = ramp(inside - 9, 2.0)
    grain = noise(rng, canvas, 1.6)
    coarse = noise(rng, canvas, 48, octaves=2)
    surface.height = 9 * bevel(inside, 10) + 0.10 * grain + 0.14 * coarse
    surface.tint(lot.tone * (1 + 0.10 * grain + 0.05 * coarse))
    if view == "back":
        marks = streaks(rng, canvas, 0.5 * lot.age + 0.2)
        surface.height += 0.05 * flat * marks
        surface.paint(flat, gloss=0.13, sharpness=26)
        surface.tint(1 + 0.035 * flat * marks)
    else:
        gate = disc(canvas, 5, (0.0, -73.0))
        surface.height -= 0.5 * ramp(gate, 2.5)
        surface.tint(1 - 0.10 * ramp(gate, 2.0))
    pores = np.clip(noise(rng, canvas, 2.4) - 2.7, 0, 0.5)
    surface.height -= 0.8 * pores
    surface.tint(1 - 0.5 * pores)
    return surface, belt(rng, canvas, (0.17, 0.18, 0.165))


MAGNETIC_CORE = ObjectSpec(
    folder="Category1_MagneticCore",
    views=FACES,
    lights={
        "ring": Light(None, 62, 1.35, 0.80),
        "left": Light(180, 24, 2.9, 0.40, (1.0, 0.97, 0.92)),
        "right": Light(0, 24, 2.9, 0.40, (1.0, 0.97, 0.92)),
        "dome": Light(None, 85, 0.35, 1.55, spread=4.0),
    },
    flaws={
        "chip": Flaw(FACES, Chip((0.085, 0.085, 0.09), radius=(9, 19)), shared=0.35),
        "crack": Flaw(FACES, Crack(length=(20, 52)), shared=0.2),
        "scratch": Flaw(FACES, Scratch("face", (0.20, 0.20, 0.21))),
        "pit": Flaw(FACES, Pit("face", most=3)),
        "stain": Flaw(FACES, Stain((0.20, 0.17, 0.13), "face")),
        "adhesion": Flaw(FACES, Lump((0.11, 0.105, 0.10))),
        "deformation": Flaw(FACES, Warp(), shared=0.6),
    },
    build=build,
    pose=(3.14, 2.5),
)
