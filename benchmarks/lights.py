"""Several lights as one input: what to do with the exposures of a part, before the network, after it, or on its maps.

    python -m benchmarks.lights runs/magnetic_tile --save benchmarks/results/lights.json
    python -m benchmarks.lights runs/magnetic_tile --train runs/lights --save benchmarks/results/lights.json

The parts are those of the run's test split that have one image of every light, seen from one view. Their images are
brought to the network's size first. Rules on maps and on inputs take it that the exposures then lie on each other, as
those of a camera that stands still do; how far apart they are is measured, too. ``--train`` also trains a network on
parts whose exposures have been averaged, for as many steps as the run was trained. Intervals are of 95 %, by
bootstrap over parts; gains are paired, on the same draws.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.parity.bootstrap import Ranking, change_interval, draws
from benchmarks.results import save
from edgead.bundle import Bundle
from edgead.config import DatasetConfig, TrainConfig, load_train
from edgead.datasets import Dataset, Sample
from edgead.errors import DataError, EdgeadError
from edgead.good_parts import FEWEST, GoodParts
from edgead.images import Image, read_image, resize, write_png
from edgead.metrics import f1_max
from edgead.progress import task
from edgead.runtime.fusion import calibrated
from edgead.runtime.open import open_runner
from edgead.runtime.parts import Slot
from edgead.runtime.runner import Runner

Floats = npt.NDArray[np.float64]
Images = npt.NDArray[np.uint8]

_BASE = "largest score (station: max)"
_EQUAL = 0.05  # share of the Good parts that all rules are made to reject, to compare what they miss
_SPLITS = ("train", "validation", "test")


class Part(NamedTuple):
    """A part with one image of each light, in the order of their names."""

    name: str
    shots: tuple[Sample, ...]

    @property
    def is_defective(self) -> bool:
        """Tell whether any image shows a defect."""
        return any(not shot.is_good for shot in self.shots)


def averaged(images: Images) -> Image:
    """Return the mean of ``(K, H, W, 3)`` images."""
    mean: Image = np.rint(images.mean(axis=0)).astype(np.uint8)
    return mean


def stacked(images: Images) -> Image:
    """Return one image: red, green and blue are the mean grey of the first, middle and last third of the lights."""
    grey = images.mean(axis=3)
    channels = [np.rint(third.mean(axis=0)).astype(np.uint8) for third in np.array_split(grey, 3)]
    return np.stack(channels, axis=-1)


INPUTS: Mapping[str, Callable[[Images], Image]] = {"averaged": averaged, "stacked": stacked}


def whole(samples: Iterable[Sample]) -> list[Part]:
    """Return the parts that have just one image of each light that most parts have.

    Raises:
        DataError: there are several views, fewer than three lights, or no such part.
    """
    by_part: dict[str, list[Sample]] = {}
    for sample in samples:
        by_part.setdefault(sample.part, []).append(sample)
    if len({sample.view for own in by_part.values() for sample in own}) > 1:
        raise DataError("the parts are seen from several views; expected one, under several lights")
    seen = Counter(tuple(sorted(sample.illumination for sample in own)) for own in by_part.values())
    lights = next((each for each, _ in seen.most_common() if len(set(each)) == len(each) >= 3), None)
    if lights is None:
        raise DataError("no part has one image each of three or more lights; name the column of the lights")
    return [
        Part(name, tuple(sorted(own, key=lambda sample: sample.illumination)))
        for name, own in by_part.items()
        if tuple(sorted(sample.illumination for sample in own)) == lights
    ]


def read(part: Part, size_hw: tuple[int, int]) -> Images:
    """Read the images of a part at one size, ``(K, H, W, 3)``."""
    return np.stack([resize(read_image(shot.image), size_hw) for shot in part.shots])


def apart(images: Images) -> float:
    """Return how far, in pixels, the exposures lie from the first one: the largest shift, by phase correlation."""
    grey = [image.mean(axis=2).astype(np.float32) for image in images]
    window = cv2.createHanningWindow(grey[0].shape[::-1], cv2.CV_32F)
    shifts = [cv2.phaseCorrelate(grey[0], other, window)[0] for other in grey[1:]]
    return max(math.hypot(*shift) for shift in shifts)


class Seen(NamedTuple):
    """What a network trained on single images makes of a part.

    Attributes:
        scores: of the images, ``(K,)``.
        mean_map, largest_map: maximum of the pixelwise mean and maximum of their maps.
        inputs: score of the exposures made one image, by the name of how.
    """

    scores: Floats
    mean_map: float
    largest_map: float
    inputs: Mapping[str, float]


def see(runner: Runner, images: Images) -> Seen:
    """Inspect the exposures of a part, each and together."""
    maps, scores = runner.infer(images[: runner.max_batch])
    if len(images) > runner.max_batch:
        raise DataError(f"{len(images)} lights, but the runner takes {runner.max_batch} images")
    together = {name: float(runner.infer(make(images)[None]).pred_score[0]) for name, make in INPUTS.items()}
    return Seen(scores.astype(np.float64), float(maps.mean(axis=0).max()), float(maps.max(axis=0).max()), together)


def fused(seen: Sequence[Seen]) -> dict[str, Floats]:
    """Return the scores of parts by each rule that needs no calibration."""
    table = np.stack([each.scores for each in seen])
    rules = {
        _BASE: table.max(axis=1),
        "mean score": table.mean(axis=1),
        "median score": np.median(table, axis=1),
        "largest of the mean map": np.array([each.mean_map for each in seen]),
        "largest of the largest map": np.array([each.largest_map for each in seen]),
    }
    return rules | {f"{name} input": np.array([each.inputs[name] for each in seen]) for name in INPUTS}


def conformal(held_out: Sequence[Part], held_scores: Floats, parts: Sequence[Part], scores: Floats) -> Floats:
    """Return the scores of parts by the station's conformal fusion, calibrated with held-out Good parts."""
    samples = [shot for part in held_out for shot in part.shots]
    good = GoodParts.from_samples(
        samples, held_scores.ravel().tolist(), false_reject_ppm=50_000, confidence=0.95, unsure_ratio=4, source="lights"
    )
    judge = calibrated(good, [Slot(*slot) for slot in good.slots])
    rows = (
        {Slot(shot.view, shot.illumination): score for shot, score in zip(part.shots, row, strict=True)}
        for part, row in zip(parts, scores.tolist(), strict=True)
    )
    return np.array([judge.judge(row).score for row in rows])


