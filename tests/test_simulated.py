from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgead.datasets import simulated
from edgead.datasets.simulated import OBJECTS, Rendering, render, write_dataset
from edgead.datasets.simulated.rendering import _scene
from edgead.errors import DataError
from edgead.images import read_image, read_mask

SIZE = 128
EVERY = [(name, defect) for name, spec in OBJECTS.items() for defect in spec.defects]


def shots(name: str, part: int, defect: str, size: int = SIZE) -> dict[tuple[str, str], Rendering]:
    spec = OBJECTS[name]
    return {
        (view, light): render(name, seed=1, part=part, view=view, illumination=light, defect=defect, size=size)
        for view in spec.views
        for light in spec.illuminations
    }


def first(name: str, part: int = 0, **changes: object) -> Rendering:
    spec = OBJECTS[name]
    arguments = {"seed": 1, "view": spec.views[0], "illumination": spec.illuminations[0], "size": SIZE, **changes}
    return render(name, part=part, **arguments)  # type: ignore[arg-type]


def test_objects_are_those_of_mv_ad2025() -> None:
    shape = {n: (s.folder, len(s.views), len(s.illuminations), len(s.defects)) for n, s in OBJECTS.items()}
    assert shape == {
        "magnetic_core": ("Category1_MagneticCore", 2, 4, 7),
        "chip_inductor": ("Category2_ChipInductor", 4, 4, 9),
        "chip_capacitor": ("Category3_ChipCapacitor", 3, 3, 8),
        "ceramic_tile": ("Category4_CeramicTile", 1, 1, 7),
    }


@pytest.mark.parametrize("name", OBJECTS)
def test_same_arguments_give_the_same_bytes_even_without_the_shared_scene(name: str) -> None:
    defect = OBJECTS[name].defects[0]
    before = first(name, 7, defect=defect)
    _scene.cache_clear()
    after = first(name, 7, defect=defect)
    assert hashlib.sha256(before.image).digest() == hashlib.sha256(after.image).digest()
    assert np.array_equal(before.mask, after.mask)
    assert before.attributes == after.attributes
    assert before.image.dtype == np.uint8
    assert before.image.shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("name", OBJECTS)
def test_part_seed_view_and_light_each_change_the_image(name: str) -> None:
    base = first(name).image
    spec = OBJECTS[name]
    others = [first(name, 1).image, first(name, seed=2).image]
    if len(spec.views) > 1:
        others += [first(name, view=spec.views[1]).image, first(name, illumination=spec.illuminations[1]).image]
    assert all((other != base).mean() > 0.5 for other in others)


