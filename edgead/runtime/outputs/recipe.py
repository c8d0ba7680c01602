"""What a station runs, for outputs that show it: the artefact of its bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from edgead.errors import EdgeadError

if TYPE_CHECKING:  # so that the process that delivers does not import NumPy
    from edgead.config import StationConfig


class Recipe(BaseModel):
    """An artefact of a bundle, as a station runs it.

    Attributes:
        name: ``BUNDLE/ARTEFACT``, the bundle by the name of its folder.
        sha256: of the artefact's file, hexadecimal; empty where the bundle cannot be read.
        unsure, ng: its thresholds; None where it has none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    product: str = ""
    sha256: str = ""
    unsure: float | None = None
    ng: float | None = None


def recipe_of(config: StationConfig) -> Recipe:
    """Return what a station runs; what its bundle does not tell stays empty."""
    from edgead.bundle import Bundle  # here, so that the process that delivers does not import NumPy

    # A folder may be called anything: what cannot travel as UTF-8, or would steer a terminal, becomes a question mark.
    folder = "".join(sign if sign.isprintable() else "?" for sign in config.bundle.absolute().name)
    name = f"{folder}/{config.artefact}"
    try:
        bundle = Bundle.open(config.bundle)
        record = bundle.artefacts[config.artefact]
        threshold = bundle.threshold(config.artefact) if record.threshold else None
    except (EdgeadError, KeyError):  # the station itself says so, where it needs them
        return Recipe(name=name)
    return Recipe(
        name=name,
        product=bundle.info.category,
        sha256=record.sha256,
        unsure=threshold.unsure if threshold else None,
        ng=threshold.ng if threshold else None,
    )
