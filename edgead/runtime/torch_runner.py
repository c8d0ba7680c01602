"""Inspect images with a checkpoint in PyTorch: the reference that every other backend is held against."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgead.errors import ArtefactError, MissingError, require
from edgead.runtime.runner import Prediction, check_images, check_prediction, usable_cores

if TYPE_CHECKING:
    from edgead.cfrg.model import Cfrg


class TorchRunner:
    """An open checkpoint, or a network in memory.

    Attributes:
        name: ``torch-cpu``, ``torch-cuda``.
        size_hw: height and width of its images.
        max_batch: largest N that ``infer`` takes.
        threads: CPU threads that one inference uses.
    """

    def __init__(
        self, source: str | os.PathLike[str] | Cfrg, *, threads: int = 0, max_batch: int = 8, device: str = "cpu"
    ) -> None:
        """Open a checkpoint.

        Args:
            source: a checkpoint file, or a network; a network is used as it is, but set to eval mode.
            threads: threads of one inference; 0 takes all cores that the process may use.
            device: torch device, such as ``"cpu"`` or ``"cuda"``.

        Raises:
            ArtefactError: no checkpoint, or a damaged one.
            MissingError: torch is not installed, or has no such device.
        """
        torch = require("torch", extra="train")
        from edgead.cfrg import checkpoint
        from edgead.cfrg.inspection import Inspection

        self._torch: Any = torch
        self._named = "the network" if not isinstance(source, (str, os.PathLike)) else str(source)
        cfrg = checkpoint.load(Path(source)) if isinstance(source, (str, os.PathLike)) else source
        try:
            self._model: Any = Inspection(cfrg).eval().to(device)
        except (RuntimeError, AssertionError) as error:
            raise MissingError(
                f"torch has no device '{device}' ({str(error).splitlines()[0]}); use device cpu, or install its driver"
            ) from error
        self._device = device
        self.name = f"torch-{device}"
        self.size_hw = cfrg.size_hw
        self.threads = threads or usable_cores()
        self.max_batch = max_batch

    def infer(self, images: npt.NDArray[np.uint8]) -> Prediction:
        """Inspect uint8 ``(N, H, W, 3)`` RGB images.

        Raises:
            DataError: another dtype, shape, or more images than ``max_batch``.
            ArtefactError: the network answers with NaN or infinity.
        """
        check_images(images, self.size_hw, self.max_batch)
        if self._model is None:
            raise ArtefactError(f"{self._named}: the runner has been closed; open it again")
        torch = self._torch
        before = torch.get_num_threads()  # torch's threads belong to the whole process: give them back
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                pixels = torch.tensor(images, device=self._device)
                anomaly_map, pred_score = (value.float().cpu().numpy() for value in self._model(pixels))
        finally:
            torch.set_num_threads(before)
        return check_prediction(Prediction(anomaly_map, pred_score), self._named)

    def close(self) -> None:
        """Let go of the network; twice is allowed."""
        self._model = None

    def __enter__(self) -> TorchRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
