"""Accuracy of one method and seed on the test split, and what several seeds say together."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from benchmarks.parity.bootstrap import Floats, Ranking, draws
from benchmarks.parity.overlap import Overlaps
from benchmarks.peers.descent import precision
from benchmarks.peers.detector import CFRG_TAPS, Images, Method
from benchmarks.peers.efficientad import EfficientAD
from benchmarks.peers.padim import PaDiM
from benchmarks.peers.patchcore import PatchCore
from benchmarks.peers.rd4ad import RD4AD
from benchmarks.peers.stfpm import STFPM
from edgead.datasets import Sample
from edgead.errors import ConfigError, nearest
from edgead.evaluate import AccuracyMeter, load_mask, score_samples
from edgead.images import read_image, resize
from edgead.progress import task
from edgead.runtime.runner import Runner

METHODS = ("patchcore", "padim", "stfpm", "rd4ad", "efficientad")
VARIANTS = ("patchcore-deep", "padim-deep", "padim-coarse", "stfpm-deep", "rd4ad-deep")
"""The same at the strides 8, 16 and 32 that cfrg-lite0 taps, instead of those of the papers."""

_MEASURED = ("image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_AP", "pixel_AUPRO", "pixel_AUPRO_005", "part_AUROC")
_RANGED = ("image_AUROC", "pixel_AUPRO")


def method(name: str, *, epochs: int | None = None) -> Method:
    """Return a peer with its settings.

    Args:
        epochs: passes over the training images instead of the method's own; those that do not learn ignore it.

    Raises:
        ConfigError: there is no such peer.
    """
    taught: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    match name:
        case "patchcore":
            return PatchCore()
        case "patchcore-deep":
            return PatchCore(taps=CFRG_TAPS)
        case "padim":
            return PaDiM()
        case "padim-deep":
            return PaDiM(taps=CFRG_TAPS, channels=None)
        case "padim-coarse":
            return PaDiM(taps=CFRG_TAPS, stride=16, channels=None)
        case "stfpm":
            return STFPM(**taught)
        case "stfpm-deep":
            return STFPM(taps=CFRG_TAPS, **taught)
        case "rd4ad":
            return RD4AD(**taught)
        case "rd4ad-deep":
            return RD4AD(taps=CFRG_TAPS, **taught)
        case "efficientad":
            return EfficientAD(**taught)
        case _:
            raise ConfigError(f"there is no method '{name}'{nearest(name, (*METHODS, *VARIANTS))}")


def settings(chosen: Method) -> dict[str, Any]:
    """Return what a results file says of a method, as plain JSON values."""
    values = asdict(chosen)
    if "epochs" in values:
        values["precision"] = precision()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def read_images(samples: Sequence[Sample], size_hw: tuple[int, int]) -> Images:
    """Read images as all else in edgead does, ``(N, H, W, 3)``.

    Raises:
        DataError: one cannot be read.
    """
    images = np.empty((len(samples), *size_hw, 3), np.uint8)
    with task("Reading images", len(samples)) as advance:
        for slot, sample in zip(images, samples, strict=True):
            resize(read_image(sample.image), size_hw, out=slot)
            advance(1)
    return images


def measure(runner: Runner, test: Sequence[Sample], *, seed: int) -> dict[str, Any]:
    """Score the test split: metrics, and intervals of 95 % from a bootstrap over whole parts.

    Raises:
        DataError: an image or a mask that cannot be read.
        ArtefactError: the method answers with NaN or infinity.
    """
    meter, overlaps = AccuracyMeter(), Overlaps()
    begin = time.monotonic()
    with task("Evaluating", len(test)) as advance:
        for scored in score_samples(runner, test):
            mask = load_mask(scored.sample, runner.size_hw)
            meter.add(scored, mask)
            overlaps.add(scored.anomaly_map, mask, good=scored.sample.is_good)
            advance(1)
    evaluation = meter.evaluation()
    defective = np.array([not sample.is_good for sample in test])
    ranking = Ranking(evaluation.scores, defective)
    weights = list(draws([sample.part for sample in test], defective, seed=seed))
    accuracy = evaluation.accuracy
    return {
        **{name: rounded(getattr(accuracy, name)) for name in _MEASURED},
        "image_AUROC_interval": interval(ranking.auroc(rows) for rows in weights),
        "pixel_AUPRO_interval": interval(overlaps.aupro(rows) for rows in weights),
        "by_defect": {name: rounded(value) for name, value in accuracy.image_AUROC_by_defect.items()},
        "evaluate_minutes": round((time.monotonic() - begin) / 60, 1),
    }


def interval(values: Iterable[Floats]) -> list[float] | None:
    """Return the 2.5 % and 97.5 % quantiles of drawn values; None where no draw defines one."""
    every = np.concatenate(list(values))
    every = every[np.isfinite(every)]
    return [round(float(bound), 4) for bound in np.quantile(every, (0.025, 0.975))] if len(every) else None


def medians(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the row of a method's medians over its seeds, with the ranges of image AUROC and AUPRO.

    The intervals are medians of the seeds' bounds.
    """
    by_defect = {name: _median(row["by_defect"][name] for row in rows) for name in rows[0]["by_defect"]}
    result: dict[str, Any] = {"method": rows[0]["method"], "seeds": len(rows)}
    result |= {name: _median(row[name] for row in rows) for name in _MEASURED}
    for name in _RANGED:
        known = sorted(row[name] for row in rows if row[name] is not None)
        result[f"{name}_range"] = [known[0], known[-1]] if known else None
        bounds = [row[f"{name}_interval"] for row in rows if row[f"{name}_interval"] is not None]
        result[f"{name}_interval"] = [_median(bound) for bound in zip(*bounds, strict=True)] if bounds else None
    result |= {name: _median(row[name] for row in rows) for name in ("fit_minutes", "evaluate_minutes")}
    return {**result, "by_defect": by_defect}


def rounded(value: float | None) -> float | None:
    """Round to four digits behind the point."""
    return None if value is None else round(value, 4)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return rounded(median(known)) if known else None
