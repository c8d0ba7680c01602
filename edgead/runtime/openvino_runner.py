"""Inspect images with an ONNX model on OpenVINO: Intel CPUs and GPUs, and any other CPU with AVX2 or AVX-512."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgead.errors import ArtefactError, ConfigError, MissingError, require
from edgead.runtime.inspection_model import REBUILD, Port, reason, refuse_unreadable, size_of
from edgead.runtime.runner import Prediction, check_images, check_prediction, usable_cores

Hint = Literal["fp32", "bf16"]

_PRECISIONS: dict[Hint, str] = {"fp32": "f32", "bf16": "bf16"}
_cores: list[Any] = []
_opening = threading.Lock()


def open_core() -> Any:
    """Return the process's one ``openvino.Core``, which stays until the process ends.

    OpenVINO's plugin for CPUs gives the thread that loads it another stack for signal handlers, and takes this away
    with the last core and model: unloaded in another thread, or when a second plugin was unloaded before it, it leaves
    the first thread with the address of memory that is gone. The next signal with a handler of Python's, SIGTERM or
    SIGCHLD say, then ends the process by SIGSEGV and without a word (seen with OpenVINO 2026.4).

    Raises:
        MissingError: openvino is not installed.
    """
    with _opening:
        if not _cores:
            _cores.append(require("openvino", extra="openvino").Core())
        return _cores[0]


class OpenVINORunner:
    """An open inspection model, compiled for one image; a batch runs image by image. One thread may use it at a time.

    Image by image because that is fastest in float32, where one image's tensors stay in the cache: cfrg-lite0 at
    256x256 takes 15.3 ms an image in batches of one, 16.6 in batches of four and 17.8 in batches of eight (one thread,
    2 cores AMD EPYC; 16.8 where the batch is left open). In int8 batches of four would gain 14 % (5.7 ms instead of
    6.7, two threads), for a second compiled model. An image's map does not depend on its neighbours either.

    Attributes:
        name: ``openvino-cpu``, ``openvino-gpu``; with ``-bf16`` where it multiplies in bfloat16.
        size_hw: height and width of its images.
        max_batch: largest N that ``infer`` takes.
        threads: CPU threads that one inference uses, as OpenVINO reports them; None on a GPU.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int = 0,
        max_batch: int = 8,
        device: str = "CPU",
        hint: Hint = "fp32",
    ) -> None:
        """Open a model.

        Args:
            threads: threads of one inference; 0 takes all cores that the process may use.
            device: OpenVINO's word, such as ``"CPU"`` or ``"GPU"``.
            hint: arithmetic of what the file has in float32. Left alone, OpenVINO takes bfloat16 on a CPU that has it.
                Q/DQ layers run in int8 with either.

        Raises:
            ArtefactError: missing, empty, truncated, no ONNX, or a model with other inputs or outputs.
            ConfigError: bf16 on a device that cannot.
            MissingError: openvino is not installed, or has no such device here.
        """
        ov = require("openvino", extra="openvino")
        self.path = Path(path)
        self.max_batch = max_batch
        self.name = f"openvino-{device.lower()}" + ("-bf16" if hint == "bf16" else "")
        core = open_core()
        if hint == "bf16":
            refuse_without_bf16(_capabilities(core, device), device)
        model = _read(self.path, ov)
        inputs, outputs = ([_port(value) for value in ports] for ports in (model.inputs, model.outputs))
        self.size_hw = size_of(inputs, outputs, self.path)
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _PRECISIONS[hint]}
        if device == "CPU":
            options |= {"INFERENCE_NUM_THREADS": threads or usable_cores(), "NUM_STREAMS": 1}
            options["ENABLE_CPU_PINNING"] = False  # two runners would be pinned to the same cores
        try:
            model.reshape({"image": [1, *self.size_hw, 3]})
            self._compiled: Any = core.compile_model(model, device, options)
        except RuntimeError as error:
            if device not in core.available_devices:
                raise _no_device(core, device, error) from error
            raise ArtefactError(
                f"{self.path}: OpenVINO {ov.__version__} cannot compile it for {device} ({reason(error)}); {REBUILD}"
            ) from error
        self.threads = int(self._compiled.get_property("INFERENCE_NUM_THREADS")) if device == "CPU" else None
        # Tensors bound once: a model that does next to nothing takes 57 us a call, 179 with arrays handed over.
        self._request: Any = self._compiled.create_infer_request()
        self._image = self._request.get_tensor("image").data
        self._map = self._request.get_tensor("anomaly_map").data
        self._score = self._request.get_tensor("pred_score").data

    def infer(self, images: npt.NDArray[np.uint8]) -> Prediction:
        """Inspect uint8 ``(N, H, W, 3)`` RGB images; the arrays returned are fresh ones.

        Raises:
            DataError: another dtype, shape, or more images than ``max_batch``.
            ArtefactError: the model cannot run or answers with NaN or infinity.
        """
        check_images(images, self.size_hw, self.max_batch)
        if self._request is None:
            raise ArtefactError(f"{self.path}: the runner has been closed; open it again")
        anomaly_map = np.empty((len(images), *self.size_hw), np.float32)
        pred_score = np.empty(len(images), np.float32)
        for index, image in enumerate(images):
            self._image[0] = image
            try:
                self._request.infer()
            except RuntimeError as error:
                raise ArtefactError(f"{self.path}: the model cannot run ({reason(error)}); {REBUILD}") from error
            anomaly_map[index] = self._map[0]
            pred_score[index] = self._score[0]
        return check_prediction(Prediction(anomaly_map, pred_score), str(self.path))

    def layers(self) -> dict[str, str]:
        """Return the precision that each layer runs in, by its name: ``f32``, ``bf16``, ``i8``, ``u8``.

        Raises:
            ArtefactError: the runner has been closed.
        """
        if self._compiled is None:
            raise ArtefactError(f"{self.path}: the runner has been closed; open it again")
        nodes = self._compiled.get_runtime_model().get_ops()
        return {node.get_friendly_name(): str(node.get_rt_info()["runtimePrecision"].astype(str)) for node in nodes}

    def close(self) -> None:
        """Give back the model's memory; twice is allowed."""
        self._request = self._compiled = self._image = self._map = self._score = None

    def __enter__(self) -> OpenVINORunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def refuse_without_bf16(capabilities: Collection[str], device: str) -> None:
    """Refuse bfloat16 where the device would only imitate it.

    Raises:
        ConfigError: ``BF16`` is not among OpenVINO's ``OPTIMIZATION_CAPABILITIES``.
    """
    if "BF16" not in capabilities:
        raise ConfigError(
            f"this {device} has no bfloat16 (it has {', '.join(capabilities) or 'nothing to speed up'}); "
            "use backend openvino, which computes in float32, or artefact int8"
        )


