"""Accuracy of one configuration over several seeds, trained and evaluated from nothing.

    python -m benchmarks.accuracy benchmarks/magnetic_tile.yaml --root DATA --seeds 0 1 2
    python -m benchmarks.accuracy benchmarks/magnetic_tile.yaml --root DATA --network cfrg-nano0 --out FILE

Writes ``benchmarks/results/<name of the YAML file>.json``: a row a seed, then the medians with their range.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import results
from edgead.bundle import Bundle
from edgead.config import TrainConfig, load_train
from edgead.datasets import Dataset
from edgead.errors import ArtefactError, ConfigError, EdgeadError
from edgead.evaluate import evaluate
from edgead.metrics import bootstrap_auroc
from edgead.progress import task
from edgead.runtime.open import open_runner
from edgead.runtime.runner import Runner
from edgead.yaml_file import check

if TYPE_CHECKING:
    from edgead.cfrg.model import Cfrg

_MEASURED = ("image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_AP", "pixel_AUPRO", "pixel_AUPRO_005", "part_AUROC")


def measure_accuracy(
    config: TrainConfig, folder: Path, networks: Callable[[int], Cfrg] | None = None
) -> dict[str, Any]:
    """Train one seed in ``folder`` and evaluate it on the test split; returns its row.

    Args:
        networks: builds other networks than those that the configuration names, see ``train``.
    """
    import torch

    from edgead.cfrg.train import train
    from edgead.runtime.torch_runner import TorchRunner

    trained = train(config, folder, networks=networks)
    with TorchRunner(trained.cfrg, threads=torch.get_num_threads()) as runner:  # as many as the training
        row = _evaluated(runner, trained.dataset, config.seed)
    return {
        **row,
        "train_minutes": round(trained.seconds / 60, 1),
        "train_images": len(trained.dataset.train),
        "precision": trained.precision,
        "peak_GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def measure_run(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Evaluate what ``edgead train``, and perhaps ``edgead export``, left in ``folder``; returns the row of its seed.

    Raises:
        ConfigError: it was trained with another configuration.
        ArtefactError: no run, or a damaged one.
    """
    found, wanted = (
        each.model_dump(exclude={"dataset": {"root"}}) for each in (load_train(folder / "train.yaml"), config)
    )
    if differing := [name for name, value in wanted.items() if found[name] != value]:
        raise ConfigError(f"{folder}: trained with another {', '.join(differing)}; give the same, or leave --runs out")
    dataset = config.dataset.open()
    bundle = Bundle.open(folder)
    with open_runner(bundle, "fp32" if "fp32" in bundle.artefacts else "checkpoint") as runner:
        row = _evaluated(runner, dataset, config.seed)
    return {**row, "train_minutes": train_minutes(folder), "train_images": len(dataset.train)}


def train_minutes(run: Path) -> float:
    """Return how long the epochs of a run took, minutes.

    Raises:
        ArtefactError: the run does not say.
    """
    journal = run / "training" / "metrics.jsonl"
    try:
        seconds = [json.loads(line)["seconds"] for line in journal.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, KeyError) as error:
        raise ArtefactError(f"{journal}: no journal of a training ({error}); train the run: edgead train") from error
    return float(round(sum(seconds) / 60, 1))


def _evaluated(runner: Runner, dataset: Dataset, seed: int) -> dict[str, Any]:
    test = dataset.test
    with task("Evaluating", len(test)) as advance:
        evaluation = evaluate(runner, test, progress=advance)
    accuracy = evaluation.accuracy
    interval = bootstrap_auroc(
        evaluation.scores, [not sample.is_good for sample in test], [sample.part for sample in test], seed=seed
    )
    return {
        "seed": seed,
        **{name: _rounded(getattr(accuracy, name)) for name in _MEASURED},
        "image_AUROC_interval": None if interval is None else [round(bound, 4) for bound in interval],
        "by_defect": {name: _rounded(value) for name, value in accuracy.image_AUROC_by_defect.items()},
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the medians over the seeds, and the range of the image AUROC."""
    scores = sorted(row["image_AUROC"] for row in rows)
    return {
        "seed": "median",
        **{name: _median(row[name] for row in rows) for name in _MEASURED},
        "image_AUROC_range": [scores[0], scores[-1]],
        "by_defect": {name: _median(row["by_defect"][name] for row in rows) for name in rows[0]["by_defect"]},
        "train_minutes": _median(row["train_minutes"] for row in rows),
    }


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 4) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def main() -> int:
    """Run the benchmark from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("config", type=Path, help="train.yaml")
    parser.add_argument("--root", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="instead of the file's")
    parser.add_argument("--network", help="instead of the file's")
    parser.add_argument("--runs", type=Path, help="evaluate the runs RUNS-SEED of edgead train; train none")
    parser.add_argument("--out", type=Path, help="result file instead of benchmarks/results/NAME.json")
    options = parser.parse_args()
    try:
        config = _config(options)
        begin, rows = time.monotonic(), []
        for seed in options.seeds:
            seeded = config.model_copy(update={"seed": seed})
            if options.runs:
                rows.append(measure_run(seeded, options.runs.with_name(f"{options.runs.name}-{seed}")))
            else:
                with tempfile.TemporaryDirectory() as folder:
                    rows.append(measure_accuracy(seeded, Path(folder)))
            print(rows[-1], file=sys.stderr)
        out = options.out or results.FOLDER / f"{options.config.stem}.json"
        recipe = config.model_dump(mode="json", exclude={"dataset": {"root"}, "seed": True})
        command = f"python -m benchmarks.accuracy {shlex.quote(str(options.config))} --root DATA --seeds "
        command += " ".join(map(str, options.seeds)) + (f" --network {options.network}" if options.network else "")
        minutes = round((time.monotonic() - begin) / 60, 1)
        results.save(out, command=command, conditions={**recipe, "minutes": minutes}, rows=[*rows, summary(rows)])
    except EdgeadError as error:
        print(f"benchmarks.accuracy: {error}", file=sys.stderr)
        return error.exit_code
    print(out)
    return 0


def _config(options: argparse.Namespace) -> TrainConfig:
    config = load_train(options.config)
    root = options.root / config.dataset.root.name if config.dataset.kind == "manifest" else options.root
    values = {**config.model_dump(exclude_unset=True), "dataset": {**config.dataset.model_dump(), "root": root}}
    for name in ("epochs", "network"):
        if getattr(options, name) is not None:
            values[name] = getattr(options, name)
    return check(TrainConfig, values, name="flags")


if __name__ == "__main__":
    sys.exit(main())
