"""The benchmark of the four objects: what it renders, divides, counts and keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import roc_auc_score

from benchmarks import objects, results
from edgead.datasets import Sample
from edgead.datasets.sample import Dataset
from edgead.datasets.simulated import OBJECTS
from edgead.errors import ConfigError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten Good parts to train on, eight held out, six to test with."""
    monkeypatch.setattr(objects, "_TRAINED_IMAGES", 10)
    monkeypatch.setattr(objects, "_VALIDATED", 8)
    monkeypatch.setattr(objects, "_TESTED", 6)


@pytest.mark.parametrize("name", OBJECTS)
def test_the_shares_divide_the_parts_as_the_counts_say(name: str, tmp_path: Path) -> None:
    numbers, config = objects.counts(name), objects.recipe(name, tmp_path, seed=0)
    test = round(config.dataset.options["test_share"] * numbers["good"])
    rest = numbers["good"] - test
    validation = round(config.dataset.validation * rest)
    assert (rest - validation, validation, test) == (numbers["train"], 30, 50)
    assert abs(numbers["train"] * numbers["frames"] - 576) <= numbers["frames"]
    assert 50 <= numbers["of_each_defect"] * len(OBJECTS[name].defects) < 60


@pytest.mark.usefixtures("small")
def test_parts_are_rendered_once_and_others_are_refused(tmp_path: Path) -> None:
    objects.rendered("ceramic_tile", tmp_path, 64)
    dataset = objects.recipe("ceramic_tile", tmp_path, seed=0, size=64).dataset.open()
    assert len({sample.part for sample in dataset.train}) == len(dataset.train) == 10
    assert (len(dataset.validation), sum(sample.is_good for sample in dataset.test), len(dataset.test)) == (8, 6, 13)
    written = tmp_path / dataset.category / "attributes.csv"
    before = written.stat().st_mtime_ns
    objects.rendered("ceramic_tile", tmp_path, 64)
    assert written.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="choose another --data"):
        objects.rendered("ceramic_tile", tmp_path, 128)


def shots(part: str, scores: dict[tuple[str, str], float], defect: str = "good") -> list[tuple[Sample, float]]:
    return [
        (Sample(Path(f"{part}{view}{light}.png"), part, defect, view=view, illumination=light), score)
        for (view, light), score in scores.items()
    ]


def table(one: float, two: float, three: float) -> dict[tuple[str, str], float]:
    return {("top", "a"): one, ("top", "b"): two, ("side", "a"): three}


def test_means_are_taken_over_all_frames_or_over_the_lights_of_a_view() -> None:
    shown = [
        *shots("g", table(3.0, 0.0, 1.4)),  # mean 1.47, largest view 1.5
        *shots("h", table(0.0, 0.0, 0.0)),
        *shots("x", table(1.0, 1.0, 1.6), "dent"),  # mean 1.2, largest view 1.6
    ]
    samples, scores = zip(*shown, strict=True)
    found = objects.means(samples, scores)
    assert found["mean of all"] == roc_auc_score([0, 0, 1], [4.4 / 3, 0, 1.2]) == 0.5
    assert found["largest view of mean lights"] == roc_auc_score([0, 0, 1], [1.5, 0, 1.6]) == 1


def test_thresholds_come_from_the_held_out_parts_and_verdicts_are_counted() -> None:
    held = [pair for n in range(12) for pair in shots(f"v{n}", table(n / 10, n / 20, n / 30))]
    shown = [pair for n in range(4) for pair in shots(f"g{n}", table(0.2 * n, 0.0, 0.0))]
    shown += shots("g4", table(1.2, 0.0, 0.0))  # above the largest Good score, 1.1
    shown += [*shots("x0", table(0.0, 5.0, 0.0), "dent"), *shots("x1", table(1.1, 0.0, 0.0), "dent")]
    dataset = Dataset(
        "sim", "test", train=(), validation=tuple(sample for sample, _ in held), test=tuple(s for s, _ in shown)
    )
    held_out, scores = ([score for _, score in some] for some in (held, shown))
    rows = {row.fusion: row for row in objects.by_part(dataset, held_out, scores, seed=0)}
    assert list(rows) == ["max", "conformal"]
    assert rows["max"].verdicts == {
        "good": {"OK": 4, "UNSURE": 0, "NG": 1},
        "defective": {"OK": 1, "UNSURE": 0, "NG": 1},
    }
    kept = objects.told(rows["max"])
    assert (kept["escape_share"], kept["false_alarm_share"]) == (0.5, 0.2)
    assert kept["part_AUROC"] == pytest.approx(roc_auc_score([0] * 5 + [1] * 2, [0, 0.2, 0.4, 0.6, 1.2, 5, 1.1]))


