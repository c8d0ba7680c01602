"""Each layout is written as its authors document it, with real image files, and read back."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgead.datasets import KINDS, Dataset, DatasetOptions, Sample, categories, open_dataset
from edgead.errors import ConfigError, DataError
from edgead.images import read_image, read_mask, write_png

MAGNETIC_TILE = Path(__file__).resolve().parents[2] / "shared" / "data" / "magnetic_tile"

real_tiles = pytest.mark.skipif(
    not (MAGNETIC_TILE / "manifest.csv").is_file(), reason=f"the magnetic tiles are not at {MAGNETIC_TILE}"
)


def picture(path: Path, seed: int) -> Path:
    """Write an 8x8 image that only this seed makes, in the format of its suffix."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    if path.suffix == ".png":
        write_png(path, pixels)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix.lower(), pixels)[1].tobytes())
    return path


def mask(path: Path, value: int = 255) -> Path:
    pixels = np.zeros((8, 8), np.uint8)
    pixels[2:4, 2:5] = value
    write_png(path, pixels)
    return path


def mvtec_tree(root: Path, *, good: int = 10, mask_suffix: str = "_mask", suffix: str = ".png") -> Path:
    home = root / "bottle"
    for i in range(good):
        picture(home / f"train/good/{i:03}{suffix}", i)
    for i in range(3):
        picture(home / f"test/good/{i:03}{suffix}", 100 + i)
        picture(home / f"test/broken/{i:03}{suffix}", 200 + i)
        mask(home / f"ground_truth/broken/{i:03}{mask_suffix}.png")
    return root


def indu_tree(root: Path, *, parts: int = 20, category: str = "Category1_MagneticCore", good: str = "Good") -> Path:
    home = root / category
    for part in range(parts):
        for view in (1, 2):
            for light in (1, 2):
                picture(home / f"Image/{good}/P{part:04}_V{view}_L{light}.png", part * 10 + view * 2 + light)
    for view in (1, 2):
        picture(home / f"Image/NG/crack/P9000_V{view}_L1.png", 9000 + view)
        mask(home / f"Mask/NG/crack/P9000_V{view}_L1.png")
    return root


def stems(samples: tuple[Sample, ...]) -> list[str]:
    return [sample.image.stem for sample in samples]


def parts(samples: tuple[Sample, ...]) -> set[str]:
    return {sample.part for sample in samples}


def everything(dataset: Dataset) -> tuple[Sample, ...]:
    return dataset.train + dataset.validation + dataset.test


# --- MVTec AD and 3CAD ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "mask_suffix"), [("mvtec", "_mask"), ("mvtec", ""), ("3cad", ""), ("3cad", "_mask")])
def test_mvtec_layout_with_both_mask_names(tmp_path: Path, kind: str, mask_suffix: str) -> None:
    dataset = open_dataset(kind, mvtec_tree(tmp_path, mask_suffix=mask_suffix), "bottle")
    assert (dataset.name, dataset.category) == (kind, "bottle")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (9, 1, 6)
    assert Counter(sample.defect for sample in dataset.test) == {"good": 3, "broken": 3}
    assert all(sample.is_good and "train/good" in sample.image.as_posix() for sample in dataset.train)
    for sample in dataset.test:
        assert (sample.mask is None) == sample.is_good
        if sample.mask:
            assert sample.mask.stem == sample.image.stem + mask_suffix
            assert read_mask(sample.mask, expected_hw=read_image(sample.image).shape[:2]).sum() == 6
    assert len(parts(everything(dataset))) == 16  # 000 of test/good, test/broken and train/good are three parts


def test_suffixes_in_any_case_and_hidden_files_ignored(tmp_path: Path) -> None:
    root = mvtec_tree(tmp_path, suffix=".JPG")
    for name in (".DS_Store", "._000.JPG", "Thumbs.db", "notes.txt"):
        (root / "bottle/train/good" / name).write_text("no image")
    (root / ".cache/train/good").mkdir(parents=True)
    (root / "__MACOSX/train/good").mkdir(parents=True)
    dataset = open_dataset("mvtec", root, "bottle")
    assert len(everything(dataset)) == 16
    assert categories("mvtec", root) == ["bottle"]


