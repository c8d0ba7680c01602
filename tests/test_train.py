"""Training: resumption, workers, parallel processes, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgead import images
from edgead.config import TrainConfig, load_train
from edgead.errors import ConfigError, TrainingError

torch = pytest.importorskip("torch")

from edgead.cfrg import checkpoint, train  # noqa: E402


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    rng = np.random.default_rng(5)
    for split, count in (("train", 10), ("test", 2)):
        for index in range(count):
            pixels = rng.integers(80, 140, (64, 64, 3), dtype=np.uint8)
            images.write_png(tmp_path / "data" / "tile" / split / "good" / f"{index:03}.png", pixels)
    return tmp_path / "data"


def config(root: Path, **changes: Any) -> TrainConfig:
    dataset = {"kind": "mvtec", "root": str(root), "category": "tile", "validation": 0.2}
    values = {"dataset": dataset, "size": 64, "epochs": 3, "batch": 4, "seed": 7, "precision": "32-true"}
    return TrainConfig.model_validate({**values, **changes})


def weights(trained: train.Trained) -> dict[str, torch.Tensor]:
    return trained.cfrg.state_dict()


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, different[:3]


def test_a_killed_training_resumes_to_the_weights_of_an_unbroken_one(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = train.train(config(parts), tmp_path / "a")

    epochs_run = []
    run_epoch = train._epoch

    def killed(*arguments: Any) -> dict[str, float]:
        if len(epochs_run) == 2:
            raise KeyboardInterrupt
        epochs_run.append(1)
        return run_epoch(*arguments)

    monkeypatch.setattr(train, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        train.train(config(parts), tmp_path / "b")
    monkeypatch.setattr(train, "_epoch", run_epoch)
    resumed = train.train(config(parts), tmp_path / "b", resume=True)

    assert len(epochs_run) == 2
    assert_equal(weights(unbroken), weights(resumed))
    lines = [json.loads(line) for line in (tmp_path / "b/training/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]


def test_workers_do_not_change_what_is_learned(parts: Path, tmp_path: Path) -> None:
    alone = train.train(config(parts, epochs=1), tmp_path / "a")
    helped = train.train(config(parts, epochs=1, workers=2), tmp_path / "b")
    assert_equal(weights(alone), weights(helped))


def test_another_seed_learns_something_else(parts: Path, tmp_path: Path) -> None:
    one = train.train(config(parts, epochs=1), tmp_path / "a")
    two = train.train(config(parts, epochs=1, seed=8), tmp_path / "b")
    assert not torch.equal(one.cfrg.segmentation.final[0].weight, two.cfrg.segmentation.final[0].weight)


def test_the_teacher_stays_as_it_was(parts: Path, tmp_path: Path) -> None:
    trained = train.train(config(parts, epochs=1), tmp_path)
    fresh = train.build("cfrg-lite0", 64)
    checkpoint.load_teacher(fresh, None)
    assert_equal(fresh.teacher.state_dict(), trained.cfrg.teacher.state_dict())


def test_training_lowers_the_losses(parts: Path, tmp_path: Path) -> None:
    history = train.train(config(parts, epochs=12), tmp_path).history
    for name in ("distillation_loss", "recovery_loss", "segmentation_loss"):
        assert history[-1][name] < 0.8 * history[0][name], name


def test_resuming_another_configuration_is_refused(parts: Path, tmp_path: Path) -> None:
    train.train(config(parts, epochs=1), tmp_path)
    with pytest.raises(ConfigError, match=r"learning_rate 0\.002 then, 0\.5 now"):
        train.train(config(parts, epochs=1, learning_rate=0.5), tmp_path, resume=True)


def test_resuming_nothing_is_refused(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to resume"):
        train.train(config(parts), tmp_path, resume=True)


def test_a_loss_that_explodes_stops_the_training(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = checkpoint.load_teacher

    def poisoned(cfrg: Any, source: str | None) -> str:
        with torch.no_grad():
            cfrg.student.stem[0].weight[0] = float("inf")
        return load(cfrg, source)

    monkeypatch.setattr(checkpoint, "load_teacher", poisoned)
    with pytest.raises(TrainingError, match="lower learning_rate"):
        train.train(config(parts, epochs=1), tmp_path)


_PARALLEL = """
import json, sys
from pathlib import Path
import torch
from edgead.cfrg.train import train
from edgead.config import TrainConfig, load_train
trained = train(TrainConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
if trained.is_main:
    assert torch.distributed.get_world_size() == 2
    print(json.dumps([len(trained.history), trained.history[0]["segmentation_loss"]]))
"""


def test_two_processes_train_together(parts: Path, tmp_path: Path) -> None:
    script = tmp_path / "parallel.py"
    script.write_text(_PARALLEL)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    values = config(parts, epochs=2, batch=2).model_dump_json()
    run = subprocess.run(
        [*command, values, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    epochs, loss = json.loads(run.stdout.splitlines()[-1])
    assert epochs == 2
    assert loss > 0
    assert (tmp_path / "run/training/state.pt").exists()


@pytest.mark.parametrize("name", ["magnetic_tile", "cfrg_wrn50_reference"])
def test_the_committed_configurations_can_be_read(name: str) -> None:
    loaded = load_train(Path(train.__file__).parents[2] / "benchmarks" / f"{name}.yaml")
    assert loaded.epochs > 1


def test_the_reference_recipe_is_the_papers() -> None:
    reference = load_train(Path(train.__file__).parents[2] / "benchmarks/cfrg_wrn50_reference.yaml")
    rate = train._rates(reference, 0, 100)
    assert [rate(0), rate(79), rate(80), rate(90)] == pytest.approx([5e-4, 5e-4, 1e-4, 2e-5])
    optimizer = train._optimizer(reference, train.build("cfrg-lite0", 64))
    assert optimizer.defaults["betas"] == (0.5, 0.999)
    assert optimizer.defaults["weight_decay"] == 0
