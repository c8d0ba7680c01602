"""Lint a Q/DQ model: placements that TensorRT refuses, that keep operators from being fused, or that cost the verdict.

It takes models of any origin (edgead, ModelOpt, torchao, ONNX Runtime), finds what would otherwise show as a slow
engine or a wrong map, and names the tensor. The rules are those of NVIDIA's documentation of explicit quantisation and
of the ONNX parsers of TensorRT 10 and 11.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgead.onnx_graph import NETWORKS, constants, has_modules, network_of
from export.placement import Target, attribute

if TYPE_CHECKING:
    import onnx

Severity = Literal["refused", "slow", "inexact"]

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ACTIVATIONS = ("Relu", "Clip", "Sigmoid", "HardSwish", "LeakyRelu")
_TAIL = ("ReduceSum", "ReduceMax", "ReduceMean", "ReduceL2", "Pow", "Sqrt", "Softmax", "Sigmoid")
_WHOLE = ("QLinearConv", "QLinearMatMul", "QLinearAdd", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")


@dataclass(frozen=True)
class Finding:
    """One thing to mend.

    Attributes:
        rule: its short name.
        severity: ``refused`` by the parser, ``slow`` because it blocks a fusion or a kernel, ``inexact`` because a step
            that needs full precision gets 8 bits.
        where: tensor or node.
        what: what is wrong and what is expected.
    """

    rule: str
    severity: Severity
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule} ({self.severity}) at '{self.where}': {self.what}"


def lint(model: onnx.ModelProto, target: Target) -> tuple[Finding, ...]:
    """Return what is wrong with a model's Q/DQ pairs for a target; nothing for a model without any.

    Args:
        target: ``cpu`` holds it to the rules of exactness alone, ``tensorrt`` to all.
    """
    graph = _Graph(model)
    rules: list[Callable[[_Graph], Iterator[Finding]]] = [_scales, _tail]
    if target == "tensorrt":
        rules += [_zero_points, _biases, _whole, _axes, _activations, _residuals, _halves, _concats, _kernels, _input]
    return tuple(finding for rule in rules for finding in rule(graph))


class _Graph:
    """A model with its edges."""

    def __init__(self, model: Any) -> None:
        self.nodes = list(model.graph.node)
        self.inputs = {value.name for value in model.graph.input}
        self.known = constants(model)
        self.has_modules = has_modules(model)
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.readers[name].append(node)

    def of(self, *kinds: str) -> Iterator[Any]:
        """Yield the nodes of some operators."""
        return (node for node in self.nodes if node.op_type in kinds)

    def comes_from(self, name: str, *kinds: str) -> Any:
        """Return the node that makes a tensor if it is of one of these operators."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type in kinds else None

    def is_weight(self, pair: Any) -> bool:
        """Tell whether a Q or DQ node works on a constant."""
        source = self.comes_from(pair.input[0], _QUANTIZE)
        return (source.input[0] if source is not None else pair.input[0]) in self.known


def _scales(graph: _Graph) -> Iterator[Finding]:
    for pair in graph.of(_QUANTIZE, _DEQUANTIZE):
        scale = graph.known.get(pair.input[1])
        if scale is None:
            yield Finding("scale", "refused", pair.input[0], "its scale is computed, expected a constant")
        elif not (np.isfinite(scale.astype(np.float64)).all() and (scale.astype(np.float64) > 0).all()):
            yield Finding("scale", "refused", pair.input[0], "its scale is zero, negative or not finite")


def _tail(graph: _Graph) -> Iterator[Finding]:
    for back in graph.of(_DEQUANTIZE):
        for reader in graph.readers[back.output[0]]:
            # Of a model made elsewhere only the operators tell: norms, distances and scores are made of these.
            protected = network_of(reader) not in NETWORKS if graph.has_modules else reader.op_type in _TAIL
            if protected:
                what = "cosine head, map fusion and score tail stay in full precision; take the pair out"
                yield Finding("tail", "inexact", reader.name or reader.output[0], what)


def _zero_points(graph: _Graph) -> Iterator[Finding]:
    for pair in graph.of(_QUANTIZE, _DEQUANTIZE):
        zero = graph.known.get(pair.input[2]) if len(pair.input) > 2 and pair.input[2] else np.zeros((), np.uint8)
        if zero is None or zero.any():
            yield Finding("zero point", "refused", pair.input[0], "its zero point is not 0; expected symmetric int8")
        elif zero.dtype == np.uint8:  # seen with TensorRT-RTX 1.7: a warning in the log, and the upper half is clipped
            what = "quantised to uint8, which TensorRT reads as int8 and clips at half the range; expected int8"
            yield Finding("unsigned", "inexact", pair.input[0], what)