def test_without_ground_truth_labels_only(tmp_path: Path) -> None:
    root = mvtec_tree(tmp_path)
    for path in sorted((root / "bottle/ground_truth").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (root / "bottle/ground_truth").rmdir()
    dataset = open_dataset("mvtec", root, "bottle")
    assert [sample.mask for sample in dataset.test] == [None] * 6
    assert sum(not sample.is_good for sample in dataset.test) == 3


def test_good_images_alone_make_a_dataset(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / f"mine/train/good/{i}.png", i)
    dataset = open_dataset("mvtec", tmp_path, "mine")
    assert (len(dataset.train), len(dataset.validation), dataset.test) == (3, 1, ())


def test_pattern_on_a_folder_layout(tmp_path: Path) -> None:
    for part in range(4):
        for light in range(3):
            picture(tmp_path / f"tile/train/good/exp{light}_num{part}.png", part * 10 + light)
    options = DatasetOptions(pattern=r"exp(?P<light>\d)_num(?P<part>\d)")
    dataset = open_dataset("mvtec", tmp_path, "tile", options=options)
    assert len(dataset.validation) == 3
    assert len(parts(dataset.validation)) == 1
    assert sorted(sample.illumination for sample in dataset.validation) == ["0", "1", "2"]


# --- splitting ------------------------------------------------------------------------------------------------------


def test_validation_depends_on_content_only(tmp_path: Path) -> None:
    first = open_dataset("mvtec", mvtec_tree(tmp_path / "a", good=30), "bottle", validation=0.2)
    other = tmp_path / "b/bottle/train/good"
    for i in range(30):  # the same contents under other names
        picture(other / f"renamed_{29 - i}.png", i)
    second = open_dataset("mvtec", tmp_path / "b", "bottle", validation=0.2)
    held_out = {sample.image.read_bytes() for sample in first.validation}
    assert len(held_out) == 6
    assert held_out == {sample.image.read_bytes() for sample in second.validation}
    assert first == open_dataset("mvtec", tmp_path / "a", "bottle", validation=0.2)
    assert stems(first.train) == sorted(stems(first.train))


@pytest.mark.parametrize(
    ("good", "share", "expected"), [(1, 0.1, 0), (2, 0.1, 1), (2, 0.9, 1), (5, 0.0, 0), (10, 0.25, 2), (10, 0.99, 9)]
)
def test_size_of_validation(tmp_path: Path, good: int, share: float, expected: int) -> None:
    dataset = open_dataset("mvtec", mvtec_tree(tmp_path, good=good), "bottle", validation=share)
    assert len(dataset.validation) == expected
    assert len(dataset.train) == good - expected
    assert len(dataset.test) == 6


def test_identical_good_images_stay_together(tmp_path: Path) -> None:
    root = mvtec_tree(tmp_path, good=20)
    good = root / "bottle/train/good"
    for i in range(20):
        (good / f"copy_{i:03}.png").write_bytes((good / f"{i:03}.png").read_bytes())
    dataset = open_dataset("mvtec", root, "bottle", validation=0.3)
    held_out = {sample.image.read_bytes() for sample in dataset.validation}
    assert len(dataset.validation) == 12
    assert len(held_out) == 6
    assert held_out.isdisjoint(sample.image.read_bytes() for sample in dataset.train)


def test_images_in_train_and_test_are_refused_or_dropped(tmp_path: Path) -> None:
    root = mvtec_tree(tmp_path)
    home = root / "bottle"
    (home / "train/good/005.png").write_bytes((home / "test/good/001.png").read_bytes())
    (home / "train/good/007.png").write_bytes((home / "test/broken/002.png").read_bytes())
    with pytest.raises(DataError) as caught:
        open_dataset("mvtec", root, "bottle")
    message = str(caught.value)
    assert f"{home / 'train/good/005.png'} in train is byte-identical to {home / 'test/good/001.png'}" in message
    assert "2 such images" in message
    assert "--duplicates drop" in message
    dataset = open_dataset("mvtec", root, "bottle", options=DatasetOptions(duplicates="drop"))
    kept = stems(dataset.train) + stems(dataset.validation)
    assert sorted(kept) == ["000", "001", "002", "003", "004", "006", "008", "009"]
    assert len(dataset.test) == 6


def test_same_size_and_beginning_is_not_identical(tmp_path: Path) -> None:
    root = mvtec_tree(tmp_path)
    begin = (root / "bottle/train/good/000.png").read_bytes() + bytes(1 << 17)
    (root / "bottle/train/good/000.png").write_bytes(begin + b"a")
    (root / "bottle/test/good/000.png").write_bytes(begin + b"b")
    assert len(everything(open_dataset("mvtec", root, "bottle"))) == 16
    (root / "bottle/test/good/000.png").write_bytes(begin + b"a")
    with pytest.raises(DataError, match="byte-identical"):
        open_dataset("mvtec", root, "bottle")


# --- VisA -----------------------------------------------------------------------------------------------------------


def visa_tree(root: Path, *, label_in_train: str = "normal") -> Path:
    lines = ["object,split,label,image,mask"]
    for i in range(6):
        image = picture(root / f"candle/Data/Images/Normal/{i:04}.JPG", i)
        split, label = ("train", label_in_train) if i < 4 else ("test", "normal")
        lines.append(f"candle,{split},{label},{image.relative_to(root).as_posix()},")
    for i in range(2):
        image = picture(root / f"candle/Data/Images/Anomaly/{i:04}.JPG", 50 + i)
        pixels = mask(root / f"candle/Data/Masks/Anomaly/{i:04}.png", value=3)
        names = f"{image.relative_to(root).as_posix()},{pixels.relative_to(root).as_posix()}"
        lines.append(f"candle,test,anomaly,{names}")
    lines.append("pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(lines) + "\n")
    return root


def test_visa_archive(tmp_path: Path) -> None:
    root = visa_tree(tmp_path)
    assert categories("visa", root) == ["candle", "pcb1"]
    dataset = open_dataset("visa", root, "candle")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (3, 1, 4)
    bad = [sample for sample in dataset.test if not sample.is_good]
    assert [read_mask(sample.mask).sum() for sample in bad if sample.mask] == [6, 6]  # class ids count as defects
    assert len(parts(everything(dataset))) == 8  # Normal/0000 and Anomaly/0000 are two parts


def test_visa_listed_image_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pcb1/Data/Images/Normal/0000\.JPG: the dataset lists this image"):
        open_dataset("visa", visa_tree(tmp_path), "pcb1")


def test_visa_supervised_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="training takes Good images only"):
        open_dataset("visa", visa_tree(tmp_path, label_in_train="anomaly"), "candle")


@pytest.mark.parametrize("below", ["1cls", "VisA_pytorch/1cls", "."])
def test_visa_reorganised(tmp_path: Path, below: str) -> None:
    for i in range(4):
        picture(tmp_path / below / f"candle/train/good/{i:04}.JPG", i)
    picture(tmp_path / below / "candle/test/good/0009.JPG", 9)
    picture(tmp_path / below / "candle/test/bad/0000.JPG", 10)
    expected = mask(tmp_path / below / "candle/ground_truth/bad/0000.png", value=1)
    dataset = open_dataset("visa", tmp_path, "candle")
    assert [(sample.defect, sample.mask) for sample in dataset.test] == [("bad", expected), ("good", None)]


# --- Real-IAD -------------------------------------------------------------------------------------------------------


def real_iad_tree(root: Path, *, nested: bool = True, resolution: str = "256") -> Path:
    train, test = [], []
    home = root / f"realiad_{resolution}" / "usb"

    def item(path: str, label: str, seed: int) -> dict[str, str | None]:
        picture(home / path, seed)
        pixels = None
        if path.startswith("NG"):  # a good view of a defective part may come with an empty mask
            pixels = path.replace(".jpg", "_mask.png")
            mask(home / pixels, value=0 if label == "OK" else 255)
        return {"category": "usb", "anomaly_class": label, "image_path": path, "mask_path": pixels}

    for part in range(5):
        for view in range(1, 6):
            path = f"OK/S{part:04}/usb_{part:04}_OK_C{view}_2023.jpg"
            (train if part < 4 else test).append(item(path, "OK", part * 10 + view))
    for view in range(1, 6):  # the defect shows in two views only
        path = f"NG/HS/S0000/usb_0000_NG_C{view}_2023.jpg"
        test.append(item(path, "HS" if view < 3 else "OK", 900 + view))
    table = {"meta": {"prefix": "realiad", "normal_class": "OK"}, "train": train, "test": test}
    jsons = root / "realiad_jsons" / ("realiad_jsons" if nested else "")
    jsons.mkdir(parents=True, exist_ok=True)
    (jsons / "usb.json").write_text(json.dumps(table))
    return root


@pytest.mark.parametrize("nested", [True, False])
def test_real_iad(tmp_path: Path, nested: bool) -> None:
    root = real_iad_tree(tmp_path, nested=nested)
    assert categories("real-iad", root) == ["usb"]
    dataset = open_dataset("real-iad", root, "usb")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (15, 5, 10)  # validation is one object
    assert len(parts(dataset.validation)) == 1
    defective = [sample for sample in dataset.test if sample.part == "NG/HS/S0000"]
    assert [(sample.view, sample.defect) for sample in defective] == [
        ("C1", "HS"), ("C2", "HS"), ("C3", "good"), ("C4", "good"), ("C5", "good"),
    ]  # fmt: skip
    assert [sample.mask is not None for sample in defective] == [True, True, False, False, False]


def test_real_iad_resolution(tmp_path: Path) -> None:
    real_iad_tree(tmp_path, resolution="256")
    real_iad_tree(tmp_path, resolution="1024")
    with pytest.raises(DataError, match=r"several image folders; choose one of 1024, 256: --resolution 1024"):
        open_dataset("real-iad", tmp_path, "usb")
    dataset = open_dataset("real-iad", tmp_path, "usb", options=DatasetOptions(resolution="256"))
    assert "realiad_256" in dataset.train[0].image.parts
    with pytest.raises(DataError, match="there is no realiad_512"):
        open_dataset("real-iad", tmp_path, "usb", options=DatasetOptions(resolution="512"))


# --- MV-AD2025 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "good"), [("indu-defect", "Good"), ("indu-defect", "GOOD"), ("sim", "good")])
def test_indu_defect(tmp_path: Path, kind: str, good: str) -> None:
    root = indu_tree(tmp_path, good=good)
    assert categories(kind, root) == ["Category1_MagneticCore"]
    dataset = open_dataset(kind, root, "Category1_MagneticCore")
    sides = [parts(side) for side in (dataset.train, dataset.validation, dataset.test)]
    by_hash = sorted((f"P{part:04}" for part in range(20)), key=lambda part: hashlib.sha256(part.encode()).hexdigest())
    assert sides[2] == {*by_hash[:4], "P9000"}
    assert [len(side) for side in sides] == [14, 2, 5]  # 20 Good: 4 to test, 2 of the other 16 to validation; 1 NG
    assert sum(len(side) for side in sides) == len(set().union(*sides))
    assert all(len([s for s in everything(dataset) if s.part == part]) == 4 for part in sides[0] | sides[1])
    assert {(s.view, s.illumination) for s in dataset.train} == {("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")}
    bad = [sample for sample in dataset.test if not sample.is_good]
    assert [(s.defect, s.mask.name if s.mask else "") for s in bad] == [
        ("crack", "P9000_V1_L1.png"),
        ("crack", "P9000_V2_L1.png"),
    ]


@pytest.mark.parametrize("place", ["Mask/crack/{}.png", "MASK/{}_mask.png", "masks/NG/crack/{}_mask.bmp"])
def test_indu_defect_finds_masks_and_goes_without(tmp_path: Path, place: str) -> None:
    root = tmp_path / "data"
    home = root / "Core"
    for part in range(3):
        picture(home / f"Image/Good/P{part}_V1_L1.png", part)
    picture(home / "Image/ng/crack/P8_V1_L1.BMP", 80)
    picture(home / "Image/ng/P9_V1_L1.BMP", 90)
    made = mask(tmp_path / "mask.png")
    expected = home / place.format("P8_V1_L1")
    expected.parent.mkdir(parents=True)
    expected.write_bytes(made.read_bytes())
    bad = [sample for sample in open_dataset("indu-defect", root, "Core").test if not sample.is_good]
    assert {(s.part, s.defect, s.mask) for s in bad} == {("P8", "crack", expected), ("P9", "defect", None)}


def test_indu_defect_good_view_of_a_defective_part_goes_to_test(tmp_path: Path) -> None:
    root = indu_tree(tmp_path)
    picture(root / "Category1_MagneticCore/Image/Good/P9000_V1_L2.png", 77)
    dataset = open_dataset("indu-defect", root, "Category1_MagneticCore")
    assert "P9000_V1_L2" in stems(dataset.test)


def test_indu_defect_split_ignores_other_parts_content_and_place(tmp_path: Path) -> None:
    first = open_dataset("indu-defect", indu_tree(tmp_path / "a"), "Category1_MagneticCore")
    second = open_dataset("indu-defect", indu_tree(tmp_path / "b" / "c"), "Category1_MagneticCore")
    assert [stems(first.train), stems(first.validation), stems(first.test)] == [
        stems(second.train), stems(second.validation), stems(second.test),
    ]  # fmt: skip
    half = DatasetOptions(test_share=0.5)
    assert len(parts(open_dataset("indu-defect", tmp_path / "a", first.category, options=half).test)) == 11


def test_indu_defect_naming(tmp_path: Path) -> None:
    for part in range(4):
        for view in ("top", "side"):
            picture(tmp_path / f"Core/Image/Good/{part:03}/{view}.png", part * 10 + len(view))
    with pytest.raises(DataError) as caught:
        open_dataset("indu-defect", tmp_path, "Core")
    message = str(caught.value)
    assert "'Good/000/side' does not match" in message
    assert "P0001_V2_L3" in message
    assert "--pattern" in message
    options = DatasetOptions(pattern=r"(?P<part>\d+)/(?P<view>\w+)$")
    dataset = open_dataset("indu-defect", tmp_path, "Core", options=options)
    assert len(everything(dataset)) == 8
    assert {(s.view, s.illumination) for s in everything(dataset)} == {("top", "0"), ("side", "0")}


def test_indu_defect_numbers_that_begin_anew(tmp_path: Path) -> None:
    root = indu_tree(tmp_path)
    picture(root / "Category1_MagneticCore/Image/NG/chip/P9000_V1_L1.png", 9999)
    with pytest.raises(DataError, match=r"part P9000, view 1, light 1 is already .*chip") as caught:
        open_dataset("indu-defect", root, "Category1_MagneticCore")
    pattern = str(caught.value).split("--pattern '")[1].rstrip("'")  # the message's own remedy works
    dataset = open_dataset("indu-defect", root, "Category1_MagneticCore", options=DatasetOptions(pattern=pattern))
    assert {"NG/chip/P9000", "NG/crack/P9000"} < parts(dataset.test)


def test_indu_defect_attributes(tmp_path: Path) -> None:
    root = indu_tree(tmp_path)
    table = "part,defect,severity,batch\nP0003,good,,7\nP9000,crack,major,\n"
    (root / "Category1_MagneticCore/attributes.csv").write_text(table)
    dataset = open_dataset("indu-defect", root, "Category1_MagneticCore")
    labelled = {sample.part: sample.attributes for sample in everything(dataset) if sample.attributes}
    assert labelled == {"P0003": {"batch": "7"}, "P9000": {"severity": "major"}}
    (root / "Category1_MagneticCore/attributes.csv").write_text("name\nP1\n")
    with pytest.raises(DataError, match=r"attributes\.csv, line 2: no part"):
        open_dataset("indu-defect", root, "Category1_MagneticCore")


@pytest.mark.parametrize(("visible", "defects"), [(0, 0), (1, 1), (2, 2)])
def test_sim_image_that_does_not_show_its_parts_defect_is_good(tmp_path: Path, visible: int, defects: int) -> None:
    root = indu_tree(tmp_path)
    home = root / "Category1_MagneticCore"
    for view in range(visible + 1, 3):
        mask(home / f"Mask/NG/crack/P9000_V{view}_L1.png", value=0)
    (home / "attributes.csv").write_text(f"part,visible_images,images\nP9000,{visible},2\n")
    dataset = open_dataset("sim", root, "Category1_MagneticCore")
    part = [sample for sample in dataset.test if sample.part == "P9000"]  # in test even if nothing shows
    assert len(part) == 2
    assert [(s.view, s.mask is not None) for s in part if not s.is_good] == [("1", True), ("2", True)][:defects]


def test_indu_defect_label_stands_where_no_table_explains_an_empty_mask(tmp_path: Path) -> None:
    root = indu_tree(tmp_path)
    mask(root / "Category1_MagneticCore/Mask/NG/crack/P9000_V1_L1.png", value=0)
    dataset = open_dataset("indu-defect", root, "Category1_MagneticCore")
    assert sum(not sample.is_good for sample in dataset.test) == 2


def test_sim_reads_what_the_simulator_writes(tmp_path: Path) -> None:
    from edgead.datasets.simulated import OBJECTS, write_dataset

    spec = OBJECTS["magnetic_core"]
    write_dataset(tmp_path, "magnetic_core", seed=3, good_parts=5, defect_parts_per_type=1, size=64)
    assert categories("sim", tmp_path) == [spec.folder]
    dataset = open_dataset("sim", tmp_path, spec.folder)
    shots = len(spec.views) * len(spec.illuminations)
    assert (len(dataset.train), len(dataset.validation)) == (3 * shots, shots)
    assert len(dataset.test) == shots * (1 + len(spec.defects))
    bad = [sample for sample in dataset.test if not sample.is_good]
    assert {sample.defect for sample in bad} == set(spec.defects)
    assert all(sample.mask and read_mask(sample.mask).any() for sample in bad)
    assert all(sample.attributes["severity"] for sample in bad)


# --- manifest -------------------------------------------------------------------------------------------------------

HEADER = "image,part_id,view,illumination,defect,mask,split,attributes,attr_batch,line"


def manifest(folder: Path, lines: list[str], header: str = HEADER, name: str = "manifest.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return folder / name


def test_manifest_csv(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / f"parts/i{i}.png", i)
    pixels = mask(tmp_path / "parts/m.png")
    lines = [
        "i0.png,a,top,left,good,,train,,,",
        "i1.png,a,top,right,OK,,train,,,",
        "i2.png,b,top,left,good,,val,,,",
        "i3.png,c,side,left,good,,test,,,",
        'i4.png,c,top,left,crack,m.png,test,"{""severity"": ""major"", ""depth"": 2}",7,L1',
    ]
    path = manifest(tmp_path / "parts", lines, header="\ufeff" + HEADER)  # as spreadsheets save it
    for root in (path, path.parent, tmp_path):
        assert categories("manifest", root) == ["parts"]
        dataset = open_dataset("manifest", root, "parts")
        assert (stems(dataset.train), stems(dataset.validation), stems(dataset.test)) == (
            ["i0", "i1"], ["i2"], ["i3", "i4"],
        )  # fmt: skip
    assert dataset.test[1] == Sample(
        image=tmp_path / "parts/i4.png",
        part="c",
        defect="crack",
        mask=pixels,
        view="top",
        illumination="left",
        attributes={"severity": "major", "depth": "2", "batch": "7", "line": "L1"},
    )


def test_manifest_jsonl_with_categories_and_hashed_split(tmp_path: Path) -> None:
    rows = []
    for part in range(10):
        for view in range(2):
            image = picture(tmp_path / f"{part}_{view}.png", part * 10 + view)
            row = {"image": image.name, "part_id": part, "view": view, "label": 0, "category": "nut", "mask": None}
            rows.append(row | ({"label": True, "attributes": {"a": 1}} if (part, view) == (9, 1) else {}))
    rows.append({"image": "x.png", "label": "good", "category": "bolt"})
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    assert categories("manifest", tmp_path / "list.jsonl") == ["bolt", "nut"]
    dataset = open_dataset("manifest", tmp_path / "list.jsonl", "nut")
    assert "9" in parts(dataset.test)  # with its Good view, too
    assert len(parts(dataset.test)) == 3
    assert not parts(dataset.train) & parts(dataset.test)
    assert [(s.image.name, s.defect, s.attributes) for s in dataset.test if not s.is_good] == [
        ("9_1.png", "defect", {"a": "1"})
    ]


@pytest.mark.parametrize(
    ("header", "lines", "options", "says"),
    [
        (
            "picture,label",
            ["i0.png,good"],
            {},
            r"line 2: no image; expected a column 'image' in picture, label.*--column",
        ),
        ("image", ["i0.png"], {}, r"line 2: neither defect nor label .* --column defect=NAME.*--pattern"),
        ("image,label,defect", ["i0.png,good,crack"], {}, "label is 'good' but defect is 'crack'"),
        ("image,label,defect", ["i0.png,bad,good"], {}, "label is 'bad' but defect is 'good'"),
        ("image,label,split", ["i0.png,good,tran"], {}, r"line 2: split is 'tran', did you mean 'train'\?"),
        ("image,label,split", ["i0.png,good,train", "i1.png,good,"], {}, "line 3: some images have a split and some"),
        ("image,label", ["i0.png,good", "i0.png,good"], {}, r"line 3: i0.png is listed already in .*line 2"),
        ("image,label", ["i0.txt,good"], {}, r"line 2: 'i0.txt' is no image; expected \.bmp"),
        ("image,label", ["i9.png,good"], {}, r"i9\.png: the dataset lists this image, but there is no such file"),
        ("image,label,mask", ["i0.png,bad,m.png"], {}, r"m\.png: the dataset lists this mask, but"),
        ("image,label,split", ["i0.png,bad,train"], {}, "training takes Good images only"),
        ("image,label", ["i0.png,bad"], {}, "no Good images to train on"),
        ("image,label", ["i0.png,good,more"], {}, "line 2: more values than the header has columns"),
        ("image,label,attributes", ["i0.png,good,{"], {}, "line 2: attributes is no JSON"),
        ("image,label,tile", ["i0.png,good,3"], {"columns": {"part_id": "tiles"}}, "no column 'tiles'.*mean 'tile'"),
        (
            "image,part_id,label,split",
            ["i0.png,p,good,train", "i1.png,p,good,test"],
            {},
            "part 'p' is in train .*in test",
        ),
    ],
)
def test_manifest_errors(
    tmp_path: Path, header: str, lines: list[str], options: dict[str, dict[str, str]], says: str
) -> None:
    for i in range(2):
        picture(tmp_path / f"set/i{i}.png", i)
    path = manifest(tmp_path / "set", lines, header=header)
    with pytest.raises(DataError, match=says) as caught:
        open_dataset("manifest", path, "set", options=DatasetOptions(**options))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("manifest.csv", b"image,label\n\xff\xfe.png,good\n", "no UTF-8 text table"),
        ("manifest.jsonl", b'{"image": "a.png"}\n[1]\n', "line 2: expected a JSON object, found list"),
        ("manifest.jsonl", b'{"image": \n', "line 1: no valid JSON"),
        ("manifest.csv", b"", "no category of a 'manifest' dataset found"),
    ],
)
def test_manifest_unreadable(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=says):
        open_dataset("manifest", tmp_path, tmp_path.name)


