"""A CUDA device for a runner: memory, streams, copies and graphs, over cuda-python or pycuda, whichever is installed.

Only what an engine needs, on the device's primary context, which TensorRT and torch share. Calls of a device belong
inside ``with device.current():``, in any thread, one at a time.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from edgead.errors import ArtefactError, ConfigError, MissingError, nearest
from edgead.runtime.nvidia_driver import gpu

LIBRARIES = ("cuda-python", "pycuda")  # the first that is installed is taken

_Array = npt.NDArray[Any]
_Free = Callable[[], None]


class Graphs(Protocol):
    """The part of a CUDA library that not every one has."""

    def begin_capture(self, stream: Any) -> None: ...
    def end_capture(self, stream: Any) -> tuple[Any, _Free]: ...
    def launch(self, executable: Any, stream: Any) -> None: ...


class Driver(Protocol):
    """What edgead calls of a CUDA library, on one device; memory and handles come with the call that frees them.

    Its methods raise ArtefactError with the driver's own name or words for what went wrong.

    Attributes:
        name: of the device, such as ``"Orin"``.
        capability: compute capability, such as ``"8.7"``.
        integrated: whether the device shares the memory of the host.
        graphs: None where the library has no CUDA graphs.
    """

    name: str
    capability: str
    integrated: bool

    @property
    def graphs(self) -> Graphs | None: ...

    def __init__(self, index: int) -> None: ...
    def push(self) -> None: ...
    def pop(self) -> None: ...
    def release(self) -> None: ...
    def memory(self, size: int) -> tuple[int, _Free]: ...
    def pinned(self, size: int, *, mapped: bool) -> tuple[npt.NDArray[np.uint8], int, _Free]: ...
    def stream(self) -> tuple[Any, int, _Free]: ...
    def synchronise(self, stream: Any) -> None: ...
    def copy_in(self, pointer: int, array: _Array, stream: Any) -> None: ...
    def copy_out(self, array: _Array, pointer: int, stream: Any) -> None: ...


class _Held:
    """Something of a device that is given back once, by its own ``close`` or by its device's."""

    def __init__(self, device: Device, free: _Free) -> None:
        self._device = device
        self._free: _Free | None = free

    def close(self) -> None:
        """Give it back; twice is allowed."""
        free, self._free = self._free, None
        if free is not None:
            with self._device.current():
                free()


_T = TypeVar("_T", bound=_Held)


class Memory(_Held):
    """Memory of the device, at ``pointer``."""

    def __init__(self, device: Device, size: int) -> None:
        self.pointer, free = device.driver.memory(size)
        super().__init__(device, free)


class Pinned(_Held):
    """Memory of the host that the device reaches without a detour.

    Attributes:
        array: it, filled with zeros. Touching the array or a view of it after ``close`` crashes the process.
        pointer: where the device sees it; 0 unless it is mapped.
    """

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: npt.DTypeLike, *, mapped: bool) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        plain, self.pointer, free = device.driver.pinned(size, mapped=mapped)
        super().__init__(device, free)
        self.array: _Array = plain.view(dtype).reshape(shape)
        self.array.fill(0)


class Graph(_Held):
    """Work recorded once, to be launched as one."""

    def __init__(self, device: Device, graphs: Graphs, stream: Stream) -> None:
        self._graphs, self._stream = graphs, stream
        self._executable, free = graphs.end_capture(stream.native)
        super().__init__(device, free)

    def launch(self) -> None:
        """Begin the work, in the stream that it was recorded from."""
        self._graphs.launch(self._executable, self._stream.native)


