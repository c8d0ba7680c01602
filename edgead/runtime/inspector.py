"""Judge single images: what a station does to its frames, for images at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgead.images import AnomalyMap, Image, resize
from edgead.runtime.runner import Runner
from edgead.thresholds import Threshold, Verdict


@dataclass(frozen=True, eq=False)
class Inspection:
    """One judged image.

    Attributes:
        score: raw ``pred_score``.
        anomaly_map: float32 ``(H, W)`` of the runner's size, raw.
    """

    score: float
    anomaly_map: AnomalyMap
    verdict: Verdict


class Inspector:
    """A runner with the threshold of its artefact."""

    def __init__(self, runner: Runner, threshold: Threshold) -> None:
        self._runner = runner
        self._threshold = threshold
        self._images = np.zeros((runner.max_batch, *runner.size_hw, 3), np.uint8)

    def inspect(self, images: Sequence[Image]) -> list[Inspection]:
        """Judge uint8 ``(H, W, 3)`` RGB images of any sizes; one inspection an image, in their order."""
        inspections: list[Inspection] = []
        for begin in range(0, len(images), self._runner.max_batch):
            batch = images[begin : begin + self._runner.max_batch]
            for image, place in zip(batch, self._images, strict=False):
                resize(image, self._runner.size_hw, out=place)
            prediction = self._runner.infer(self._images[: len(batch)])
            for score, anomaly_map in zip(prediction.pred_score.tolist(), prediction.anomaly_map, strict=True):
                inspections.append(Inspection(score, anomaly_map, self._threshold.verdict(score)))
        return inspections
