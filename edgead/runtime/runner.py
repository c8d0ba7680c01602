"""The seam between the product and its inference backends."""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


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
