"""The benchmark of fusions: what it counts, on scores whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import fusion, fusion_promise
from benchmarks.fusion import Scores, compare, recorded, with_one_frame_only
from edgead.datasets import Sample
from edgead.errors import DataError
from edgead.runtime.fake import FakeRunner
from edgead.runtime.parts import Slot

SLOTS = (Slot("loud", "0"), Slot("quiet", "0"))


def loud_and_quiet() -> Scores:
    """Defects show in the quiet view, far below what is usual in the loud one."""
    random = np.random.default_rng(0)
    good = np.column_stack([random.normal(10, 1, 80), random.normal(0, 0.1, 80)])
    bad = np.column_stack([random.normal(10, 1, 30), random.normal(1, 0.1, 30)])
    return Scores("test", SLOTS, good, bad, np.tile([False, True], (30, 1)))


def test_conformal_sees_what_the_largest_score_cannot() -> None:
    rows = {row["fusion"]: row for row in compare(loud_and_quiet(), calibrated_by=40, draws=4, seed=0)}
    assert 0.3 < rows["max"]["part_AUROC"] < 0.7
    for name in ("conformal", "harmonic mean", "smallest p (Bonferroni)", "geometric mean"):
        assert rows[name]["part_AUROC"] > 0.99
        assert rows[name]["gain"] == pytest.approx(rows[name]["part_AUROC"] - rows["max"]["part_AUROC"], abs=2e-4)
    assert rows["conformal"] | {"fusion": "harmonic mean"} == rows["conformal"] | rows["harmonic mean"]
    assert rows["conformal"]["misses"] < 0.1 < rows["max"]["misses"]
    assert rows["conformal"]["promised"] == pytest.approx(1 - 0.05 ** (1 / 40), abs=1e-4)


def test_one_frame_is_left_of_a_defect() -> None:
    scores = loud_and_quiet()
    changed = with_one_frame_only(scores)
    assert (changed.defective[:, 1] == scores.defective[:, 1]).all()
    assert np.isin(changed.defective[:, 0], scores.good[:, 0]).all()
    assert (changed.shown == scores.shown).all()


def test_measurements_are_divided_by_what_they_are_for() -> None:
    scores = loud_and_quiet()
    rows = [
        row for one in (scores, with_one_frame_only(scores)) for row in compare(one, calibrated_by=40, draws=1, seed=0)
    ]
    judges, rules = fusion.divided(rows)
    assert [(row["parts"], row["fusion"]) for row in judges] == [("test", "max"), ("test", "conformal")]
    assert len(rules) == 2 * (1 + len(fusion.RULES))
    assert all(row.keys() == rules[0].keys() for row in rules)


def test_parts_are_those_with_one_image_of_each_slot(tmp_path: Path) -> None:
    from edgead.images import write_png

    path = tmp_path / "x.png"
    write_png(path, np.zeros((8, 8, 3), np.uint8))
    whole = [Sample(path, part, "good" if part < "c" else "hole", view=v) for part in "abcd" for v in ("1", "2")]
    odd = [Sample(path, "e", view="1"), *(Sample(path, "f", view=v) for v in ("1", "2", "2"))]
    found = recorded(FakeRunner(size_hw=(8, 8)), [*whole, *odd], "test")
    assert (found.good.shape, found.defective.shape) == ((2, 2), (2, 2))
    assert found.shown.all()
    assert found.slots == (Slot("1", "0"), Slot("2", "0"))


def test_the_promise_is_counted() -> None:
    row = fusion_promise.promise(200, 2, 0.5, draws=5, seed=0)
    assert row["slots_calibrated_by"] == "other parts"
    assert row["promised"] <= 0.05
    assert 0 <= row["false_rejects"] < 0.05
    assert fusion_promise.promise(12, 2, 0.5, draws=2, seed=0)["slots_calibrated_by"] == "the others of each"


def test_wrong_words_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fusion.main([str(tmp_path)]) == 2
    assert "no bundle here" in capsys.readouterr().err
    for words in ([], [str(tmp_path), "--draws", "0"], [str(tmp_path), "--good", "many"]):
        with pytest.raises(SystemExit, match="2"):
            fusion.main(words)
    with pytest.raises(SystemExit, match="2"):
        fusion_promise.main(["--draws", "0"])


def test_no_parts_are_said() -> None:
    with pytest.raises(DataError, match="no samples"):
        recorded(FakeRunner(size_hw=(8, 8)), [], "test")
    with pytest.raises(DataError, match="no defective ones"):
        fusion._auroc(np.ones(3), np.ones(0))
