"""A runner whose maps are known: for tests, and for trying a station without a model."""

from __future__ import annotations

from types import TracebackType

import numpy as np
import numpy.typing as npt

from edgead.errors import ArtefactError, DataError
from edgead.images import AnomalyMap
from edgead.runtime.runner import Prediction, check_images, check_prediction


class FakeRunner:
    """Answers every image with a map known beforehand: its own brightness, or the map it was given.

    Args:
        size_hw: height and width of the images that it takes, pixels.
        anomaly_map: float32 ``(H, W)``, the answer to every image; None answers with the mean of red, green and blue
            over 255, so that bright pixels are the anomalous ones.
        max_batch: largest N that ``infer`` takes.

    Attributes:
        batches: the N of every call so far.
        closed: whether ``close`` was called.
    """

    def __init__(
        self,
        size_hw: tuple[int, int] = (256, 256),
        *,
        anomaly_map: AnomalyMap | None = None,
        max_batch: int = 8,
        name: str = "fake",
    ) -> None:
        if anomaly_map is not None and anomaly_map.shape != size_hw:
            raise DataError(f"anomaly_map is {anomaly_map.shape}; expected size_hw, {size_hw}")
        self._size_hw = size_hw
        self._map = anomaly_map
        self._max_batch = max_batch
        self._name = name
        self.batches: list[int] = []
        self.closed = False

    @property
    def name(self) -> str:
        """The name given."""
        return self._name

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the images that it takes."""
        return self._size_hw

    @property
    def max_batch(self) -> int:
        """Largest N that ``infer`` takes."""
        return self._max_batch

    def infer(self, images: npt.NDArray[np.uint8]) -> Prediction:
        """Return the known map of uint8 ``(N, H, W, 3)`` RGB images, and its maximum as score.

        Raises:
            DataError: another dtype, shape, or more images than ``max_batch``.
            ArtefactError: closed, or the map it was given is not finite.
        """
        if self.closed:
            raise ArtefactError(f"{self._name}: the runner has been closed; open it again")
        check_images(images, self._size_hw, self._max_batch)
        self.batches.append(len(images))
        if self._map is None:
            maps = images.mean(axis=3, dtype=np.float32) / np.float32(255)
        else:
            maps = np.repeat(self._map[None], len(images), axis=0).astype(np.float32)
        return check_prediction(Prediction(maps, maps.max(axis=(1, 2))), self._name)

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True

    def __enter__(self) -> FakeRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
