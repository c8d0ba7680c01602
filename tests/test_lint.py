"""The lint of Q/DQ models: each rule on a small graph that breaks it, and models of another tool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from edgead.onnx_graph import read_model
from export.lint import Finding, lint

Change = Callable[["Block"], None]


class Block:
    """x -> Conv -> Relu -> Conv -> + x -> y, quantised as TensorRT wants it; tests spoil it."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.weights: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.add("Relu", ["image"], "x")
        self.pair("x")
        for name, source in (("a", "x_back"), ("b", "relu_back")):
            if name == "b":
                self.add("Relu", ["a"], "relu")
                self.pair("relu")
            self.weights[f"{name}_int8"] = random.integers(-127, 128, (16, 16, 1, 1)).astype(np.int8)
            self.weights[f"{name}_bias"] = np.zeros(16, np.float32)
            self.back(f"{name}_int8", f"{name}_weight", np.full(16, 0.01, np.float32), axis=0)
            self.add("Conv", [source, f"{name}_weight", f"{name}_bias"], name)
        self.add("Add", ["b", "x_back"], "y")

    def add(self, kind: str, inputs: list[str], output: str, **attributes: int) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", **attributes))  # type: ignore[arg-type]

    def pair(self, name: str, zero: np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None = None) -> None:
        self.weights |= {f"{name}_s": np.asarray(0.02, np.float32), f"{name}_z": np.zeros((), np.int8)}
        if zero is not None:
            self.weights[f"{name}_z"] = zero
        self.add("QuantizeLinear", [name, f"{name}_s", f"{name}_z"], f"{name}_q")
        self.add("DequantizeLinear", [f"{name}_q", f"{name}_s", f"{name}_z"], f"{name}_back")

    def back(
        self, stored: str, output: str, scale: np.ndarray[tuple[int, ...], np.dtype[np.float32]], **along: int
    ) -> None:
        zero = np.zeros(scale.shape, self.weights[stored].dtype)
        self.weights |= {f"{stored}_s": scale, f"{stored}_z": zero}
        self.add("DequantizeLinear", [stored, f"{stored}_s", f"{stored}_z"], output, **along)

    def rewire(self, output: str, slot: int, name: str) -> None:
        next(node for node in self.nodes if output in node.output).input[slot] = name

    def model(self) -> onnx.ModelProto:
        shape = [1, 16, 4, 4]
        graph = helper.make_graph(
            self.nodes,
            "block",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(self.nodes[-1].output[0], TensorProto.FLOAT, None)],
            [numpy_helper.from_array(values, name) for name, values in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_block_quantised_by_the_rules_is_clean() -> None:
    assert not lint(Block().model(), "tensorrt")


def unsigned(block: Block) -> None:
    block.weights["relu_z"] = np.zeros((), np.uint8)


def asymmetric(block: Block) -> None:
    block.weights["relu_z"] = np.asarray(3, np.int8)


def zero_scale(block: Block) -> None:
    block.weights["x_s"] = np.asarray(0, np.float32)


def quantised_bias(block: Block) -> None:
    block.weights["a_bias"] = np.zeros(16, np.int32)
    block.back("a_bias", "a_bias_back", np.asarray(1e-4, np.float32))
    block.nodes.insert(0, block.nodes.pop())
    block.rewire("a", 2, "a_bias_back")


def wrong_axis(block: Block) -> None:
    node = next(node for node in block.nodes if node.output[0] == "a_weight")
    node.attribute[0].i = 1


def scales_of_an_activation(block: Block) -> None:
    block.weights |= {"relu_s": np.full(16, 0.02, np.float32), "relu_z": np.zeros(16, np.int8)}


def before_the_activation(block: Block) -> None:
    block.pair("a")
    moved = [block.nodes.pop() for _ in range(2)]
    place = next(index for index, node in enumerate(block.nodes) if node.output[0] == "relu")
    block.nodes[place:place] = reversed(moved)
    block.rewire("relu", 0, "a_back")


def both_branches(block: Block) -> None:
    last = block.nodes.pop()
    block.pair("b")
    block.nodes.append(last)
    block.rewire("y", 0, "b_back")


def only_the_input(block: Block) -> None:
    block.weights["plain"] = np.ones((16, 16, 1, 1), np.float32)
    block.rewire("a", 1, "plain")


def depthwise(block: Block) -> None:
    node = next(node for node in block.nodes if node.output[0] == "a")
    node.attribute.append(helper.make_attribute("group", 2))


def one_side_of_a_concat(block: Block) -> None:
    block.add("Concat", ["y", "relu_back"], "cat", axis=1)


def a_reduction(block: Block) -> None:
    block.pair("y")
    block.add("ReduceMax", ["y_back"], "score")


def pair_on_the_input(block: Block) -> None:
    block.pair("image")
    moved = [block.nodes.pop() for _ in range(2)]
    block.nodes[0:0] = reversed(moved)
    block.rewire("x", 0, "image_back")


def whole_operator(block: Block) -> None:
    block.add("DynamicQuantizeLinear", ["y"], "dynamic")


@pytest.mark.parametrize(
    ("change", "rule", "severity", "where"),
    [
        (unsigned, "unsigned", "inexact", "relu"),
        (asymmetric, "zero point", "refused", "relu"),
        (zero_scale, "scale", "refused", "x"),
        (quantised_bias, "bias", "refused", "a_bias_back"),
        (wrong_axis, "axis", "refused", "a_int8"),
        (scales_of_an_activation, "axis", "refused", "relu_q"),
        (before_the_activation, "activation", "slow", "a"),
        (both_branches, "residual", "slow", "y/Add"),
        (only_the_input, "half", "slow", "a/Conv"),
        (depthwise, "kernel", "slow", "a/Conv"),
        (one_side_of_a_concat, "concat", "slow", "cat/Concat"),
        (a_reduction, "tail", "inexact", "score/ReduceMax"),
        (pair_on_the_input, "input", "refused", "image"),
        (whole_operator, "operator", "refused", "dynamic/DynamicQuantizeLinear"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)).replace("_", " "),
)
def test_each_rule_names_what_breaks_it(change: Change, rule: str, severity: str, where: str) -> None:
    block = Block()
    change(block)
    findings = lint(block.model(), "tensorrt")
    assert (rule, severity, where) in {(each.rule, each.severity, each.where) for each in findings}
    assert {each.rule for each in findings} <= {rule, "bias" if rule == "zero point" else rule}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        random = np.random.default_rng(1)
        self._left = [{"image": random.normal(size=(1, 16, 4, 4)).astype(np.float32)} for _ in range(4)]

    def get_next(self) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] | None:
        return self._left.pop() if self._left else None