# --- what is wrong, and what mends it -------------------------------------------------------------------------------


def test_unknown_kind_category_and_root(tmp_path: Path) -> None:
    root = mvtec_tree(tmp_path)
    with pytest.raises(DataError, match=r"no dataset kind 'mvtek', did you mean 'mvtec'\?"):
        open_dataset("mvtek", root, "bottle")
    with pytest.raises(DataError, match=r"has no category 'botle', did you mean 'bottle'\?"):
        open_dataset("mvtec", root, "botle")
    with pytest.raises(DataError, match=f"it is a category itself, give the folder above it: {root}"):
        open_dataset("mvtec", root / "bottle", "bottle")
    (root / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no images in the layout of 'mvtec'; expected <category>/train/good"):
        open_dataset("mvtec", root, "empty")


@pytest.mark.parametrize("kind", KINDS)
def test_missing_and_empty_root(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file or folder; expected the root of a"):
        categories(kind, tmp_path / "nowhere")
    (tmp_path / "hollow").mkdir()
    with pytest.raises(DataError, match=r"hollow: no category of a .* found; expected ") as caught:
        open_dataset(kind, tmp_path / "hollow", "bottle")
    assert "\n" not in str(caught.value)


def test_folders_without_good_images(tmp_path: Path) -> None:
    picture(tmp_path / "bad/test/broken/0.png", 1)
    with pytest.raises(
        DataError, match=r"no Good images to train on \(1 of its 1 images are defective\); expected .*good"
    ):
        open_dataset("mvtec", tmp_path, "bad")
    (tmp_path / "void/train/good").mkdir(parents=True)
    with pytest.raises(DataError, match=r"category 'void' holds no images; expected <category>/train/good"):
        open_dataset("mvtec", tmp_path, "void")
    picture(tmp_path / "mixed/train/good/0.png", 2)
    picture(tmp_path / "mixed/train/broken/0.png", 3)
    with pytest.raises(DataError, match="defect 'broken' among the training images, and 0 more"):
        open_dataset("mvtec", tmp_path, "mixed")
    picture(tmp_path / "indu/Core/Image/NG/crack/P1_V1_L1.png", 4)
    with pytest.raises(DataError, match="no Good images to train on"):
        open_dataset("indu-defect", tmp_path / "indu", "Core")


def test_missing_mask_names_the_expected_path(tmp_path: Path) -> None:
    root = mvtec_tree(tmp_path)
    (root / "bottle/ground_truth/broken/001_mask.png").unlink()
    with pytest.raises(DataError) as caught:
        open_dataset("mvtec", root, "bottle")
    assert str(root / "bottle/ground_truth/broken/001_mask.png") in str(caught.value)


def test_empty_image_file(tmp_path: Path) -> None:
    root = mvtec_tree(tmp_path)
    (root / "bottle/train/good/003.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"003\.png: the file is empty"):
        open_dataset("mvtec", root, "bottle")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"duplicates": "dorp"}, r"duplicates is 'dorp', did you mean 'drop'\?"),
        ({"test_share": 1.0}, "test_share is 1.0; expected a share"),
        ({"pattern": "(?P<part"}, "is no regular expression"),
        ({"pattern": "P.*"}, "has no named group"),
        ({"pattern": "(?P<lihgt>.)"}, r"unknown group 'lihgt', did you mean 'light'\?"),
        ({"columns": {"part": "tile"}}, r"no column 'part' to map, did you mean 'part_id'\?"),
    ],
)
def test_wrong_options(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        DatasetOptions(**options)  # type: ignore[arg-type]


def test_wrong_validation_and_pattern_without_part(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"validation is 1\.5"):
        open_dataset("mvtec", mvtec_tree(tmp_path), "bottle", validation=1.5)
    with pytest.raises(ConfigError, match="no group 'part'"):
        open_dataset(
            "sim", indu_tree(tmp_path), "Category1_MagneticCore", options=DatasetOptions(pattern="(?P<view>V)")
        )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no valid JSON"),
        ('{"train": []}', "meta: Field required"),
        ('{"meta":{},"train":[1],"test":[]}', "train.0"),
    ],
)
def test_real_iad_broken_json(tmp_path: Path, text: str, says: str) -> None:
    root = real_iad_tree(tmp_path)
    (root / "realiad_jsons/realiad_jsons/usb.json").write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        open_dataset("real-iad", root, "usb")
    assert "\n" not in str(caught.value)


