"""Buffers of machine vision cameras, in GenICam's pixel formats, to RGB."""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgead.errors import CameraError
from edgead.images import Image

# OpenCV's own names for Bayer patterns start at the second pixel of the second row; these start at the first.
_BAYER = {
    "RG": cv2.COLOR_BayerRGGB2RGB,
    "GR": cv2.COLOR_BayerGRBG2RGB,
    "GB": cv2.COLOR_BayerGBRG2RGB,
    "BG": cv2.COLOR_BayerBGGR2RGB,
}
_CHANNELS = {"RGB": 3, "BGR": 3, "RGBa": 4, "BGRa": 4}
BITS = {"Mono8": 8, "Mono10": 10, "Mono12": 12, "Mono14": 14, "Mono16": 16, "RGB8": 8, "RGB8Packed": 8}
BITS |= {"BGR8": 8, "BGR8Packed": 8, "RGBa8": 8, "BGRa8": 8} | {f"Bayer{name}8": 8 for name in _BAYER}


def to_rgb(data: bytes | npt.NDArray[Any], pixel_format: str, height: int, width: int) -> Image:
    """Convert a buffer in one of the formats of ``BITS`` to uint8 ``(height, width, 3)`` RGB.

    Raises:
        CameraError: the buffer is too short for its size.
    """
    channels = _CHANNELS.get(pixel_format.partition("8")[0], 1)
    bits = BITS[pixel_format]
    dtype = np.dtype(np.uint8 if bits == 8 else "<u2")
    count = height * width * channels
    size = data.nbytes if isinstance(data, np.ndarray) else len(data)
    if not count or size < count * dtype.itemsize:
        raise CameraError(f"gave {size} bytes for {width}x{height} pixels of {pixel_format}")
    pixels: npt.NDArray[Any] = np.frombuffer(data, dtype, count).reshape(height, width, *[channels][: channels - 1])
    if channels > 1:
        return _colours(pixels, pixel_format)
    return grey_to_rgb(pixels, pixel_format, bits)


def grey_to_rgb(pixels: npt.NDArray[Any], pixel_format: str, bits: int) -> Image:
    """Convert grey levels or a Bayer mosaic ``(H, W)`` of so many bits; they keep their high byte."""
    if bits > 8:
        pixels = (pixels >> (bits - 8)).astype(np.uint8)
    code = _BAYER[pixel_format[5:7]] if pixel_format.startswith("Bayer") else cv2.COLOR_GRAY2RGB
    return np.asarray(cv2.cvtColor(pixels, code), np.uint8)


def grey_bits(pixel_format: str) -> int | None:
    """Return the bits of a pixel of a grey or Bayer format, packed ones included; None for another format."""
    match = re.fullmatch(r"(?:Mono|Bayer(?:RG|GR|GB|BG))(8|10|12|14|16)(?:p|Packed)?", pixel_format)
    return int(match[1]) if match else None


def _colours(pixels: npt.NDArray[np.uint8], pixel_format: str) -> Image:
    if pixel_format.startswith("BGR"):
        return np.ascontiguousarray(pixels[..., 2::-1])
    return pixels if pixels.shape[2] == 3 else np.ascontiguousarray(pixels[..., :3])
