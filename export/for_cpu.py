"""The form in which CPUs run an inspection in INT8: the same function, in operators that INT8 reaches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from export.gates import behind, split
from export.placement import gated_tensors
from export.transposed import as_convolutions

if TYPE_CHECKING:
    import onnx

Step = Callable[["onnx.ModelProto"], "onnx.ModelProto"]


def _split(model: onnx.ModelProto) -> onnx.ModelProto:
    return split(model, gated_tensors(model.graph.node))


def _behind(model: onnx.ModelProto) -> onnx.ModelProto:
    return behind(model, gated_tensors(model.graph.node))


# In this order: what one gives, the next one takes up.
STEPS: Mapping[str, Step] = {
    "transposed convolutions as plain ones": as_convolutions,
    "gated parts of concatenations apart": _split,
    "gates behind convolutions": _behind,
}


def for_cpu(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with all steps taken."""
    for step in STEPS.values():
        model = step(model)
    return model
