"""Write matrix products as convolutions, for Turing: TensorRT-RTX has no fp32 product for compute capability 7.5.

An inspection multiplies by constants only: by ones to sum over channels, by the Gaussian to spread a map. Such a
product is a convolution of width one, which gives the same sums and which TensorRT-RTX builds for all GPUs. Position
statistics multiply by a matrix of its own at every place: those products are written out, as sums of products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgead.errors import require
from edgead.onnx_graph import constants

if TYPE_CHECKING:
    import onnx

CAPABILITY = "7.5"
FLAG = "products-as-convolutions"


def without_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose fp32 products of ``(N, K, P)`` with a constant matrix, on either side, are convolutions.

    Products of ``(P, N, K)`` with a constant ``(P, K, M)``, a matrix a place, become sums of elementwise products.
    Others are left as they are; whether they can be built is for the builder to say.
    """
    onnx = require("onnx", extra="export")
    new = type(model)()
    new.CopyFrom(model)
    known = constants(model)
    typed = onnx.shape_inference.infer_shapes(model).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*typed.value_info, *typed.input, *typed.output)
        if value.type.tensor_type.HasField("shape")
    }
    nodes: list[Any] = []
    for node in model.graph.node:
        left, right = node.input if node.op_type == "MatMul" else ("", "")
        if _is_matrix(known.get(left)) and ranks.get(right) == 3:
            nodes += _convolved(onnx, new, node, right, known[left], turned=False)
        elif _is_matrix(known.get(right)) and ranks.get(left) == 3:
            nodes += _convolved(onnx, new, node, left, known[right].T, turned=True)
        elif known.get(right, np.empty(0)).ndim == 3 and ranks.get(left) == 3:
            nodes += _summed(onnx, new, node, known[right])
        else:
            nodes.append(node)
    del new.graph.node[:]
    new.graph.node.extend(nodes)
    del new.graph.value_info[:]
    return new


def _is_matrix(values: npt.NDArray[Any] | None) -> bool:
    return values is not None and values.ndim == 2 and values.dtype == np.float32


def _convolved(
    onnx: Any, model: Any, node: Any, values: str, matrix: npt.NDArray[Any], *, turned: bool
) -> list[onnx.NodeProto]:
    """Return the nodes for ``matrix @ values``, or for its transpose where the constant stood on the right."""
    (result,) = node.output
    weight = _constant(onnx, model, f"{result}_weight", matrix[..., None])  # (M, K) -> (M, K, 1)
    if not turned:
        return _chain(onnx, node, [("Conv", [values, weight], result, {})])
    swap = {"perm": [0, 2, 1]}
    return _chain(
        onnx,
        node,
        [
            ("Transpose", [values], f"{result}_turned", swap),
            ("Conv", [f"{result}_turned", weight], f"{result}_product", {}),
            ("Transpose", [f"{result}_product"], result, swap),
        ],
    )


def _summed(onnx: Any, model: Any, node: Any, stack: npt.NDArray[Any]) -> list[onnx.NodeProto]:
    """Return the nodes for ``values @ stack``, ``(P, N, K) @ (P, K, M)``, without a product of matrices."""
    (result,) = node.output
    last = _constant(onnx, model, f"{result}_last", np.array([3]))
    weight = _constant(onnx, model, f"{result}_weight", stack[:, None])  # (P, 1, K, M)
    channels = _constant(onnx, model, f"{result}_channels", np.array([2]))
    return _chain(
        onnx,
        node,
        [
            ("Unsqueeze", [node.input[0], last], f"{result}_column", {}),
            ("Mul", [f"{result}_column", weight], f"{result}_products", {}),
            ("ReduceSum", [f"{result}_products", channels], result, {"keepdims": 0}),
        ],
    )


def _constant(onnx: Any, model: Any, name: str, values: npt.NDArray[Any]) -> str:
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
    return name


def _chain(onnx: Any, node: Any, steps: Sequence[tuple[str, list[str], str, dict[str, Any]]]) -> list[onnx.NodeProto]:
    """Return nodes in the place of one, in its module."""
    made = []
    for number, (operator, inputs, output, extra) in enumerate(steps, 1):
        new = onnx.helper.make_node(operator, inputs, [output], name=f"{node.name}/{operator}_{number}", **extra)
        new.metadata_props.extend(node.metadata_props)
        made.append(new)
    return made
