"""Engines that run an ONNX model on ONNX Runtime where TensorRT would run kernels, on the stand-in of the driver.

They have the methods of TensorRT's engines and contexts that edgead uses, and refuse what TensorRT refuses or leaves
undefined: no memory to work in, an address that is not the device's, a first batch while a graph is recorded, a graph
whose context was given another shape since. Inference is a function in the stream, so that a capture records it.
"""

from __future__ import annotations

import ctypes
import enum
import json
import weakref
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
from driver_stand_in import driver, live

from edgead.engine_passport import Passport, this_platform
from edgead.runtime.tensorrt_library import Library

ACTIVATIONS = 4096  # bytes a context works in
dropped: list[tuple[str, dict[str, int]]] = []  # what went, and what of the device was there when it did
runs: Counter[int] = Counter()  # inferences by batch size
rtx_settings: list[Any] = []  # that contexts were opened with

_MAGIC = b"\0stand-in"
_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_callbacks: list[Any] = []  # ctypes needs them kept for as long as a graph may call them


class Mode(enum.Enum):
    INPUT = 0
    OUTPUT = 1


class Type(enum.Enum):
    FLOAT = 0
    HALF = 1
    UINT8 = 2


class Context:
    """One execution context."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._batch = 0
        self._changes = [0]  # how often its shape was set; a graph remembers the number
        self._warm = False
        self._memory = (0, 0)
        weakref.finalize(self, _note_drop, "context", self._changes)

    def set_device_memory(self, memory: int, size: int) -> None:
        self._memory = (memory, size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return name not in self._engine.settings.get("refuses", [])

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._batch = shape[0]
        self._changes[0] += 1
        return name == "image" and shape[0] <= self._engine.settings["max_batch"] and "shape" not in self._refuses

    def infer_shapes(self) -> list[str]:
        return [] if self._batch and "infer_shapes" not in self._refuses else ["image"]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self._batch, *self._engine.shapes[name][1:])

    def execute_async_v3(self, stream_handle: int) -> bool:
        if "execute" in self._refuses:
            return self._engine.fail("enqueue failed")
        if not driver().fake_cuda_host(*self._memory) or self._memory[1] < ACTIVATIONS:
            return self._engine.fail("no activation memory")
        if not self._warm:  # what TensorRT prepares at the first batch may allocate, which breaks a capture
            self._warm, pointer = True, ctypes.c_uint64()
            if driver().cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(1)):
                return self._engine.fail("preparations at the first batch failed")
            driver().cuMemFree_v2(pointer)
        callback = _Callback(_inference(self._engine, dict(self._addresses), self._batch, self._changes))
        _callbacks.append(callback)
        return not driver().cuLaunchHostFunc(stream_handle, ctypes.cast(callback, ctypes.c_void_p), None)

    @property
    def _refuses(self) -> list[str]:
        return list(self._engine.settings.get("refuses", []))


class Context8(Context):
    """One of TensorRT 8, where memory is set by an attribute."""

    set_device_memory = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name == "set_device_memory":
            raise AttributeError(name)
        return super().__getattribute__(name)

    def _set(self, memory: int) -> None:
        self._memory = (memory, ACTIVATIONS)

    device_memory = property(fset=_set)


class Engine:
    """An engine over an ONNX model."""

    def __init__(self, settings: dict[str, Any], log: Any) -> None:
        self.settings, self._log = settings, log
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(settings["onnx"], options, providers=["CPUExecutionProvider"])
        height, width = self.session.get_inputs()[0].shape[1:3]
        batch = settings.get("batch", -1)
        self.shapes: dict[str, tuple[int, ...]] = {
            "image": (batch, height, width, 3),
            "anomaly_map": (batch, height, width),
            settings.get("score", "pred_score"): (batch,),
        }
        weakref.finalize(self, _note_drop, "engine", [0])

    @property
    def num_io_tensors(self) -> int:
        return len(self.shapes)

    def get_tensor_name(self, index: int) -> str:
        return [*self.shapes][index]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if name == "image" else Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Type:
        return Type[self.settings.get("input", "UINT8")] if name == "image" else Type.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert (name, profile_index) == ("image", 0)
        largest, shape = self.settings["max_batch"], self.shapes["image"][1:]
        return [(self.settings.get("min_batch", 1), *shape), (largest, *shape), (largest, *shape)]

    def fail(self, reason: str) -> bool:
        self._log.log(1, f"{reason} In enqueueV3 at /trt/engine.cpp:12")
        return False


class Engine10(Engine):
    device_memory_size_v2 = ACTIVATIONS

    def create_execution_context(self, strategy: Any) -> Context | None:
        assert strategy is Trt10.ExecutionContextAllocationStrategy.USER_MANAGED
        return _context(self, Context)


class EngineRtx(Engine):
    device_memory_size_v2 = ACTIVATIONS

    def create_runtime_config(self) -> RtxSettings:
        return RtxSettings()

    def create_execution_context(self, runtime_config: RtxSettings) -> Context | None:
        rtx_settings.append(runtime_config)
        return _context(self, Context)


class Engine8(Engine):
    device_memory_size = ACTIVATIONS

    def create_execution_context_without_device_memory(self) -> Context | None:
        return _context(self, Context8)


class RtxSettings:
    def __init__(self) -> None:
        self.strategy: Any = None
        self.dynamic_shapes_kernel_specialization_strategy: Any = None
        self.cuda_graph_strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy


class _Module:
    """What Library uses of a TensorRT module to open an engine."""

    engine: ClassVar[type[Engine]]

    class ILogger:
        ERROR, WARNING = 1, 2


class Trt10(_Module):
    engine = Engine10

    class NetworkDefinitionCreationFlag:
        STRONGLY_TYPED = 1

    class ExecutionContextAllocationStrategy(enum.Enum):
        STATIC = 0
        USER_MANAGED = 2

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            return _opened(Trt10, data, self.log)


class Trt8(_Module):
    engine = Engine8

    class NetworkDefinitionCreationFlag:
        EXPLICIT_BATCH = 0

    class Runtime(Trt10.Runtime):
        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            return _opened(Trt8, data, self.log)


class TrtRtx(_Module):
    engine = EngineRtx
    NetworkDefinitionCreationFlag = Trt10.NetworkDefinitionCreationFlag
    ExecutionContextAllocationStrategy = Trt10.ExecutionContextAllocationStrategy

    class CudaGraphStrategy(enum.Enum):
        DISABLED = 0
        WHOLE_GRAPH_CAPTURE = 1

    class DynamicShapesKernelSpecializationStrategy(enum.Enum):
        LAZY = 0
        EAGER = 1

    class Runtime(Trt10.Runtime):
        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            return _opened(TrtRtx, data, self.log)


LIBRARIES = {
    "8.6.1": Library(Trt8, "tensorrt", "8.6.1"),
    "10.3.0": Library(Trt10, "tensorrt", "10.3.0"),
    "1.7.1": Library(TrtRtx, "tensorrt-rtx", "1.7.1"),
}


def write_engine(folder: Path, onnx: Path, **settings: Any) -> Path:
    """Write an engine for a stand-in; ``settings`` make it an unusual one."""
    body = json.dumps({"onnx": str(onnx), "max_batch": 8, **settings}).encode()
    path = folder / "engines" / "stand-in.engine"
    path.parent.mkdir(exist_ok=True)
    # as TensorRT-RTX has it: a magic word, and the length at 16
    path.write_bytes(b"vtrt".ljust(16, b"\0") + (24 + len(_MAGIC + body)).to_bytes(8, "little") + _MAGIC + body)
    return path


def passport(library: Library, size: int, **changes: Any) -> Passport:
    """Return the passport of an engine for the stand-in GPU."""
    values = {
        "target": library.target,
        "version": library.version,
        "precision": "fp16",
        "rung": "fp16",
        "source": "fp16",
        "onnx": "model.fp16.onnx",
        "made_from": "0" * 64,
        "gpu": None if library.is_rtx else "Stand-in GPU 0",
        "compute_capabilities": ("8.7",),
        "driver": "13.0",
        "platform": this_platform(),
        "max_batch": 8,
        "size_hw": (size, size),
    }
    return Passport(**{**values, **changes})


def _opened(module: type[_Module], data: bytes, log: Any) -> Engine | None:
    body = data[24 + len(_MAGIC) :]
    if not data[24:].startswith(_MAGIC) or not body.endswith(b"}"):
        log.log(1, "Serialization assertion stdVersionRead == serializationVersion failed.")
        return None
    return module.engine(json.loads(body), log)


def _context(engine: Engine, kind: type[Context]) -> Context | None:
    if "context" in engine.settings.get("refuses", []):
        engine.fail("Cuda error: out of memory")
        return None
    return kind(engine)


def _note_drop(what: str, changes: list[int]) -> None:
    changes[0] = -1  # a graph of it answers with nonsense from now on
    dropped.append((what, live()))


def _inference(engine: Engine, addresses: dict[str, int], batch: int, changes: list[int]) -> Any:
    """Return the function that runs one batch between the addresses that are bound now."""
    session, shapes, expected = engine.session, dict(engine.shapes), changes[0]
    is_bad = "nan" in engine.settings.get("refuses", [])

    def run(_: int) -> None:
        image = _view(addresses["image"], (batch, *shapes["image"][1:]), np.uint8)
        names = ("anomaly_map", "pred_score")
        answers = [_view(addresses[name], (batch, *shapes[name][1:]), np.float32) for name in names]
        if changes[0] != expected or is_bad:
            for answer in answers:
                answer[...] = np.nan
            return
        runs[batch] += 1
        for answer, found in zip(answers, session.run(list(names), {"image": image}), strict=True):
            answer[...] = found

    return run


def _view(pointer: int, shape: tuple[int, ...], dtype: Any) -> Any:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    at = driver().fake_cuda_host(pointer, size)
    assert at, "an address that is not the device's"
    return np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(at)).view(dtype).reshape(shape)
