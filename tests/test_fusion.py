"""Fusion: the scores of a part's frames become one verdict, and its promise holds."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from edgead.bundle import Bundle
from edgead.cli import main
from edgead.datasets.sample import Sample
from edgead.datasets.simulated import OBJECTS, write_dataset
from edgead.errors import ArtefactError, ConfigError, DataError, EdgeadError
from edgead.good_parts import GoodParts
from edgead.runtime.fusion import Conformal, Curve, Judge, Largest, calibrated, judge_of
from edgead.runtime.parts import Slot
from edgead.thresholds import Threshold, Verdict, threshold_from_good

Floats = npt.NDArray[np.float64]

TOP, SIDE = Slot("top", "0"), Slot("side", "0")
LOOSE = Threshold(0.5, 1.0, "part", 2000, 0.95, 10, 3000.0, 1497, "test")


def slots_of(count: int) -> list[Slot]:
    return [Slot(f"view{index}", "0") for index in range(count)]


def good_parts(scores: Floats, **options: Any) -> GoodParts:
    chosen = {"false_reject_ppm": 50_000.0, "confidence": 0.95, "unsure_ratio": 4.0, "source": "test", **options}
    slots = tuple((slot.view, slot.illumination) for slot in slots_of(scores.shape[1]))
    return GoodParts(slots, tuple(map(tuple, scores.tolist())), **chosen)


def conformal(scores: Floats, **options: Any) -> Conformal:
    judge = calibrated(good_parts(scores, **options), slots_of(scores.shape[1]))
    assert isinstance(judge, Conformal)
    return judge


def parts_of(scores: Floats) -> Iterator[dict[Slot, float]]:
    slots = slots_of(scores.shape[1])
    return (dict(zip(slots, row, strict=True)) for row in scores.tolist())


def dependent(random: np.random.Generator, count: int, slots: int, *, shared: float) -> Floats:
    """Draw scores of Good parts: slots of other levels, spreads and tails that share what the part itself is like."""
    own = random.normal(size=(count, slots)) * math.sqrt(1 - shared)
    drawn = own + random.normal(size=(count, 1)) * math.sqrt(shared)
    level, spread = np.linspace(0, 5, slots), np.linspace(0.2, 2, slots)
    drawn[:, ::2] = np.exp(0.6 * drawn[:, ::2])
    return level + spread * drawn


# --- the largest -----------------------------------------------------------------------------------------------------


def test_the_largest_score_is_the_score_of_the_part() -> None:
    judge = Largest(threshold_from_good([0.1, 0.2, 0.3], unit="part", source="test"))
    judged = judge.judge({TOP: 0.25, SIDE: 0.5})
    assert judged == (0.5, SIDE, Verdict.NG)
    assert judge.judge({SIDE: 0.1, TOP: 0.2}) == (0.2, TOP, Verdict.OK)
    assert judge.unit_threshold.ng == 0.3 == judge.limit(TOP)


def either(name: str) -> Judge:
    if name == "max":
        return Largest(LOOSE)
    curve = Curve(np.arange(10.0))
    return Conformal({TOP: curve, SIDE: curve}, 10, LOOSE)


@pytest.mark.parametrize("name", ["max", "conformal"])
@pytest.mark.parametrize(
    "scores", [{}, {TOP: math.nan, SIDE: 0.1}, {TOP: 0.1, SIDE: math.nan}, {TOP: -math.inf}, {TOP: 1, SIDE: math.inf}]
)
def test_broken_scores_are_never_judged(name: str, scores: dict[Slot, float]) -> None:
    with pytest.raises(DataError, match=r"expected"):
        either(name).judge(scores)


# --- one slot --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [1, 12])
def test_evidence_is_a_conformal_p_value_and_never_claims_more(digits: int) -> None:
    random = np.random.default_rng(digits)
    good = np.round(random.gamma(2, size=57), digits)
    curve = Curve(good)
    for score in np.concatenate([good, np.round(random.gamma(2, size=200), digits), [-1.0]]):
        step = (1 + (good >= score).sum()) / 58  # Laxhammar & Falkman, ties against the part
        if score <= good.max():
            assert 10 ** -curve(float(score)) >= step * (1 - 1e-12)
        if score in good or score < good.min():
            assert 10 ** -curve(float(score)) == pytest.approx(step)


def test_evidence_rises_with_the_score_and_goes_on_beyond_all_good_ones() -> None:
    good = np.random.default_rng(0).gumbel(size=40)
    curve = Curve(good)
    scores = np.linspace(good.min(), good.max() + 50, 5000)
    evidence = np.array([curve(score) for score in scores.tolist()])
    assert (np.diff(evidence) > 0).all()
    assert [curve.score(each) for each in evidence.tolist()] == pytest.approx(scores.tolist())


def test_the_tail_is_that_of_exponential_scores() -> None:
    good = np.random.default_rng(1).exponential(3.0, size=20_000)
    curve, top = Curve(good), float(good.max())
    assert curve(top + 3.0 * math.log(10)) - curve(top) == pytest.approx(1, rel=0.05)


# --- several slots ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("good", "slots"), [(9, 6), (40, 2), (40, 16)])
def test_the_fused_p_value_is_valid_whatever_the_dependence(shared: float, good: int, slots: int) -> None:
    random = np.random.default_rng([good, slots, int(10 * shared)])
    found = []
    for _ in range(150):  # each draw of Good parts judges only a few others, which are not independent of each other
        judge = conformal(dependent(random, good, slots, shared=shared))
        found += [judge.p_value(part) for part in parts_of(dependent(random, 4, slots, shared=shared))]
    for level in (0.1, 0.2, 0.5):
        hits = sum(p <= level for p in found)
        # With level + 4 standard errors of the worst case, in which the four of a draw agree.
        assert hits / len(found) <= level + 4 * math.sqrt(level * (1 - level) / 150)


def rearranged(tail: Floats, slots: int) -> Floats:
    """Order each column against the sum of the others, until rows are as equal as they get (Puccetti & Rüschendorf)."""
    random = np.random.default_rng(0)
    table = np.column_stack([random.permutation(tail) for _ in range(slots)])
    for _ in range(50):
        for column in range(slots):
            others = table.sum(1) - table[:, column]
            table[np.argsort(others), column] = np.sort(tail)[::-1]
    return table


@pytest.mark.parametrize("slots", [2, 3, 6, 16])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_factor_of_the_harmonic_mean_covers_the_worst_dependence(slots: int, share: float) -> None:
    # With probability ``share`` all p-values are small together, arranged so that no row has a large harmonic mean.
    n = 199
    ranks = np.arange(1, round(share * (n + 1)) + 1)
    table = rearranged((n + 1) / ranks, slots)
    judge = Conformal({slot: Curve(np.arange(1.0, n + 1)) for slot in slots_of(slots)}, n, LOOSE)
    scores = n + 2 - (n + 1) / table  # the Good score that has this p-value
    scores[scores > n] = 1e6  # above them all
    largest = max(judge.p_value(part) for part in parts_of(scores))
    assert largest >= share  # the chance of a p-value of at most this is ``share``
    if slots == 16:
        assert 1 / table.mean(1).min() < share / 2  # the plain harmonic mean would claim too much


def test_a_higher_frame_never_lowers_a_part() -> None:
    random = np.random.default_rng(3)
    judge = conformal(dependent(random, 30, 7, shared=0.5))
    for part in parts_of(dependent(random, 200, 7, shared=0.5)):
        slot = list(part)[int(random.integers(7))]
        higher = part | {slot: part[slot] + float(random.exponential(2))}
        assert judge.judge(higher).score >= judge.judge(part).score - 1e-12
        assert judge.p_value(higher) <= judge.p_value(part) + 1e-12


def test_the_order_of_the_frames_does_not_matter() -> None:
    random = np.random.default_rng(4)
    scores = dependent(random, 30, 7, shared=0.5)
    judge = conformal(scores)
    for part in parts_of(np.concatenate([scores, dependent(random, 50, 7, shared=0.5)])):
        order = random.permutation(7)
        assert judge.judge({list(part)[index]: list(part.values())[index] for index in order}) == judge.judge(part)


def test_the_order_of_the_cameras_does_not_matter() -> None:
    random = np.random.default_rng(5)
    good = good_parts(dependent(random, 30, 4, shared=0.5))
    judge, turned = calibrated(good, slots_of(4)), calibrated(good, slots_of(4)[::-1])
    assert turned.unit_threshold.ng == judge.unit_threshold.ng
    for part in parts_of(dependent(random, 20, 4, shared=0.5)):
        assert turned.judge(part) == judge.judge(part)


def test_levels_and_units_of_views_do_not_matter() -> None:
    random = np.random.default_rng(6)
    scores, others = (dependent(random, count, 5, shared=0.5) for count in (30, 50))
    scale, shift = random.uniform(0.01, 100, 5), random.uniform(-50, 50, 5)
    judge, moved = conformal(scores), conformal(scores * scale + shift)
    assert moved.unit_threshold.ng == pytest.approx(judge.unit_threshold.ng)
    for part, elsewhere in zip(parts_of(others), parts_of(others * scale + shift), strict=True):
        assert moved.judge(elsewhere).score == pytest.approx(judge.judge(part).score)
        assert moved.judge(elsewhere).worst == judge.judge(part).worst


def test_one_slot_is_judged_as_by_the_largest() -> None:
    random = np.random.default_rng(7)
    scores = random.normal(size=(60, 1))
    judge = calibrated(good_parts(scores), slots_of(1))
    plain = Largest(
        threshold_from_good(scores[:, 0], unit="part", false_reject_ppm=50_000, unsure_ratio=4, source="test")
    )
    curve = Conformal({slots_of(1)[0]: Curve(scores[:, 0])}, 60, LOOSE)
    parts = list(parts_of(np.sort(random.normal(2, 2, size=(200, 1)), axis=0)))
    assert [judge.judge(part) for part in parts] == [plain.judge(part) for part in parts]
    fused = [curve.judge(part).score for part in parts]
    assert fused == sorted(fused)  # the same order, where all of it is told apart


def test_a_quiet_view_is_heard_beside_a_loud_one() -> None:
    random = np.random.default_rng(8)
    scores = np.column_stack([random.normal(0, 0.1, 40), random.normal(10, 1, 40)])
    judge, largest = conformal(scores), Largest(threshold_from_good(scores.max(1), unit="part", source="test"))
    loud, quiet = slots_of(2)[::-1]
    flaw = {quiet: 2.0, loud: 10.0}  # twenty times its spread
    assert largest.judge(flaw).verdict is Verdict.OK
    assert judge.judge(flaw)[1:] == (quiet, Verdict.NG)


def test_the_worst_frame_of_an_ng_part_lies_above_its_limit() -> None:
    random = np.random.default_rng(9)
    judge = conformal(dependent(random, 30, 6, shared=0.5))
    found = 0
    for part in parts_of(dependent(random, 300, 6, shared=0.5) + random.exponential(1, size=(300, 6))):
        judged = judge.judge(part)
        if judged.verdict is Verdict.NG:
            found += 1
            assert part[judged.worst] > judge.limit(judged.worst) - 1e-9
    assert found > 20


# --- what is promised ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("good", "is_split"), [(158, False), (159, True), (400, True)])
def test_with_enough_parts_others_calibrate_the_slots(good: int, is_split: bool) -> None:
    threshold = conformal(dependent(np.random.default_rng(0), good, 3, shared=0.5)).unit_threshold
    used = 59 if good == 159 else good - 100 if is_split else good
    assert threshold.n_good == used  # 59 keep 50,000 of a million at 95 %: 0.95 ** 59 < 0.05
    assert threshold.holds_budget is is_split
    assert ("more Good parts" in threshold.explain()) is not is_split
    assert "\n" not in threshold.explain()
    if not is_split:
        assert threshold.needed_good == 159


def test_many_parts_at_once_score_as_one_by_one() -> None:
    random = np.random.default_rng(10)
    good = np.round(dependent(random, 30, 5, shared=0.5), 1)  # with ties
    judge, others = conformal(good), np.concatenate([good, dependent(random, 100, 5, shared=0.5) * 2])
    assert judge.many(others) == pytest.approx([judge.judge(part).score for part in parts_of(others)])


@pytest.mark.parametrize(("good", "kept"), [(12, 0.95), (40, 0.95), (160, 0.95)])
def test_the_promise_holds_with_its_confidence(good: int, kept: float) -> None:
    random, draws, held = np.random.default_rng(good), 150, 0
    for _ in range(draws):
        judge = conformal(dependent(random, good, 5, shared=0.5))
        rate = np.mean(judge.many(dependent(random, 10_000, 5, shared=0.5)) > judge.unit_threshold.ng)
        held += bool(rate <= judge.unit_threshold.guaranteed_ppm / 1e6)
    assert held >= stats.binom.ppf(0.001, draws, kept)


# --- what is stored --------------------------------------------------------------------------------------------------


def samples_of(scores: Floats) -> tuple[list[Sample], list[float]]:
    rows = list(np.ndindex(*scores.shape))
    samples = [Sample(Path(f"P{part}_{view}.png"), f"P{part}", view=f"view{view}") for part, view in rows]
    return samples, scores.ravel().tolist()


BUDGET: dict[str, Any] = {"false_reject_ppm": 50_000, "confidence": 0.95, "unsure_ratio": 4, "source": "test"}


def test_good_parts_are_those_with_all_views_and_come_back_from_json() -> None:
    scores = dependent(np.random.default_rng(0), 12, 3, shared=0.5)
    samples, values = samples_of(scores)
    aliases = {(f"view{view}", "0"): (f"camera{view}", "ring") for view in range(3)}
    good = GoodParts.from_samples(samples[1:], values[1:], aliases=aliases, **BUDGET)
    assert good.slots == (("view0", "0"), ("view1", "0"), ("view2", "0"))
    assert sorted(good.scores) == sorted(map(tuple, scores[1:].tolist()))  # the first part has lost a view
    assert GoodParts.from_dict(json.loads(json.dumps(good.to_dict()))) == good
    assert good.columns([Slot("camera2", "ring"), Slot("view0", "0")]) == [(row[2], row[0]) for row in good.scores]


_STORED = good_parts(np.random.default_rng(0).normal(size=(9, 2))).to_dict()


def of_samples(change: Any) -> Any:
    samples, values = samples_of(dependent(np.random.default_rng(0), 12, 2, shared=0.5))
    change(samples, values)
    return GoodParts.from_samples(samples, values, **BUDGET)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: of_samples(lambda s, v: (s.append(s[0]), v.append(1.0))), "has two images of view 'view0', light '0'"),
        (lambda: of_samples(lambda s, v: (s.__delitem__(slice(14, None)), v.__delitem__(slice(14, None)))), "only 7"),
        (lambda: of_samples(lambda s, _v: s.__setitem__(0, Sample(Path("x"), "P0", view="odd"))), "only 0 Good parts"),
        (lambda: of_samples(lambda _s, v: v.__setitem__(3, math.nan)), "view 'view1', light '0': 1 of 12 Good scores"),
        (lambda: good_parts(np.ones((10, 2)), confidence=2.0), "confidence is 2"),
        (
            lambda: calibrated(good_parts(np.ones((10, 2))), slots_of(2)),
            "view 'view0', light '0': its 9 Good scores are all 1",
        ),
        (
            lambda: calibrated(good_parts(np.random.rand(10, 2)), [TOP]),
            "view 'top', light '0'; known: view0/0, view1/0",
        ),
        (lambda: GoodParts.from_dict({**_STORED, "more": 1}), "unknown: more; score them again: edgead threshold"),
        (lambda: GoodParts.from_dict({**_STORED, "scores": [["high"]]}), "value of the Good parts is wrong"),
        (lambda: GoodParts.from_dict({**_STORED, "scores": [[1.0]] * 9}), "lacks scores; expected 2"),
        (lambda: GoodParts.from_dict({**_STORED, "slots": [["a", "b"], ["a", "b"]]}), "different views and lights"),
        (lambda: GoodParts.from_dict({**_STORED, "aliases": [["a", "b"]]}), "1 aliases of 2"),
        (lambda: either("conformal").judge({TOP: 1.0, Slot("end", "0"): 1.0}), "'end'.*which no Good part has"),
    ],
)
def test_bad_input_is_refused_in_one_line(call: Any, message: str) -> None:
    with pytest.raises(EdgeadError, match=message) as refusal:
        call()
    assert isinstance(refusal.value, (ConfigError, DataError))
    assert "\n" not in str(refusal.value)


@pytest.fixture
def copied(exported: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(exported.path, tmp_path / "run")
    return Bundle.open(tmp_path / "run")


def test_a_bundle_without_good_parts_takes_the_largest_and_names_the_command(copied: Bundle) -> None:
    copied.set_threshold("fp32", LOOSE)
    assert isinstance(judge_of(copied, "fp32", "max", slots_of(2)), Largest)
    with pytest.raises(ArtefactError, match=r"edgead threshold .*run --artefact fp32 --fusion conformal"):
        judge_of(copied, "fp32", "conformal", slots_of(2))
    with pytest.raises(ConfigError, match="no fusion 'mean'; valid: max, conformal"):
        judge_of(copied, "fp32", "mean", slots_of(2))


def test_the_bundle_keeps_good_parts_with_the_threshold_and_only_with_it(copied: Bundle) -> None:
    good = good_parts(dependent(np.random.default_rng(0), 20, 3, shared=0.5))
    copied.set_threshold("fp32", LOOSE, good)
    again = Bundle.open(copied.path)
    assert again.good_parts("fp32") == good
    judge = judge_of(again, "fp32", "conformal", slots_of(3)[:2])
    assert judge.unit_threshold == calibrated(good, slots_of(3)[:2]).unit_threshold
    assert isinstance(judge_of(again, "fp32", "max", slots_of(3)), Largest)
    again.set_threshold("fp32", LOOSE)
    with pytest.raises(ArtefactError, match="no scores of Good parts"):
        Bundle.open(copied.path).good_parts("fp32")


def test_the_command_refuses_too_few_good_parts(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "bundle.json").read_bytes()
    assert main(["threshold", str(trained), "--fusion", "conformal"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "Good parts with all 8 views and lights are held out" in error
    assert (trained / "bundle.json").read_bytes() == before
    assert main(["threshold", str(trained), "--fusion", "mean"]) == 2
    assert "there is no 'mean'" in capsys.readouterr().err


def test_the_command_calibrates_and_evaluate_compares(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(trained, run)
    write_dataset(data, "magnetic_core", seed=4, good_parts=14, defect_parts_per_type=1, size=64)
    dataset = ["--dataset", "sim", "--root", str(data), "--validation", "0.9", "--json"]
    assert main(["threshold", str(run), "--fusion", "conformal", *dataset]) == 0
    found = json.loads(capsys.readouterr().out)["fusion"]
    assert (found["good_parts"], found["left_out"], len(found["slots"])) == (10, 0, 8)
    assert not found["holds_budget"]
    spec = OBJECTS["magnetic_core"]
    seen = [Slot(view, light) for view in spec.views for light in spec.illuminations]  # as simulated cameras say
    judge = judge_of(Bundle.open(run), "fp32", "conformal", seen)
    assert judge.unit_threshold.to_dict() == found["threshold"]
    assert main(["evaluate", str(run), *dataset]) == 0
    document = json.loads(capsys.readouterr().out)
    compared = {row["fusion"]: row for row in document["parts"]}
    assert list(compared) == ["max", "conformal"]
    assert compared["max"]["part_AUROC"] == document["accuracy"]["part_AUROC"]
    for row in compared.values():
        assert (row["parts"], row["left_out"]) == (3 + len(spec.defects), 0)
        assert sum(row["verdicts"]["defective"].values()) == row["defective"] == len(spec.defects)
        low, high = row["part_AUROC_interval"]
        assert 0 <= low <= row["part_AUROC"] <= high <= 1
    assert main(["evaluate", str(run), *dataset[:-1]]) == 0
    shown = capsys.readouterr().out
    assert "By part, intervals by bootstrap over parts" in shown
    assert f"{compared['conformal']['escapes']['count']} escapes" in shown