def compare(rules: Mapping[str, Floats], bad: npt.NDArray[np.bool_], *, seed: int) -> list[dict[str, Any]]:
    """Return a row for each rule: part AUROC with its interval, and its gain over the first rule on the same draws."""
    names = [str(number) for number in range(len(bad))]
    base = Ranking(next(iter(rules.values())), bad)
    every = np.ones((1, len(bad)))
    rows = []
    for name, scores in rules.items():
        own = Ranking(scores, bad)
        areas = np.concatenate([own.auroc(weights) for weights in draws(names, bad, seed=seed)])
        gain = change_interval(base.auroc, own.auroc, draws(names, bad, seed=seed))
        good = np.sort(scores[~bad])
        limit = good[len(good) - 1 - math.floor(_EQUAL * len(good))]
        best = f1_max(scores, bad)
        if gain is None or best is None:
            raise DataError("there are no Good parts, or no defective ones; expected both")
        rows.append(
            {
                "rule": name,
                "part_AUROC": round(float(own.auroc(every)[0]), 4),
                "part_AUROC_interval": [round(float(q), 4) for q in np.quantile(areas, (0.025, 0.975))],
                "gain": round(float(own.auroc(every)[0] - base.auroc(every)[0]), 4),
                "gain_interval": [round(bound, 4) for bound in gain],
                "part_F1Max": round(best, 4),
                "misses_at_equal": round(float(np.mean(scores[bad] <= limit)), 4),
            }
        )
    return rows


