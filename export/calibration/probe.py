"""Open an fp32 ONNX model so that a run tells the largest ``|x|`` of every tensor and hands out those asked for.

Reductions are appended to the graph: only three scalars of a tensor leave the session, so memory stays that of one
image's inference however many tensors there are.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgead.errors import ArtefactError, nearest, require
from edgead.onnx_graph import read_model
from edgead.runtime.runner import check_images, usable_cores

_REDUCTIONS = ("ReduceMax", "ReduceMin", "ReduceL1")  # the first two are blind to NaN on ONNX Runtime, the third is not
_AGAIN = "make it again from a good checkpoint: edgead export"


class Seen(NamedTuple):
    """What one image showed.

    Attributes:
        peaks: largest ``|x|`` of every float32 tensor that the graph computes, in its order.
        values: the tensors asked for.
    """

    peaks: npt.NDArray[np.float32]
    values: dict[str, npt.NDArray[np.float32]]


class Probe:
    """An open model that is looked into, one image at a time, on ONNX Runtime's CPU provider.

    Attributes:
        computed: every float32 tensor that the graph computes, in its order.
        constant_peaks: largest ``|x|`` of every float32 constant.
    """

    def __init__(self, path: Path, tensors: Collection[str], *, threads: int = 0) -> None:
        """Open a model.

        Args:
            tensors: names of the tensors to hand out.
            threads: threads of one inference; 0 takes all cores that the process may use.

        Raises:
            ArtefactError: no ONNX inspection model, or it has no such float32 tensor.
            MissingError: onnx or onnxruntime is not installed.
        """
        self.path = path
        model = _read(path)
        self.constant_peaks = _constant_peaks(model, path)
        self.computed = _computed(model, path)
        for name in tensors:
            if name not in self.computed:
                raise ArtefactError(
                    f"{path}: computes no float32 tensor '{name}'{nearest(name, self.computed)}; {_AGAIN}"
                )
        self._asked = list(dict.fromkeys(tensors))
        self._reduced = [name for name in self.computed if name not in set(self._asked)]
        self._session = _session(_extended(model, self._asked, self._reduced), path, threads or usable_cores())
        self._size_hw = self._session.get_inputs()[0].shape[1:3]

    def look(self, images: npt.NDArray[np.uint8], number: int) -> Seen:
        """Run one image, uint8 ``(1, H, W, 3)``.

        Args:
            number: of the image, for errors.

        Raises:
            DataError: an image of another size or type.
            ArtefactError: the model cannot run, or a tensor is NaN or infinite; it is named.
        """
        check_images(images, (int(self._size_hw[0]), int(self._size_hw[1])), 1)
        names = [*self._asked, *(_reduced_name(name, kind) for name in self._reduced for kind in _REDUCTIONS)]
        try:
            found = self._session.run(names, {"image": images})
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types
            raise ArtefactError(f"{self.path}: the model cannot run ({_first_line(error)}); {_AGAIN}") from error
        values = dict(zip(self._asked, found, strict=False))
        scalars = np.asarray(found[len(self._asked) :], np.float32).reshape(-1, len(_REDUCTIONS))
        # A NaN in the sum of magnitudes survives the maximum; their sum itself may be larger than the peak or overflow.
        reduced = np.where(np.isnan(scalars[:, 2]), np.nan, np.maximum(scalars[:, 0], -scalars[:, 1]))
        peaks = dict(zip(self._reduced, reduced, strict=True))
        peaks.update({name: _peak(value) for name, value in values.items()})
        ordered = np.asarray([peaks[name] for name in self.computed], np.float32)
        if not np.isfinite(ordered).all():
            first = int(np.argmin(np.isfinite(ordered)))
            raise ArtefactError(
                f"{self.path}: tensor '{self.computed[first]}' is {_word(ordered[first])} for calibration image "
                f"{number}, so a weight is damaged or overflows; {_AGAIN}"
            )
        return Seen(ordered, values)


def _peak(values: npt.NDArray[np.float32]) -> np.float32:
    """Return the largest ``|x|``, NaN where there is one, without a copy of the tensor."""
    return np.float32(max(values.max(), -values.min())) if values.size else np.float32(0)


def _word(value: np.float32) -> str:
    return "NaN" if np.isnan(value) else "infinite"


def _read(path: Path) -> Any:
    onnx = require("onnx", extra="export")
    model = read_model(path)
    try:
        onnx.checker.check_model(model)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx's own, with no common base
        raise ArtefactError(f"{path}: no valid ONNX model ({_first_line(error)}); {_AGAIN}") from error


def _computed(model: Any, path: Path) -> list[str]:
    """Return the float32 tensors that nodes compute; the model must be an inspection that is float32 throughout."""
    onnx = require("onnx", extra="export")
    graph = model.graph
    inputs = [(value.name, value.type.tensor_type.elem_type) for value in graph.input]
    if inputs != [("image", onnx.TensorProto.UINT8)]:
        raise ArtefactError(f"{path}: not an inspection model, it takes {inputs}; expected one uint8 'image'; {_AGAIN}")
    shape = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]  # 0 where it is open
    if len(shape) != 4 or shape[0] > 1 or 0 in shape[1:3] or shape[3] != 3:
        raise ArtefactError(
            f"{path}: image is {shape}; expected any batch of fixed height and width, (0, H, W, 3); {_AGAIN}"
        )
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.output]}
    for node in graph.node:
        if untyped := [name for name in node.output if name and name not in types]:
            raise ArtefactError(f"{path}: the type of '{untyped[0]}' ({node.op_type}) cannot be told; {_AGAIN}")
    if any(node.op_type == "QuantizeLinear" for node in graph.node) or onnx.TensorProto.FLOAT16 in types.values():
        raise ArtefactError(f"{path}: not an fp32 model; calibrate model.fp32.onnx of the bundle: edgead export")
    return [name for node in graph.node for name in node.output if types.get(name) == onnx.TensorProto.FLOAT]


def _constant_peaks(model: Any, path: Path) -> dict[str, float]:
    onnx = require("onnx", extra="export")
    peaks = {}
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            peak = _peak(onnx.numpy_helper.to_array(tensor))
            if not np.isfinite(peak):
                raise ArtefactError(f"{path}: a weight in '{tensor.name}' is {_word(peak)}; {_AGAIN}")
            peaks[tensor.name] = float(peak)
    return peaks


def _extended(model: Any, asked: list[str], reduced: list[str]) -> bytes:
    """Return the model with the tensors asked for, and reductions of the others, as outputs."""
    onnx = require("onnx", extra="export")
    graph, wanted = model.graph, set(reduced)
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for name in node.output:
            if name in wanted:
                nodes += [onnx.helper.make_node(k, [name], [_reduced_name(name, k)], keepdims=0) for k in _REDUCTIONS]
    outputs = [*asked, *(_reduced_name(name, kind) for name in reduced for kind in _REDUCTIONS)]
    present = {value.name for value in graph.output}
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    del extended.graph.node[:]
    extended.graph.node.extend(nodes)
    for name in outputs:
        if name not in present:
            extended.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return bytes(extended.SerializeToString())


def _session(model: bytes, path: Path, threads: int) -> Any:
    ort = require("onnxruntime", extra="export")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors reach the caller as exceptions
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a dozen unrelated types
        raise ArtefactError(
            f"{path}: ONNX Runtime {ort.__version__} cannot open it for calibration ({_first_line(error)}); {_AGAIN}"
        ) from error


def _reduced_name(name: str, kind: str) -> str:
    return f"edgead.{kind}:{name}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
