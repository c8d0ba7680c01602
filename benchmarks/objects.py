"""Accuracy by image and by part on the simulator's four objects, trained by one recipe that was tuned to none of them.

    python -m benchmarks.objects --seeds 3 --save benchmarks/results/objects.json

Parts are rendered once and read again by every seed. Each object has about 576 training images, and 30 whole Good parts
held out, which set the thresholds of both fusions. What a file holds already is not measured again, and a training that
was killed goes on at its last whole epoch. Rows are medians over the seeds with their range; each seed's own figures
stand in the conditions, as ``runs``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks import results
from edgead.config import DatasetConfig, NetworkName, TrainConfig
from edgead.datasets import Dataset, Sample
from edgead.datasets.simulated import OBJECTS, write_dataset
from edgead.datasets.simulated.objects import object_spec
from edgead.errors import ConfigError, EdgeadError
from edgead.evaluate import Evaluation, evaluate, score_samples
from edgead.good_parts import GoodParts
from edgead.metrics import auroc, part_maxima
from edgead.part_accuracy import PartAccuracy, part_accuracies
from edgead.progress import task
from edgead.thresholds import threshold_from_good

Row = dict[str, Any]

_DATA_SEED = 1
_TRAINED_IMAGES, _VALIDATED, _TESTED = 576, 30, 50  # images, Good parts, parts of each kind
_NETWORK: NetworkName = "cfrg-lite0"
_EPOCHS = 8  # as on the magnetic tiles
_BUDGET: dict[str, Any] = {"false_reject_ppm": 2000.0, "confidence": 0.95, "unsure_ratio": 10.0}
_BY_IMAGE = ("image_AUROC", "pixel_AUPRO")
_BY_PART = ("part_AUROC", "part_F1Max", "escape_share", "false_alarm_share")


def counts(name: str) -> dict[str, int]:
    """Return how many parts of an object are rendered, and how many of the Good ones are held out for what."""
    spec = object_spec(name)
    frames = len(spec.views) * len(spec.illuminations)
    train = round(_TRAINED_IMAGES / frames)
    return {
        "good": train + _VALIDATED + _TESTED,
        "of_each_defect": math.ceil(_TESTED / len(spec.defects)),
        "train": train,
        "validation": _VALIDATED,
        "test_good": _TESTED,
        "frames": frames,
    }


def recipe(name: str, data: Path, *, seed: int, size: int = 256, epochs: int = _EPOCHS) -> TrainConfig:
    """Return the training of an object, its dataset divided as ``counts`` says."""
    numbers = counts(name)
    rest = numbers["good"] - numbers["test_good"]
    dataset = DatasetConfig(
        kind="sim",
        root=data.resolve(),
        category=object_spec(name).folder,
        validation=round(numbers["validation"] / rest, 3),
        options={"test_share": round(numbers["test_good"] / numbers["good"], 3)},
    )
    return TrainConfig(network=_NETWORK, dataset=dataset, size=size, epochs=epochs, seed=seed)


def rendered(name: str, data: Path, size: int) -> None:
    """Render an object's parts, unless they are there already.

    Raises:
        ConfigError: others are there.
        DataError: the folder cannot be written, or holds half of them.
    """
    numbers = counts(name)
    wanted = {"seed": _DATA_SEED, "size": size, "good": numbers["good"], "of_each_defect": numbers["of_each_defect"]}
    folder, note = data / object_spec(name).folder, data / f"{name}.json"
    if (folder / "attributes.csv").exists():  # is written last
        found = json.loads(note.read_text(encoding="utf-8")) if note.exists() else None
        if found != wanted:
            raise ConfigError(
                f"{folder}: holds parts of {found}, expected {wanted}; choose another --data, or delete it"
            )
        return
    write_dataset(
        data,
        name,
        seed=_DATA_SEED,
        good_parts=wanted["good"],
        defect_parts_per_type=wanted["of_each_defect"],
        size=size,
    )
    note.write_text(json.dumps(wanted) + "\n", encoding="utf-8")


def figures(dataset: Dataset, held_out: Sequence[float], found: Evaluation, *, seed: int) -> Row:
    """Return accuracy by image and by part, with thresholds from the scores of held-out Good images."""
    parts = by_part(dataset, held_out, found.scores, seed=seed)
    return {
        "images": len(dataset.test),
        **{key: _rounded(getattr(found.accuracy, key)) for key in _BY_IMAGE},
        "by_defect": {key: _rounded(value) for key, value in found.accuracy.image_AUROC_by_defect.items()},
        "parts": {row.fusion: told(row) for row in parts},
        "part_AUROC_by_mean": means(dataset.test, found.scores),
    }


def means(samples: Sequence[Sample], scores: Sequence[float]) -> dict[str, float | None]:
    """Return part AUROC of two rules that stations do not have: means instead of the largest score."""
    by_view: dict[str, dict[str, list[float]]] = {}
    bad: dict[str, bool] = {}
    for sample, score in zip(samples, scores, strict=True):
        by_view.setdefault(sample.part, {}).setdefault(sample.view, []).append(score)
        bad[sample.part] = bad.get(sample.part, False) or not sample.is_good
    labels = list(bad.values())
    every = [mean([score for view in views.values() for score in view]) for views in by_view.values()]
    lights = [max(mean(view) for view in views.values()) for views in by_view.values()]
    return {
        "mean of all": _rounded(auroc(every, labels)),
        "largest view of mean lights": _rounded(auroc(lights, labels)),
    }


def by_part(
    dataset: Dataset, held_out: Sequence[float], scores: Sequence[float], *, seed: int
) -> tuple[PartAccuracy, ...]:
    """Judge the test parts by both fusions of a station."""
    source = "validation"
    names = [sample.part for sample in dataset.validation]
    threshold = threshold_from_good(part_maxima(names, held_out), unit="part", source=source, **_BUDGET)
    good = GoodParts.from_samples(dataset.validation, held_out, source=source, **_BUDGET)
    return part_accuracies(dataset.test, scores, threshold=threshold, good_parts=good, seed=seed)


def told(row: PartAccuracy) -> Row:
    """Return what the results keep of a fusion."""
    assert row.verdicts is not None
    assert row.escapes is not None
    assert row.false_alarms is not None
    return {
        "parts": row.parts,
        "defective": row.defective,
        "left_out": row.left_out,
        "part_AUROC": _rounded(row.part_AUROC),
        "part_AUROC_interval": [_rounded(bound) for bound in row.part_AUROC_interval or ()],
        "part_F1Max": _rounded(row.part_F1Max),
        "verdicts": row.verdicts,
        "escape_share": _rounded(row.escapes.share),
        "false_alarm_share": _rounded(row.false_alarms.share),
    }


def summary(runs: Sequence[Row]) -> list[Row]:
    """Return the rows of one object: a fusion each, medians over the seeds and the range of what is ranked."""
    rows = []
    first = runs[0]
    for fusion, parts in first["parts"].items():
        row: Row = {"object": first["object"], "seeds": len(runs), "fusion": fusion, "images": first["images"]}
        row |= {"parts": parts["parts"], "defective": parts["defective"]}
        for key in _BY_IMAGE:
            row |= _spread(key, [run[key] for run in runs])
        for key in _BY_PART:
            row |= _spread(key, [run["parts"][fusion][key] for run in runs])
        row |= {
            "part_AUROC_by_mean": {
                key: _middle(run["part_AUROC_by_mean"][key] for run in runs) for key in first["part_AUROC_by_mean"]
            }
        }
        bounds = [run["parts"][fusion]["part_AUROC_interval"] for run in runs]
        row["part_AUROC_interval"] = [_middle(bound) for bound in zip(*bounds, strict=True)]
        rows.append(row)
    return rows


def _spread(key: str, values: Iterable[float]) -> Row:
    known = sorted(values)
    return {key: _middle(known), f"{key}_range": [known[0], known[-1]]}


def _middle(values: Iterable[float]) -> float:
    return round(median(values), 4)


def _rounded(value: float | None) -> float | None:
    """Round to four digits behind the point."""
    return None if value is None else round(value, 4)


class Record:
    """The results file, written after each object and seed.

    Raises:
        ConfigError: the file was measured under other conditions.
    """

    def __init__(self, path: Path, conditions: Row) -> None:
        self._path, self._conditions = path, json.loads(json.dumps(conditions))
        self.runs = self._read()

    def has(self, name: str, seed: int) -> bool:
        """Tell whether an object and seed have been measured."""
        return any((run["object"], run["seed"]) == (name, seed) for run in self.runs)

    def add(self, run: Row) -> None:
        """Keep what a seed gave, and write the file anew, with what others have measured meanwhile."""
        self.runs = sorted([*self._read(), run], key=lambda each: (list(OBJECTS).index(each["object"]), each["seed"]))
        conditions = {**self._conditions, "runs": self.runs}
        seeds = 1 + max(each["seed"] for each in self.runs)  # one command for all, however many steps it took
        command = f"python -m benchmarks.objects --seeds {seeds} --save {self._path}"
        results.save(self._path, command=command, conditions=conditions, rows=self.rows())

    def _read(self) -> list[Row]:
        if not self._path.exists():
            return []
        before: Row = dict(results.read(self._path).conditions)
        runs: list[Row] = before.pop("runs", [])
        if before != self._conditions:
            raise ConfigError(f"{self._path}: was measured under other conditions; choose another --save, or delete it")
        return runs

    def rows(self) -> list[Row]:
        """Return the summaries, in the order of the objects."""
        names = dict.fromkeys(run["object"] for run in self.runs)
        return [row for name in names for row in summary([run for run in self.runs if run["object"] == name])]


def measured(name: str, given: argparse.Namespace, seed: int) -> Row:
    """Train an object, or finish its training, and measure it."""
    from edgead.cfrg.train import train
    from edgead.runtime.torch_runner import TorchRunner

    rendered(name, given.data, given.size)
    config = recipe(name, given.data, seed=seed, size=given.size, epochs=given.epochs)
    folder = given.keep / f"{name}-{seed}"
    trained = train(config, folder, resume=(folder / "training" / "state.pt").exists())
    test, validation = trained.dataset.test, trained.dataset.validation
    with TorchRunner(trained.cfrg, threads=given.threads) as runner, task("Evaluating", len(test)) as advance:
        found = evaluate(runner, test, progress=advance)
        held_out = [scored.score for scored in score_samples(runner, validation)]
    row = figures(trained.dataset, held_out, found, seed=seed)
    minutes = round(sum(epoch["seconds"] for epoch in trained.history) / 60, 1)
    return {"object": name, "seed": seed, **row, "train_minutes": minutes, "precision": trained.precision}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.objects", description=main.__doc__)
    parser.add_argument("--objects", default=",".join(OBJECTS), help="names with commas between (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="0 to N-1 (%(default)s)")
    parser.add_argument("--size", type=int, default=256, metavar="PIXELS")
    parser.add_argument("--epochs", type=int, default=_EPOCHS, metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the evaluation (%(default)s)")
    parser.add_argument("--data", type=Path, default=Path("runs/objects/data"), metavar="DIR", help="(%(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("runs/objects/runs"), metavar="DIR", help="(%(default)s)")
    parser.add_argument("--save", type=Path, required=True, metavar="FILE", help="results, as JSON")
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error("--seeds: expected 1 or more")
    names = [name.strip() for name in given.objects.split(",") if name.strip()]
    try:
        record = Record(given.save, _conditions(given))
        for seed in range(given.seeds):
            for name in map(str, dict.fromkeys(names)):
                object_spec(name)
                if not record.has(name, seed):
                    record.add(measured(name, given, seed))
        for row in record.rows():
            print(", ".join(f"{key} {value}" for key, value in row.items()))
    except EdgeadError as error:
        print(f"benchmarks.objects: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _conditions(given: argparse.Namespace) -> Row:
    config = recipe(next(iter(OBJECTS)), given.data, seed=0, size=given.size, epochs=given.epochs)
    return {
        "recipe": config.model_dump(mode="json", exclude={"dataset", "seed"}),
        "data_seed": _DATA_SEED,
        "parts": {name: counts(name) for name in OBJECTS},
        "budget": dict(_BUDGET),
    }


if __name__ == "__main__":
    sys.exit(main())
