"""How large an image is, by its first bytes: before a decoder makes room for what a few bytes can claim."""

from __future__ import annotations

import struct

from edgead.errors import DataError

_PNG, _TIFFS = b"\x89PNG\r\n\x1a\n", {b"II*\0": "<", b"MM\0*": ">"}
_KINDS = "PNG, JPEG, BMP, TIFF or WebP"


def header_size(data: bytes, *, name: str) -> tuple[int, int]:
    """Return height and width that an image file claims to have.

    Raises:
        DataError: another kind of file, or one whose head is cut short or makes no sense.
    """
    if not data:
        raise DataError(f"{name}: the file is empty; expected {_KINDS}")
    try:
        size = _size_of(data)
    except (struct.error, IndexError):
        size = 0, 0
    if size is None:
        raise DataError(f"{name}: not an image of a known kind; expected {_KINDS}")
    if min(size) < 1:
        raise DataError(f"{name}: a corrupt image (its head says no size); copy it again from its source")
    return size


def refuse_bomb(data: bytes, *, name: str, most_pixels: int) -> None:
    """Refuse an image that would decode to more pixels than are allowed.

    Raises:
        DataError: it is larger, or ``header_size`` fails.
    """
    height, width = header_size(data, name=name)
    if height * width > most_pixels:
        raise DataError(f"{name}: {width}x{height} pixels; expected at most {most_pixels / 1e6:g} million")


def _size_of(data: bytes) -> tuple[int, int] | None:
    if data.startswith(_PNG):
        width, height = struct.unpack_from(">II", data, 16)
        return (height, width) if data[12:16] == b"IHDR" else (0, 0)
    if data.startswith(b"\xff\xd8\xff"):
        return _size_of_jpeg(data)
    if data.startswith(b"BM"):
        return _size_of_bmp(data)
    if data[:4] in _TIFFS:
        return _size_of_tiff(data, _TIFFS[data[:4]])
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _size_of_webp(data)
    return None


def _size_of_jpeg(data: bytes) -> tuple[int, int]:
    """Walk the segments to the frame header (ITU T.81, B.2.2)."""
    at = 2
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:  # fill bytes
            at += 1
        if data[at] != 0xFF:
            return 0, 0
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        if marker in (0x01, *range(0xD0, 0xD9)):  # without a length
            at += 2
            continue
        if marker in (0xD9, 0xDA):  # the pixels, or the end, before a frame header
            return 0, 0
        (length,) = struct.unpack_from(">H", data, at + 2)
        at += 2 + max(length, 2)


def _size_of_bmp(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return abs(height), abs(width)  # a negative height stands for rows from the top


def _size_of_tiff(data: bytes, order: str) -> tuple[int, int]:
    """Read the first directory (TIFF 6.0, section 2); OpenCV decodes no other."""
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    found = {256: 0, 257: 0}
    for index in range(count):
        tag, kind, _ = struct.unpack_from(f"{order}HHI", data, at + 2 + 12 * index)
        if tag in found:
            (value,) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, at + 10 + 12 * index)
            found[tag] = max(found[tag], value)  # whichever of two a decoder believes
    return found[257], found[256]


def _size_of_webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return (height, width) if len(data) >= 30 else (0, 0)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return height & 0x3FFF, width & 0x3FFF
