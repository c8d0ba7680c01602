"""What the REST interface takes and gives, for /openapi.json."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

Verdict = Literal["OK", "UNSURE", "NG"]


class Limits(BaseModel):
    """Scores above ``ng`` are NG, others above ``unsure`` are UNSURE."""

    unsure: float
    ng: float
    unit: Literal["image", "part"]


class BundleAbout(BaseModel):
    """What a bundle is, and what runs it."""

    name: str
    network: str
    category: str
    artefact: str
    backend: str
    runner: str
    size_hw: tuple[int, int]
    max_batch: int
    threshold: dict[str, Any]


class Bundles(BaseModel):
    """All that are served."""

    bundles: list[BundleAbout]


class Inspected(BaseModel):
    """One judged image."""

    bundle: str
    verdict: Verdict
    score: float = Field(description="raw: the largest value of the anomaly map")
    threshold: Limits
    timings_ms: dict[str, float] = Field(description="read, decode, queue, engine, total")


class ImageOfPart(BaseModel):
    """One image of a part."""

    name: str = Field(description="VIEW/LIGHT")
    score: float
    verdict: Verdict


class InspectedPart(BaseModel):
    """One judged part: its score is the largest of its images."""

    bundle: str
    verdict: Verdict
    score: float
    worst: str = Field(description="VIEW/LIGHT of the image with the largest score")
    threshold: Limits
    images: list[ImageOfPart]
    timings_ms: dict[str, float]


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "additionalProperties": {"type": "string", "format": "binary"}}}
_MAP = {
    "name": "map",
    "in": "query",
    "required": False,
    "schema": {"type": "string", "enum": ["none", "png", "npy"]},
    "description": "answer with the anomaly map: npy is float32 as it is, png grey with white at Edgead-Map-White; the "
    "verdict and the score are then in the headers Edgead-Verdict and Edgead-Score. Without it, Accept counts.",
}
INSPECT: dict[str, Any] = {
    "parameters": [_MAP],
    "requestBody": {
        "required": True,
        "description": "a PNG, JPEG, BMP, TIFF or WebP file, as it is or as the only part of a form",
        "content": {"image/*": _BINARY, "application/octet-stream": _BINARY, "multipart/form-data": _FORM},
    },
}
INSPECT_PART: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "one image file for each frame of the part, named VIEW or VIEW/LIGHT in the form",
        "content": {"multipart/form-data": _FORM},
    }
}
