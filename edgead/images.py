"""Decode, resize and draw images: the only place where pixels enter or leave.

Everything inside edgead is uint8 ``(H, W, 3)`` RGB. Training, evaluation and stations call the same ``resize``, so no
accuracy is lost between them.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgead import _native
from edgead.errors import DataError

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB
Mask = npt.NDArray[np.bool_]  # (H, W), True where defective
AnomalyMap = npt.NDArray[np.float32]  # (H, W), raw

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
_PNG = b"\x89PNG\r\n\x1a\n"


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read one image file as uint8 ``(H, W, 3)`` RGB.

    Grey, palette and 16-bit images are converted (16-bit by its high byte), an alpha channel is dropped.

    Raises:
        DataError: missing, empty, truncated, corrupt, or no image at all.
    """
    return decode_image(_read_bytes(path), name=str(path))


def decode_image(data: bytes, *, name: str) -> Image:
    """Decode the bytes of an image file as uint8 ``(H, W, 3)`` RGB; ``name`` is what errors call it."""
    pixels = _decode(data, name)
    if pixels.ndim == 2:
        return np.ascontiguousarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    code = cv2.COLOR_BGRA2RGB if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return np.ascontiguousarray(cv2.cvtColor(pixels, code), dtype=np.uint8)


def read_mask(path: str | os.PathLike[str], *, expected_hw: tuple[int, int] | None = None) -> Mask:
    """Read a defect mask as bool ``(H, W)``: any non-zero pixel is defective (0/1, 0/255, RGB and class ids alike).

    Args:
        expected_hw: height and width of the mask's image; checked when given.

    Raises:
        DataError: unreadable, or not of the image's size.
    """
    pixels = _decode(_read_bytes(path), str(path))
    if pixels.ndim == 3:
        pixels = pixels[..., :3].max(axis=2)
    mask: Mask = pixels > 0
    if expected_hw is not None and mask.shape != expected_hw:
        raise DataError(
            f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]} but its image is {expected_hw[1]}x{expected_hw[0]}; "
            "a mask must have the size of its image"
        )
    return mask


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return height and width of an image file."""
    height, width = _decode(_read_bytes(path), str(path)).shape[:2]
    return int(height), int(width)


def resize(image: Image, size_hw: tuple[int, int], *, out: Image | None = None, swap: bool = False) -> Image:
    """Resize an image with antialiasing: area average where it shrinks, bilinear where it grows.

    The native kernel does it where it is built, OpenCV elsewhere; they differ by one grey level at most.

    Args:
        image: uint8 ``(H, W, 3)``, or grey ``(H, W)``, which becomes three equal channels.
        size_hw: height and width wanted, pixels.
        out: uint8 array ``(height, width, 3)`` to write into, for callers that keep their own slots; rows may lie
            apart, and it must not share memory with the image.
        swap: turn BGR into RGB on the way.

    Raises:
        DataError: an image or ``out`` of another type or shape.
    """
    height, width = size_hw
    if image.dtype != np.uint8 or image.shape[2:] not in ((3,), ()) or image.ndim < 2 or 0 in image.shape:
        raise DataError(
            f"an image is {image.dtype} {image.shape}; expected uint8 (height, width, 3) or (height, width)"
        )
    if out is not None:
        _refuse_slot(out, size_hw)
    elif image.shape == (height, width, 3) and not swap:
        return image
    elif height < 1 or width < 1:
        raise DataError(f"a size of {width}x{height} is wanted; expected 1x1 or more")
    if image.strides[1:] != (3, 1)[3 - image.ndim :]:
        image = np.ascontiguousarray(image)
    result = np.empty((height, width, 3), np.uint8) if out is None else out
    # OpenCV has a way of its own for halves: the same bytes, and faster yet.
    for_opencv = image.shape[:2] in ((height, width), (2 * height, 2 * width))
    if for_opencv or not _native.shrink(image, result, swap=swap):
        _resize_by_opencv(image, result, swap=swap)
    return result


def _resize_by_opencv(image: Image, out: Image, *, swap: bool) -> None:
    """Do what the native kernel does, and enlarge."""
    height, width = out.shape[:2]
    if image.shape[:2] != (height, width):
        shrinks = image.shape[0] > height or image.shape[1] > width
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        into = None if image.ndim == 2 or swap else out
        image = np.asarray(cv2.resize(image, (width, height), dst=into, interpolation=interpolation), dtype=np.uint8)
    if image.ndim == 2:
        np.copyto(out, image[..., None])
    elif swap:
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out)
    elif image is not out:
        np.copyto(out, image)


def _refuse_slot(out: Image, size_hw: tuple[int, int]) -> None:
    sound = out.dtype == np.uint8 and out.shape == (*size_hw, 3) and 0 not in out.shape
    if not sound or out.strides[1:] != (3, 1) or out.strides[0] < 3 * out.shape[1] or not out.flags.writeable:
        raise DataError(
            f"a slot is {out.dtype} {out.shape}; expected uint8 {(*size_hw, 3)}, writable, each row without gaps"
        )


def resize_mask(mask: Mask, size_hw: tuple[int, int]) -> Mask:
    """Resize a mask by area; a pixel counts when half of it is defective, and no defect ever vanishes.

    A defect too thin to fill half of any target pixel keeps every pixel that it touches.
    """
    if mask.shape == size_hw:
        return mask
    share = cv2.resize(mask.astype(np.float32), size_hw[::-1], interpolation=cv2.INTER_AREA)
    resized: Mask = share >= 0.5
    return resized if resized.any() or not mask.any() else share > 0


def write_png(path: str | os.PathLike[str], image: npt.NDArray[np.uint8]) -> None:
    """Write uint8 ``(H, W, 3)`` RGB or ``(H, W)`` grey as PNG under a temporary name, then rename it.

    Raises:
        DataError: the folder cannot be written.
    """
    target = Path(path)
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror}); choose a writable folder") from error


def overlay(image: Image, anomaly_map: AnomalyMap, *, low: float, high: float) -> Image:
    """Draw an anomaly map over its image: transparent at ``low`` and below, full colour at ``high`` and above.

    Args:
        image: uint8 ``(H, W, 3)``.
        anomaly_map: float32 ``(h, w)``, raw; resized to the image.
    """
    level = np.clip((anomaly_map - low) / max(high - low, 1e-12), 0.0, 1.0).astype(np.float32)
    level = np.asarray(cv2.resize(level, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR))
    colours = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_JET)
    colours = cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)
    alpha = (0.65 * level)[..., None]
    mixed: Image = (image * (1 - alpha) + colours * alpha).astype(np.uint8)
    return mixed


def outline(image: Image, mask: Mask, colour: tuple[int, int, int] = (0, 255, 0)) -> Image:
    """Draw the contours of a mask on a copy of its image."""
    drawn = image.copy()
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, colour, max(1, image.shape[0] // 200))
    return drawn


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected an image file") from error


def _decode(data: bytes, name: str) -> npt.NDArray[Any]:
    """Decode to uint8 ``(H, W)``, ``(H, W, 3)`` BGR or ``(H, W, 4)`` BGRA."""
    if not data:
        raise DataError(f"{name}: the file is empty; expected an image")
    _refuse_damaged(data, name)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise DataError(f"{name}: cannot be decoded ({error.err}); expected {_kinds()}") from error
    if pixels is None:
        raise DataError(f"{name}: not an image, or a corrupt one; expected {_kinds()}")
    if pixels.dtype == np.uint16:
        return np.right_shift(np.asarray(pixels, np.uint16), 8).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise DataError(f"{name}: pixels are {pixels.dtype}; expected 8 or 16 bit integers")
    return np.asarray(pixels)


def _refuse_damaged(data: bytes, name: str) -> None:
    """Refuse files cut short or changed: OpenCV's decoders fill what is missing with grey, or write to stderr."""
    # A whole JPEG ends its last scan; an embedded thumbnail's end, or a camera's bytes behind the end, say nothing.
    cut_jpeg = data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")
    if cut_jpeg or (data[:8] == _PNG and b"IEND" not in data):
        raise DataError(f"{name}: the file is truncated (its end marker is missing); copy it again from its source")
    if data[:8] == _PNG and not _is_sound_png(data):
        raise DataError(f"{name}: a corrupt PNG (a checksum in it is wrong); copy it again from its source")


def _is_sound_png(data: bytes) -> bool:
    """Hold the pixels' chunks of a PNG against their checksums (PNG specification, section 5.3)."""
    at, kind = len(_PNG), b""
    while kind != b"IEND":
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(data):
            return False
        if kind[:1].isupper() and zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        at = end + 4
    return True


def _kinds() -> str:
    return ", ".join(sorted(SUFFIXES))
