"""Odd and damaged files and addresses for cameras, made by chance from a seed."""

from __future__ import annotations

import io
import json
import random
import struct
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

SIZES = ((48, 64), (1, 1), (1, 700), (700, 1), (3, 5), (200, 300))


@cache
def picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    coarse = np.random.default_rng(height * 1000 + width).uniform(0, 255, (4, 4, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def encoded(suffix: str, pixels: npt.NDArray[np.generic]) -> bytes:
    ok, data = cv2.imencode(suffix, pixels)
    assert ok
    return data.tobytes()


def by_pillow(kind: str, mode: str, pixels: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


@cache
def sound(number: int) -> tuple[str, bytes]:
    """Return suffix and content of one of the sound files that the others are made from."""
    pixels = picture(*SIZES[number % len(SIZES)])
    deep = pixels.astype(np.uint16) * 257
    alpha = np.dstack([pixels, pixels[..., :1]])
    makers: list[tuple[str, Callable[[], bytes]]] = [
        (".png", lambda: encoded(".png", pixels)),
        (".png", lambda: encoded(".png", pixels[..., 0])),
        (".png", lambda: encoded(".png", deep)),
        (".png", lambda: encoded(".png", alpha)),
        (".png", lambda: by_pillow("PNG", "P", pixels)),
        (".png", lambda: by_pillow("PNG", "1", pixels)),
        (".jpg", lambda: encoded(".jpg", pixels)),
        (".jpg", lambda: encoded(".jpg", pixels[..., 0])),
        (".jpg", lambda: by_pillow("JPEG", "CMYK", pixels)),
        (".bmp", lambda: encoded(".bmp", pixels)),
        (".bmp", lambda: encoded(".bmp", pixels[..., 0])),
        (".bmp", lambda: by_pillow("BMP", "1", pixels)),
        (".tiff", lambda: encoded(".tiff", pixels)),
        (".tiff", lambda: encoded(".tiff", deep)),
        (".tif", lambda: encoded(".tiff", pixels.astype(np.float32))),
        (".tif", lambda: by_pillow("TIFF", "CMYK", pixels)),
        (".tif", lambda: by_pillow("TIFF", "P", pixels)),
        (".webp", lambda: encoded(".webp", pixels)),
        (".webp", lambda: encoded(".webp", alpha)),
    ]
    suffix, make = makers[number // len(SIZES) % len(makers)]
    return suffix, make()


SOUND = 19 * len(SIZES)


@cache
def video(codec: str, suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"video{suffix}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25, (64, 48))
        assert writer.isOpened()
        for number in range(10):
            writer.write(np.roll(picture(48, 64), 5 * number, axis=1))
        writer.release()
        return path.read_bytes()


def huge(draw: random.Random) -> tuple[str, bytes]:
    """Return a small file whose header promises a huge image."""
    side = draw.choice((20_000, 65_500, 1_000_000, 2**31 - 1))
    other = draw.choice((1, 7, side))
    small = picture(48, 64)
    kind = draw.choice((".png", ".bmp", ".jpg", ".tiff", ".webp"))
    data = bytearray(encoded(kind, small))
    if kind == ".png":
        data[16:24] = struct.pack(">II", side, other)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == ".bmp":
        data[18:26] = struct.pack("<ii", side, draw.choice((1, -1)) * other)
    elif kind == ".jpg":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", min(side, 65_535), min(other, 65_535))
    elif kind == ".tiff":
        at = int.from_bytes(data[4:8], "little")
        for entry in range(int.from_bytes(data[at : at + 2], "little")):
            place = at + 2 + 12 * entry
            if int.from_bytes(data[place : place + 2], "little") in (256, 257):  # width, height; as 32 bit
                data[place + 2 : place + 12] = struct.pack("<HII", 4, 1, draw.choice((side, other)))
    else:
        data[26:30] = struct.pack("<HH", 16_383, 16_383)
    return kind, bytes(data)


def bomb(draw: random.Random) -> tuple[str, bytes]:
    """Return a PNG that is whole, small, and huge when it is decoded."""
    width, height = draw.choice(((30_000, 30_000), (100_000, 9_000), (40_000, 20_000)))
    packer = zlib.compressobj(9)
    row = bytes(width // 8 + 2)  # one bit a pixel
    pixels = b"".join([packer.compress(row[: width // 8 + 1]) for _ in range(height)]) + packer.flush()
    return ".png", b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
            (b"IDAT", pixels),
            (b"IEND", b""),
        )
    )


def damaged(data: bytes, draw: random.Random) -> bytes:
    match draw.randrange(6):
        case 0:
            return data[: draw.randrange(len(data))]
        case 1:
            changed = bytearray(data)
            for _ in range(draw.choice((1, 3, 20))):
                changed[draw.randrange(len(changed))] = draw.randrange(256)
            return bytes(changed)
        case 2:  # in the header, where it hurts
            changed = bytearray(data)
            for _ in range(draw.choice((1, 2, 4))):
                changed[draw.randrange(min(64, len(changed)))] = draw.choice((0, 1, 127, 128, 255))
            return bytes(changed)
        case 3:
            at, size = draw.randrange(len(data)), draw.randrange(1, 200)
            return data[:at] + bytes(size) + data[at + size :]
        case 4:
            at = draw.randrange(len(data))
            return data[:at] + draw.randbytes(draw.randrange(1, 200)) + data[at:]
    at, end = sorted((draw.randrange(len(data)), draw.randrange(len(data))))
    return data[:at] + data[end:]


ADDRESSES = (
    "dir://{folder}?pattern=(?P<part>[^/]+)_V(?P<view>[^/_]+)_L(?P<light>[^/_]+)$",
    "file://{folder}/line.mp4",
    "sim://ceramic_tile?seed=1&parts=2&size=32&rate=50&lost_share=0.5",
    "rtsp://me:secret@127.0.0.1:9/line?channel=1#watchdog_ms=100&lag_ms=5&width=3",
    "v4l2:///dev/video77?width=1280&height=720&fps=30&format=MJPG",
    "cti:///opt/maker/producer.cti?serial=12&trigger=Line1&period_ms=100&set=Gain:3,Width:9",
)


def address(draw: random.Random) -> str:
    """Return an address with some characters changed, lost, doubled or added; none asks the network or writes."""
    text = list(draw.choice(ADDRESSES))
    for _ in range(draw.choice((1, 1, 2, 4, 12))):
        at = draw.randrange(len(text))
        odd = draw.choice("?&=#%:/.,-+0123456789 \n\t\0\u00e9\U0001f4f7xyZ(){}[]*\\\"'")
        match draw.randrange(4):
            case 0:
                text[at] = odd
            case 1:
                text.insert(at, odd * draw.choice((1, 1, 40)))
            case 2 if len(text) > 1:
                del text[at]
            case _:
                text[at] *= 2
    uri = "".join(text)
    # None asks the network, or runs what stands in it.
    return uri if "@127.0.0.1:9/" in uri or not uri.startswith(("rtsp", "gige", "gst")) else "rtsp"


def case(draw: random.Random) -> tuple[str, str, bytes]:
    """Return what a case is, the suffix of its file, and its content."""
    kind = draw.choices(
        ("sound", "damaged", "huge", "bomb", "noise", "renamed", "video", "text", "address"),
        (10, 52, 8, 0.3, 4, 4, 12, 2, 8),
    )[0]
    suffix, data = sound(draw.randrange(SOUND))
    match kind:
        case "damaged":
            data = damaged(data, draw)
        case "huge":
            suffix, data = huge(draw)
        case "bomb":
            suffix, data = bomb(draw)
        case "noise":
            data = draw.randbytes(draw.choice((0, 1, 7, 100, 5000)))
        case "renamed":
            suffix = draw.choice((".png", ".jpg", ".bmp", ".tif", ".webp"))
        case "video":
            codec, suffix = draw.choice((("MJPG", ".avi"), ("mp4v", ".mp4"), ("FFV1", ".mkv")))
            data = video(codec, suffix)
            if draw.random() < 0.9:
                data = damaged(data, draw)
        case "address":
            suffix, data = ".json", json.dumps(address(draw)).encode()
        case "text":
            data = draw.choice((b"", b"no image at all\n", b"P6\n99999999 99999999\n255\n", "\u0000\ufeff".encode()))
    return kind, suffix, data


def write(folder: Path, seed: str, numbers: range) -> dict[str, str]:
    """Write cases into subfolders by their numbers; return what each of them is."""
    kinds = {}
    for number in numbers:
        kind, suffix, data = case(random.Random(f"{seed} {number}"))
        kinds[str(number)] = kind
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / f"{'video' if kind == 'video' else 'case'}{suffix}").write_bytes(data)
    return kinds
