"""A multilayer ceramic chip capacitor: a brown ceramic block between two tinned caps."""

from __future__ import annotations

import numpy as np

from edgead.datasets.simulated.defects import Chip, Crack, Pit, Scratch
from edgead.datasets.simulated.deposits import Coat, Lump, Stain
from edgead.datasets.simulated.light import Ground, Light, belt
from edgead.datasets.simulated.spec import Flaw, Lot, ObjectSpec
from edgead.datasets.simulated.surface import Canvas, Surface, bevel, box, noise, ramp

CERAMIC = (0.40, 0.27, 0.17)
TIN = (0.66, 0.65, 0.62)
COPPER = (0.50, 0.24, 0.14)
VIEWS = ("top", "side", "end")
HALF = {"top": (102.0, 56.0), "side": (102.0, 46.0), "end": (66.0, 56.0)}


def build(view: str, canvas: Canvas, lot: Lot, rng: np.random.Generator) -> tuple[Surface, Ground]:
    """Make one face of a Good capacitor, and the dark belt under it."""
    half = HALF[view][0] * lot.scale[0], HALF[view][1] * lot.scale[1]
    block = box(canvas, half[0], half[1], 9 if view != "end" else 13)
    surface = Surface.of(canvas, block, CERAMIC, gloss=0.14, sharpness=30)
    grain, coarse = noise(rng, canvas, 1.7), noise(rng, canvas, 40, octaves=2)
    surface.height = 9 * bevel(block, 9) + 0.07 * grain + 0.15 * coarse
    surface.tint(lot.tone * (1 + 0.035 * grain + 0.035 * coarse))
    if view == "side":
        layers = np.sin(canvas.y * np.float32(1.15)) * ramp(block - 10, 6)
        surface.tint(1 - 0.02 * layers)
    wave = 0.8 * noise(rng, canvas, 30, octaves=2)
    width = 31 + 1.5 * float(rng.normal())
    caps = block + 100 if view == "end" else np.abs(canvas.x) - np.float32(half[0] - width) + wave
    caps = np.minimum(caps, block)
    weight = ramp(caps, 1.6)
    swell, fine = noise(rng, canvas, 30, octaves=2), noise(rng, canvas, 2.0)
    surface.height += weight * (2.2 * bevel(caps, 12) + 0.35 * swell + 0.06 * fine)
    surface.paint(weight, TIN, gloss=0.55, sharpness=30, metal=0.66)
    surface.tint(1 + weight * (0.04 * swell + 0.05 * fine))
    surface.regions["electrode"] = caps
    if view != "end":
        surface.regions["ceramic"] = np.minimum(block - 5, -caps - 2)
        surface.regions["ceramic_rim"] = np.where(caps > -8, np.float32(-9), block)
        surface.regions["cap_border"] = np.where(block < 12, np.float32(-9), caps)
    else:
        surface.regions["cap_border"] = surface.regions["ceramic"] = caps
    return surface, belt(rng, canvas, (0.035, 0.04, 0.045))


LONG = ("top", "side")
CHIP_CAPACITOR = ObjectSpec(
    folder="Category3_ChipCapacitor",
    views=VIEWS,
    lights={
        "ring": Light(None, 60, 0.85, 0.55),
        "grazing": Light(205, 22, 1.7, 0.22, (1.0, 0.98, 0.94)),
        "dome": Light(None, 84, 0.25, 1.0, spread=4.0),
    },
    flaws={
        "crack": Flaw(LONG, Crack("ceramic_rim", length=(22, 62))),
        "chipping": Flaw(LONG, Chip((0.46, 0.34, 0.24), "ceramic_rim", radius=(5, 15)), shared=0.4),
        "delamination": Flaw(("side",), Crack("ceramic", False, (26, 80), (0.8, 1.8), layered=True)),
        "electrode_missing": Flaw(VIEWS, Coat(COPPER, "electrode", (7, 22), -0.8, 0.2, 20, 0.3)),
        "electrode_overflow": Flaw(LONG, Lump(TIN, "cap_border", True, (5, 13), 0.15, 0.55, 30, 0.66)),
        "pinhole": Flaw(VIEWS, Pit("body", (1.6, 4.0), (0.4, 0.75), most=4)),
        "stain": Flaw(VIEWS, Stain((0.10, 0.075, 0.06), "body", density=(0.28, 0.7))),
        "scratch": Flaw(VIEWS, Scratch("body", (0.17, 0.13, 0.10))),
    },
    build=build,
)
