"""Linear probe: how far labels of defects would carry the same teacher on the same test images.

    python -m benchmarks.probe runs/magnetic_tile --save benchmarks/results/probe.json

The run was trained on Good images alone. The probe is also shown defective ones: a logistic regression (scikit-learn)
on the largest, smallest, mean and standard deviation of every channel of the teacher's levels, cross-validated so that
no part is on both sides; the run's training images are always on the side that it learns from. What it reaches is no
bound, a network trained with labels may go further, but it says whether a goal is one for Good images alone. A row for
each strength of the regularisation, none chosen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import results
from benchmarks.parity.bootstrap import Floats, Ranking, draws
from benchmarks.peers.detector import Images
from benchmarks.peers.measuring import interval, read_images, rounded
from edgead.bundle import Bundle
from edgead.cfrg import checkpoint
from edgead.cfrg.model import Cfrg
from edgead.config import load_train
from edgead.datasets import Dataset
from edgead.errors import DataError, EdgeadError, require
from edgead.evaluate import evaluate
from edgead.metrics import auroc
from edgead.progress import task
from edgead.runtime.open import open_runner

FOLDS = 5
REPEATS = 3  # divisions into folds; an image's score is the mean over them
STRENGTHS = (0.01, 0.001, 0.0001)  # scikit-learn's C: the smaller, the stronger the regularisation
_BATCH = 16


def describe(network: Cfrg, images: Images) -> Floats:
    """Return an image's largest, smallest, mean and standard deviation of each channel of the teacher's levels.

    Args:
        images: uint8 RGB ``(N, H, W, 3)`` of the network's size.

    Returns:
        ``(N, 4 C)`` for levels of C channels in all.
    """

    def pooled(level: Tensor) -> Tensor:
        flat = level.flatten(2)
        return torch.cat([flat.amax(2), flat.amin(2), flat.mean(2), flat.std(2)], 1)

    rows = []
    with torch.no_grad():
        for begin in range(0, len(images), _BATCH):
            levels = network.teacher(network.normalise(torch.from_numpy(images[begin : begin + _BATCH])))
            rows.append(torch.cat([pooled(level) for level in levels], 1).double().numpy())
    return np.concatenate(rows)


def cross_validated(features: Floats, dataset: Dataset, good: Floats, strength: float) -> Floats:
    """Return a score an image of the test split, from classifiers that saw no image of its part.

    Args:
        features: of the test images ``(N, F)``.
        good: of the Good training images ``(M, F)``.

    Raises:
        DataError: Good or defective images of fewer parts than folds.
    """
    linear, folds = require("sklearn.linear_model", extra="dev"), require("sklearn.model_selection", extra="dev")
    scaling, pipeline = require("sklearn.preprocessing", extra="dev"), require("sklearn.pipeline", extra="dev")
    labels = np.array([not sample.is_good for sample in dataset.test])
    parts = np.array([sample.part for sample in dataset.test])
    for name, chosen in (("Good", ~labels), ("defective", labels)):
        if (count := len(set(parts[chosen]))) < FOLDS:
            raise DataError(f"the test split has {name} images of {count} parts; the probe needs {FOLDS} or more")
    scores = np.zeros(len(labels))
    for repeat in range(REPEATS):
        divided = folds.StratifiedGroupKFold(FOLDS, shuffle=True, random_state=repeat)
        for seen, unseen in divided.split(features, labels, parts):
            classifier = pipeline.make_pipeline(
                scaling.StandardScaler(),
                linear.LogisticRegression(C=strength, max_iter=2000, class_weight="balanced"),
            )
            classifier.fit(np.concatenate([features[seen], good]), np.concatenate([labels[seen], np.zeros(len(good))]))
            scores[unseen] += classifier.decision_function(features[unseen]) / REPEATS
    return scores


def probe(run: Path) -> list[dict[str, Any]]:
    """Measure a run on its test split, then the probe of its teacher, a row for each strength.

    Raises:
        ConfigError, DataError, ArtefactError: no such run, or its images cannot be used.
        MissingError: scikit-learn is not installed.
    """
    config, bundle = load_train(run / "train.yaml"), Bundle.open(run)
    dataset = config.dataset.open()
    network = checkpoint.load(run / "checkpoint.pt")
    good, features = (
        describe(network, read_images(samples, network.size_hw)) for samples in (dataset.train, dataset.test)
    )
    scored = {f"probe, C = {strength:g}": cross_validated(features, dataset, good, strength) for strength in STRENGTHS}
    with open_runner(bundle, "checkpoint") as runner, task("Evaluating", len(dataset.test)) as advance:
        own = evaluate(runner, dataset.test, progress=advance)
    every = {f"{network.network}, Good images alone": np.asarray(own.scores, np.float64), **scored}
    return [{"method": name, **_row(scores, dataset, config.seed)} for name, scores in every.items()]


def _row(scores: Floats, dataset: Dataset, seed: int) -> dict[str, Any]:
    labels = np.array([not sample.is_good for sample in dataset.test])
    kinds = np.array([sample.defect for sample in dataset.test])
    ranking = Ranking(scores, labels)
    weights = draws([sample.part for sample in dataset.test], labels, seed=seed)
    by_defect = {}
    for kind in sorted(set(kinds[labels])):
        chosen = (kinds == kind) | ~labels
        by_defect[str(kind)] = rounded(auroc(scores[chosen], labels[chosen]))
    return {
        "image_AUROC": rounded(auroc(scores, labels)),
        "image_AUROC_interval": interval(ranking.auroc(drawn) for drawn in weights),
        "by_defect": by_defect,
    }


def main() -> int:
    """Run the benchmark from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run of edgead train")
    parser.add_argument("--save", type=Path, required=True, metavar="FILE", help="results, as JSON")
    options = parser.parse_args()
    try:
        rows = probe(options.run)
        command = f"python -m benchmarks.probe {options.run} --save {options.save}"
        results.save(options.save, command=command, conditions={"folds": FOLDS, "repeats": REPEATS}, rows=rows)
    except EdgeadError as error:
        print(f"benchmarks.probe: {error}", file=sys.stderr)
        return error.exit_code
    for row in rows:
        print(f"{row['method']:<32} {row['image_AUROC']:.4f}  {row['by_defect']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
