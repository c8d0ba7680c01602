"""FP16: decide which nodes of an ONNX model run in half precision, and write the model anew with those types.

Precision lives in the file: TensorRT takes the types as they stand. What half precision would spoil stays in fp32. How
the types are written is in ``retype.py``.

ONNX Runtime on a CPU is no judge of the result: it computes fp16 nodes in fp32 and, with all optimisation off, still
drops the rounding between them, so that neither rounding nor overflow shows (microsoft/onnxruntime#8787). ONNX's own
reference evaluator rounds every tensor.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgead.errors import ArtefactError, ConfigError
from edgead.onnx_graph import NETWORKS, has_modules, network_of
from export.retype import retype
from export.typed import QUANTIZE, Typed, finish, prepare

if TYPE_CHECKING:
    import onnx

LARGEST = float(np.finfo(np.float16).max)  # 65504
MARGIN = 4.0  # an image on the line may stretch a tensor this much further than the calibration images did
LOSS = 0.01  # rounding error of a constant's channel, over its largest value; 2e-4 unless it is denormal or zero
DEAD = 2.0**-11  # a channel this small beside the largest drowns in the rounding of the others

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Operators that run in fp16 where fp16 comes in, and else stay in fp32 with the operator that feeds them, to fuse with
# it and to save casts. Reductions, norms, exponentials and operators that are not known here always stay in fp32.
_FOLLOWERS = (
    "Add Sub Mul Div Sum Max Min Neg Abs Where MaxPool AveragePool BatchNormalization Resize Pad Concat "
    "Clip Relu LeakyRelu PRelu Elu Sigmoid HardSigmoid HardSwish Tanh Gelu Softplus Mish "
    "Identity Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Gather Expand Tile DepthToSpace SpaceToDepth"
)
FOLLOWERS = frozenset(_FOLLOWERS.split())


def overflowing(peak: Mapping[str, float], margin: float = MARGIN) -> frozenset[str]:
    """Name the tensors that may leave the range of fp16.

    Args:
        peak: largest ``|x|`` of each tensor over the calibration images.
        margin: how many times further an unseen image may reach, from 1 on.

    Raises:
        ConfigError: a margin below 1.
        ArtefactError: a peak that is negative or no finite number.
    """
    if not 1 <= margin < math.inf:
        raise ConfigError(f"margin {margin} does not work; expected 1 or more, such as {MARGIN:g}")
    for name, value in peak.items():
        if not 0 <= value < math.inf:
            raise ArtefactError(
                f"the tensor '{name}' peaked at {value}, expected a finite number from 0 on; "
                "train again, then edgead export"
            )
    return frozenset(name for name, value in peak.items() if value * margin > LARGEST)


def to_float16(model: onnx.ModelProto, *, overflowing: Collection[str] = ()) -> onnx.ModelProto:
    """Return the model with fp16 arithmetic where that is safe, strongly typed; inputs and outputs keep their types.

    In fp32 stay: the cosine head, map fusion, pre-processing and the score's tail; reductions, norms and whatever else
    is not listed above; nodes that take or give an overflowing tensor; nodes with a constant that fp16 cannot hold. The
    exporter's module paths say where a node belongs. A model made elsewhere has none: there the operators decide alone,
    and what lies in front of the first weighted operator stays in fp32. That is less careful with a cosine head.

    A quantised model (Q/DQ with fp32 scales) gets fp16 scales wherever its tensors are fp16, and opset 19 with them;
    weights may be int8 behind a DequantizeLinear, or floats behind a pair.

    Args:
        overflowing: names of tensors, as ``overflowing`` finds them.

    Raises:
        ArtefactError: the model has fp16 parts already, sub-graphs, an unknown opset or no types, or does not know a
            tensor of ``overflowing``.
        MissingError: onnx is not installed.
    """
    typed = prepare(model)
    unknown = sorted(set(overflowing) - typed.floats)
    if unknown:
        raise ArtefactError(
            f"the model has no fp32 tensor '{unknown[0]}', which overflows in the calibration; "
            "calibrate with the model that is converted: edgead quantize"
        )
    choice = _Choice(typed, frozenset(overflowing))
    for index, node in enumerate(typed.nodes):
        choice.decide(index, node)
    return finish(retype(typed, choice.half))


class _Choice:
    """The nodes chosen so far, decided in the order of the graph.

    Attributes:
        half: indices of the nodes that run in fp16.
    """

    def __init__(self, typed: Typed, overflowing: frozenset[str]) -> None:
        self.half: set[int] = set()
        self._typed = typed
        self._overflowing = overflowing
        self._modules = has_modules(typed.model)
        self._half_tensors: set[str] = set()

    def decide(self, index: int, node: Any) -> None:
        """Choose one node's precision; all in front of it are chosen."""
        if node.op_type == QUANTIZE:
            chosen = self._comes_half(node.input[0]) and self._scale_fits(node)
        else:  # a DequantizeLinear is no follower: it gives whatever those behind it take
            chosen = self._may_be_half(node)
        if chosen:
            self.half.add(index)
            self._half_tensors.update(name for name in node.output if name in self._typed.floats)

    def _may_be_half(self, node: Any) -> bool:
        if node.domain not in ("", "ai.onnx") or (self._modules and network_of(node) not in NETWORKS):
            return False
        names = [self._origin(name) for name in (*node.input, *node.output)]
        if any(name in self._overflowing for name in names):
            return False
        if node.op_type in FOLLOWERS:
            computed = [name for name in node.input if name not in self._typed.constants]
            if not any(self._comes_half(name) for name in computed or node.input[:1]):
                return False
        elif node.op_type not in WEIGHTED or self._is_sum(node):
            return False
        return all(self._fits(node, slot) for slot in range(len(node.input)))

    def _is_sum(self, node: Any) -> bool:
        """Tell whether all weights are the same: a reduction, written as a product or convolution with ones."""
        values = next((self._typed.constants[name] for name in node.input[:2] if name in self._typed.constants), None)
        return values is not None and values.size > 1 and bool((values == values.flat[0]).all())

    def _comes_half(self, name: str) -> bool:
        if name not in self._typed.floats:
            return False
        if name in self._typed.constants:
            return fits(self._typed.constants[name])
        if name in self._typed.dequantized:
            return self._dequantized_fits(name)
        return name in self._half_tensors

    def _origin(self, name: str) -> str:
        """Return the tensor that a DequantizeLinear gives back, or the name itself."""
        node = self._typed.dequantized.get(name)
        quantize = self._typed.quantized.get(node.input[0]) if node is not None else None
        return name if quantize is None else str(quantize.input[0])

    def _fits(self, node: Any, slot: int) -> bool:
        """Tell whether fp16 can hold what a node takes, as far as that is known before a run."""
        name = node.input[slot]
        if (node.op_type, slot) in Typed.FLOAT_SLOTS:
            return True
        if name in self._typed.dequantized:
            return self._dequantized_fits(name)
        values = self._typed.constants.get(name)
        if values is None or values.dtype != np.float32:
            return True
        if node.op_type == "Clip":  # a bound beyond the range of fp16 binds at its end
            values = np.clip(values, -LARGEST, LARGEST)
        return fits(values, _channels(node, slot, values.ndim), divisor=node.op_type == "Div")

    def _dequantized_fits(self, name: str) -> bool:
        node = self._typed.dequantized[name]
        weights = self._typed.constants.get(self._origin(name))
        return self._scale_fits(node) and (weights is None or weights.dtype != np.float32 or fits(weights))

    def _scale_fits(self, node: Any) -> bool:
        scale = self._typed.constants.get(node.input[1])
        if scale is None:
            return False
        if scale.size == 0 or not (scale > 0).all():
            raise ArtefactError(f"the scale '{node.input[1]}' is not above 0 everywhere; make the model again")
        # Each value is a channel of its own, and the largest integer times it has to fit as well.
        return fits(scale, ()) and float(scale.max()) * 128 <= LARGEST