@pytest.mark.parametrize(("name", "defect"), EVERY)
def test_defect_is_seen_somewhere_and_changes_nothing_outside_its_mask(name: str, defect: str) -> None:
    seen = 0
    good, flawed = shots(name, 11, "good"), shots(name, 11, defect)
    for key, shot in flawed.items():
        assert not good[key].mask.any()
        change = np.abs(shot.image.astype(int) - good[key].image.astype(int)).max(axis=2)
        if not shot.mask.any():
            assert change.max() == 0
            continue
        seen += 1
        near = cv2.dilate(shot.mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert np.quantile(change[~near], 0.999) <= 9
        assert change[shot.mask].mean() > max(4.0, 5 * change[~near].mean())
        assert shot.mask.mean() < 0.25
    assert seen > 0


def test_every_defective_part_shows_in_a_view_where_it_can_lie_and_in_no_other() -> None:
    spec = OBJECTS["chip_inductor"]
    for defect in ("skew_marking", "electrode_missing"):
        for part in range(4):
            seen = {view for (view, _), shot in shots("chip_inductor", part, defect, 96).items() if shot.mask.any()}
            assert seen
            assert seen <= set(spec.flaws[defect].views)


def test_the_same_part_is_the_same_picture_at_another_size() -> None:
    small, large = first("chip_inductor", size=128).image, first("chip_inductor", size=256).image
    shrunk = cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.97


def test_side_lights_come_from_opposite_sides() -> None:
    left = first("magnetic_core", illumination="left").image.mean(axis=2)
    right = first("magnetic_core", illumination="right").image.mean(axis=2)
    difference = cv2.GaussianBlur(left - right, (0, 0), 2)
    assert difference[:, : SIZE // 2].mean() > 0 > difference[:, SIZE // 2 :].mean()


def test_dents_show_best_under_a_grazing_lamp_and_stains_under_every_lamp() -> None:
    def contrast(defect: str) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {light: [] for light in OBJECTS["chip_inductor"].illuminations}
        for part in range(6):
            for (_, light), shot in shots("chip_inductor", part, defect).items():
                if shot.mask.any():
                    found[light].append(float(shot.attributes["contrast"]))
        return found

    dents, stains = contrast("dent"), contrast("stain")
    assert [len(dents[side]) for side in ("left", "right")] == [6, 6]
    assert min(sum(dents["left"]), sum(dents["right"])) > 1.5 * sum(dents["dome"])
    assert all(len(values) == 6 for values in stains.values())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"view": "fornt"}, "did you mean 'front'"),
        ({"illumination": "rign"}, "did you mean 'ring'"),
        ({"defect": "scrach"}, "did you mean 'scratch'"),
        ({"seed": -1}, "seed and part from 0"),
        ({"part": -1}, "seed and part from 0"),
        ({"size": 8}, "size from 32"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(changes: dict[str, object], line: str) -> None:
    with pytest.raises(DataError, match=line) as caught:
        first("magnetic_core", **changes)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_unknown_object_names_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean 'magnetic_core'"):
        render("magnetic_cor", seed=0, part=0, view="front", illumination="ring")


def test_written_dataset_has_the_layout_and_the_labels(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, "chip_capacitor", seed=3, good_parts=2, defect_parts_per_type=1, size=64)
    spec = OBJECTS["chip_capacitor"]
    assert folder == tmp_path / "Category3_ChipCapacitor"
    good = sorted(p.name for p in (folder / "Image" / "Good").iterdir())
    assert good == [f"P{p:04d}_V{v}_L{n}.png" for p in (1, 2) for v in (1, 2, 3) for n in (1, 2, 3)]
    assert sorted(p.name for p in (folder / "Image" / "NG").iterdir()) == sorted(spec.defects)
    for index, defect in enumerate(spec.defects):
        images, masks = folder / "Image" / "NG" / defect, folder / "Mask" / defect
        assert sorted(p.name for p in images.iterdir()) == sorted(p.name for p in masks.iterdir())
        for v, view in enumerate(spec.views, 1):
            made = render(
                "chip_capacitor", seed=3, part=3 + index, view=view, illumination="dome", defect=defect, size=64
            )
            stem = f"P{3 + index:04d}_V{v}_L3.png"
            assert np.array_equal(read_image(images / stem), made.image)
            assert np.array_equal(read_mask(masks / stem, expected_hw=(64, 64)), made.mask)
    with (folder / "attributes.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["defect"] for row in rows] == ["good", "good", *spec.defects]
    assert not list(folder.rglob(".*"))
    for row in rows[2:]:
        masks = (folder / "Mask" / row["defect"]).glob(f"{row['part']}_*.png")
        assert sum(bool(read_mask(mask).any()) for mask in masks) == int(row["visible_images"])


def test_target_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Category4_CeramicTile").mkdir()
    (tmp_path / "Category4_CeramicTile" / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="is not empty; choose another root"):
        write_dataset(tmp_path, "ceramic_tile", seed=0, good_parts=1, defect_parts_per_type=0, size=64)
    assert [p.name for p in (tmp_path / "Category4_CeramicTile").iterdir()] == ["mine.txt"]


def test_target_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_dataset(tmp_path / "file", "ceramic_tile", seed=0, good_parts=1, defect_parts_per_type=0, size=64)


def test_no_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not both 0"):
        write_dataset(tmp_path, "ceramic_tile", seed=0, good_parts=0, defect_parts_per_type=0)


def test_public_names() -> None:
    assert set(simulated.__all__) == {"OBJECTS", "ObjectSpec", "Rendering", "render", "write_dataset"}
