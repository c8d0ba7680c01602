"""Damaged images, videos and addresses: each is refused in one line or read, in bounded time and memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from camera_fuzz import encoded, picture, write

from edgead.config import CameraConfig
from edgead.errors import CameraError, DataError
from edgead.images import decode_image
from edgead.runtime.cameras import open_cameras

HERE = Path(__file__).parent
PEAK_MIB = 1200  # of a process: an image of the largest size that is read, in colour, twice, and the libraries
LONGEST_S = 20  # of a file on a busy machine; the largest take a second on a quiet one


def tried(folder: Path, seed: str, numbers: range) -> Counter[tuple[str, bool]]:
    """Read the cases in a process of their own; return how many of each kind were refused and not."""
    kinds = write(folder, seed, numbers)
    command = [sys.executable, str(HERE / "camera_reader.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert b"Traceback" not in done.stderr
    *lines, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(numbers)
    for line in lines:
        kind, error = kinds[line["name"]], line["error"]
        assert line["seconds"] < LONGEST_S, line
        assert line["frames"] or error or kind == "address", line
        if error is not None:
            assert "\n" not in error, line
            assert len(error) < 1000, line
            assert "cam" in error or kind == "address", line
            assert "secret" not in error, line
        if kind in ("noise", "text"):
            assert error, line
    assert last["peak_mib"] < PEAK_MIB
    return Counter((kinds[line["name"]], line["error"] is None) for line in lines)


def test_300_damaged_inputs_are_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    seen = tried(tmp_path / "cases", "default", range(300))
    assert seen["damaged", False] > seen["damaged", True]  # what stays unnoticed changed a pixel, or nothing
    assert seen["sound", True] > seen["sound", False]  # floating point is refused
    assert seen["video", False]
    assert seen["address", False]


@pytest.mark.slow
def test_10_000_damaged_inputs_are_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    for first in range(0, 10_000, 1_000):
        folder = tmp_path / "cases"
        tried(folder, "slow", range(first, first + 1_000))
        shutil.rmtree(folder)


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    with (tmp_path / "vast.png").open("wb") as file:
        file.truncate(50 << 30)
    (tmp_path / "gone.png").symlink_to("/nowhere.png")
    (tmp_path / "two\nlines.png").write_bytes(b"no image")
    words = {
        "pipe": "a pipe or a device",
        "zeros": "a pipe or a device",
        "vast": "has 51200 MiB",
        "gone": "cannot be read",
    }
    for path in sorted(tmp_path.iterdir()):
        folder = tmp_path.parent / f"{tmp_path.name}-{path.stem.split()[0]}"
        folder.mkdir()
        path.rename(folder / path.name)
        (camera,) = open_cameras([CameraConfig(name="cam", uri=f"dir://{folder}")])
        with pytest.raises(CameraError, match="camera 'cam' has vanished: ") as caught:
            camera.read(1.0)
        assert words.get(path.stem, "not an image") in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".bmp", ".webp"])
def test_a_picture_cut_short_is_never_read_as_if_it_were_whole(suffix: str) -> None:
    whole = encoded(suffix, picture(48, 64))
    assert decode_image(whole, name="whole").shape == (48, 64, 3)
    for share in (0.0, 0.01, 0.2, 0.5, 0.8, 0.95, 0.99):
        with pytest.raises(DataError):
            decode_image(whole[: int(len(whole) * share)], name="cut")