def fits(values: npt.NDArray[Any], axes: tuple[int, ...] | None = None, *, divisor: bool = False) -> bool:
    """Tell whether fp16 holds a constant: no value overflows, and no channel drowns among its smallest numbers.

    Channels that are dead may become zero: ImageNet's EfficientNet has 104 with weights below 3e-6 beside ones of 0.1.

    Args:
        axes: those along which a channel extends; all of them where None.
        divisor: something is divided by the values, so that none is dead.
    """
    finite = np.where(np.isfinite(values), values, 0)  # infinities are the same in fp16
    size = np.abs(finite).max(axis=axes, initial=0)
    largest = size.max(initial=0)
    if largest > LARGEST:
        return False
    lost = np.abs(finite.astype(np.float16).astype(np.float32) - finite).max(axis=axes, initial=0)
    dead = size <= (0 if divisor else DEAD * largest)
    return bool(((lost <= LOSS * size) | dead).all())


def _channels(node: Any, slot: int, rank: int) -> tuple[int, ...] | None:
    """Return the axes of a constant along which one channel extends; ``()``: every value counts for itself."""
    if node.op_type in ("Mul", "Div") or (node.op_type == "BatchNormalization" and slot in (1, 4)):
        return ()  # factors: scale and variance of a channel
    if node.op_type not in WEIGHTED or slot > 1 or rank < 2:
        return None
    own = {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1 if slot else rank - 2}.get(node.op_type)
    if own is None:  # Gemm
        own = 0 if any(entry.name == "transB" and entry.i for entry in node.attribute) else 1
    return tuple(axis for axis in range(rank) if axis != own)
