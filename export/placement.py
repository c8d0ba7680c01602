"""Where Q/DQ pairs go: the inputs of weighted operators, and one branch of a residual sum; nowhere else.

Every other pair costs a pass over memory or keeps operators from being fused. The cosine head, the map fusion with its
Gaussian and the score's tail never get one: they are known by the module paths that the exporter writes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from edgead.errors import ArtefactError, ConfigError, nearest
from edgead.onnx_graph import NETWORKS, constants, has_modules, network_of
from export.rewriting import part_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx

Target = Literal["cpu", "tensorrt"]
TARGETS: tuple[Target, ...] = get_args(Target)

# Channels below which TensorRT gains least from int8. They are the first blocks, which spoil most besides: on magnetic
# tiles cfrg-lite0 loses 0.001 of image AUROC without them and 0.003 with those from 16 channels on.
NARROW = 32
_WEIGHTED = ("Conv", "ConvTranspose")
_NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid")
_REARRANGED = ("DepthToSpace", "Slice")  # what transposed convolutions are written with
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "Resize")
_MOVES = (*_POOLS, *_REARRANGED, "Identity", "Reshape", "Transpose", "Concat", "Add")


@dataclass(frozen=True)
class Placement:
    """The Q/DQ pairs of a model.

    Attributes:
        readers: by tensor, in the graph's order, the (node, input) indices that read its quantised value.
        weights: indices of the nodes whose second input, a constant, is quantised.
        unsigned: tensors that are never negative, by the operators that make them: a byte holds twice the levels.
    """

    readers: Mapping[str, tuple[tuple[int, int], ...]]
    weights: tuple[int, ...]
    unsigned: frozenset[str]


def placement(model: onnx.ModelProto, target: Target) -> Placement:
    """Choose the pairs of an exported inspection.

    For ``cpu`` (ONNX Runtime, OpenVINO) all convolutions are quantised but those that read gated features, of which
    ``for_cpu`` leaves none that costs much. For
    ``tensorrt`` those are left out, too, that have no good int8 kernel or none at all: depthwise and transposed ones,
    and those of fewer than ``NARROW`` channels, which the first and the last are.

    Raises:
        ArtefactError: the model does not come from edgead's exporter, or has Q/DQ already.
        ConfigError: unknown target.
    """
    if target not in TARGETS:
        raise ConfigError(f"there is no target '{target}'{nearest(target, TARGETS)}")
    if not has_modules(model):
        raise ArtefactError(
            "the model does not say which network its nodes belong to; export it: edgead export, "
            "or quantise it with the tool that made it and give it to edgead build as it is"
        )
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise ArtefactError("the model is quantised already; expected the fp32 one: edgead export")
    known, nodes = constants(model), model.graph.node
    gated = gated_tensors(nodes)
    readers: dict[str, list[tuple[int, int]]] = {}
    weights = []
    for index, node in enumerate(nodes):
        weighted = node.op_type in _WEIGHTED and network_of(node) in NETWORKS and node.input[1] in known
        if weighted and node.input[0] not in gated and suits(node, known[node.input[1]], target):
            readers.setdefault(node.input[0], []).append((index, 0))
            weights.append(index)
    for index, slot in _branches(nodes, known, set(weights)):
        readers.setdefault(nodes[index].input[slot], []).append((index, slot))
    unsigned = _never_negative(nodes, known) if target == "cpu" else frozenset[str]()
    chosen = {name: tuple(each) for name, each in readers.items()}
    return Placement(chosen, tuple(weights), frozenset(name for name in chosen if name in unsigned))


def suits(node: Any, weight: npt.NDArray[np.generic], target: Target, narrow: int = NARROW) -> bool:
    """Tell whether a convolution is worth an int8 kernel on a target.

    Args:
        weight: of the convolution, ``(O, I / group, ...)``, of a transposed one ``(I, O / group, ...)``.
    """
    if target == "cpu":
        return True
    groups = attribute(node, "group", 1)
    wide = min(weight.shape[0], weight.shape[1] * groups) >= narrow
    return bool(node.op_type == "Conv" and groups == 1 and wide)


def attribute(node: Any, name: str, default: int) -> int:
    """Return an integer attribute of a node."""
    return next((int(each.i) for each in node.attribute if each.name == name), default)


def residual_branch(node: Any, makers: Mapping[str, Any], reads: Mapping[str, int]) -> int | None:
    """Return which input of a sum comes beside a convolution's output, and so is the one to quantise; None for others.

    The convolution's own output stays as it is: the sum, and the activation behind it, are fused into the convolution.

    Args:
        makers: node by output.
        reads: how often a tensor is read.
    """
    if node.op_type != "Add" or len(node.input) != 2 or not all(name in makers for name in node.input):
        return None
    fused = [makers[name].op_type == "Conv" and reads[name] == 1 for name in node.input]
    return None if not any(fused) else 1 if fused[0] else 0


def moved(makers: Mapping[str, Any], name: str) -> list[str]:
    """List the tensors of the same values as one, up to it, that were only rearranged or cut since they were computed.

    Args:
        makers: node by output.
    """
    found = [name]
    while (node := makers.get(found[0])) is not None and node.op_type in _REARRANGED:
        found.insert(0, str(node.input[0]))
    return found


def gated_tensors(nodes: Any) -> frozenset[str]:
    """Name the tensors that hold cosine distances, or features multiplied by them.

    Products of two distances span so many orders of magnitude that 8 bits lose most of them: on magnetic tiles, with
    ranges by percentile, they cost ``cfrg-lite0`` 0.015 of image AUROC, and all convolutions outside of the
    segmentation together 0.002.
    """
    found: set[str] = set()
    for node in nodes:
        weighted = node.op_type in _WEIGHTED or part_of(node) in _WEIGHTED
        if network_of(node) == "cosine" or (not weighted and not found.isdisjoint(node.input)):
            found.update(node.output)
    return frozenset(found)


def _branches(nodes: Any, known: Mapping[str, Any], quantised: set[int]) -> list[tuple[int, int]]:
    """List the residual inputs to quantise: those beside a convolution that is quantised itself."""
    makers = {name: node for node in nodes for name in node.output}
    places = {node.output[0]: index for index, node in enumerate(nodes)}
    reads: dict[str, int] = defaultdict(int)
    for node in nodes:
        for name in node.input:
            reads[name] += 1
    found = []
    for index, node in enumerate(nodes):
        if network_of(node) not in NETWORKS or part_of(node) or any(name in known for name in node.input):
            continue
        slot = residual_branch(node, makers, reads)
        if slot is not None and places[node.input[1 - slot]] in quantised:
            found.append((index, slot))
    return found


def _never_negative(nodes: Any, known: Mapping[str, Any]) -> frozenset[str]:
    """Name the tensors that cannot be negative whatever the image, by the operators that make them."""
    found: set[str] = set()
    for node in nodes:
        if node.op_type == "Clip":
            low = node.input[1] if len(node.input) > 1 else ""
            sure = low in known and float(known[low].min()) >= 0
        else:
            passed = [name for name in node.input if name and name not in known]
            moves = node.op_type in _MOVES and bool(passed) and all(name in found for name in passed)
            sure = node.op_type in _NEVER_NEGATIVE or moves
        if sure:
            found.update(node.output)
    return frozenset(found)
