"""How fast a graph could be on a board that is not here: a projection from its data sheet, never a measurement.

Each node of the graph takes the longer of its arithmetic and its memory traffic, and no less than a launch costs
(Williams et al. 2009, applied by node):

    t = sum over nodes of max(2 * MAC / (EFFICIENCY * peak), bytes / (EFFICIENCY * bandwidth), LAUNCH)

What TensorRT fuses counts as one node here: an element-wise node that follows a convolution moves no memory. Peaks are
dense ones of the precision in which the node computes: those of the data sheets are often given with sparsity, which
is half of that without. ``EFFICIENCY`` and ``LAUNCH`` are assumptions, the same for all boards; whoever has a board
measures it instead: ``edgead tradeoff`` does that there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgead.errors import DataError

if TYPE_CHECKING:
    import onnx

EFFICIENCY = 0.5
LAUNCH_S = 4e-6
_HEAVY = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_FREE = (
    "QuantizeLinear",
    "DequantizeLinear",
    "Constant",
    "Identity",
    "Cast",
    "Reshape",
    "Unsqueeze",
    "Squeeze",
    "Shape",
)
_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


class Board(NamedTuple):
    """What a data sheet says.

    Attributes:
        fp32: TFLOP/s of the CUDA cores.
        fp16: TFLOP/s of the tensor cores, dense.
        int8: TOP/s of the tensor cores, dense, without DLA.
        memory: GB/s.
        source: the data sheet, and how the figures follow from it.
    """

    fp32: float
    fp16: float
    int8: float
    memory: float
    source: str


BOARDS: Mapping[str, Board] = {
    "Jetson Orin Nano 8GB": Board(
        2.1, 17, 33, 102, "Jetson Orin Nano Super: 67 sparse INT8 TOPS, 1024 cores at 1.02 GHz, 102 GB/s"
    ),
    "Jetson Orin NX 16GB": Board(
        1.9, 15, 30, 102, "Jetson Orin NX data sheet: GPU 60 sparse INT8 TOPS, 1024 cores at 918 MHz, 102.4 GB/s"
    ),
    "Jetson AGX Orin 64GB": Board(
        5.3, 42.5, 85, 205, "Jetson AGX Orin technical brief: GPU 170 sparse INT8 TOPS, 5.3 FP32 TFLOPS, 204.8 GB/s"
    ),
    "Jetson Thor T5000": Board(
        8.1,
        259,
        517,
        273,
        "Jetson T5000: 2070 sparse FP4 TFLOPS, an eighth of it as INT8, 2560 cores, 273 GB/s; INT8 as FP8",
    ),
    "RTX A2000": Board(8.0, 32, 64, 288, "RTX A2000: 8.0 FP32 TFLOPS, 63.9 sparse tensor TFLOPS, 288 GB/s"),
    "RTX 4090": Board(
        82.6, 330, 661, 1008, "Ada architecture paper: 330.3 dense FP16 TFLOPS, 660.6 INT8 TOPS, 1008 GB/s"
    ),
    "L4": Board(30.3, 121, 242, 300, "L4 data sheet: 242 sparse FP16 TFLOPS, 485 sparse INT8 TOPS, 300 GB/s"),
}


@dataclass(frozen=True)
class Work:
    """What one node does for one image.

    Attributes:
        mac: multiply-accumulates; 0 for all but convolutions and matrix products.
        elements: values read and written, activations and weights.
        precision: in which it computes.
    """

    mac: float
    elements: float
    precision: str


def work_of(path: Path) -> list[Work]:
    """Return the nodes of an inspection graph that cost something, for one image.

    Raises:
        DataError: shapes that cannot be inferred.
        ArtefactError: no such file, or no ONNX model.
    """
    from edgead.onnx_graph import read_model

    return list(_work(read_model(path), path))


def projected_fps(work: list[Work], board: Board) -> float:
    """Return images a second on a board by the roofline above, at batch 1."""
    peaks = {"fp32": board.fp32, "fp16": board.fp16, "int8": board.int8}
    seconds = sum(
        max(
            2 * node.mac / (EFFICIENCY * 1e12 * peaks[node.precision]),
            _BYTES[node.precision] * node.elements / (EFFICIENCY * 1e9 * board.memory),
            LAUNCH_S,
        )
        for node in work
    )
    return 1 / seconds


def _work(model: onnx.ModelProto, path: Path) -> Iterator[Work]:
    sizes, types = _sizes(model, path)
    constants = {initializer.name: list(initializer.dims) for initializer in model.graph.initializer}
    quantised = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    made_by = {name: node for node in model.graph.node for name in node.output}
    used: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            used[name] = used.get(name, 0) + 1
    for node in model.graph.node:
        if node.op_type in _FREE:
            continue
        inputs = [name for name in node.input if name]
        is_heavy = node.op_type in _HEAVY
        first = made_by.get(inputs[0]) if inputs else None
        if not is_heavy and first is not None and first.op_type in _HEAVY and used.get(inputs[0]) == 1:
            continue  # fused into what comes before it
        precision = "fp16" if types.get(node.output[0]) == 10 else "fp32"
        if is_heavy and any(name in quantised for name in inputs):
            precision = "int8"
        elements = sum(sizes.get(name, 0) for name in (*inputs, *node.output))
        yield Work(_mac(node, sizes, constants, made_by) if is_heavy else 0.0, elements, precision)


def _mac(
    node: onnx.NodeProto,
    sizes: Mapping[str, int],
    constants: Mapping[str, list[int]],
    made_by: Mapping[str, onnx.NodeProto],
) -> float:
    weight = node.input[1]
    while weight not in constants and weight in made_by:  # behind Q/DQ, or a cast
        weight = made_by[weight].input[0]
    dims = constants.get(weight)
    if node.op_type in ("MatMul", "Gemm") or dims is None:
        inner = (dims or [1])[0]
        return float(sizes.get(node.output[0], 0) * inner)
    many = sizes.get(node.input[0], 0) if node.op_type == "ConvTranspose" else sizes.get(node.output[0], 0)
    return float(many * math.prod(dims[1:]))


def _sizes(model: onnx.ModelProto, path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return elements and type of every tensor for one image."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for value in (*copy.graph.value_info, *copy.graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].ClearField("dim_param")
    try:
        copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise DataError(
            f"{path}: its shapes cannot be inferred ({str(error).splitlines()[0]}); export it again"
        ) from error
    sizes, types = {}, {}
    for value in (*copy.graph.input, *copy.graph.value_info, *copy.graph.output):
        dims = value.type.tensor_type.shape.dim
        sizes[value.name] = math.prod(max(1, dim.dim_value) for dim in dims)
        types[value.name] = value.type.tensor_type.elem_type
    for initializer in copy.graph.initializer:
        sizes[initializer.name] = math.prod(initializer.dims)
        types[initializer.name] = initializer.data_type
    return sizes, types
