"""Simulated parts of the four MV-AD2025 objects: procedural, seeded, with named defects, masks and attributes.

A part is a height field with colour and gloss (``surface``); a defect changes it physically (``defects``,
``deposits``); a lamp and a camera make the picture (``light``). So a scratch shows
under a grazing lamp and a stain under all.
"""

from __future__ import annotations

from edgead.datasets.simulated.objects import OBJECTS
from edgead.datasets.simulated.rendering import Rendering, render
from edgead.datasets.simulated.spec import ObjectSpec
from edgead.datasets.simulated.writing import write_dataset

__all__ = ["OBJECTS", "ObjectSpec", "Rendering", "render", "write_dataset"]
