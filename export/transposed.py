"""Write transposed convolutions as plain ones: the same sums, in operators that every runtime has in INT8.

A transposed convolution of stride ``s`` and kernel ``m s`` gives, for each place of its input, ``s x s`` outputs that
read ``m x m`` inputs each. So it is a convolution of kernel ``m`` to ``s s`` times the channels, whose outputs
DepthToSpace lays side by side, less what the padding cuts off (Shi et al., "Is the deconvolution layer the same as a
convolutional layer?", 2016). The products that are added are the same, but for a border of zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from export.rewriting import END, Array, Rewriting, integers_of, is_plain

if TYPE_CHECKING:
    import onnx


def as_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every transposed convolution that suits written as a plain one.

    Those suit whose kernel is a multiple of the stride, without groups, dilation or output padding, and whose weight is
    a constant; others stay as they are.
    """
    rewriting = Rewriting(model)
    swallowed: set[str] = set()  # activations that go in front of DepthToSpace, so that convolutions take them in

    def written(node: Any) -> list[Any] | None:
        if node.output[0] in swallowed:
            return []
        made = _written(rewriting, node)
        if made:
            swallowed.update(made[-1].output)
        return made

    return rewriting.each(written)


def kernel_of(weight: Array, stride: int) -> Array:
    """Return the convolution's kernel ``(s s O, I, m, m)`` of a transposed one ``(I, O, m s, m s)``.

    Output channels are ordered as DepthToSpace takes them apart: row, column, channel.
    """
    inputs, outputs, height, width = weight.shape
    rows, columns = height // stride, width // stride
    taps = weight.reshape(inputs, outputs, rows, stride, columns, stride)[:, :, ::-1, :, ::-1]
    return np.ascontiguousarray(taps.transpose(3, 5, 1, 0, 2, 4).reshape(-1, inputs, rows, columns))


def _written(rewriting: Rewriting, node: Any) -> list[Any] | None:
    """Return the nodes that stand for a transposed convolution that suits; None for all others."""
    weight = rewriting.known.get(node.input[1]) if node.op_type == "ConvTranspose" else None
    if weight is None or not is_plain(node, weight) or any(each.name == "output_shape" for each in node.attribute):
        return None
    stride, across = integers_of(node, "strides", [1, 1])
    uneven = stride != across or stride == 1 or any(side % stride for side in weight.shape[2:])
    if uneven or any(integers_of(node, "output_padding", [0, 0])):
        return None
    kernel = kernel_of(weight, stride)
    inputs = [node.input[0], rewriting.keep(f"{node.input[1]}_as_convolution", kernel)]
    if len(node.input) > 2 and node.input[2]:
        bias = np.tile(rewriting.known[node.input[2]], stride * stride)
        inputs.append(rewriting.keep(f"{node.input[2]}_as_convolution", bias))
    sides = list(kernel.shape[2:])
    ends = [side - 1 for side in sides]
    top, left, bottom, right = integers_of(node, "pads", [0, 0, 0, 0])
    name = node.output[0]
    made = [rewriting.node("Conv", inputs, f"{name}_phases", kernel_shape=sides, pads=ends * 2)]
    readers = rewriting.readers[name]
    followed = name not in rewriting.outputs and [each.op_type for each in readers] == ["Relu"]
    output = readers[0].output[0] if followed else name
    if output != name:
        made.append(rewriting.node("Relu", [f"{name}_phases"], f"{output}_phases"))
    whole = f"{output}_whole" if top or left or bottom or right else output
    made.append(rewriting.node("DepthToSpace", [made[-1].output[0]], whole, blocksize=stride, mode="DCR"))
    if whole != output:
        starts, stops = rewriting.integers(top, left), rewriting.integers(-bottom or END, -right or END)
        made.append(rewriting.node("Slice", [whole, starts, stops, rewriting.integers(2, 3)], output))
    return made
