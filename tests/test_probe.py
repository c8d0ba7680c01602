"""The linear probe: what it reads off the teacher, and that no part is on both sides of its folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchmarks import results
from benchmarks.probe import STRENGTHS, cross_validated, describe, main
from edgead.bundle import Bundle
from edgead.cfrg.model import build
from edgead.config import load_train
from edgead.datasets import Dataset, Sample
from edgead.errors import DataError
from edgead.evaluate import evaluate
from edgead.runtime.open import open_runner

PARTS, SHOTS = 20, 6


def dataset() -> Dataset:
    """Return a test split of 20 parts, every other one defective, six images each."""
    test = [
        Sample(Path(f"{part}_{shot}.png"), str(part), "crack" if part % 2 else "good")
        for part in range(PARTS)
        for shot in range(SHOTS)
    ]
    return Dataset("made up", "part", train=(), validation=(), test=tuple(test))


def labels() -> list[bool]:
    return [not sample.is_good for sample in dataset().test]


def test_an_image_is_described_by_the_teachers_channels() -> None:
    torch.manual_seed(0)
    network = build("cfrg-lite0", 64).eval()
    images = np.random.default_rng(0).integers(0, 256, (18, 64, 64, 3), np.uint8)  # more than a batch
    found = describe(network, images)
    with torch.no_grad():
        level = network.teacher(network.normalise(torch.from_numpy(images[17:])))[0][0].flatten(1)
    channels = level.shape[0]
    assert found.shape == (18, 4 * sum(network.teacher.channels))
    for number, expected in enumerate((level.amax(1), level.amin(1), level.mean(1), level.std(1))):
        np.testing.assert_allclose(found[17, number * channels :][:channels], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_it_finds_what_separates_the_labels() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(PARTS * SHOTS, 5))
    features[:, 3] += 4.0 * np.array(labels())
    good = random.normal(size=(30, 5))
    assert roc_auc_score(labels(), cross_validated(features, dataset(), good, 0.01)) > 0.98


def test_it_cannot_learn_a_part_by_heart() -> None:
    own = np.random.default_rng(0).normal(size=(PARTS, 40)).repeat(SHOTS, axis=0)  # every image tells its part
    scores = cross_validated(own, dataset(), np.zeros((0, 40)), 0.01)
    assert roc_auc_score(labels(), scores) < 0.8  # 1.0 where images of one part are on both sides


def test_it_needs_as_many_parts_as_folds() -> None:
    every = dataset()
    few = Dataset(
        "few", "part", train=(), validation=(), test=tuple(s for s in every.test if s.is_good or int(s.part) < 8)
    )
    with pytest.raises(DataError, match="defective images of 4 parts"):
        cross_validated(np.zeros((len(few.test), 2)), few, np.zeros((1, 2)), 0.01)


def test_the_command_keeps_the_run_beside_its_probe(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = tmp_path / "probe.json"
    monkeypatch.setattr("sys.argv", ["probe", str(trained), "--save", str(save)])
    monkeypatch.setattr("benchmarks.probe.FOLDS", 8)
    assert main() == 2
    assert "defective images of 7 parts; the probe needs 8 or more" in capsys.readouterr().err
    assert not save.exists()
    monkeypatch.setattr("benchmarks.probe.FOLDS", 5)
    assert main() == 0
    own, *probes = results.read(save).rows
    test = load_train(trained / "train.yaml").dataset.open().test
    with open_runner(Bundle.open(trained), "checkpoint") as runner:
        expected = evaluate(runner, test).accuracy
    assert own["method"] == "cfrg-lite0, Good images alone"
    assert own["image_AUROC"] == pytest.approx(expected.image_AUROC, abs=1e-4)
    assert own["by_defect"] == pytest.approx(expected.image_AUROC_by_defect, abs=1e-4)
    assert [row["method"] for row in probes] == [f"probe, C = {strength:g}" for strength in STRENGTHS]
