"""CUDA over pycuda, for machines where it is installed already. It has no CUDA graphs.

pycuda frees what its objects hold when they go, in whatever order, and only where their context is current, so each
free is called here while it is. What the driver refuses to take back, pycuda prints and does not raise.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from edgead.errors import ArtefactError, MissingError, require

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING of cuda.h, for which pycuda has no name


class PyCuda:
    """A device over ``pycuda.driver``; its methods as in edgead.runtime.cuda.Driver."""

    graphs = None

    def __init__(self, index: int) -> None:
        """Open a device: retain its primary context, never one of its own, which TensorRT would not see.

        Raises:
            MissingError: no such GPU, or a pycuda that cannot be imported.
        """
        self._api: Any = require("pycuda.driver", extra="pycuda")
        with self._named():
            self._api.init()
            count = self._api.Device.count()
            if not 0 <= index < count:
                raise MissingError(f"there is no GPU {index}; this machine has {count}, counted from 0: nvidia-smi -L")
            device = self._api.Device(index)
            self.name = str(device.name())
            self.capability = ".".join(str(part) for part in device.compute_capability())
            self.integrated = bool(device.get_attribute(self._api.device_attribute.INTEGRATED))
            self._context = device.retain_primary_context()

    def push(self) -> None:
        with self._named():
            self._context.push()

    def pop(self) -> None:
        with self._named():
            self._context.pop()

    def release(self) -> None:
        # pycuda releases a context in another thread than its own only while it is current, and believes that releasing
        # takes it off the driver's stack, which is not so for primary contexts.
        with self._named():
            self._context.push()
            self._context.detach()
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def memory(self, size: int) -> tuple[int, Callable[[], None]]:
        with self._named(size):
            memory = self._api.mem_alloc(size)
        return int(memory), self._freeing(memory)

    def pinned(self, size: int, *, mapped: bool) -> tuple[npt.NDArray[np.uint8], int, Callable[[], None]]:
        flags = self._api.host_alloc_flags.DEVICEMAP if mapped else 0
        with self._named(size):
            array = self._api.pagelocked_empty(size, np.uint8, mem_flags=flags)
            pointer = int(array.base.get_device_pointer()) if mapped else 0
        return array, pointer, self._freeing(array.base)

    def stream(self) -> tuple[Any, int, Callable[[], None]]:
        with self._named():
            stream = _Stream(self._api.Stream(_NON_BLOCKING))
        return stream, int(stream.native.handle), stream.drop

    def synchronise(self, stream: Any) -> None:
        with self._named():
            stream.native.synchronize()

    def copy_in(self, pointer: int, array: npt.NDArray[Any], stream: Any) -> None:
        with self._named():
            self._api.memcpy_htod_async(pointer, array, stream.native)

    def copy_out(self, array: npt.NDArray[Any], pointer: int, stream: Any) -> None:
        with self._named():
            self._api.memcpy_dtoh_async(array, pointer, stream.native)

    def _freeing(self, allocation: Any) -> Callable[[], None]:
        def free() -> None:
            with self._named():
                allocation.free()

        return free

    @contextmanager
    def _named(self, size: int = 0) -> Iterator[None]:
        """Turn pycuda's exceptions, which carry the driver's words and not its names, into one of edgead's."""
        try:
            yield
        except self._api.MemoryError as error:
            raise ArtefactError(
                f"CUDA_ERROR_OUT_OF_MEMORY ({error}), {size / 1e6:.1f} MB wanted; close what else uses the GPU, or "
                "build for smaller batches: edgead build --max-batch"
            ) from error
        except self._api.Error as error:
            raise ArtefactError(
                f"CUDA: {str(error).splitlines()[0]}; nvidia-smi shows the state of the GPU, edgead doctor the rest"
            ) from error


class _Stream:
    """A pycuda stream, which is destroyed when the last reference to it goes: this one."""

    def __init__(self, native: Any) -> None:
        self.native = native

    def drop(self) -> None:
        self.native = None
