"""The seam between the product and its inference backends."""

from __future__ import annotations

import os
from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edgead.errors import ArtefactError, DataError


class Prediction(NamedTuple):
    """Raw result of a batch; both arrays belong to the caller.

    Attributes:
        anomaly_map: float32 ``(N, H, W)``, never clamped or normalised.
        pred_score: float32 ``(N,)``, the maximum of each map.
    """

    anomaly_map: npt.NDArray[np.float32]
    pred_score: npt.NDArray[np.float32]


class Runner(Protocol):
    """An open model on one backend: a context manager with one verb, ``infer``."""

    @property
    def name(self) -> str:
        """Backend, precision and device in a word, such as ``onnxruntime-cpu``."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the images that it takes."""

    @property
    def max_batch(self) -> int:
        """Largest N that ``infer`` takes."""

    def infer(self, images: npt.NDArray[np.uint8]) -> Prediction:
        """Inspect uint8 ``(N, H, W, 3)`` RGB images.

        Raises:
            DataError: another dtype, shape, or more images than ``max_batch``.
        """

    def close(self) -> None:
        """Give back memory and devices; twice is allowed."""

    def __enter__(self) -> Runner: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def check_images(images: npt.NDArray[np.uint8], size_hw: tuple[int, int], max_batch: int) -> None:
    """Refuse what no runner takes.

    Raises:
        DataError: not a uint8 ``(N, H, W, 3)`` array of this size with 1 to ``max_batch`` images.
    """
    expected = f"expected uint8 (N, {size_hw[0]}, {size_hw[1]}, 3) with N from 1 to {max_batch}"
    if not isinstance(images, np.ndarray):
        raise DataError(f"images are a {type(images).__name__}; {expected}")
    if images.dtype != np.uint8:
        raise DataError(f"images are {images.dtype}; {expected}: pass pixels 0 to 255, the model normalises them")
    if images.ndim != 4 or images.shape[3] != 3:
        raise DataError(f"images have shape {images.shape}; {expected}")
    if images.shape[1:3] != size_hw:
        raise DataError(f"images have shape {images.shape}; {expected}: resize them with edgead.images.resize")
    if not 1 <= len(images) <= max_batch:
        raise DataError(f"{len(images)} images in a batch; {expected}")


def check_prediction(prediction: Prediction, name: str) -> Prediction:
    """Refuse a prediction with NaN or infinity in it, which would pass every threshold as OK.

    Args:
        name: what errors call the model.

    Raises:
        ArtefactError: a value is not finite.
    """
    if not (np.isfinite(prediction.pred_score).all() and np.isfinite(prediction.anomaly_map).all()):
        raise ArtefactError(
            f"{name}: the model answers with NaN or infinity, so its weights are damaged or overflow; "
            "make it again from a good checkpoint: edgead export"
        )
    return prediction


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
