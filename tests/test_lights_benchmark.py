"""The benchmark of several lights: what it takes for a part, how it makes one image of many, and what it ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks import lights, results
from benchmarks.lights import Part, apart, averaged, compare, fused, see, stacked, trained_on, whole, write_together
from edgead.bundle import Bundle, BundleInfo
from edgead.config import DatasetConfig, TrainConfig
from edgead.datasets import Dataset, Sample
from edgead.errors import DataError
from edgead.images import read_image, write_png
from edgead.runtime.fake import FakeRunner

HW = (32, 32)


def grey(level: int, spot: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    image = np.full((*HW, 3), level, np.uint8)
    if spot is not None:
        image[spot] = 255
    return image


def write(folder: Path, part: str, images: list[npt.NDArray[np.uint8]], defect: str = "good") -> list[Sample]:
    """Write one image a light; the last one alone is said to show the defect."""
    samples = []
    for number, image in enumerate(images, 1):
        path = folder / f"{part}_{number}.png"
        write_png(path, image)
        samples.append(Sample(path, part, defect if number == len(images) else "good", illumination=str(number)))
    return samples


def test_parts_are_those_with_one_image_of_each_light() -> None:
    def shots(part: str, marks: str) -> list[Sample]:
        return [Sample(Path(f"{part}{n}.png"), part, illumination=light) for n, light in enumerate(marks)]

    found = whole([*shots("a", "321"), *shots("b", "123"), *shots("c", "12"), *shots("d", "1123")])
    assert [part.name for part in found] == ["a", "b"]
    assert [shot.illumination for shot in found[0].shots] == ["1", "2", "3"]
    with pytest.raises(DataError, match="three or more lights"):
        whole(shots("c", "12"))
    with pytest.raises(DataError, match="several views"):
        whole([*shots("a", "123"), Sample(Path("x.png"), "a", view="side")])


def test_many_images_become_one() -> None:
    images = np.stack([grey(level) for level in (0, 10, 20, 31, 40, 50)])
    assert (averaged(images) == 25).all()  # 151 / 6 is 25.2
    assert stacked(images)[0, 0].tolist() == [5, 26, 45]  # 25.5 goes to the even one
    assert stacked(images[:3])[0, 0].tolist() == [0, 10, 20]
    assert averaged(images).dtype == stacked(images).dtype == np.uint8


def test_the_maps_of_exposures_are_averaged_pixel_by_pixel() -> None:
    """A spot that all exposures show stays in the mean map; spots at different places become faint there."""
    same = np.stack([grey(0, (3, 3))] * 3)
    moved = np.stack([grey(0, (place, 3)) for place in (3, 9, 15)])
    runner = FakeRunner(HW, max_batch=3)
    found = [see(runner, images) for images in (same, moved)]
    assert found[0].scores.tolist() == found[1].scores.tolist() == [1, 1, 1]
    assert [each.largest_map for each in found] == [1, 1]
    assert found[0].mean_map == pytest.approx(1)
    assert found[1].mean_map == pytest.approx(1 / 3)
    assert found[1].inputs["averaged"] == pytest.approx(85 / 255)
    rules = fused(found)
    assert rules["largest of the mean map"].tolist() == pytest.approx([1, 1 / 3])
    assert rules["mean score"].tolist() == [1, 1]
    with pytest.raises(DataError, match="the runner takes 2"):
        see(FakeRunner(HW, max_batch=2), same)


def test_the_largest_shift_between_exposures_is_found() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 1), dtype=np.uint8)
    image = np.repeat(noise, 3, axis=2)
    images = np.stack([image, np.roll(image, 2, axis=0), np.roll(image, (3, -4), axis=(0, 1))])
    assert apart(images) == pytest.approx(5, abs=0.3)
    assert apart(images[[0, 0]]) == pytest.approx(0, abs=1e-3)


def test_a_rule_that_is_better_on_every_draw_says_so() -> None:
    random = np.random.default_rng(1)
    bad = np.arange(60) >= 40
    weak, strong = (random.normal(0, 1, 60) + lift * bad for lift in (0.3, 3))
    rows = compare({"weak": weak, "strong": strong, "weak again": 2 * weak}, bad, seed=0)
    assert [row["part_AUROC"] for row in rows] == [
        round(float(roc_auc_score(bad, scores)), 4) for scores in (weak, strong, weak)
    ]
    assert rows[1]["gain"] == pytest.approx(rows[1]["part_AUROC"] - rows[0]["part_AUROC"], abs=2e-4)
    assert 0 < rows[1]["gain_interval"][0] < rows[1]["gain"] < rows[1]["gain_interval"][1]
    assert rows[2]["gain_interval"] == [0, 0]
    limit = np.sort(strong[~bad])[-3]  # two of forty Good parts lie above
    assert rows[1]["misses_at_equal"] == np.mean(strong[bad] <= limit).round(4)
    with pytest.raises(DataError, match="expected both"):
        compare({"weak": weak[:40]}, bad[:40], seed=0)


def test_parts_are_written_as_one_image_with_their_split_and_defect(tmp_path: Path) -> None:
    every = {
        split: tuple(
            shot
            for number in range(3)
            for shot in write(
                tmp_path, f"{split}{number}", [grey(20 * step + number + 100 * bad, (1, place)) for step in range(3)],
                "hole" if bad else "good",
            )
        )
        for place, (split, bad) in enumerate((("train", False), ("validation", False), ("test", True)))
    }  # fmt: skip
    dataset = Dataset("manifest", "tile", **every)
    described = write_together(dataset, tmp_path / "averaged", "averaged", HW)
    found = described.open()
    assert [len(getattr(found, split)) for split in ("train", "validation", "test")] == [3, 3, 3]
    assert {sample.defect for sample in found.test} == {"hole"}
    first = next(sample for sample in found.test if sample.part == "test0")
    assert read_image(first.image)[9, 9].tolist() == [120] * 3


def test_a_run_is_measured_from_the_command_line(
    exported: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    random = np.random.default_rng(3)
    lines = ["image,part_id,illumination,defect,split"]
    for number in range(12):
        split = "train" if number < 2 else "test"
        defect = "hole" if number >= 7 else "good"
        images = [random.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(3)]
        for sample in write(tmp_path, f"p{number}", images, defect):
            lines.append(f"{sample.image.name},p{number},{sample.illumination},{sample.defect},{split}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    dataset = DatasetConfig(kind="manifest", root=tmp_path, category=tmp_path.name)
    info = BundleInfo(network="cfrg-lite0", category="tile", size_hw=(64, 64), dataset=dataset)
    bundle = Bundle.create(tmp_path / "run", info)
    for name in ("checkpoint", "fp32"):
        record, source = exported.artefacts[name], exported.file(name)
        bundle.add(
            name, lambda path, source=source: shutil.copy(source, path), kind=record.kind, precision="fp32",
            made_from=None, tools={},
        )  # fmt: skip
    out = tmp_path / "lights.json"
    assert lights.main([str(tmp_path / "run"), "--save", str(out)]) == 0
    found = results.read(out)
    assert [row["rule"] for row in found.rows][:2] == ["largest score (station: max)", "mean score"]
    assert (found.conditions["good"], found.conditions["defective"], found.conditions["lights"]) == (5, 5, 3)
    assert "mean score" in capsys.readouterr().out
    assert lights.main([str(tmp_path / "nothing")]) == 2
    assert "no bundle here" in capsys.readouterr().err


def test_a_part_is_defective_when_any_image_is() -> None:
    good, bad = Sample(Path("a.png"), "a"), Sample(Path("b.png"), "a", "hole")
    assert Part("a", (good, bad)).is_defective
    assert not Part("a", (good, good)).is_defective


@pytest.mark.slow
def test_a_network_is_trained_on_averaged_exposures_for_as_many_steps(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    every = {
        split: tuple(
            shot
            for number in range(count)
            for shot in write(
                tmp_path, f"{split}{number}", [random.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(3)]
            )
        )
        for split, count in (("train", 4), ("validation", 2), ("test", 2))
    }
    dataset = Dataset("manifest", "tile", **every)
    recipe = TrainConfig(
        dataset=DatasetConfig(kind="manifest", root=tmp_path), size=64, epochs=1, batch=2, precision="32-true"
    )
    found = trained_on("averaged", recipe, dataset, whole(dataset.test), tmp_path / "out")
    assert found.shape == (2,)
    assert np.isfinite(found).all()
    lines = (tmp_path / "out" / "averaged_run" / "training" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3  # 6 steps on twelve images are 3 epochs on four
