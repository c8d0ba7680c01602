"""Parity sees differences of the size that it is put there to see, and its statistics are those of scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmarks.parity import Comparison, Gate, Limits, Shown, binomial_upper, choose, compare, judge, limits_for
from benchmarks.parity.bootstrap import Ranking, change_interval, draws
from benchmarks.parity.gates import gate_names, read_limits
from benchmarks.parity.overlap import BINS, Overlaps, bins_of, upper_edge
from benchmarks.parity.statistics import bound_sentence, rank_correlation
from benchmarks.reference import Reference
from edgead.bundle import Bundle
from edgead.cfrg import checkpoint
from edgead.cfrg.inspection import Inspection
from edgead.datasets.sample import Sample
from edgead.errors import ArtefactError, ConfigError, DataError
from edgead.evaluate import AccuracyMeter, Scored
from edgead.metrics import PixelAccuracy, auroc
from edgead.runtime.fake import FakeRunner
from edgead.runtime.runner import Prediction
from edgead.thresholds import Threshold

HW = (8, 8)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, *HW, 3), dtype=np.uint8)


class Off(FakeRunner):
    """Answers with brightness times a factor, plus an offset at one pixel and in the score."""

    def __init__(self, factor: float = 1.0, pixel: float = 0.0, score: float = 0.0, noise: float = 0.0) -> None:
        super().__init__(HW, name="off")
        self.factor, self.pixel, self.score, self.noise = factor, pixel, score, noise
        self.random = np.random.default_rng(5)

    def infer(self, images: np.ndarray) -> Prediction:
        exact = super().infer(images)
        anomaly_map = exact.anomaly_map * np.float32(self.factor)
        anomaly_map += self.random.normal(0, self.noise, anomaly_map.shape).astype(np.float32)
        anomaly_map[:, 3, 4] += np.float32(self.pixel)
        score = exact.pred_score if not self.noise else anomaly_map.max(axis=(1, 2))
        return Prediction(anomaly_map, score * np.float32(self.factor) + np.float32(self.score))


def threshold(ng: float, unsure: float | None = None) -> Threshold:
    return Threshold(
        unsure=ng if unsure is None else unsure,
        ng=ng,
        unit="image",
        false_reject_ppm=2000,
        confidence=0.95,
        n_good=40,
        guaranteed_ppm=70000,
        needed_good=1500,
        source="test",
    )


def shown(*, defective: int = 0, masks: bool = True) -> list[Shown]:
    """The 40 images, the last ones as defective, each with a mask over its brighter pixels."""
    found = []
    for index, image in enumerate(IMAGES):
        bad = index >= len(IMAGES) - defective
        mask = (image.mean(axis=2) > 130) if bad and masks else None
        sample = Sample(Path(f"{index:02}.png"), part=f"p{index}", defect="dent" if bad else "good")
        found.append(Shown(sample, image, mask, digest=f"{index:064}"))
    return found


def scores() -> np.ndarray:
    return np.sort(FakeRunner(HW, max_batch=40).infer(IMAGES).pred_score)


def judged(found: Comparison, limits: Limits) -> dict[str, Gate]:
    return {gate.name: gate for gate in judge(limits, found, (), isolated=False)}


EXACT = limits_for("fp32")


def test_a_runner_agrees_with_itself() -> None:
    found = compare(FakeRunner(HW), FakeRunner(HW), shown(), threshold=threshold(float(scores()[20])))
    assert (found.maps.max, found.maps.mean, found.maps.p99, found.score_relative) == (0, 0, 0, 0)
    assert found.flips is not None
    assert (found.flips.count, found.flips.ties, len(found.samples)) == (0, 0, 40)
    assert found.rank_correlation == pytest.approx(1)
    assert found.flips.at_most == pytest.approx(1 - 0.05 ** (1 / 40))
    gates = judged(found, EXACT)
    assert list(gates) == ["map_abs", "score_relative", "rank_correlation", "flips"]
    assert all(gate.passed for gate in gates.values())
    assert gates["flips"].note == "0 flips in 40: below 7.22 % at 95 %"


@pytest.mark.parametrize(
    ("candidate", "failed"),
    [
        (Off(pixel=2e-4), {"map_abs"}),
        (Off(pixel=5e-5), set()),
        (Off(score=3e-5), {"score_relative"}),
        (Off(score=float(np.float32(1e-6))), set()),
        (Off(factor=-1), {"map_abs", "score_relative", "rank_correlation", "flips"}),
    ],
)
def test_each_gate_sees_its_own_difference(candidate: Off, failed: set[str]) -> None:
    found = compare(FakeRunner(HW), candidate, shown(), threshold=threshold(0.0))
    assert {name for name, gate in judged(found, EXACT).items() if gate.status == "failed"} == failed


def test_flips_are_counted_and_ties_are_told_apart() -> None:
    middle = scores()
    ng = float(middle[20]) - 1e-4
    expected = int(((middle > ng) & (middle - 2e-4 <= ng)).sum())
    flipped = compare(FakeRunner(HW), Off(score=-2e-4), shown(), threshold=threshold(ng)).flips
    assert flipped is not None
    assert expected >= 1
    assert (flipped.count, flipped.ties, len(flipped.images)) == (expected, 0, expected)
    assert flipped.at_most == pytest.approx(stats.beta.ppf(0.95, expected + 1, 40 - expected), rel=1e-6)
    on_limit = threshold(float(middle[20]))  # as if this Good image had set the threshold
    tied = compare(FakeRunner(HW), Off(score=1e-6), shown(), threshold=on_limit).flips
    assert tied is not None
    assert (tied.count, tied.ties) == (0, int((middle == middle[20]).sum()))


def test_a_gate_that_could_not_be_measured_is_not_passed() -> None:
    untested = compare(FakeRunner(HW), FakeRunner(HW), shown())
    flips = judged(untested, EXACT)["flips"]
    assert (flips.passed, flips.status, flips.value) == (False, "not measured", None)
    assert "edgead threshold" in flips.sentence
    only_good = judged(compare(FakeRunner(HW), FakeRunner(HW), shown(), threshold=threshold(2)), limits_for("int8"))
    assert {name: gate.status for name, gate in only_good.items()} == {
        "image_AUROC_drop": "not measured",
        "pixel_AUPRO_drop": "not measured",
    }
    assert "no defective ones" in only_good["image_AUROC_drop"].note
    unmasked = compare(FakeRunner(HW), FakeRunner(HW), shown(defective=20, masks=False))
    gates = judged(unmasked, limits_for("int8"))
    assert gates["image_AUROC_drop"].passed
    assert (gates["pixel_AUPRO_drop"].status, gates["pixel_AUPRO_drop"].passed) == ("not measured", False)
    assert "no masks" in gates["pixel_AUPRO_drop"].note


def test_precisions_have_their_own_gates_and_any_can_be_changed() -> None:
    assert gate_names(limits_for("fp16"), networks=True) == ("image_AUROC_drop",)
    assert gate_names(limits_for("int8-fp16"), networks=True) == ("image_AUROC_drop", "pixel_AUPRO_drop")
    assert gate_names(EXACT, networks=True)[-4:] == ("teacher", "student", "recovery", "segmentation")
    assert limits_for("fp16").image_AUROC_drop == 0.001
    assert (limits_for("int8").image_AUROC_drop, limits_for("int8").pixel_AUPRO_drop) == (0.005, 0.01)
    # Without a gate on AUROC no verdict may flip.
    off = limits_for("int8", {"image_AUROC_drop": None})
    assert (off.image_AUROC_drop, off.flips) == (None, 0)
    assert limits_for("int8", {"image_AUROC_drop": None, "flips": 3}).flips == 3
    with pytest.raises(ConfigError, match="'fips', did you mean 'flips'"):
        limits_for("int8", {"fips": 0})
    with pytest.raises(ConfigError, match="image_AUROC_drop: -1"):
        limits_for("int8", {"image_AUROC_drop": -1})


def test_gates_are_read_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "gates.yaml"
    file.write_text("gates:\n  image_AUROC_drop: 0.002\n  pixel_AUPRO_drop: null\n")
    assert read_limits(file) == {"image_AUROC_drop": 0.002, "pixel_AUPRO_drop": None}
    file.write_text("gates:\n  image_AUROC: 0.002\n")
    with pytest.raises(ConfigError, match=r"gates\.yaml: unknown key 'gates.image_AUROC', did you mean"):
        read_limits(file)


def test_a_loss_of_accuracy_fails_and_a_gain_does_not() -> None:
    images = shown(defective=20)
    wanted = FakeRunner(HW)
    worse = compare(wanted, Off(noise=0.3), images, threshold=threshold(2))
    before, after = (
        auroc(side, [not each.sample.is_good for each in images])
        for side in (worse.reference_scores, worse.candidate_scores)
    )
    assert before is not None
    assert after is not None
    assert worse.change("image_AUROC").change == pytest.approx(after - before)
    assert abs(after - before) > 0.005
    swapped = compare(Off(noise=0.3), wanted, images, threshold=threshold(2))
    lost, gained = (worse, swapped) if after < before else (swapped, worse)
    assert judged(lost, limits_for("int8"))["image_AUROC_drop"].status == "failed"
    assert judged(gained, limits_for("int8"))["image_AUROC_drop"].passed


def test_too_few_images_do_not_prove_a_gate() -> None:
    same = compare(FakeRunner(HW), FakeRunner(HW), shown(defective=20), threshold=threshold(2))
    gate = judged(same, limits_for("int8"))["image_AUROC_drop"]
    assert (gate.passed, gate.proven) == (True, False)
    # No image changed; twenty defects could hide a loss of 1 - 0.05 ** (1 / 20).
    assert f"could hide a loss of {1 - 0.05 ** (1 / 20):.2g}" in gate.note
    loose = judged(same, limits_for("int8", {"image_AUROC_drop": 0.2}))["image_AUROC_drop"]
    assert loose.proven is True


def test_the_accuracy_is_that_of_evaluate() -> None:
    images, candidate = shown(defective=20), Off(noise=0.02)
    found = compare(FakeRunner(HW), candidate, images)
    meter, again = AccuracyMeter(), Off(noise=0.02)
    for each in images:
        prediction = again.infer(each.image[None])
        meter.add(Scored(each.sample, prediction.anomaly_map[0], float(prediction.pred_score[0])), each.mask)
    expected = meter.evaluation().accuracy
    for change in found.changes:
        assert change.candidate == getattr(expected, change.name), change.name


def test_the_interval_of_aupro_lies_where_repeated_images_put_it() -> None:
    images = shown(defective=20)
    found = compare(FakeRunner(HW), Off(noise=0.1), images, seed=9).change("pixel_AUPRO")
    noisy = Off(noise=0.1)
    pairs = [[runner.infer(each.image[None]).anomaly_map[0] for runner in (FakeRunner(HW), noisy)] for each in images]
    changes = []
    weights = next(draws([each.sample.part for each in images], [each.mask is not None for each in images], seed=9))
    for row in weights.astype(int):
        areas = []
        for side in (0, 1):
            pooled = PixelAccuracy()
            for maps, each, times in zip(pairs, images, row, strict=True):
                for _ in range(times):
                    pooled.add(maps[side], each.mask)
            areas.append(pooled.aupro())
        changes.append(areas[1] - areas[0])
    # Sixty-four draws by hand against two thousand: their quantiles agree to a part of the interval's width.
    low, high = np.quantile(changes, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.25 * (high - low))
    assert found.high == pytest.approx(high, abs=0.25 * (high - low))


def test_map_differences_are_pooled_by_pixel() -> None:
    found = compare(FakeRunner(HW), Off(noise=0.05), shown())
    again = Off(noise=0.05)
    apart = np.abs([again.infer(i[None]).anomaly_map[0] - FakeRunner(HW).infer(i[None]).anomaly_map[0] for i in IMAGES])
    assert found.maps.max == pytest.approx(apart.max())
    assert found.maps.mean == pytest.approx(apart.mean(), rel=1e-5)
    assert found.maps.p99 == pytest.approx(np.quantile(apart, 0.99), rel=0.02)
    wanted = np.abs(found.reference_scores - found.candidate_scores)
    assert found.scores.p99 == pytest.approx(np.quantile(wanted, 0.99))


def test_the_images_nearest_to_flipping_are_kept() -> None:
    middle = scores()
    ng = float(middle[20]) + 1e-3
    found = compare(FakeRunner(HW), Off(score=-5e-4), shown(), threshold=threshold(ng))
    margins = np.abs(found.reference_scores - ng) / np.abs(found.reference_scores - found.candidate_scores)
    assert sorted(margins)[:6] == pytest.approx([near.room for near in found.near])
    first = found.near[0]
    np.testing.assert_array_equal(first.shown.image, IMAGES[first.place])
    assert first.reference_map.max() == pytest.approx(found.reference_scores[first.place])


def test_images_that_flip_are_kept_before_those_that_only_come_near() -> None:
    ng = float(scores()[20]) - 1e-4
    found = compare(FakeRunner(HW), Off(score=-2e-4), shown(), threshold=threshold(ng))
    assert found.flips is not None
    count = found.flips.count
    assert {near.place for near in found.near[:count]} == set(found.flips.images)
    assert [near.flipped for near in found.near] == [True] * count + [False] * (6 - count)


def test_no_images_and_odd_answers_are_refused() -> None:
    with pytest.raises(DataError, match="no images"):
        compare(FakeRunner(HW), FakeRunner(HW), [])
    with pytest.raises(ArtefactError, match="fake: the model answers with NaN"):
        compare(FakeRunner(HW), FakeRunner(HW, anomaly_map=np.full(HW, np.nan, np.float32)), shown())


def test_images_are_chosen_half_good_and_always_the_same() -> None:
    samples = [Sample(Path(f"{n:03}"), part=str(n), defect="good" if n < 90 else f"d{n % 3}") for n in range(120)]
    chosen = choose(samples, 40)
    assert choose(samples, 40) == chosen
    assert sum(each.is_good for each in chosen) == 20
    assert {each.defect for each in chosen if not each.is_good} == {"d0", "d1", "d2"}
    assert list(chosen) == sorted(chosen, key=lambda each: each.image)
    scarce = choose(samples, 100)
    assert (len(scarce), sum(not each.is_good for each in scarce)) == (100, 30)
    assert choose(samples, None) == tuple(samples)
    assert len(choose(samples[:90], 7)) == 7
    with pytest.raises(ConfigError, match="--n is 0"):
        choose(samples, 0)
    with pytest.raises(DataError, match="no images"):
        choose([], 3)


@pytest.mark.parametrize(("events", "trials"), [(0, 1), (0, 300), (1, 50), (7, 40), (5, 5), (3, 20000)])
def test_the_bound_is_clopper_and_pearsons(events: int, trials: int) -> None:
    expected = 1.0 if events == trials else stats.beta.ppf(0.95, events + 1, trials - events)
    assert binomial_upper(events, trials) == pytest.approx(expected, rel=1e-9)


def test_the_bound_is_said_in_words() -> None:
    assert bound_sentence(0, 1000, binomial_upper(0, 1000)) == "0 flips in 1000: below 0.30 % at 95 %"
    assert bound_sentence(1, 20, binomial_upper(1, 20)) == "1 flip in 20: below 21.62 % at 95 %"


def test_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(1)
    a = rng.integers(0, 9, 50).astype(float)  # with ties
    b = a + rng.normal(0, 3, 50)
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert rank_correlation(np.ones(3), np.arange(3.0)) is None
    assert rank_correlation(np.ones(1), np.ones(1)) is None


def test_draws_take_whole_parts_and_as_many_of_each_kind() -> None:
    parts = ["a", "a", "b", "c", "c", "d", "e"]
    defective = [False, True, True, False, False, False, False]
    weights = np.concatenate(list(draws(parts, defective, seed=3, count=5000)))
    assert weights.shape == (5000, 7)
    assert (weights[:, 0] == weights[:, 1]).all()  # the part of both images was drawn, however often
    assert (weights[:, [0, 2]].sum(axis=1) == 2).all()
    assert (weights[:, [3, 5, 6]].sum(axis=1) == 3).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.05)
    again = np.concatenate(list(draws(parts, defective, seed=3, count=5000)))
    np.testing.assert_array_equal(weights, again)


def test_the_bootstrap_of_auroc_is_that_of_repeated_images() -> None:
    rng = np.random.default_rng(2)
    n = 30
    defective = rng.random(n) < 0.4
    one, other = (rng.integers(0, 12, n) + 3 * defective for _ in range(2))
    parts = [str(k) for k in range(n)]
    weights = np.concatenate(list(draws(parts, defective, seed=7, count=200)))
    for values in (one, other):
        brute = [
            roc_auc_score(np.repeat(defective, row.astype(int)), np.repeat(values, row.astype(int))) for row in weights
        ]
        np.testing.assert_allclose(Ranking(values, defective).auroc(weights), brute)
    found = change_interval(
        Ranking(one, defective).auroc, Ranking(other, defective).auroc, draws(parts, defective, seed=7, count=200)
    )
    changes = Ranking(other, defective).auroc(weights) - Ranking(one, defective).auroc(weights)
    assert found == pytest.approx(tuple(np.quantile(changes, [0.025, 0.975])))
    only_good = np.zeros(n, dtype=bool)
    flat = Ranking(one, only_good).auroc
    assert change_interval(flat, flat, draws(parts, only_good, seed=7, count=200)) is None


def test_the_bootstrap_of_aupro_is_that_of_repeated_images() -> None:
    rng = np.random.default_rng(4)
    n, side = 10, 24
    maps = rng.gamma(2, 1, (n, side, side)).astype(np.float32)
    masks: list[np.ndarray | None] = [None] * n
    for index in range(5, 9):
        mask = np.zeros((side, side), dtype=bool)
        mask[3:9, 4 : 4 + index] = True
        mask[15:17, 15:20] = True
        masks[index] = mask
        maps[index][mask] += 2
    good = [index < 5 for index in range(n)]  # the last one is defective without a mask
    cut = (maps.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)  # to the bins, so that they lose nothing
    weights = np.concatenate(list(draws([str(k) for k in range(n)], [not g for g in good], seed=1, count=20)))
    for values, tolerance in ((cut, 1e-9), (maps, 3e-3)):
        overlaps = Overlaps()
        for anomaly_map, mask, is_good in zip(values, masks, good, strict=True):
            overlaps.add(anomaly_map, mask, good=is_good)
        found = overlaps.aupro(weights)
        for row, value in zip(weights.astype(int), found, strict=True):
            pooled = PixelAccuracy()
            for index, times in enumerate(row):
                for _ in range(times if good[index] or masks[index] is not None else 0):
                    pooled.add(values[index], masks[index])
            expected = pooled.aupro()
            assert (expected is None and np.isnan(value)) or value == pytest.approx(expected, abs=tolerance)


def test_bins_order_as_values_do() -> None:
    values = np.sort(np.random.default_rng(0).normal(0, 3, 5000).astype(np.float32))
    bins = bins_of(values)
    assert (np.diff(bins) >= 0).all()
    assert (bins >= 0).all()
    assert (bins < BINS).all()
    positive = values[values > 0]
    edges = np.array([upper_edge(int(index)) for index in bins_of(positive)])
    assert ((edges >= positive) & (edges <= positive * 1.01)).all()
    assert bins_of(np.zeros(1, np.float32)) == bins_of(np.full(1, -0.0, np.float32))


def test_the_reference_and_the_exported_mathematics_agree(exported: Bundle, smooth_images: np.ndarray) -> None:
    import torch

    cfrg = checkpoint.load(exported.file("checkpoint"))
    with torch.inference_mode():
        anomaly_map, score = Inspection(cfrg)(torch.from_numpy(smooth_images[:3]))
    wanted = Reference(cfrg).infer(smooth_images[:3])
    np.testing.assert_allclose(anomaly_map.numpy(), wanted.anomaly_map, atol=2e-6)
    np.testing.assert_allclose(score.numpy(), wanted.pred_score, rtol=2e-6)
