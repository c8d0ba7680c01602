"""The four objects, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgead.datasets.simulated.ceramic_tile import CERAMIC_TILE
from edgead.datasets.simulated.chip_capacitor import CHIP_CAPACITOR
from edgead.datasets.simulated.chip_inductor import CHIP_INDUCTOR
from edgead.datasets.simulated.magnetic_core import MAGNETIC_CORE
from edgead.datasets.simulated.spec import ObjectSpec
from edgead.errors import DataError, nearest

OBJECTS: Mapping[str, ObjectSpec] = MappingProxyType(
    {
        "magnetic_core": MAGNETIC_CORE,
        "chip_inductor": CHIP_INDUCTOR,
        "chip_capacitor": CHIP_CAPACITOR,
        "ceramic_tile": CERAMIC_TILE,
    }
)


def object_spec(name: str) -> ObjectSpec:
    """Return an object by name.

    Raises:
        DataError: there is no such object.
    """
    if name not in OBJECTS:
        raise DataError(f"there is no simulated object '{name}'{nearest(name, OBJECTS)}")
    return OBJECTS[name]