def run(name: str, seed: int, area: float) -> dict[str, Any]:
    part = {
        "parts": 9, "defective": 3, "left_out": 0, "part_AUROC": area, "part_AUROC_interval": [area - 0.1, area],
        "part_F1Max": 0.9, "verdicts": {}, "escape_share": 0.1 * seed, "false_alarm_share": 0.0,
    }  # fmt: skip
    return {
        "object": name, "seed": seed, "images": 20, "image_AUROC": area, "pixel_AUPRO": 0.7, "by_defect": {},
        "parts": {"max": part, "conformal": part}, "part_AUROC_by_mean": {"mean of all": area}, "train_minutes": 2.0,
    }  # fmt: skip


def test_rows_are_medians_with_their_range_and_what_is_measured_stays(tmp_path: Path) -> None:
    path = tmp_path / "objects.json"
    record = objects.Record(path, {"size": 64})
    for seed, area in ((0, 0.8), (2, 0.95), (1, 0.9)):
        record.add(run("ceramic_tile", seed, area))
    objects.Record(path, {"size": 64}).add(run("magnetic_core", 0, 0.5))  # another process
    record.add(run("ceramic_tile", 3, 0.9))
    again = objects.Record(path, {"size": 64})
    assert [each["seed"] for each in again.runs] == [0, 0, 1, 2, 3]
    path.unlink()
    for each in again.runs[:4]:
        record.add(each)
    again = objects.Record(path, {"size": 64})
    assert again.has("ceramic_tile", 2)
    assert not again.has("magnetic_core", 1)
    assert "--seeds 3 " in results.read(path).command
    rows = [dict(row) for row in results.read(path).rows]
    assert rows == json.loads(json.dumps(again.rows()))
    assert [(row["object"], row["fusion"], row["seeds"]) for row in rows] == [
        ("magnetic_core", "max", 1), ("magnetic_core", "conformal", 1),
        ("ceramic_tile", "max", 3), ("ceramic_tile", "conformal", 3),
    ]  # fmt: skip
    assert (rows[2]["part_AUROC"], rows[2]["part_AUROC_range"]) == (0.9, [0.8, 0.95])
    assert (rows[2]["escape_share"], rows[2]["part_AUROC_interval"]) == (0.1, [0.8, 0.9])
    with pytest.raises(ConfigError, match="other conditions"):
        objects.Record(path, {"size": 128})


def test_wrong_words_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--save", str(tmp_path / "x.json"), "--data", str(tmp_path), "--keep", str(tmp_path)]
    assert objects.main(["--objects", "chip_inducter", *flags]) == 2
    assert "did you mean 'chip_inductor'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        objects.main(["--seeds", "0", *flags])


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_an_object_is_trained_and_measured_and_not_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "objects.json"
    flags = ["--objects", "ceramic_tile", "--seeds", "1", "--size", "64", "--epochs", "1", "--save", str(path)]
    places = ["--data", str(tmp_path / "data"), "--keep", str(tmp_path / "runs")]
    assert objects.main([*flags, *places]) == 0
    rows = results.read(path).rows
    assert [row["fusion"] for row in rows] == ["max", "conformal"]
    assert rows[0]["parts"] == 13
    assert "ceramic_tile" in capsys.readouterr().out
    before = path.read_bytes()
    assert objects.main([*flags, *places]) == 0
    assert path.read_bytes() == before
