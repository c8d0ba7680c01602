"""Change the Q/DQ pairs of a quantised model to what an engine builder has kernels for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgead.errors import require
from edgead.onnx_graph import constants
from export.int8 import SIGNED, UNSIGNED
from export.placement import residual_branch, suits

if TYPE_CHECKING:
    import onnx

NARROW = 64  # channels below which a convolution goes back to floating point


def fewer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a Q/DQ model without the pairs that engine builders have most trouble with.

    Grouped, depthwise and transposed convolutions, those of fewer than ``NARROW`` channels, and residual branches
    compute in floating point again, with their weights as they were quantised. Models of other tools are welcome.
    """
    onnx = require("onnx", extra="export")
    copy = type(model)()
    copy.CopyFrom(model)
    graph, known = copy.graph, constants(copy)
    inferred = onnx.shape_inference.infer_shapes(copy).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    makers = {name: node for node in graph.node for name in node.output}
    reads = Counter(name for node in graph.node for name in node.input)
    casts: dict[str, Any] = {}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            stored = _stored(makers, node.input[1])
            if stored in known and stored != node.input[1] and not suits(node, known[stored], "tensorrt", NARROW):
                node.input[0] = _unquantised(makers, node.input[0], types, casts)
                node.input[1] = _restored(graph, makers, node.input[1], known)
        elif (slot := residual_branch(node, makers, reads)) is not None:
            node.input[slot] = _unquantised(makers, node.input[slot], types, casts)
    _prune(graph, casts)
    return copy


def signed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a Q/DQ model whose uint8 pairs are int8 ones of the same range: TensorRT has no others.

    Half of the levels are given up; the range is not.
    """
    onnx = require("onnx", extra="export")
    copy = type(model)()
    copy.CopyFrom(model)
    known, done = constants(copy), set[str]()
    stored = {tensor.name: tensor for tensor in copy.graph.initializer}
    for node in copy.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
            continue
        _, scale, zero = node.input
        if zero not in known or known[zero].dtype != np.uint8 or known[zero].any() or scale in done:
            continue
        wider = (known[scale] * (UNSIGNED / SIGNED)).astype(known[scale].dtype)
        stored[scale].CopyFrom(onnx.numpy_helper.from_array(wider, scale))
        stored[zero].CopyFrom(onnx.numpy_helper.from_array(known[zero].astype(np.int8), zero))
        done.add(scale)
    del copy.graph.value_info[:]
    return copy


def _unquantised(makers: Mapping[str, Any], name: str, types: Mapping[str, int], casts: dict[str, Any]) -> str:
    """Return the tensor before a pair, cast where the pair changed its type; the tensor itself where there is none."""
    onnx = require("onnx", extra="export")
    back = makers.get(name)
    pair = makers.get(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
    if pair is None or pair.op_type != "QuantizeLinear":
        return name
    source = str(pair.input[0])
    if types.get(source) == types.get(name):
        return source
    output = f"{source}_as_{types[name]}"
    casts[output] = onnx.helper.make_node("Cast", [source], [output], name=output, to=types[name])
    casts[output].metadata_props.extend(pair.metadata_props)
    return output


def _stored(makers: Mapping[str, Any], name: str) -> str:
    """Return the constant behind a dequantised weight: int8 values, or floating point ones before a pair."""
    node = makers.get(name)
    while node is not None and node.op_type in ("DequantizeLinear", "QuantizeLinear"):
        name = str(node.input[0])
        node = makers.get(name)
    return name


def _restored(graph: Any, makers: Mapping[str, Any], name: str, known: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the name of a weight in floating point, put among the constants if it was stored as int8."""
    onnx = require("onnx", extra="export")
    stored, node = _stored(makers, name), makers[name]
    values, scale = known[stored], known[node.input[1]]
    if values.dtype != np.int8:
        return stored
    axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
    spread = scale.reshape([-1 if each == axis else 1 for each in range(values.ndim)]) if scale.ndim else scale
    restored = f"{stored}_restored"
    if all(tensor.name != restored for tensor in graph.initializer):
        weight = (values.astype(np.float32) * spread.astype(np.float32)).astype(scale.dtype)
        graph.initializer.append(onnx.numpy_helper.from_array(weight, restored))
    return restored


def _prune(graph: Any, casts: Mapping[str, Any]) -> None:
    """Drop nodes and constants that nothing reads; put casts in front of their first readers."""
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in wanted for name in node.output):
            kept.append(type(node).FromString(node.SerializeToString()))
            wanted.update(node.input)
            wanted.update(casts[name].input[0] for name in node.input if name in casts)
    stored = [type(each).FromString(each.SerializeToString()) for each in graph.initializer if each.name in wanted]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    placed = set[str]()
    for node in reversed(kept):
        cast = [casts[name] for name in node.input if name in casts and name not in placed]
        placed.update(each.output[0] for each in cast)
        graph.node.extend([*cast, node])
    graph.initializer.extend(stored)
