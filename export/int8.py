"""INT8: write Q/DQ pairs into an exported inspection.

Arithmetic: ``q = clip(round(x / s))``, ``x' = q s``; zero point 0, one scale a tensor for activations, one an output
channel for weights, biases in full precision (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, without its zero points). Biases take back what rounding the weights
shifts on average (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
section 4.2, with means seen in calibration): on magnetic tiles that takes a third off the noise of ``cfrg-lite0``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgead.errors import ArtefactError, require
from edgead.onnx_graph import MODULE, constants, module_of
from export.for_cpu import for_cpu
from export.placement import TARGETS, Target, moved, placement

if TYPE_CHECKING:
    import onnx

SIGNED, UNSIGNED = 127, 255  # largest quantised values; signed ones go from -127 to 127

# Scales are rounded to fp16, so that a file keeps its arithmetic when its scales become fp16 for TensorRT. The smallest
# one is where fp16 has 7 bits left.
_SMALLEST_SCALE = 2.0**-17

Array = npt.NDArray[Any]


def tensors_to_calibrate(model: onnx.ModelProto) -> tuple[str, ...]:
    """Name the tensors whose range an INT8 model needs, for whichever target."""
    return tuple(
        dict.fromkeys(name for target in TARGETS for name in placement(prepared(model, target), target).readers)
    )


def prepared(model: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    """Return the model in the form that a target runs in INT8: for ``cpu`` see ``for_cpu``, else as it is."""
    return for_cpu(model) if target == "cpu" else model


def insert(
    model: onnx.ModelProto, amax: Mapping[str, float], target: Target, *, means: Mapping[str, Array] | None = None
) -> onnx.ModelProto:
    """Return the model, in the form that the target runs, with Q/DQ pairs of fp32 scales and weights stored as int8.

    Args:
        model: an fp32 inspection of edgead's exporter.
        amax: range ``|x| <= amax`` of each tensor that ``tensors_to_calibrate`` names.
        means: mean of each channel of the convolutions' inputs, to correct biases by; None corrects none.
        target: which pairs, see ``placement``. For ``tensorrt`` bring the result to fp16: ``to_float16``.

    Raises:
        ArtefactError: a range is missing or no positive number, or the model does not suit (see ``placement``).
    """
    return insert_as_it_is(prepared(model, target), amax, target, means=means)


def insert_as_it_is(
    model: onnx.ModelProto, amax: Mapping[str, float], target: Target, *, means: Mapping[str, Array] | None = None
) -> onnx.ModelProto:
    """Do what ``insert`` does without bringing the model to another form first."""
    chosen = placement(model, target)
    if missing := [name for name in chosen.readers if name not in amax]:
        raise ArtefactError(f"no calibrated range for '{missing[0]}'; calibrate this very model: edgead quantize")
    copy = type(model)()
    copy.CopyFrom(model)
    nodes = copy.graph.node
    inserting = _Inserting(copy)
    makers = {name: node for node in nodes for name in node.output}
    for name, readers in chosen.readers.items():
        first, *moves = moved(makers, name)
        if moves:
            # A second pair of the same scale in front of what moves values about: so the convolution there gives 8
            # bits. The one behind changes no value; ONNX Runtime wants it next to its convolution, OpenVINO folds it.
            inserting.quantise_tensor(first, amax[name], name in chosen.unsigned, module_of(makers[first]))
            makers[moves[0]].input[0] = f"{first}_dequantized"
        inserting.quantise_tensor(name, amax[name], name in chosen.unsigned, module_of(nodes[readers[0][0]]))
        for index, slot in readers:
            nodes[index].input[slot] = f"{name}_dequantized"
    known = constants(copy)
    for index in chosen.weights:
        source = model.graph.node[index].input[0]
        inserting.quantise_weight(nodes[index], known, None if means is None else means.get(source))
    inserting.finish()
    return copy


def activation_scale(amax: float, unsigned: bool) -> Array:
    """Return the scale of a tensor, fp32 ``()``.

    Raises:
        ArtefactError: the range is no positive finite number.
    """
    if not 0 < amax < float("inf"):
        raise ArtefactError(f"a calibrated range is {amax}, expected a positive finite number; edgead quantize again")
    return _rounded(np.asarray(amax / (UNSIGNED if unsigned else SIGNED)))


def quantise(weight: Array, axis: int | None) -> tuple[Array, Array]:
    """Quantise a weight.

    Args:
        axis: that of the output channels, for a scale each; None for one scale in all.

    Returns:
        int8 values of the weight's shape, and fp32 scales ``(channels,)`` or ``()``.
    """
    others = None if axis is None else tuple(each for each in range(weight.ndim) if each != axis)
    scale = _rounded(np.abs(weight.astype(np.float64)).max(axis=others) / SIGNED)
    spread = scale if axis is None else np.expand_dims(scale, others or ())
    return np.clip(np.rint(weight / spread), -SIGNED, SIGNED).astype(np.int8), scale


def shift(lost: Array, mean: Array) -> Array:
    """Return by how much a convolution's output moves on average, ``(O,)``, when its weight loses some.

    Args:
        lost: what the weight loses, ``(O, I / group, ...)``.
        mean: of each input channel ``(I,)``. The border, where zeros are padded, is taken for the rest.
    """
    groups = len(mean) // lost.shape[1]
    total = lost.sum(axis=tuple(range(2, lost.ndim)), dtype=np.float64)  # (O, I / group)
    by_group = np.split(total, groups), np.split(mean, groups)
    return np.concatenate([part @ some for part, some in zip(*by_group, strict=True)])


def _rounded(scale: Array) -> Array:
    return np.maximum(scale, _SMALLEST_SCALE).astype(np.float16).astype(np.float32)


class _Inserting:
    """Q/DQ pairs on their way into a graph, whose nodes must stay in an order in which they can run."""

    def __init__(self, model: Any) -> None:
        self._onnx = require("onnx", extra="export")
        self._graph = model.graph
        self._constants: dict[str, Any] = {}
        self._first: list[Any] = []  # the weights' nodes, which read constants only
        self._behind: dict[str, list[Any]] = {}  # by tensor, the pair that follows it

    def quantise_tensor(self, name: str, amax: float, unsigned: bool, module: str) -> None:
        """Put one pair behind a tensor; ``<name>_dequantized`` is what its readers take."""
        zero = np.zeros((), np.uint8 if unsigned else np.int8)
        how = [self._keep(f"{name}_scale", activation_scale(amax, unsigned)), self._keep(f"{name}_zero", zero)]
        self._behind[name] = [
            self._node("QuantizeLinear", [name, *how], f"{name}_quantized", module),
            self._node("DequantizeLinear", [f"{name}_quantized", *how], f"{name}_dequantized", module),
        ]

    def quantise_weight(self, node: Any, known: Mapping[str, Array], mean: Array | None) -> None:
        """Store a convolution's weight as int8, with a DequantizeLinear before it; once if it is shared."""
        name = node.input[1]
        axis = 0 if node.op_type == "Conv" else None  # TensorRT takes no scale a channel for transposed convolutions
        values, scale = quantise(known[name], axis)
        if mean is not None and axis == 0:
            lost = known[name] - values * scale.reshape(-1, *[1] * (values.ndim - 1))
            bias = known[node.input[2]] if len(node.input) > 2 else 0
            corrected = self._keep(f"{node.name}_bias", (bias + shift(lost, mean)).astype(np.float32))
            node.input[2:] = [corrected]
        if f"{name}_scale" not in self._constants:
            inputs = [
                self._keep(f"{name}_int8", values),
                self._keep(f"{name}_scale", scale),
                self._keep(f"{name}_zero", np.zeros(scale.shape, np.int8)),
            ]
            along = {} if axis is None else {"axis": axis}
            made = self._node("DequantizeLinear", inputs, f"{name}_dequantized", module_of(node), **along)
            self._first.append(made)
        node.input[1] = f"{name}_dequantized"

    def finish(self) -> None:
        """Write the nodes back in order, and drop the weights that nothing reads any more."""
        graph = self._graph
        given = [value.name for value in graph.input]
        nodes = [*self._first, *(pair for name in given for pair in self._behind.pop(name, []))]
        for node in graph.node:
            nodes.append(node)
            nodes.extend(pair for name in node.output for pair in self._behind.pop(name, []))
        used = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(copies)
        graph.initializer.extend([*kept, *self._constants.values()])

    def _keep(self, name: str, values: Array) -> str:
        self._constants[name] = self._onnx.numpy_helper.from_array(values, name)
        return name

    def _node(self, kind: str, inputs: list[str], output: str, module: str, **attributes: int) -> Any:
        node = self._onnx.helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", **attributes)
        node.metadata_props.add(key=MODULE, value=module)
        return node
