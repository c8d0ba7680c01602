"""What a station would decide about test parts: counted by hand, ranked by scikit-learn, drawn by a plain loop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score

from edgead.datasets import Sample
from edgead.errors import DataError
from edgead.good_parts import GoodParts
from edgead.metrics import bootstrap_auroc, bootstrap_f1_max, rate_interval
from edgead.part_accuracy import PartAccuracy, has_parts, part_accuracies
from edgead.runtime.fusion import calibrated
from edgead.runtime.parts import Slot
from edgead.thresholds import Threshold, Verdict

VIEWS = ("loud", "quiet")
LIMITS = Threshold(
    unsure=2.0, ng=3.0, unit="part", false_reject_ppm=2000, confidence=0.95, n_good=9, guaranteed_ppm=1e5,
    needed_good=1497, source="test",
)  # fmt: skip


def shots(part: str, scores: dict[str, float], *, defect: str = "good") -> list[tuple[Sample, float]]:
    """Return the images of a part, of which only the last one shows its defect."""
    last = list(scores)[-1]
    return [
        (Sample(Path(f"{part}_{view}.png"), part, defect if view == last else "good", view=view), score)
        for view, score in scores.items()
    ]


def judged(shown: list[tuple[Sample, float]], **how: object) -> tuple[PartAccuracy, ...]:
    samples, scores = zip(*shown, strict=True)
    wanted = {"threshold": LIMITS, "good_parts": None, **how}
    return part_accuracies(samples, scores, **wanted)


def best_f1(bad: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    precision, recall, _ = precision_recall_curve(bad, scores)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


def test_verdicts_are_those_counted_by_hand() -> None:
    shown = [
        *shots("a", {"1": 0.5, "2": 1.9}),  # Good: OK
        *shots("b", {"1": 2.0, "2": 0.1}),  # OK: on the limit
        *shots("c", {"1": 2.5, "2": 0.1}),  # UNSURE
        *shots("d", {"1": 9.0, "2": 0.1}),  # NG: a false alarm
        *shots("e", {"1": 0.1, "2": 3.1}, defect="crack"),  # NG
        *shots("f", {"1": 5.0, "2": 0.1}, defect="crack"),  # NG, by the image that does not show it
        *shots("g", {"1": 0.1, "2": 3.0}, defect="crack"),  # UNSURE: on the limit
        *shots("h", {"1": 0.1, "2": 0.2}, defect="crack"),  # OK: an escape
        *shots("i", {"1": 0.1, "2": 1.2}, defect="crack"),  # OK: an escape
    ]
    shown += shots("j", {"1": 0.1, "2": 4.0}, defect="crack")  # NG
    (row,) = judged(shown)
    assert (row.fusion, row.parts, row.defective, row.left_out) == ("max", 10, 6, 0)
    assert row.verdicts == {
        "good": {"OK": 2, "UNSURE": 1, "NG": 1},
        "defective": {"OK": 2, "UNSURE": 1, "NG": 3},
    }
    assert row.escapes is not None
    assert row.false_alarms is not None
    assert (row.escapes.count, row.escapes.share) == (2, pytest.approx(1 / 3))
    assert (row.false_alarms.count, row.false_alarms.share) == (1, 0.25)
    fused, bad = [1.9, 2.0, 2.5, 9.0, 3.1, 5.0, 3.0, 0.2, 1.2, 4.0], [False] * 4 + [True] * 6
    assert row.part_AUROC == pytest.approx(roc_auc_score(bad, fused))
    assert row.part_F1Max == pytest.approx(best_f1(bad, fused))
    assert row.part_F1 == pytest.approx(f1_score(bad, np.array(fused) > 3))
    assert row.part_AUROC_interval is not None
    assert row.part_AUROC_interval[0] < row.part_AUROC < row.part_AUROC_interval[1]
    json.dumps(row.to_dict(), allow_nan=False)


def random_parts(seed: int = 0) -> list[tuple[Sample, float]]:
    random = np.random.default_rng(seed)
    shown = []
    for number in range(60):
        bad = number >= 40
        levels = random.normal(1 + bad, 1, size=3).round(1)  # ties come up
        shown += shots(f"p{number}", dict(zip("123", levels.tolist(), strict=True)), defect="pit" if bad else "good")
    return shown


def test_the_order_of_images_and_the_names_of_parts_do_not_matter() -> None:
    shown = random_parts()
    (row,) = judged(shown)
    scores = np.array([score for _, score in shown]).reshape(60, 3).max(axis=1)
    bad = np.arange(60) >= 40
    assert row.part_AUROC == pytest.approx(roc_auc_score(bad, scores))
    order = np.random.default_rng(1).permutation(len(shown))
    (mixed,) = judged([shown[index] for index in order])
    assert (mixed.part_AUROC, mixed.part_F1Max, mixed.verdicts) == (row.part_AUROC, row.part_F1Max, row.verdicts)


def test_intervals_agree_with_a_plain_bootstrap() -> None:
    random = np.random.default_rng(5)
    scores = np.concatenate([random.normal(0, 1, 40), random.normal(1.2, 1, 20)]).round(1)
    bad, names = np.arange(60) >= 40, [str(number) for number in range(60)]
    areas, f1s = [], []
    for _ in range(1500):
        drawn = np.concatenate([random.integers(0, 40, 40), random.integers(40, 60, 20)])
        areas.append(roc_auc_score(bad[drawn], scores[drawn]))
        f1s.append(best_f1(bad[drawn], scores[drawn]))
    for bootstrap, plain in ((bootstrap_auroc, areas), (bootstrap_f1_max, f1s)):
        found = bootstrap(scores, bad, names, seed=0)
        assert found == pytest.approx(np.quantile(plain, (0.025, 0.975)), abs=0.02)
        assert bootstrap(scores, bad, names, seed=0) == found
        assert bootstrap(scores[:40], bad[:40], names[:40], seed=0) is None


def test_images_of_one_part_are_drawn_together() -> None:
    """Ten copies of each image are not ten times as many: the interval stays as wide."""
    random = np.random.default_rng(2)
    scores = np.concatenate([random.normal(0, 1, 20), random.normal(1, 1, 20)])
    bad, names = np.arange(40) >= 20, [str(number) for number in range(40)]
    one = bootstrap_f1_max(scores, bad, names, seed=3)
    many = bootstrap_f1_max(np.repeat(scores, 10), np.repeat(bad, 10), np.repeat(names, 10).tolist(), seed=3)
    assert many == pytest.approx(one)


@pytest.mark.parametrize(("events", "trials"), [(0, 30), (30, 30), (1, 7), (13, 400)])
def test_the_interval_of_a_rate_is_that_of_scipy(events: int, trials: int) -> None:
    from scipy.stats import binomtest

    wanted = binomtest(events, trials).proportion_ci(method="wilson")
    assert rate_interval(events, trials) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def loud_and_quiet() -> tuple[GoodParts, list[tuple[Sample, float]]]:
    """Return Good parts, and test parts whose defects show only in the quiet view, by scores usual in the loud one."""
    random = np.random.default_rng(7)
    rows = np.column_stack([random.normal(10, 1, 60), random.normal(0, 0.1, 60)])
    good = GoodParts(
        tuple((view, "0") for view in VIEWS), tuple(map(tuple, rows.tolist())),
        false_reject_ppm=50_000, confidence=0.95, unsure_ratio=4, source="test",
    )  # fmt: skip
    shown = [pair for number in range(8) for pair in shots(f"good{number}", {"loud": 10.0, "quiet": 0.0})]
    shown += [pair for number in range(4) for pair in shots(f"bad{number}", {"loud": 10, "quiet": 3}, defect="dent")]
    return good, shown


def test_conformal_is_the_stations_own_and_sees_the_quiet_view() -> None:
    good, shown = loud_and_quiet()
    loud = Threshold(**{**LIMITS.to_dict(), "unsure": 11.0, "ng": 12.5})
    largest, conformal = judged(shown, threshold=loud, good_parts=good)
    assert (largest.fusion, conformal.fusion) == ("max", "conformal")
    assert largest.verdicts == {"good": {"OK": 8, "UNSURE": 0, "NG": 0}, "defective": {"OK": 4, "UNSURE": 0, "NG": 0}}
    assert conformal.verdicts == {"good": {"OK": 8, "UNSURE": 0, "NG": 0}, "defective": {"OK": 0, "UNSURE": 0, "NG": 4}}
    assert (largest.part_AUROC, conformal.part_AUROC) == (0.5, 1)
    assert (largest.part_F1, conformal.part_F1) == (0, 1)
    station = calibrated(good, [Slot(view, "0") for view in VIEWS])
    scores = {Slot("loud", "0"): 10.0, Slot("quiet", "0"): 3.0}
    assert station.judge(scores).verdict is Verdict.NG


def test_parts_that_lack_a_view_or_have_it_twice_are_left_out_of_conformal_alone() -> None:
    good, shown = loud_and_quiet()
    shown += [*shots("half", {"loud": 99.0}), *shots("twice", {"loud": 10.0, "quiet": 0.0})]
    shown.insert(0, (Sample(Path("again.png"), "twice", view="loud"), 98.0))  # the larger of two, whichever comes first
    every, largest, conformal = judged(shown, good_parts=good)
    assert [(row.fusion, row.parts, row.left_out) for row in (every, largest, conformal)] == [
        ("max", 14, 0), ("max", 12, 2), ("conformal", 12, 2),
    ]  # fmt: skip
    assert every.part_AUROC == pytest.approx(0.4)  # two Good parts of ten outscore all, the others tie
    assert largest.part_AUROC == 0.5


def test_without_a_threshold_there_are_no_verdicts_and_without_defects_no_ranking() -> None:
    (row,) = judged(random_parts(), threshold=None)
    assert row.part_AUROC is not None
    assert (row.verdicts, row.part_F1, row.escapes, row.false_alarms) == (None,) * 4
    (good,) = judged(random_parts()[:30])
    assert (good.part_AUROC, good.part_AUROC_interval, good.part_F1Max, good.part_F1) == (None,) * 4
    assert good.escapes is not None
    assert (good.escapes.count, good.escapes.share, good.escapes.interval) == (0, None, None)


def test_one_image_a_part_is_no_part() -> None:
    single = [sample for sample, _ in shots("a", {"1": 0}) + shots("b", {"1": 0})]
    assert not has_parts(single)
    assert has_parts([*single, single[0]])


def test_a_broken_score_is_refused() -> None:
    with pytest.raises(DataError, match="nan"):
        judged([*random_parts(), *shots("x", {"1": float("nan")})])
