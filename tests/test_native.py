"""The native resize against OpenCV's and against exact arithmetic; its slots, its refusals, its builds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edgead import _native, images
from edgead.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "edgead" / "_native" / "area.cpp"
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden"]
Array = npt.NDArray[np.uint8]


@pytest.fixture(autouse=True)
def built() -> None:
    if not _native.VERSIONS:
        pytest.skip("the native resize is not built here; it takes g++ and pip install -e .")


def by_opencv(image: Array, size_hw: tuple[int, int]) -> npt.NDArray[np.int64]:
    return cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA).astype(np.int64)


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def shares(size: int, wanted: int) -> npt.NDArray[np.float64]:
    """Share of each pixel in each box, ``(wanted, size)``, from exact fractions."""
    matrix = np.zeros((wanted, size))
    for box in range(wanted):
        begin, end = Fraction(box * size, wanted), Fraction((box + 1) * size, wanted)
        for pixel in range(int(begin), min(size, -int(-end // 1))):
            matrix[box, pixel] = float((min(end, pixel + 1) - max(begin, pixel)) / (end - begin))
    return matrix


def shapes(count: int) -> Iterator[tuple[int, int, int, int]]:
    rng = np.random.default_rng(7)
    for _ in range(count):
        height, width = rng.integers(1, 400, 2).tolist()
        yield height, width, int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
    yield from (
        (1, 1, 1, 1),
        (1, 300, 1, 7),
        (300, 1, 7, 1),
        (257, 255, 1, 1),
        (5, 5, 5, 4),
        (5, 5, 4, 5),
        (64, 48, 32, 24),
    )
    yield from (
        (700, 9, 2, 3),
        (601, 9, 2, 3),
        (515, 8, 2, 8),
        (516, 8, 2, 8),
        (518, 8, 2, 8),
        (1031, 1031, 1030, 1030),
    )


def test_it_is_within_one_level_of_opencv_and_half_a_level_of_exact_means() -> None:
    for index, (height, width, h, w) in enumerate(shapes(150)):
        image = noise(height, width, 3, seed=index)
        if index % 3 == 0:
            image = np.where(image > 127, 255, 0).astype(np.uint8)
        resized = images.resize(image, (h, w))
        assert np.abs(resized - by_opencv(image, (h, w))).max() <= 1, (height, width, h, w)
        exact = np.einsum("yi,xj,ijc->yxc", shares(height, h), shares(width, w), image, optimize=True)
        assert np.abs(resized - exact).max() <= 0.5001, (height, width, h, w)


def test_every_version_gives_the_same_bytes() -> None:
    for height, width, h, w in shapes(60):
        image = noise(height, width, 3)
        answers = np.full((len(_native.VERSIONS), h, w, 3), 7, np.uint8)
        for version, answer in enumerate(answers):
            assert _native.shrink(image, answer, version=version)
        assert (answers == answers[0]).all(), (height, width, h, w)


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_a_flat_image_stays_flat(value: int) -> None:
    for height, width, h, w in ((1080, 1920, 256, 256), (3000, 40, 2, 3), (97, 89, 41, 43)):
        assert (images.resize(np.full((height, width, 3), value, np.uint8), (h, w)) == value).all()


def test_a_picture_of_48_megapixels() -> None:
    image = np.repeat(np.repeat(noise(60, 80, 3), 100, axis=0), 100, axis=1)
    for size in ((256, 256), (7, 3)):
        assert np.abs(images.resize(image, size) - by_opencv(image, size)).max() <= 1


def test_rows_may_lie_apart_backwards_or_be_views() -> None:
    base = noise(120, 200, 3)
    for view in (base[10:90, 30:170], base[::-1], base[::2], base[:, ::2], base[..., ::-1], base.transpose(1, 0, 2)):
        expected = images.resize(np.ascontiguousarray(view), (31, 37))
        assert np.array_equal(images.resize(view, (31, 37)), expected)
        assert np.array_equal(images.resize(view, (31, 37), swap=True), expected[..., ::-1])


@pytest.mark.parametrize("shape", [(90, 130), (40, 50), (20, 60)])  # shrunk, as it is, one side enlarged
def test_it_fills_its_slot_and_nothing_else(shape: tuple[int, int]) -> None:
    for image in (noise(*shape, 3), noise(*shape)):
        for swap in (False, True):
            canvas = np.full((3, 42, 60, 3), 77, np.uint8)
            slot = canvas[1, 1:41, 4:54]
            assert images.resize(image, (40, 50), out=slot, swap=swap) is slot
            assert np.array_equal(slot, images.resize(image, (40, 50), swap=swap))
            slot[...] = 77
            assert (canvas == 77).all()


@pytest.mark.parametrize("shape", [(90, 130), (40, 50), (20, 60), (20, 20)])
def test_swap_and_grey(shape: tuple[int, int]) -> None:
    colour, grey = noise(*shape, 3), noise(*shape)
    straight = images.resize(colour, (40, 50))
    assert np.array_equal(images.resize(colour, (40, 50), swap=True), straight[..., ::-1])
    three = images.resize(np.ascontiguousarray(np.dstack([grey] * 3)), (40, 50))
    assert np.array_equal(images.resize(grey, (40, 50)), three)


def test_the_fallback_differs_by_one_level_at_most() -> None:
    for index, (height, width, h, w) in enumerate(shapes(60)):
        image = noise(height, width, 3, seed=index)
        for picture in (image, image[..., 0]):
            for swap in (False, True):
                out = np.zeros((h, w, 3), np.uint8)
                images._resize_by_opencv(np.ascontiguousarray(picture), out, swap=swap)
                native = images.resize(picture, (h, w), swap=swap)
                assert np.abs(out.astype(int) - native).max() <= 1, (height, width, h, w, swap)


def test_halves_are_opencvs_and_the_same_bytes() -> None:
    for height, width in ((1, 1), (5, 7), (120, 333)):
        for image in (noise(2 * height, 2 * width, 3), noise(2 * height, 2 * width)):
            native = np.zeros((height, width, 3), np.uint8)
            assert _native.shrink(image, native)
            assert np.array_equal(images.resize(image, (height, width)), native)


def test_enlarging_is_opencvs_as_before() -> None:
    image = noise(20, 30, 3)
    assert np.array_equal(images.resize(image, (50, 70)), cv2.resize(image, (70, 50), interpolation=cv2.INTER_LINEAR))
    assert np.array_equal(images.resize(image, (10, 70)), cv2.resize(image, (70, 10), interpolation=cv2.INTER_AREA))


def test_what_is_no_image_is_refused_in_one_line() -> None:
    for wrong in (
        noise(9, 9, 3).astype(np.float32),
        noise(9, 9, 3).astype(np.int8),
        noise(9, 9, 4),
        noise(9, 9, 1),
        noise(9),
        noise(2, 9, 9, 3),
        noise(0, 9, 3),
        noise(9, 0, 3),
    ):
        with pytest.raises(DataError, match=r"^an image is .*; expected uint8") as refused:
            images.resize(wrong, (4, 4))
        assert "\n" not in str(refused.value)
    for size in ((0, 4), (4, -1)):
        with pytest.raises(DataError, match="expected 1x1 or more"):
            images.resize(noise(9, 9, 3), size)


def test_what_is_no_slot_is_refused_in_one_line() -> None:
    frozen = np.zeros((4, 4, 3), np.uint8)
    frozen.flags.writeable = False
    wrong = [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 5, 3), np.uint8), frozen]
    wrong += [np.zeros((4, 8, 3), np.uint8)[:, ::2], np.zeros((3, 4, 4), np.uint8).transpose(1, 2, 0)]
    wrong += [np.zeros((4, 4, 3), np.uint8)[::-1]]
    for slot in wrong:
        for image in (noise(9, 9, 3), noise(4, 4, 3), noise(2, 2, 3)):
            with pytest.raises(DataError, match=r"^a slot is .*; expected uint8"):
                images.resize(image, (4, 4), out=slot)


def test_threads_share_nothing() -> None:
    pictures = [noise(300 + 7 * index, 411 - 5 * index, 3, seed=index) for index in range(8)]
    expected = [images.resize(picture, (101, 103)) for picture in pictures]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(40):
            if not np.array_equal(images.resize(pictures[index], (101, 103)), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_lock_of_the_interpreter_is_free_meanwhile() -> None:
    image, seen = noise(6000, 8000), []
    out = np.zeros((3000, 8000, 3), np.uint8)
    worker = threading.Thread(target=images.resize, args=(image, (3000, 8000)), kwargs={"out": out})
    interval = sys.getswitchinterval()
    begin = time.monotonic()
    worker.start()
    while worker.is_alive():
        seen.append(time.monotonic())
        time.sleep(0)
    spent = time.monotonic() - begin
    gaps = np.diff([begin, *seen])
    assert spent > 4 * interval, "the picture is too small to show it"
    assert gaps.max() < spent / 2, "this thread stood still while the kernel worked"


def compiled(path: Path, compiler: str, *flags: str) -> Path:
    sources = [str(SOURCE), str(ROOT / "tests" / "area_filter.cpp")]
    subprocess.run([compiler, *FLAGS, "-Wall", "-Wextra", "-Werror", *flags, *sources, "-o", str(path)], check=True)
    return path


def test_arm_gives_the_same_bytes(tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("no aarch64 here: apt-get install g++-aarch64-linux-gnu qemu-user")
    program = compiled(tmp_path / "area", compiler, "-static")
    asked, expected = b"", []
    for index, (height, width, h, w) in enumerate([*shapes(60), (1080, 1920, 256, 256)]):
        image = noise(height, width, 3, seed=index) if index % 4 else noise(height, width, seed=index)
        swap = index % 2 == 1
        head = np.array([height, width, 3 if image.ndim == 3 else 1, h, w, swap], np.int64)
        asked += head.tobytes() + image.tobytes()
        answer = np.zeros((h, w, 3), np.uint8)
        assert _native.shrink(image, answer, swap=swap)
        expected.append(answer.tobytes())
    done = subprocess.run([emulator, str(program)], input=asked, capture_output=True, check=True, timeout=60)
    assert done.stderr.split()[0] == b"neon"
    assert done.stdout == b"".join(expected)


@pytest.mark.slow
def test_no_byte_outside_its_arrays_is_touched(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ here: apt-get install g++")
    program = compiled(tmp_path / "area", compiler, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    asked, count = b"", 0
    for index, (height, width, h, w) in enumerate(shapes(60)):
        image = noise(height, width, 3) if index % 2 else noise(height, width)
        asked += np.array([height, width, 3 if index % 2 else 1, h, w, 0], np.int64).tobytes() + image.tobytes()
        count += h * w * 3
    done = subprocess.run([str(program)], input=asked, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:].decode()
    assert len(done.stdout) == count


@pytest.mark.slow
def test_it_installs_without_a_compiler_and_says_so(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".*", "*.so", "runs", "build", "*.egg-info", "__pycache__")
    )
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        ".",
    ]
    without = {**os.environ, "CC": "no-compiler", "CXX": "no-compiler"}
    subprocess.run(command, cwd=copy, env=without, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("edgead-*.whl")
    unpacked = tmp_path / "unpacked"
    shutil.unpack_archive(wheel, unpacked, "zip")
    code = (
        "from edgead import _native, images; import numpy as np; assert _native.VERSIONS == ();"
        "assert images.resize(np.full((9, 9, 3), 5, np.uint8), (4, 4)).max() == 5; print(_native.in_use())"
    )
    told = subprocess.check_output([sys.executable, "-c", code], cwd=unpacked, text=True)
    assert told.startswith("OpenCV; ")
