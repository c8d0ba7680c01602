"""Inspect images with a TensorRT or TensorRT-RTX engine."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgead.engine_passport import Passport
from edgead.errors import ArtefactError, DataError
from edgead.runtime.cuda import Device, Graph, Memory, Pinned, open_device
from edgead.runtime.runner import Prediction, check_images, check_prediction
from edgead.runtime.tensorrt_context import activation_bytes, open_context
from edgead.runtime.tensorrt_library import Library, load

_TENSORS = {"image": ("INPUT", "UINT8", 4), "anomaly_map": ("OUTPUT", "FLOAT", 3), "pred_score": ("OUTPUT", "FLOAT", 1)}
_EXPECTED = "expected image uint8 (batch, H, W, 3) -> anomaly_map float (batch, H, W), pred_score float (batch)"


class TensorRTRunner:
    """An open engine. Not thread-safe: one batch at a time, in whichever thread; threads at once need a runner each.

    A batch goes through pinned memory that is bound once. The first batch of each size is slow: it warms the engine up
    and records copies and inference as one CUDA graph, which later batches of that size launch.

    Attributes:
        name: target and precision, such as ``tensorrt-fp16``.
        size_hw: height and width of its images.
        max_batch: largest N that ``infer`` takes.
        no_graphs: why batches are not launched as one graph; ``""`` while they are.
        zero_copy: whether the GPU shares the memory of the host, so that nothing is copied.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        passport: Passport,
        library: Library | None = None,
        device: int = 0,
        max_batch: int | None = None,
        graphs: bool = True,
        prefer: str | None = None,
    ) -> None:
        """Open an engine.

        Args:
            passport: of this engine; it is held against the machine first.
            library: the loaded TensorRT; None loads the passport's target.
            max_batch: largest batch to be ready for; None takes what the engine was built for.
            graphs: False enqueues copies and inference one by one.
            prefer: CUDA library to use, one of ``edgead.runtime.cuda.LIBRARIES``.

        Raises:
            ArtefactError: an engine for another machine, a damaged one, one with other inputs or outputs or for smaller
                batches, or too little memory.
            MissingError: no driver, no GPU, no TensorRT, or no CUDA library.
        """
        self.path, self.name = Path(path), f"{passport.target}-{passport.precision}"
        self._again = f"build it again: {passport.command(self.path.parent.parent)}"
        self._batches: dict[int, _Batch] = {}
        self._engine: Any = None
        with ExitStack() as life:
            self._device = open_device(device, prefer=prefer)
            life.callback(self._device.close)
            with self._device.current():
                self._stream = self._device.stream()
            life.callback(self._drop)
            self._library = library or load(passport.target)
            self._log = self._library.log()
            with self._device.current():
                self._engine = self._open(passport)
                self.size_hw, self.max_batch = self._contract(passport, max_batch)
                self.zero_copy = self._device.integrated
                self.no_graphs = self._why_no_graphs(graphs)
                self._wants_graphs = graphs
                self._allocate()
            self._life = life.pop_all()
        self._is_open = True

    def infer(self, images: npt.NDArray[np.uint8]) -> Prediction:
        """Inspect uint8 ``(N, H, W, 3)`` RGB images; the arrays returned are fresh ones.

        Raises:
            DataError: another dtype, shape, or more images than ``max_batch``.
            ArtefactError: TensorRT or the GPU refuses the batch, or the engine answers with NaN or infinity.
        """
        check_images(images, self.size_hw, self.max_batch)
        self.input_slot(len(images))[...] = images
        return self.infer_slot(len(images))

    def input_slot(self, count: int) -> npt.NDArray[np.uint8]:
        """Return the memory that the GPU reads ``count`` images from, uint8 ``(count, H, W, 3)``, to write them into.

        The next batch reads it. It is the runner's own: writing during ``infer_slot``, or touching it after ``close``,
        which crashes the process, is not allowed.

        Raises:
            DataError: more images than ``max_batch``.
            ArtefactError: the runner has been closed.
        """
        if not self._is_open:
            raise ArtefactError(f"{self.path}: the runner has been closed; open it again")
        if not 1 <= count <= self.max_batch:
            raise DataError(f"{count} images in a batch; expected 1 to {self.max_batch}")
        slot: npt.NDArray[np.uint8] = self._tensors["image"].pinned.array[:count]
        return slot

    def infer_slot(self, count: int) -> Prediction:
        """Inspect the ``count`` images in ``input_slot``; the arrays returned are fresh ones.

        Raises:
            DataError: more images than ``max_batch``.
            ArtefactError: TensorRT or the GPU refuses the batch, or the engine answers with NaN or infinity.
        """
        self.input_slot(count)
        with self._device.current():
            if count not in self._batches:
                self._batches[count] = self._prepare(count)
            context, graph = self._batches[count]
            if graph is None:
                self._enqueue(context, count)
            else:
                graph.launch()
            self._stream.synchronise()
        anomaly_map, pred_score = (self._tensors[name].pinned.array[:count] for name in ("anomaly_map", "pred_score"))
        return check_prediction(Prediction(anomaly_map.copy(), pred_score.copy()), str(self.path))

    def close(self) -> None:
        """Give back memory and the GPU; twice is allowed."""
        self._is_open = False
        self._life.close()

    def __enter__(self) -> TensorRTRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            with suppress(ArtefactError):  # a GPU that fails fails at closing too; the first error says why
                self.close()

    def _open(self, passport: Passport) -> Any:
        device = self._device
        rebuild = passport.command(self.path.parent.parent, capability=device.capability)
        try:
            passport.refuse_unless_fits(self._library, device.capability, device.name, rebuild)
        except ArtefactError as error:
            raise ArtefactError(f"{self.path}: {error}") from error
        return self._library.deserialise(self.path, dla=passport.dla)

    def _contract(self, passport: Passport, max_batch: int | None) -> tuple[tuple[int, int], int]:
        """Return size of the images and largest batch after holding inputs and outputs against what they have to be."""
        engine, found = self._engine, {}
        for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
            shape = tuple(engine.get_tensor_shape(name))
            found[name] = (engine.get_tensor_mode(name).name, engine.get_tensor_dtype(name).name, shape)
        kinds = {name: (mode, dtype, len(shape)) for name, (mode, dtype, shape) in found.items()}
        if kinds != _TENSORS or found["image"][2][0] != -1 or found["image"][2][3] != 3:
            has = "; ".join(f"{mode.lower()} {name} {dtype} {shape}" for name, (mode, dtype, shape) in found.items())
            raise ArtefactError(f"{self.path}: not an inspection engine, it has {has}; {_EXPECTED}; {self._again}")
        smallest, _, largest = (tuple(shape) for shape in engine.get_tensor_profile_shape("image", 0))
        _, height, width, _ = largest
        if ((height, width), largest[0]) != (passport.size_hw, passport.max_batch):
            raise ArtefactError(
                f"{self.path}: takes up to {largest[0]} images of {width}x{height}, and its passport says "
                f"{passport.max_batch} of {passport.size_hw[1]}x{passport.size_hw[0]}; {self._again}"
            )
        wanted = largest[0] if max_batch is None else max_batch
        if smallest[0] != 1 or not 1 <= wanted <= largest[0]:
            raise ArtefactError(
                f"{self.path}: takes {smallest[0]} to {largest[0]} images, and batches of 1 to {wanted} are asked for; "
                "build it for them: edgead build --max-batch"
            )
        return (height, width), wanted

    def _why_no_graphs(self, wanted: bool) -> str:
        if not wanted:
            return "not asked for"
        if self._library.is_rtx:
            return "TensorRT-RTX records graphs of its own, once its kernels are compiled for a shape"
        return "" if self._device.graphs else f"{type(self._device.driver).__name__} has no CUDA graphs"

    def _allocate(self) -> None:
        """Take all memory that batches need."""
        device, shape = self._device, (self.max_batch, *self.size_hw)
        self._size = activation_bytes(self._engine)
        self._activations = device.memory(self._size)
        self._tensors = {
            "image": _Tensor.of(device, (*shape, 3), np.uint8),
            "anomaly_map": _Tensor.of(device, shape, np.float32),
            "pred_score": _Tensor.of(device, shape[:1], np.float32),
        }

    def _prepare(self, count: int) -> _Batch:
        """Open a context for batches of one size, warm it up, and record its graph."""
        context = open_context(
            self._library, self._engine, self._activations.pointer, self._size, graphs=self._wants_graphs
        )
        for name, tensor in self._tensors.items():
            self._accepted(context.set_tensor_address(name, tensor.address), f"the memory of {name}")
        shape = (count, *self.size_hw, 3)
        self._accepted(context.set_input_shape("image", shape), f"images of shape {shape}")
        unknown = list(context.infer_shapes())
        shapes = {name: tuple(context.get_tensor_shape(name)) for name in ("anomaly_map", "pred_score")}
        if unknown or shapes != {"anomaly_map": shape[:3], "pred_score": shape[:1]}:
            raise ArtefactError(f"{self.path}: for images {shape} it answers with {shapes}; {_EXPECTED}; {self._again}")
        self._enqueue(context, count)  # TensorRT finishes its preparations at the first batch, which no capture allows
        self._stream.synchronise()
        graph = None
        if not self.no_graphs:
            try:
                graph = self._stream.record(lambda: self._enqueue(context, count))
            except ArtefactError as error:
                self.no_graphs = f"recording a graph for {count} images failed: {error}"
                self._log.clear()
        return _Batch(context, graph)

    def _enqueue(self, context: Any, count: int) -> None:
        """Put copies and inference of a batch into the stream."""
        image, *answers = self._tensors.values()
        if image.memory is not None:
            self._stream.copy_in(image.memory.pointer, image.pinned.array[:count])
        self._accepted(context.execute_async_v3(self._stream.handle), f"a batch of {count}")
        for answer in answers:
            if answer.memory is not None:
                self._stream.copy_out(answer.pinned.array[:count], answer.memory.pointer)

    def _accepted(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise ArtefactError(f"{self.path}: {self._library} refuses {what} ({self._log.reason()}); {self._again}")

    def _drop(self) -> None:
        """Give TensorRT's part back in its order: graphs, contexts, engine; the memory they use goes after them."""
        with self._device.current():
            with suppress(ArtefactError):  # a batch that failed may have left work, and has said what failed
                self._stream.synchronise()
            graphs = [batch.graph for batch in self._batches.values() if batch.graph is not None]
            try:
                for graph in graphs:  # a loop over the batches would hold on to the last one's context
                    graph.close()
            finally:
                self._batches.clear()
                self._engine = None


class _Batch(NamedTuple):
    """What batches of one size need."""

    context: Any
    graph: Graph | None


class _Tensor(NamedTuple):
    """An input or output in memory: pinned, and a copy of the device unless the device works in the pinned one."""

    pinned: Pinned
    memory: Memory | None

    @classmethod
    def of(cls, device: Device, shape: tuple[int, ...], dtype: npt.DTypeLike) -> _Tensor:
        pinned = device.pinned(shape, dtype, mapped=device.integrated)
        return cls(pinned, None if device.integrated else device.memory(pinned.array.nbytes))

    @property
    def address(self) -> int:
        """Where the engine finds it."""
        return self.pinned.pointer if self.memory is None else self.memory.pointer
