"""A glazed wall tile with a veined decor."""

from __future__ import annotations

import cv2
import numpy as np

from edgead.datasets.simulated.defects import Chip, Crack, Pit, Scratch
from edgead.datasets.simulated.deposits import Lump, Stain
from edgead.datasets.simulated.light import Ground, Light, belt
from edgead.datasets.simulated.spec import Flaw, Lot, ObjectSpec
from edgead.datasets.simulated.surface import Canvas, Surface, bevel, box, noise

GLAZE = (0.66, 0.62, 0.55)
VEIN = (0.36, 0.33, 0.30)
FACE = ("face",)


def build(_view: str, canvas: Canvas, lot: Lot, rng: np.random.Generator) -> tuple[Surface, Ground]:
    """Make a Good tile, and the belt under it."""
    tile = box(canvas, 118 * lot.scale[0], 118 * lot.scale[1], 4)
    surface = Surface.of(canvas, tile, GLAZE, gloss=0.10, sharpness=120)
    surface.regions["face"] = tile - 8
    clouds = noise(rng, canvas, 90, octaves=4)
    warp = noise(rng, canvas, 70, octaves=4)
    veins = cv2.exp(-np.abs(warp + 0.20 * noise(rng, canvas, 24, octaves=2)) * np.float32(9))
    patches = np.clip(0.55 + 0.45 * clouds, 0, 1.3)
    weight = np.clip(0.30 * veins * patches + 0.06 * clouds, 0, 0.5)
    surface.paint(weight.astype(np.float32), VEIN)
    speckle = noise(rng, canvas, 1.5)
    surface.tint(lot.tone * (1 + 0.018 * speckle - 0.25 * np.clip(noise(rng, canvas, 3.0) - 2.9, 0, 1)))
    surface.height = 6 * bevel(tile, 6) + 0.16 * noise(rng, canvas, 18, octaves=2) + 0.03 * speckle
    return surface, belt(rng, canvas, (0.06, 0.06, 0.06))


CERAMIC_TILE = ObjectSpec(
    folder="Category4_CeramicTile",
    views=FACE,
    lights={"oblique": Light(215, 42, 0.85, 0.42, (1.0, 0.98, 0.95), spread=2.0)},
    flaws={
        "crack": Flaw(FACE, Crack(length=(30, 95), width=(1.0, 1.8), dark=(0.6, 0.95))),
        "chip": Flaw(FACE, Chip((0.48, 0.33, 0.24), radius=(5, 15))),
        "spot": Flaw(FACE, Lump((0.07, 0.06, 0.06), "face", False, (1.8, 4.5), 0.1, 0.08, 60)),
        "scratch": Flaw(FACE, Scratch("face", (0.26, 0.24, 0.22), bare=(0.6, 0.95))),
        "glaze_bubble": Flaw(FACE, Pit("face", (1.8, 4.0), (0.15, 0.45), most=5, raised_rim=0.9)),
        "stain": Flaw(FACE, Stain((0.30, 0.25, 0.17), "face", density=(0.4, 0.8))),
        "colour_patch": Flaw(FACE, Stain((0.52, 0.50, 0.60), "face", (16, 38), (0.45, 0.95), 0.10, 0.0)),
    },
    build=build,
    pose=(0.02, 2.0),
)
