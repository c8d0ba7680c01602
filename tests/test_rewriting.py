"""Rewritten graphs compute what torch does: transposed convolutions as plain ones, gates behind convolutions."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgead.onnx_graph import write_model
from edgead.runtime.openvino_runner import open_core
from export.gates import behind, split
from export.rewriting import part_of
from export.transposed import as_convolutions

Array = npt.NDArray[np.float32]


def run(model: onnx.ModelProto, path: Path, values: dict[str, Array], backend: str) -> Array:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    write_model(copy, path)
    if backend == "onnxruntime":
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found: Array = session.run(None, values)[0]
        return found
    pytest.importorskip("openvino")
    compiled = open_core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled(values)[0])


def model_of(nodes: list[onnx.NodeProto], given: dict[str, int], weights: dict[str, Array]) -> onnx.ModelProto:
    """Build a model of inputs ``(N, channels, h, w)`` and one output, the last node's."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", c, "h", "w"]) for name, c in given.items()]
    output = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["n", None, None, None])
    stored = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, [output], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def transposed(layer: nn.ConvTranspose2d) -> onnx.ModelProto:
    """Write torch's layer as ONNX does, by hand."""
    top, left = (int(side) for side in layer.padding)
    inputs = ["x", "w"] + (["b"] if layer.bias is not None else [])
    node = helper.make_node(
        "ConvTranspose", inputs, ["y"], name="up", strides=list(layer.stride), pads=[top, left, top, left],
        group=layer.groups, dilations=list(layer.dilation), output_padding=list(layer.output_padding),
    )  # fmt: skip
    weights = {"w": layer.weight.detach().numpy()}
    if layer.bias is not None:
        weights["b"] = layer.bias.detach().numpy()
    return model_of([node], {"x": layer.in_channels}, weights)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 3), (1, 1)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "bias"),
    [(4, 2, 1, True), (2, 2, 0, False), (4, 2, 0, True), (6, 3, (1, 2), True), (3, 3, 1, False), (8, 2, 3, True)],
)
def test_a_transposed_convolution_as_a_plain_one_is_torch_s(
    tmp_path: Path, backend: str, size: tuple[int, int], kernel: int, stride: int, padding: int, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(5, 3, kernel, stride, padding, bias=bias)
    x = torch.randn(2, 5, *size)
    with torch.no_grad():
        wanted = layer(x).numpy()
    rewritten = as_convolutions(transposed(layer))
    assert "ConvTranspose" not in {node.op_type for node in rewritten.graph.node}
    found = run(rewritten, tmp_path / "m.onnx", {"x": x.numpy()}, backend)
    np.testing.assert_allclose(found, wanted, atol=2e-6)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(4, 4, 3, 2, 1),  # the kernel is no multiple of the stride
        nn.ConvTranspose2d(4, 4, 4, 1, 1),
        nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=2),
        nn.ConvTranspose2d(4, 4, 4, 2, 1, dilation=2),
        nn.ConvTranspose2d(4, 4, 4, 2, 1, output_padding=1),
        nn.ConvTranspose2d(4, 4, 4, (2, 4), 1),
    ],
)
def test_other_transposed_convolutions_stay(layer: nn.ConvTranspose2d) -> None:
    model = transposed(layer)
    assert as_convolutions(model).SerializeToString() == model.SerializeToString()


class _Gated(nn.Module):
    """A convolution of gated features beside others that are not."""

    def __init__(self, kernel: int, padding: int, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.convolution = nn.Conv2d(6 + 4, 3, kernel, padding=padding, bias=bias)

    def forward(self, x: torch.Tensor, level: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.convolution(torch.cat([x, level * a * b], 1)))

    def model(self, *, shared: bool) -> onnx.ModelProto:
        """Write it by hand, the two gates multiplied with each other first or one after the other."""
        first = ("a", "b") if shared else ("level", "a")
        second = ("level", "ab") if shared else ("ab", "b")
        pads = [int(self.convolution.padding[0])] * 4
        inputs = ["joined", "w"] + (["b_"] if self.convolution.bias is not None else [])
        nodes = [
            helper.make_node("Mul", first, ["ab"], name="ab"),
            helper.make_node("Mul", second, ["gated"], name="gated"),
            helper.make_node("Concat", ["x", "gated"], ["joined"], name="joined", axis=1),
            helper.make_node("Conv", inputs, ["y"], name="conv", pads=pads),
            helper.make_node("Relu", ["y"], ["z"], name="relu"),
        ]  # fmt: skip
        weights = {"w": self.convolution.weight.detach().numpy()}
        if self.convolution.bias is not None:
            weights["b_"] = self.convolution.bias.detach().numpy()
        return model_of(nodes, {"x": 6, "level": 4, "a": 1, "b": 1}, weights)


GATED = {"a", "b", "ab", "gated", "joined"}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (3, 4)])
@pytest.mark.parametrize(("kernel", "padding", "bias"), [(3, 1, True), (2, 1, True), (1, 0, False), (3, 0, True)])
@pytest.mark.parametrize("shared", [True, False])
def test_gates_behind_the_convolution_give_torch_s_sums(
    tmp_path: Path, backend: str, size: tuple[int, int], kernel: int, padding: int, bias: bool, shared: bool
) -> None:
    module = _Gated(kernel, padding, bias)
    x, level, a, b = (torch.randn(2, channels, *size) for channels in (6, 4, 1, 1))
    with torch.no_grad():
        wanted = module(x, level, a, b).numpy()
    apart = split(module.model(shared=shared), GATED, wide=4)
    assert [node.op_type for node in apart.graph.node].count("Conv") == 2
    rewritten = behind(apart, GATED, wide=4)
    convolutions = [node for node in rewritten.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 1 + kernel * kernel
    assert [node.input[0] for node in convolutions].count("level") == kernel * kernel  # none reads what is gated
    assert not [node for node in convolutions if node.input[0] in GATED]
    values = {name: each.numpy() for name, each in zip(("x", "level", "a", "b"), (x, level, a, b), strict=True)}
    np.testing.assert_allclose(run(rewritten, tmp_path / "m.onnx", values, backend), wanted, atol=3e-6)


def test_narrow_or_wholly_gated_convolutions_stay() -> None:
    model = _Gated(3, 1, True).model(shared=True)
    for unchanged in (split(model, GATED, wide=5), split(model, {*GATED, "x"}, wide=1), behind(model, GATED, wide=1)):
        assert unchanged.SerializeToString() == model.SerializeToString()


def test_nodes_come_in_an_order_in_which_they_run_and_say_what_they_are_part_of() -> None:
    rewritten = behind(split(_Gated(3, 1, True).model(shared=False), GATED, wide=4), GATED, wide=4)
    known = {tensor.name for tensor in rewritten.graph.initializer} | {value.name for value in rewritten.graph.input}
    for node in rewritten.graph.node:
        assert known.issuperset(node.input)
        known.update(node.output)
    names = [node.name for node in rewritten.graph.node]
    assert all(first != second for first, second in pairwise(sorted(names)))
    assert {node.op_type for node in rewritten.graph.node if not part_of(node)} == {"Relu"}
    assert {part_of(node) for node in rewritten.graph.node} == {"", "Conv"}
