"""Pictures inside a page, so that it is one file that can be mailed."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from benchmarks.report.markup import Markup, tag
from edgead.images import Image, overlay

_QUALITY = 84


def data_uri(image: Image) -> str:
    """Return uint8 ``(H, W, 3)`` RGB as the source of an ``img``."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # Full colour resolution: half of it would blur the thin outlines away.
    how = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    coded = cv2.imencode(".jpg", pixels, how)[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(coded).decode('ascii')}"


def colour_bar(low: float, high: float) -> Markup:
    """Draw the colours of the maps with the function that draws the maps."""
    ramp = np.linspace(low, high, 256, dtype=np.float32)[None].repeat(12, axis=0)
    grey = np.full((12, 256, 3), 190, np.uint8)
    bar = tag("img", src=data_uri(overlay(grey, ramp, low=low, high=high)), alt="colour scale", width=220, height=12)
    return tag("p", f"map {low:.3g}", bar, f"{high:.3g} and above", class_="scale")
