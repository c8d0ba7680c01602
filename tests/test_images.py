"""Decoding what cameras and people save, and the one resize that training, evaluation and stations share."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgead import images
from edgead.errors import DataError


@pytest.fixture
def picture() -> images.Image:
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC), np.uint8)


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    return bytes(cv2.imencode(kind, pixels)[1].tobytes())


@pytest.mark.parametrize("kind", [".png", ".bmp", ".tif"])
def test_what_was_written_is_read_in_rgb(tmp_path: Path, picture: images.Image, kind: str) -> None:
    path = tmp_path / f"a{kind}"
    path.write_bytes(encoded(picture[..., ::-1], kind))
    assert np.array_equal(images.read_image(path), picture)


def test_grey_alpha_and_sixteen_bits_become_rgb(tmp_path: Path, picture: images.Image) -> None:
    grey = picture[..., 0]
    alpha = np.dstack([picture[..., ::-1], np.full(grey.shape, 7, np.uint8)])
    deep = grey.astype(np.uint16) * 256 + 200
    wanted = np.dstack([grey] * 3)
    for name, pixels, expected in (("g", grey, wanted), ("a", alpha, picture), ("d", deep, wanted)):
        path = tmp_path / f"{name}.png"
        path.write_bytes(encoded(pixels, ".png"))
        assert np.array_equal(images.read_image(path), expected), name


def test_files_cut_short_are_refused_at_any_length(picture: images.Image) -> None:
    for kind in (".png", ".jpg"):
        whole = encoded(picture, kind)
        for share in (0.2, 0.5, 0.9, 0.99):
            with pytest.raises(DataError, match=r"part\.x"):
                images.decode_image(whole[: int(len(whole) * share)], name="part.x")


def test_bytes_behind_the_end_of_a_jpeg_are_no_fault(picture: images.Image) -> None:
    whole = encoded(picture, ".jpg")
    assert np.array_equal(images.decode_image(whole + b"\0" * 500, name="a"), images.decode_image(whole, name="a"))


def test_a_thumbnails_end_does_not_make_a_cut_jpeg_whole(picture: images.Image) -> None:
    thumbnail = encoded(picture[::4, ::4], ".jpg")
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = encoded(picture, ".jpg")
    carrying = whole[:2] + segment + whole[2:]
    assert images.decode_image(carrying, name="a").shape == picture.shape
    with pytest.raises(DataError, match="truncated"):
        images.decode_image(carrying[:-20], name="a")


def test_shrinking_averages_areas(picture: images.Image) -> None:
    expected = picture.reshape(12, 4, 16, 4, 3).mean((1, 3))
    assert np.abs(images.resize(picture, (12, 16)) - expected).max() <= 0.5 + 1e-6


def test_a_thin_bright_line_survives_shrinking() -> None:
    line = np.zeros((1024, 1024, 3), np.uint8)
    line[:, 501] = 255
    assert images.resize(line, (256, 256)).max() >= 255 // 4 - 1


def test_resize_writes_into_the_slot_that_it_is_given(picture: images.Image) -> None:
    for size in ((24, 32), (48, 64), (96, 128)):
        slots = np.zeros((3, *size, 3), np.uint8)
        images.resize(picture, size, out=slots[1])
        assert np.array_equal(slots[1], images.resize(picture, size))
        assert not slots[0].any()
        assert not slots[2].any()


def test_no_defect_vanishes_when_a_mask_shrinks() -> None:
    mask = np.zeros((512, 512), bool)
    mask[100, 17] = True
    assert images.resize_mask(mask, (64, 64)).sum() == 1
    mask[:256] = True
    half = images.resize_mask(mask, (64, 64))
    assert half[:32].all()
    assert not half[32:].any()
    assert not images.resize_mask(np.zeros((512, 512), bool), (64, 64)).any()


def test_any_value_but_zero_is_defective_in_a_mask(tmp_path: Path) -> None:
    labels = np.zeros((8, 8), np.uint8)
    labels[2, 3], labels[4, 4] = 1, 255
    path = tmp_path / "m.png"
    for pixels in (labels, np.dstack([labels] * 3)):
        path.write_bytes(encoded(pixels, ".png"))
        assert images.read_mask(path).sum() == 2
    with pytest.raises(DataError, match="the mask is 8x8 but its image is 9x8"):
        images.read_mask(path, expected_hw=(8, 9))


def test_an_overlay_colours_only_what_is_above_its_low_end(picture: images.Image) -> None:
    heat = np.zeros((24, 32), np.float32)
    heat[12:, 16:] = 2.0
    drawn = images.overlay(picture, heat, low=1.0, high=2.0)
    assert np.array_equal(drawn[:20, :28], picture[:20, :28])
    assert (drawn[30:, 40:] != picture[30:, 40:]).any()


def test_pictures_are_written_whole_or_not_at_all(tmp_path: Path, picture: images.Image) -> None:
    target = tmp_path / "new" / "p.png"
    images.write_png(target, picture)
    assert np.array_equal(images.read_image(target), picture)
    assert [path.name for path in target.parent.iterdir()] == ["p.png"]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        images.write_png(tmp_path / "file" / "p.png", picture)