def test_needs_no_training_libraries() -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch','onnx','onnxruntime','sklearn','scipy']))"
    subprocess.run([sys.executable, "-c", f"{blocked}; import edgead.datasets"], check=True)


# --- real data ------------------------------------------------------------------------------------------------------


@real_tiles
def test_magnetic_tiles_as_mvtec() -> None:
    assert "magnetic_tile" in categories("mvtec", MAGNETIC_TILE.parent)
    dataset = open_dataset("mvtec", MAGNETIC_TILE.parent, "magnetic_tile")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (517, 57, 766)
    assert Counter(sample.defect for sample in dataset.test) == {
        "good": 378, "blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 99,
    }  # fmt: skip
    worst = next(sample for sample in dataset.test if sample.defect == "crack")
    assert worst.mask is not None
    assert read_mask(worst.mask, expected_hw=read_image(worst.image).shape[:2]).any()


@real_tiles
def test_magnetic_tiles_as_manifest_keep_tiles_whole() -> None:
    options = DatasetOptions(
        columns={"part_id": "tile_cluster", "illumination": "exposure"},
        pattern=r"^(?P<split>train|test)/(?P<defect>[^/]+)/",
    )
    dataset = open_dataset("manifest", MAGNETIC_TILE / "manifest.csv", "magnetic_tile", options=options)
    assert (len(dataset.train) + len(dataset.validation), len(dataset.test)) == (574, 766)
    with (MAGNETIC_TILE / "manifest.csv").open() as file:
        tiles = {row["image"]: row["tile_cluster"] for row in csv.DictReader(file)}
    sides = [
        {tiles[sample.image.relative_to(MAGNETIC_TILE).as_posix()] for sample in side}
        for side in (dataset.train, dataset.validation, dataset.test)
    ]
    assert [len(side) for side in sides] == [86, 10, 114]
    assert len(set().union(*sides)) == 210
    assert {sample.illumination for sample in dataset.train} <= set("0123456")
    assert sum(sample.mask is not None for sample in dataset.test) == 388