def _capabilities(core: Any, device: str) -> list[str]:
    try:
        return list(core.get_property(device, "OPTIMIZATION_CAPABILITIES"))
    except RuntimeError as error:
        raise _no_device(core, device, error) from error


def _no_device(core: Any, device: str, error: Exception) -> MissingError:
    there = ", ".join(core.available_devices)
    return MissingError(
        f"OpenVINO has no device '{device}' here ({reason(error)}); it has {there}: "
        "choose one of these, or install the driver of that device"
    )


def _read(path: Path, ov: Any) -> Any:
    """Read an ONNX file with the ONNX reader alone: ``read_model`` would try that of TensorFlow too, which prints."""
    refuse_unreadable(path)
    frontend = require("openvino.frontend", extra="openvino")
    try:
        reader = frontend.FrontEndManager().load_by_framework("onnx")
        return reader.convert(reader.load(str(path)))
    except Exception as error:  # its frontends raise types of their own, and whatever pybind11 makes of C++
        raise ArtefactError(
            f"{path}: truncated, or no ONNX model that OpenVINO {ov.__version__} reads ({reason(error)}); {REBUILD}"
        ) from error


def _port(value: Any) -> Port:
    shape = tuple(int(size.get_length()) if size.is_static else "?" for size in value.get_partial_shape())
    name = next(iter(sorted(value.get_names())), "?")
    return Port(name, str(value.get_element_type().to_dtype().name), shape)
