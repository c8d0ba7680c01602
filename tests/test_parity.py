"""Parity sees differences of the size that it is put there to see, and its statistics are those of scipy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.parity import Limits, binomial_upper, certify, compare, rank_correlation
from benchmarks.reference import Reference
from edgead.bundle import Bundle
from edgead.cfrg import checkpoint
from edgead.cfrg.inspection import Inspection
from edgead.errors import ArtefactError, DataError
from edgead.runtime.fake import FakeRunner
from edgead.runtime.runner import Prediction
from edgead.thresholds import Threshold

HW = (8, 8)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, *HW, 3), dtype=np.uint8)


class Off(FakeRunner):
    """Answers with brightness times a factor, plus an offset at one pixel and in the score."""

    def __init__(self, factor: float = 1.0, pixel: float = 0.0, score: float = 0.0) -> None:
        super().__init__(HW, name="off")
        self.factor, self.pixel, self.score = factor, pixel, score

    def infer(self, images: np.ndarray) -> Prediction:
        exact = super().infer(images)
        anomaly_map = exact.anomaly_map * np.float32(self.factor)
        anomaly_map[:, 3, 4] += np.float32(self.pixel)
        return Prediction(anomaly_map, exact.pred_score * np.float32(self.factor) + np.float32(self.score))


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


def scores() -> np.ndarray:
    return np.sort(FakeRunner(HW, max_batch=40).infer(IMAGES).pred_score)


def test_a_runner_agrees_with_itself() -> None:
    parity = compare(FakeRunner(HW), FakeRunner(HW), IMAGES, threshold=threshold(float(scores()[20])), batch=8)
    assert parity.passed
    assert (parity.map_abs, parity.score_relative, parity.flips, parity.ties, parity.images) == (0, 0, 0, 0, 40)
    assert parity.rank_correlation == pytest.approx(1)
    assert parity.flips_at_most == pytest.approx(1 - 0.05 ** (1 / 40))
    assert [gate.name for gate in parity.gates] == ["map_abs", "score_relative", "rank_correlation", "flips"]


@pytest.mark.parametrize(
    ("candidate", "failed"),
    [
        (Off(pixel=2e-4), {"map_abs"}),
        (Off(pixel=5e-5), set()),
        (Off(score=3e-5), {"score_relative"}),
        (Off(score=float(np.float32(1e-6))), set()),
        (Off(factor=-1), {"map_abs", "score_relative", "rank_correlation"}),
    ],
)
def test_each_gate_sees_its_own_difference(candidate: Off, failed: set[str]) -> None:
    parity = compare(FakeRunner(HW), candidate, IMAGES)
    assert {gate.name for gate in parity.gates if not gate.passed} == failed
    assert parity.passed == (not failed)


def test_flips_are_counted_and_ties_are_told_apart() -> None:
    middle = scores()
    ng = float(middle[20]) - 1e-4
    expected = int(((middle > ng) & (middle - 2e-4 <= ng)).sum())
    flipped = compare(FakeRunner(HW), Off(score=-2e-4), IMAGES, threshold=threshold(ng))
    assert expected >= 1
    assert (flipped.flips, flipped.ties) == (expected, 0)
    assert not flipped.passed
    assert flipped.flips_at_most == pytest.approx(stats.beta.ppf(0.95, expected + 1, 40 - expected), rel=1e-6)
    on_limit = threshold(float(middle[20]))  # as if this Good image had set the threshold
    tied = compare(FakeRunner(HW), Off(score=1e-6), IMAGES, threshold=on_limit)
    assert (tied.flips, tied.ties) == (0, int((middle == middle[20]).sum()))
    assert tied.passed


def test_limits_can_be_those_of_another_precision() -> None:
    loose = Limits(map_abs=1e-2, score_relative=1e-2)
    assert compare(FakeRunner(HW), Off(pixel=2e-3, score=2e-3), IMAGES, limits=loose).passed


def test_no_images_are_refused() -> None:
    with pytest.raises(DataError, match="no images"):
        compare(FakeRunner(HW), FakeRunner(HW), IMAGES[:0])


@pytest.mark.parametrize(("events", "trials"), [(0, 1), (0, 300), (1, 50), (7, 40), (5, 5), (3, 20000)])
def test_the_bound_is_clopper_and_pearsons(events: int, trials: int) -> None:
    expected = 1.0 if events == trials else stats.beta.ppf(0.95, events + 1, trials - events)
    assert binomial_upper(events, trials) == pytest.approx(expected, rel=1e-9)


def test_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(1)
    a = rng.integers(0, 9, 50).astype(float)  # with ties
    b = a + rng.normal(0, 3, 50)
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert rank_correlation(np.ones(3), np.arange(3.0)) is None
    assert rank_correlation(np.ones(1), np.ones(1)) is None


def test_the_reference_and_the_exported_mathematics_agree(exported: Bundle, smooth_images: np.ndarray) -> None:
    import torch

    cfrg = checkpoint.load(exported.file("checkpoint"))
    with torch.inference_mode():
        anomaly_map, score = Inspection(cfrg)(torch.from_numpy(smooth_images[:3]))
    wanted = Reference(cfrg).infer(smooth_images[:3])
    np.testing.assert_allclose(anomaly_map.numpy(), wanted.anomaly_map, atol=2e-6)
    np.testing.assert_allclose(score.numpy(), wanted.pred_score, rtol=2e-6)


def test_a_bundle_is_certified(exported: Bundle, smooth_images: np.ndarray, tmp_path: Path) -> None:
    bundle = Bundle.open(shutil.copytree(exported.path, tmp_path / "b"))
    bundle.set_threshold("fp32", threshold(1.5, 1.0))
    parity = certify(bundle, "fp32", smooth_images, threads=1)
    assert parity.passed, [gate for gate in parity.gates if not gate.passed]
    assert (parity.reference, parity.candidate) == ("torch + scipy", "onnxruntime-cpu")
    outputs = [f"{name}_{level}" for name in ("teacher", "student", "recovery") for level in (1, 2, 3)]
    assert [each.name for each in parity.networks] == [*outputs, "logits"]
    assert all(0 < each.max_relative < 1e-4 for each in parity.networks)
    assert Bundle.open(bundle.path).artefacts["fp32"].parity["onnxruntime"] == json.loads(json.dumps(parity.to_dict()))


def test_a_bundle_without_checkpoint_cannot_be_certified(
    exported: Bundle, smooth_images: np.ndarray, tmp_path: Path
) -> None:
    bundle = Bundle.open(shutil.copytree(exported.path, tmp_path / "b"))
    (bundle.path / "checkpoint.pt").unlink()
    with pytest.raises(ArtefactError, match="edgead train"):
        certify(bundle, "fp32", smooth_images)
