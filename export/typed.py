"""The graph that the FP16 rewrite works on: an fp32 ONNX model in one plain form, with the types of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgead.errors import ArtefactError, require
from edgead.onnx_graph import OPSETS, constants, opset_of

if TYPE_CHECKING:
    import onnx

FLOAT, HALF = 1, 10  # onnx.TensorProto.FLOAT and FLOAT16
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
QUANTIZED_OPSET = 19  # the first whose Q/DQ take fp16 scales

_REDUCTIONS = tuple(
    f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
)


@dataclass(frozen=True)
class Typed:
    """An fp32 model with what has to be known of its tensors.

    Attributes:
        model: the model; no Constant nodes, no sub-graphs.
        floats: names of all fp32 tensors.
        constants: values known before a run.
        dequantized, quantized: the node of each tensor that a DequantizeLinear or QuantizeLinear gives.
    """

    FLOAT_SLOTS: ClassVar = frozenset({("Resize", 1), ("Resize", 2)})  # inputs that stay fp32: region and scales

    model: onnx.ModelProto
    floats: frozenset[str]
    constants: dict[str, npt.NDArray[Any]]
    dequantized: dict[str, Any]
    quantized: dict[str, Any]

    @property
    def nodes(self) -> Any:
        """The nodes in their order."""
        return self.model.graph.node


def prepare(model: onnx.ModelProto) -> Typed:
    """Copy a model, bring it to the form that ``retype`` takes, and find the types of its tensors.

    Raises:
        ArtefactError: see ``to_float16``.
        MissingError: onnx is not installed.
    """
    onnx = require("onnx", extra="export")
    _refuse(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    weights = {tensor.name for tensor in graph.initializer}
    _keep(graph.input, lambda value: value.name not in weights)  # a weight that may be overridden has a fixed type now
    _lift_constants(graph)
    if any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in graph.node):
        _raise_opset(copy)
    del graph.value_info[:]
    try:
        onnx.checker.check_model(copy)
        inferred = onnx.shape_inference.infer_shapes(copy, check_type=True, strict_mode=True).graph
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise ArtefactError(f"the model is inconsistent ({_line(error)}); make it again: edgead export") from error
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *graph.input)}
    types |= {value.name: value.type.tensor_type.elem_type for value in graph.output}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        for name in node.output:
            if name and not types.get(name):
                raise ArtefactError(f"the type that the node '{node.name}' ({node.op_type}) gives is not known")
    if HALF in types.values():
        raise ArtefactError("the model has fp16 tensors already; give the fp32 model, or use this one as it is")
    floats = frozenset(name for name, kind in types.items() if kind == FLOAT)
    _plain_casts(graph, floats)
    return Typed(
        copy,
        floats,
        constants(copy),
        {node.output[0]: node for node in graph.node if node.op_type == DEQUANTIZE},
        {node.output[0]: node for node in graph.node if node.op_type == QUANTIZE},
    )


def finish(model: onnx.ModelProto) -> onnx.ModelProto:
    """Check a rewritten model: types and shapes of every node.

    Raises:
        ArtefactError: the model is inconsistent.
    """
    onnx = require("onnx", extra="export")
    try:
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise ArtefactError(f"the fp16 model is inconsistent ({_line(error)}); report this as a bug") from error
    return model


def numbered(name: str) -> Iterator[str]:
    """Yield ``name``, ``name_2``, ``name_3`` and so on."""
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _refuse(model: onnx.ModelProto) -> None:
    opset = opset_of(model)
    if opset not in OPSETS:
        raise ArtefactError(f"opset {opset}, expected {OPSETS[0]} to {OPSETS[-1]}; make the model again: edgead export")
    if model.functions:
        raise ArtefactError("the model has functions of its own; write them out first: onnx.inliner")
    for node in model.graph.node:
        if any(entry.HasField("g") or entry.graphs for entry in node.attribute):
            raise ArtefactError(
                f"the node '{node.name}' ({node.op_type}) holds a sub-graph, which no engine of edgead needs; "
                "export the model without branches and loops"
            )


def _keep(field: Any, wanted: Callable[[Any], bool]) -> None:
    """Leave those entries of a protobuf list that are wanted."""
    kept = [entry for entry in field if wanted(entry)]
    if len(kept) < len(field):
        del field[:]
        field.extend(kept)


def _lift_constants(graph: Any) -> None:
    """Turn Constant nodes into initialisers."""
    onnx = require("onnx", extra="export")
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for node in graph.node:
        entry = node.attribute[0] if node.op_type == "Constant" and node.attribute else None
        if entry is not None and entry.name == "value":
            tensor = graph.initializer.add()
            tensor.CopyFrom(entry.t)
            tensor.name = node.output[0]
        elif entry is not None and entry.name in kinds:
            values = np.asarray(onnx.helper.get_attribute_value(entry), kinds[entry.name])
            graph.initializer.append(onnx.numpy_helper.from_array(values, node.output[0]))
    known = {tensor.name for tensor in graph.initializer}
    _keep(graph.node, lambda node: node.op_type != "Constant" or node.output[0] not in known)


def _raise_opset(model: onnx.ModelProto) -> None:
    """Bring a model to the opset that quantised fp16 tensors need; between 17 and 19 few operators changed."""
    onnx = require("onnx", extra="export")
    if opset_of(model) < 18:
        for node in model.graph.node:
            axes = next((entry for entry in node.attribute if entry.name == "axes"), None)
            if node.op_type in _REDUCTIONS and axes is not None:  # an attribute became an input
                name = f"{node.output[0]}_axes"
                model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(axes.ints, np.int64), name))
                node.input.append(name)
                node.attribute.remove(axes)
            if node.op_type == "Split" and len(node.input) < 2:
                node.attribute.append(onnx.helper.make_attribute("num_outputs", len(node.output)))
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = max(entry.version, QUANTIZED_OPSET)
    model.ir_version = max(model.ir_version, 9)


def _plain_casts(graph: Any, floats: frozenset[str]) -> None:
    """Turn casts from fp32 to fp32 into Identity nodes, which may run in either type."""
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in floats and node.output[0] in floats:
            node.op_type = "Identity"
            del node.attribute[:]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