def write_together(dataset: Dataset, folder: Path, how: str, size_hw: tuple[int, int]) -> DatasetConfig:
    """Write the parts of a data set with their exposures made one image; returns what describes it."""
    rows = []
    for split in _SPLITS:
        for number, part in enumerate(whole(getattr(dataset, split))):
            name = f"{split}_{number}.png"
            write_png(folder / name, INPUTS[how](read(part, size_hw)))
            defects = sorted({shot.defect for shot in part.shots if not shot.is_good})
            rows.append({"image": name, "part_id": part.name, "defect": "+".join(defects) or "good", "split": split})
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ("image", "part_id", "defect", "split"))
        table.writeheader()
        table.writerows(rows)
    return DatasetConfig(kind="manifest", root=folder.resolve(), category=folder.name)


def trained_on(how: str, recipe: TrainConfig, dataset: Dataset, parts: Sequence[Part], folder: Path) -> Floats:
    """Train on exposures made one image, for as many steps as on single ones, and return the scores of parts."""
    from edgead.cfrg.train import train
    from edgead.runtime.torch_runner import TorchRunner

    size_hw = (recipe.size, recipe.size)
    together = write_together(dataset, folder / how, how, size_hw)
    steps = recipe.epochs * math.ceil(len(dataset.train) / recipe.batch)
    epochs = round(steps / math.ceil(len(together.open().train) / recipe.batch))
    own = recipe.model_copy(update={"dataset": together, "epochs": epochs})
    state = folder / f"{how}_run"
    trained = train(own, state, resume=(state / "training" / "state.pt").exists())
    with TorchRunner(trained.cfrg, threads=1) as runner:
        return np.array([float(runner.infer(INPUTS[how](read(part, size_hw))[None]).pred_score[0]) for part in parts])


def measure(given: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows, and what they have in common."""
    bundle = Bundle.open(given.run)
    if bundle.info.dataset is None:
        raise DataError(f"{given.run}: the bundle does not say what it was trained on; expected a run of edgead train")
    dataset = bundle.info.dataset.open()
    parts, held_out = whole(dataset.test), whole(dataset.validation)
    shifts, seen = [], []
    with (
        open_runner(bundle, given.artefact, threads=1) as runner,
        task("Lights", len(parts) + len(held_out)) as advance,
    ):
        for part in [*parts, *held_out]:
            images = read(part, runner.size_hw)
            shifts.append(apart(images))
            seen.append(see(runner, images))
            advance(1)
    scores = np.stack([each.scores for each in seen])
    rules = fused(seen[: len(parts)])
    if len(held_out) >= FEWEST:
        own = conformal(held_out, scores[len(parts) :], parts, scores[: len(parts)])
        rules["conformal score (station: conformal)"] = own
    if given.train:
        recipe = load_train(given.run / "train.yaml")
        rules["averaged input, trained on"] = trained_on("averaged", recipe, dataset, parts, given.train)
    bad = np.array([part.is_defective for part in parts])
    sizes = [len({read_image(shot.image).shape for shot in part.shots}) for part in parts]
    conditions = {
        "artefact": given.artefact, "seed": given.seed, "lights": len(parts[0].shots), "good": int((~bad).sum()),
        "defective": int(bad.sum()), "held_out": len(held_out), "equal_false_rejects": _EQUAL,
        "parts_of_one_size": sum(number == 1 for number in sizes),
        "shift_px": [round(float(q), 1) for q in np.quantile(shifts, (0.5, 0.95))],
    }  # fmt: skip
    return compare(rules, bad, seed=given.seed), conditions


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare what can be done with several lights."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lights", description=main.__doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--artefact", default="fp32")
    parser.add_argument("--train", type=Path, metavar="DIR", help="also train on averaged exposures, there")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the measurements as JSON")
    given = parser.parse_args(arguments)
    try:
        rows, conditions = measure(given)
        for row in rows:
            print(", ".join(f"{key} {value}" for key, value in row.items()))
        if given.save is not None:
            more = f" --train {given.train}" if given.train else ""
            command = f"python -m benchmarks.lights {given.run}{more} --save {given.save}"
            save(given.save, command=command, conditions=conditions, rows=rows)
    except EdgeadError as error:
        print(f"benchmarks.lights: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