def _biases(graph: _Graph) -> Iterator[Finding]:
    for node in graph.of(*_WEIGHTED):
        if len(node.input) > 2 and graph.comes_from(node.input[2], _DEQUANTIZE) is not None:
            yield Finding("bias", "refused", node.input[2], "a quantised bias; keep biases in floating point")


def _whole(graph: _Graph) -> Iterator[Finding]:
    for node in graph.of(*_WHOLE):
        what = f"{node.op_type} is no operator of TensorRT; expected Q/DQ pairs around a plain one"
        yield Finding("operator", "refused", node.name or node.output[0], what)


def _axes(graph: _Graph) -> Iterator[Finding]:
    for back in graph.of(_DEQUANTIZE):
        scale = graph.known.get(back.input[1])
        if scale is None or scale.size == 1:
            continue
        if not graph.is_weight(back):
            yield Finding("axis", "refused", back.input[0], f"{scale.size} scales for an activation, expected one")
            continue
        for reader in graph.readers[back.output[0]]:
            axis = attribute(back, "axis", 1)
            if reader.op_type == "ConvTranspose":
                what = (
                    "a transposed convolution's weight has a scale a channel, which TensorRT takes in no version alike"
                )
                yield Finding("axis", "refused", back.input[0], f"{what}; expected one scale")
            elif reader.op_type == "Conv" and axis != 0:
                yield Finding(
                    "axis", "refused", back.input[0], f"a convolution's scales lie along axis {axis}, expected 0"
                )


def _activations(graph: _Graph) -> Iterator[Finding]:
    for pair in graph.of(_QUANTIZE):
        maker = graph.comes_from(pair.input[0], *_WEIGHTED)
        ends = [after for back in graph.readers[pair.output[0]] for after in graph.readers[back.output[0]]]
        if maker is not None and any(end.op_type in _ACTIVATIONS for end in ends):
            what = "a pair between a convolution and its activation; put it behind the activation, they are fused"
            yield Finding("activation", "slow", pair.input[0], what)


def _residuals(graph: _Graph) -> Iterator[Finding]:
    for node in graph.of("Add"):
        backs = [graph.comes_from(name, _DEQUANTIZE) for name in node.input]
        if any(back is None or graph.is_weight(back) for back in backs):
            continue
        pairs = [graph.comes_from(back.input[0], _QUANTIZE) for back in backs]
        if any(pair is not None and graph.comes_from(pair.input[0], "Conv") is not None for pair in pairs):
            what = "both inputs of a sum are quantised; leave out the pair behind the convolution, they are fused"
            yield Finding("residual", "slow", node.name or node.output[0], what)


def _halves(graph: _Graph) -> Iterator[Finding]:
    for node in graph.of("Conv", "ConvTranspose", "Gemm"):
        data, weight = (graph.comes_from(name, _DEQUANTIZE) is not None for name in node.input[:2])
        if data != weight:
            missing = "weight" if data else "input"
            what = f"only half of it is quantised: a pair at its {missing} is missing, so it runs in floating point"
            yield Finding("half", "slow", node.name or node.output[0], what)


def _concats(graph: _Graph) -> Iterator[Finding]:
    for node in graph.of("Concat"):
        backs = [graph.comes_from(name, _DEQUANTIZE) for name in node.input]
        scales = [None if back is None else graph.known.get(back.input[1]) for back in backs]
        given = [float(scale) for scale in scales if scale is not None and scale.size == 1]
        if given and (len(given) < len(backs) or len(set(given)) > 1):
            what = "its inputs have different scales or only some are quantised; quantise what comes out of it instead"
            yield Finding("concat", "slow", node.name or node.output[0], what)


def _kernels(graph: _Graph) -> Iterator[Finding]:
    for node in graph.of("Conv", "ConvTranspose"):
        if graph.comes_from(node.input[1], _DEQUANTIZE) is None:
            continue
        if node.op_type == "ConvTranspose" or attribute(node, "group", 1) > 1:
            what = "quantised depthwise, grouped and transposed convolutions lack int8 kernels on some GPUs"
            yield Finding("kernel", "slow", node.name or node.output[0], f"{what}; leave it in fp16")


def _input(graph: _Graph) -> Iterator[Finding]:
    for pair in graph.of(_QUANTIZE):
        ends = [after for back in graph.readers[pair.output[0]] for after in graph.readers[back.output[0]]]
        if pair.input[0] in graph.inputs and any(end.op_type not in ("Conv", "Gemm", "MatMul") for end in ends):
            what = "a pair on the model's input that does not feed a convolution; TensorRT 10.16 fails on it"
            yield Finding("input", "refused", pair.input[0], what)
