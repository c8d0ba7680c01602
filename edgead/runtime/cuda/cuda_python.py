"""CUDA over cuda-python (the package ``cuda-bindings``)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from edgead.errors import ArtefactError, MissingError, require

_NON_BLOCKING, _DEVICEMAP = 1, 2  # CU_STREAM_NON_BLOCKING and CU_MEMHOSTALLOC_DEVICEMAP of cuda.h


class CudaPython:
    """A device over ``cuda.bindings.driver``; its methods as in edgead.runtime.cuda.Driver."""

    def __init__(self, index: int) -> None:
        """Open a device: retain its primary context.

        Raises:
            MissingError: no such GPU, or a driver that is too old for the library.
        """
        self._api: Any = require("cuda.bindings.driver", extra="tensorrt")
        self._call("cuInit", 0)
        count = self._call("cuDeviceGetCount")
        if not 0 <= index < count:
            raise MissingError(f"there is no GPU {index}; this machine has {count}, counted from 0: nvidia-smi -L")
        self._device = self._call("cuDeviceGet", index)
        self.name = self._call("cuDeviceGetName", 256, self._device).split(b"\0")[0].decode(errors="replace")
        self.capability = f"{self._attribute('COMPUTE_CAPABILITY_MAJOR')}.{self._attribute('COMPUTE_CAPABILITY_MINOR')}"
        self.integrated = bool(self._attribute("INTEGRATED"))
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)

    @property
    def graphs(self) -> CudaPython:
        """This library has graphs."""
        return self

    def push(self) -> None:
        self._call("cuCtxPushCurrent", self._context)

    def pop(self) -> None:
        self._call("cuCtxPopCurrent")

    def release(self) -> None:
        self._call("cuDevicePrimaryCtxRelease", self._device)

    def memory(self, size: int) -> tuple[int, Callable[[], None]]:
        pointer = int(self._call("cuMemAlloc", size, size=size))
        return pointer, partial(self._call, "cuMemFree", pointer)

    def pinned(self, size: int, *, mapped: bool) -> tuple[npt.NDArray[np.uint8], int, Callable[[], None]]:
        at = int(self._call("cuMemHostAlloc", size, _DEVICEMAP if mapped else 0, size=size))
        free = partial(self._call, "cuMemFreeHost", at)
        try:
            pointer = int(self._call("cuMemHostGetDevicePointer", at, 0)) if mapped else 0
        except BaseException:
            free()
            raise
        return np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(at)), pointer, free

    def stream(self) -> tuple[Any, int, Callable[[], None]]:
        stream = self._call("cuStreamCreate", _NON_BLOCKING)
        return stream, int(stream), partial(self._call, "cuStreamDestroy", stream)

    def synchronise(self, stream: Any) -> None:
        self._call("cuStreamSynchronize", stream)

    def copy_in(self, pointer: int, array: npt.NDArray[Any], stream: Any) -> None:
        self._call("cuMemcpyHtoDAsync", pointer, array.ctypes.data, array.nbytes, stream)

    def copy_out(self, array: npt.NDArray[Any], pointer: int, stream: Any) -> None:
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, pointer, array.nbytes, stream)

    def begin_capture(self, stream: Any) -> None:
        self._call("cuStreamBeginCapture", stream, self._api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)

    def end_capture(self, stream: Any) -> tuple[Any, Callable[[], None]]:
        graph = self._call("cuStreamEndCapture", stream)
        try:
            executable = self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)
        return executable, partial(self._call, "cuGraphExecDestroy", executable)

    def launch(self, executable: Any, stream: Any) -> None:
        self._call("cuGraphLaunch", executable, stream)

    def _attribute(self, name: str) -> int:
        attribute = getattr(self._api.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self._call("cuDeviceGetAttribute", attribute, self._device))

    def _call(self, function: str, *arguments: Any, size: int = 0) -> Any:
        """Call a function of the driver, and return what it returns beside its error, which becomes an exception."""
        try:
            error, *found = getattr(self._api, function)(*arguments)
        except RuntimeError as missing:  # the library looks a function up when it is called
            raise MissingError(
                f"the NVIDIA driver has no {function} ({str(missing).splitlines()[0]}); update the driver, or install "
                "cuda-bindings of its CUDA version: edgead doctor"
            ) from missing
        if error == self._api.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise ArtefactError(
                f"CUDA_ERROR_OUT_OF_MEMORY in {function}, {size / 1e6:.1f} MB wanted; close what else uses the GPU, or "
                "build for smaller batches: edgead build --max-batch"
            )
        if error != self._api.CUresult.CUDA_SUCCESS:
            name = getattr(error, "name", error)
            raise ArtefactError(f"{name} in {function}; nvidia-smi shows the state of the GPU, edgead doctor the rest")
        return found[0] if found else None