class Stream(_Held):
    """A queue of work that neither waits for the default stream nor makes it wait.

    Attributes:
        handle: its ``CUstream`` as a number, as TensorRT takes it.
        native: as the library beneath takes it.
    """

    def __init__(self, device: Device) -> None:
        self.native, self.handle, free = device.driver.stream()
        super().__init__(device, free)

    def copy_in(self, pointer: int, array: _Array) -> None:
        """Begin copying a contiguous array of pinned memory to the device."""
        self._device.driver.copy_in(pointer, array, self.native)

    def copy_out(self, array: _Array, pointer: int) -> None:
        """Begin copying from the device into a contiguous array of pinned memory, which it fills."""
        self._device.driver.copy_out(array, pointer, self.native)

    def synchronise(self) -> None:
        """Wait until all work in the stream is done; errors of that work show here."""
        self._device.driver.synchronise(self.native)

    def record(self, work: Callable[[], None]) -> Graph:
        """Record what ``work`` puts into the stream, which does not run now.

        Other threads may use CUDA meanwhile; this one may neither allocate nor wait. The capture ends whatever happens.

        Raises:
            ArtefactError: something cannot be recorded, or the library has no graphs.
        """
        if (graphs := self._device.driver.graphs) is None:
            raise ArtefactError(f"{type(self._device.driver).__name__} has no CUDA graphs; pip install cuda-bindings")
        graphs.begin_capture(self.native)
        try:
            work()
        except BaseException:
            with suppress(ArtefactError):  # it says that the capture failed; why it did is on its way up
                Graph(self._device, graphs, self).close()
            raise
        return self._device.keep(Graph(self._device, graphs, self))


class Device:
    """An open CUDA device; ``close`` gives back all that is left of it.

    Attributes:
        driver: the library beneath.
        name, capability, integrated: as in Driver.
        graphs: whether work can be recorded.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.name, self.capability, self.integrated = driver.name, driver.capability, driver.integrated
        self.graphs = driver.graphs is not None
        self._held = ExitStack()
        self._open = True

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it the device that CUDA calls of this thread mean; what it was before comes back."""
        self.driver.push()
        try:
            yield
        finally:
            self.driver.pop()

    def memory(self, size: int) -> Memory:
        """Allocate bytes of the device.

        Raises:
            ArtefactError: there is not enough.
        """
        return self.keep(Memory(self, size))

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike, *, mapped: bool = False) -> Pinned:
        """Allocate pinned memory of the host as an array; ``mapped`` if the device shall work in it directly.

        Raises:
            ArtefactError: there is not enough.
        """
        return self.keep(Pinned(self, shape, dtype, mapped=mapped))

    def stream(self) -> Stream:
        """Create a stream."""
        return self.keep(Stream(self))

    def keep(self, held: _T) -> _T:
        """Give this back at the latest when the device closes: the youngest first."""
        self._held.callback(held.close)
        return held

    def close(self) -> None:
        """Give back all that is left, then the device; twice is allowed."""
        if not self._open:
            return
        self._open = False
        try:
            self._held.close()
        finally:
            self.driver.release()


def open_device(index: int = 0, *, prefer: str | None = None) -> Device:
    """Open a CUDA device.

    Args:
        prefer: one of LIBRARIES; None takes the first that is installed.

    Raises:
        ConfigError: ``prefer`` is no such library.
        MissingError: no driver, no such GPU, or no library.
    """
    gpu()  # without a driver there is nothing to choose from
    if prefer is not None and prefer not in LIBRARIES:
        raise ConfigError(f"there is no CUDA library '{prefer}'{nearest(prefer, LIBRARIES)}")
    for name in LIBRARIES if prefer is None else (prefer,):
        if name == "cuda-python" and _is_installed("cuda.bindings"):
            from edgead.runtime.cuda.cuda_python import CudaPython

            return Device(CudaPython(index))
        if name == "pycuda" and _is_installed("pycuda"):
            from edgead.runtime.cuda.over_pycuda import PyCuda

            return Device(PyCuda(index))
    raise MissingError(
        f"{prefer or 'neither cuda-python nor pycuda'} is {'not ' if prefer else ''}installed; in edgead's folder: "
        f"pip install '.[{'pycuda' if prefer == 'pycuda' else 'tensorrt'}]'"
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False
