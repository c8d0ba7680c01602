"""Inspect images with an ONNX model on ONNX Runtime's CPU provider."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgead.errors import ArtefactError, require
from edgead.runtime.runner import Prediction, check_images, check_prediction, usable_cores

_REBUILD = "make it again: edgead export"


class OnnxRunner:
    """An open ONNX model with ``image`` uint8 ``(N, H, W, 3)`` in, ``anomaly_map`` and ``pred_score`` out.

    Attributes:
        name: ``onnxruntime-cpu``.
        size_hw: height and width of its images.
        max_batch: largest N that ``infer`` takes.
        threads: threads that one inference uses.
    """

    name = "onnxruntime-cpu"

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 0, max_batch: int = 8) -> None:
        """Open a model.

        Args:
            threads: threads of one inference; 0 takes all cores that the process may use.

        Raises:
            ArtefactError: missing, empty, truncated, no ONNX, or a model with other inputs or outputs.
            MissingError: onnxruntime is not installed.
        """
        self.path = Path(path)
        self.threads = threads or usable_cores()
        self.max_batch = max_batch
        self._session: Any = open_session(self.path, threads=self.threads)
        self.size_hw = _contract(self._session, self.path)

    def infer(self, images: npt.NDArray[np.uint8]) -> Prediction:
        """Inspect uint8 ``(N, H, W, 3)`` RGB images; the arrays returned are fresh ones.

        Raises:
            DataError: another dtype, shape, or more images than ``max_batch``.
            ArtefactError: the model cannot run or answers with NaN or infinity.
        """
        check_images(images, self.size_hw, self.max_batch)
        if self._session is None:
            raise ArtefactError(f"{self.path}: the runner has been closed; open it again")
        # A plain run is as fast as bound buffers here (334 us against 347 for one 256x256 image through a null model,
        # and 1508 against 1731 for eight): it hands over fresh arrays, where bound ones must be copied out.
        try:
            anomaly_map, pred_score = self._session.run(["anomaly_map", "pred_score"], {"image": images})
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types
            raise ArtefactError(f"{self.path}: the model cannot run ({_first_line(error)}); {_REBUILD}") from error
        expected = (len(images), *self.size_hw)
        if anomaly_map.shape != expected or pred_score.shape != expected[:1]:
            raise ArtefactError(
                f"{self.path}: anomaly_map is {anomaly_map.shape} and pred_score {pred_score.shape}, "
                f"expected {expected} and {expected[:1]}; {_REBUILD}"
            )
        return check_prediction(Prediction(anomaly_map, pred_score), str(self.path))

    def close(self) -> None:
        """Give back the model's memory; twice is allowed."""
        self._session = None

    def __enter__(self) -> OnnxRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_session(path: Path, *, threads: int) -> Any:
    """Open any ONNX file on the CPU provider.

    Raises:
        ArtefactError: missing, empty, truncated, or no ONNX.
    """
    ort = require("onnxruntime", extra="export")
    try:
        empty = path.stat().st_size == 0
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be read ({error.strerror}); {_REBUILD}") from error
    if empty:
        raise ArtefactError(f"{path}: the file is empty; {_REBUILD}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors reach the caller as exceptions
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a dozen unrelated types
        raise ArtefactError(
            f"{path}: truncated, or no ONNX model that ONNX Runtime {ort.__version__} reads ({_first_line(error)}); "
            f"{_REBUILD}"
        ) from error


def _contract(session: Any, path: Path) -> tuple[int, int]:
    """Return height and width of the images after holding the model's inputs and outputs against decision D1."""
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    found = "; ".join(f"{value.name} {value.type} {value.shape}" for value in [*inputs.values(), *outputs.values()])
    expected = "expected image uint8 (batch, H, W, 3) -> anomaly_map float (batch, H, W), pred_score float (batch)"
    types = {name: (value.type, len(value.shape)) for name, value in {**inputs, **outputs}.items()}
    wanted = {"image": ("tensor(uint8)", 4), "anomaly_map": ("tensor(float)", 3), "pred_score": ("tensor(float)", 1)}
    if set(inputs) != {"image"} or types != wanted:
        raise ArtefactError(f"{path}: not an inspection model, it has {found}; {expected}; {_REBUILD}")
    batch, height, width, channels = inputs["image"].shape
    if isinstance(batch, int):
        raise ArtefactError(f"{path}: takes batches of {batch} only, expected any batch; {_REBUILD}")
    if not isinstance(height, int) or not isinstance(width, int) or channels != 3:
        raise ArtefactError(f"{path}: image is {inputs['image'].shape}; {expected}; {_REBUILD}")
    return height, width


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
