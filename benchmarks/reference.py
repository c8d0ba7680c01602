"""The torch pipeline as parity's reference, its steps after the networks done by other means than the exported graph.

Levels are upsampled by torch and smoothed by scipy, in float64, where the graph multiplies matrices in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgead.errors import require
from edgead.runtime.runner import Prediction, check_images

if TYPE_CHECKING:
    from edgead.cfrg.model import Cfrg


class Reference:
    """A runner on torch networks whose map fusion, Gaussian and maximum are not the exported code."""

    name = "torch + scipy"

    def __init__(self, cfrg: Cfrg, *, max_batch: int = 8) -> None:
        """Take a network; scipy must be installed.

        Raises:
            MissingError: torch or scipy is not installed.
        """
        self._torch = require("torch", extra="train")
        self._smooth: Callable[..., Any] = require("scipy.ndimage", extra="dev").gaussian_filter
        self._cfrg = cfrg.eval()
        self.size_hw = cfrg.size_hw
        self.max_batch = max_batch

    def infer(self, images: npt.NDArray[np.uint8]) -> Prediction:
        """Inspect uint8 ``(N, H, W, 3)`` RGB images (3CAD's inference, with the network's fusion weights)."""
        check_images(images, self.size_hw, self.max_batch)
        torch = self._torch
        with torch.inference_mode():
            output = self._cfrg(self._cfrg.normalise(torch.from_numpy(images)))
            parts = [*output.disagreement.recovery, output.logits.sigmoid(), *output.statistics]
            up = torch.nn.functional.interpolate
            raw = sum(
                weight * up(part.double(), size=self.size_hw, mode="bilinear", align_corners=True)
                for weight, part in zip(self._cfrg.fusion.double(), parts, strict=True)
            )
        maps = [self._smooth(image, sigma=4, truncate=4, mode="reflect") for image in raw[:, 0].numpy()]
        anomaly_map = np.stack(maps).astype(np.float32)
        return Prediction(anomaly_map, anomaly_map.max(axis=(1, 2)))

    def close(self) -> None:
        """Nothing to give back."""

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