def plain(path: Path) -> None:
    """Write the block without any pairs."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2", "b"], ["y"]),
    ]
    values = {f"w{n}": random.normal(size=(16, 16, 1, 1)).astype(np.float32) for n in (1, 2)}
    values["b"] = np.zeros(16, np.float32)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "plain",
        [info("image", TensorProto.FLOAT, [1, 16, 4, 4])],
        [info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(each, name) for name, each in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def test_onnx_runtime_s_own_quantiser_is_told_what_tensorrt_refuses(tmp_path: Path) -> None:
    """Its defaults: asymmetric activations and int32 biases; then the settings that TensorRT needs."""
    source, made = tmp_path / "plain.onnx", tmp_path / "made.onnx"
    plain(source)
    quantize_static(str(source), str(made), _Reader(), quant_format=QuantFormat.QDQ)
    rules = {each.rule for each in lint(read_model(made), "tensorrt") if each.severity != "slow"}
    assert rules & {"zero point", "unsigned"}
    assert "bias" in rules
    settings = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    quantize_static(
        str(source), str(made), _Reader(), quant_format=QuantFormat.QDQ, activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8, per_channel=True, extra_options=settings,
    )  # fmt: skip
    findings = lint(read_model(made), "tensorrt")
    assert [each for each in findings if each.severity != "slow"] == []


def test_a_finding_reads_as_one_line() -> None:
    line = str(Finding("tail", "inexact", "score/ReduceMax", "take the pair out"))
    assert line == "tail (inexact) at 'score/ReduceMax': take the pair out"
