"""The MVTec protocol: accuracy by category, and the mean over categories.

    from benchmarks import mvtec_evaluation
    result = mvtec_evaluation.evaluate_dataset([("bottle", runner, dataset.test)])
    print(result.table())

A predictor is a runner, or any function from uint8 ``(N, H, W, 3)`` RGB to maps float32 ``(N, H, W)`` and scores
``(N,)``; maps computed elsewhere go through ``evaluate_maps``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgead.datasets.sample import Sample
from edgead.errors import DataError
from edgead.evaluate import Accuracy, AccuracyMeter, Advance, Scored, evaluate, load_mask
from edgead.images import AnomalyMap
from edgead.runtime.runner import Prediction, Runner

Predict = Callable[[npt.NDArray[np.uint8]], tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]

METRICS = (
    "image_AUROC",
    "image_F1Max",
    "part_AUROC",
    "pixel_AUROC",
    "pixel_AP",
    "pixel_AUPRO",
    "pixel_AUPRO_005",
    "pro_3cad",
)


@dataclass(frozen=True)
class DatasetAccuracy:
    """Accuracy of each category, in the order evaluated."""

    categories: Mapping[str, Accuracy]

    def mean(self) -> dict[str, float | None]:
        """Return each metric's mean over the categories that define it; None where none does."""
        means: dict[str, float | None] = {}
        for metric in METRICS:
            values = [getattr(accuracy, metric) for accuracy in self.categories.values()]
            defined = [value for value in values if value is not None]
            means[metric] = float(np.mean(defined)) if defined else None
        return means

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "categories": {name: accuracy.to_dict() for name, accuracy in self.categories.items()},
            "mean": self.mean(),
        }

    def table(self) -> str:
        """Return a text table in percent; ``-`` where a metric is not defined."""
        rows = {name: {m: getattr(accuracy, m) for m in METRICS} for name, accuracy in self.categories.items()}
        rows["mean"] = self.mean()
        first = max(len(name) for name in ("category", *rows))
        lines = ["  ".join([f"{'category':<{first}}", *METRICS])]
        for name, values in rows.items():
            cells = [f"{'-' if (v := values[m]) is None else format(100 * v, '.1f'):>{len(m)}}" for m in METRICS]
            lines.append("  ".join([f"{name:<{first}}", *cells]))
        return "\n".join(lines)


def evaluate_category(
    predictor: Runner | Predict,
    samples: Sequence[Sample],
    *,
    size_hw: tuple[int, int] = (256, 256),
    batch: int = 8,
    progress: Advance | None = None,
) -> Accuracy:
    """Measure one category's test samples; errors as ``edgead.evaluate.evaluate``.

    Args:
        size_hw: height and width that a function takes; a runner knows its own.
    """
    runner: Runner = _FunctionRunner(predictor, size_hw, batch) if callable(predictor) else predictor
    return evaluate(runner, samples, batch=batch, progress=progress).accuracy


def evaluate_maps(
    maps: Iterable[AnomalyMap], samples: Sequence[Sample], *, scores: Iterable[float] | None = None
) -> Accuracy:
    """Measure maps computed elsewhere, float32 ``(H, W)`` in the order of the samples, masks resized to them.

    Args:
        maps: any iterable, read once, so that maps may be loaded one by one.
        scores: one a sample; None takes the maximum of each map.

    Raises:
        DataError: not one map and score a sample, or a mask that cannot be read.
    """
    meter = AccuracyMeter()
    given = None if scores is None else list(scores)
    if given is not None and len(given) != len(samples):
        raise DataError(f"{len(given)} scores for {len(samples)} samples; expected one each")
    count = 0
    for anomaly_map in maps:
        if count < len(samples):
            sample = samples[count]
            score = float(anomaly_map.max()) if given is None else given[count]
            height, width = anomaly_map.shape
            meter.add(Scored(sample, anomaly_map, score), load_mask(sample, (height, width)))
        count += 1
    if count != len(samples):
        raise DataError(f"{count} maps for {len(samples)} samples; expected one each")
    return meter.evaluation().accuracy


def evaluate_dataset(
    categories: Iterable[tuple[str, Runner | Predict, Sequence[Sample]]],
    *,
    size_hw: tuple[int, int] = (256, 256),
    batch: int = 8,
    progress: Advance | None = None,
) -> DatasetAccuracy:
    """Measure every category with its own predictor, as the protocol has one model a category.

    Args:
        categories: name, predictor and test samples of each; a generator may open one runner after the other.
    """
    return DatasetAccuracy(
        {
            name: evaluate_category(predictor, samples, size_hw=size_hw, batch=batch, progress=progress)
            for name, predictor, samples in categories
        }
    )


class _FunctionRunner:
    """Lends a function the face of a runner."""

    def __init__(self, predict: Predict, size_hw: tuple[int, int], max_batch: int) -> None:
        self._predict = predict
        self.size_hw = size_hw
        self.max_batch = max_batch
        self.name = getattr(predict, "__name__", type(predict).__name__)

    def infer(self, images: npt.NDArray[np.uint8]) -> Prediction:
        maps, scores = self._predict(images)
        return Prediction(np.asarray(maps, dtype=np.float32), np.asarray(scores, dtype=np.float32))

    def close(self) -> None:
        """Nothing to give back."""

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
