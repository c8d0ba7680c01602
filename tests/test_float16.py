"""An fp16 model keeps the verdict: right types in the right places, few casts, the values that half precision gives.

Types are read off by ONNX's own type inference, values by ONNX's reference evaluator, which rounds every tensor as it
says (ONNX Runtime runs the models too, but on a CPU it computes in fp32), and TensorRT-RTX builds what is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgead.bundle import Bundle
from edgead.cfrg import checkpoint
from edgead.cfrg.inspection import Inspection
from edgead.cfrg.model import Output, build
from edgead.errors import ArtefactError, ConfigError
from edgead.onnx_graph import NETWORKS, module_of, network_of, read_model
from export.float16 import fits, overflowing, to_float16
from export.to_onnx import export_inspection

Array = npt.NDArray[Any]

# Of the map's largest value, and of the score. Measured with random weights: 4e-5 (cfrg-lite0), 5e-5 (cfrg-r18).
BOUND = 2e-4
INT8, UINT8 = TensorProto.INT8, TensorProto.UINT8
FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


# ---- what the tests see with ----


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    types = {each.name: each.type.tensor_type.elem_type for each in (*graph.input, *graph.value_info, *graph.output)}
    return types | {each.name: each.data_type for each in graph.initializer}


def run(model: onnx.ModelProto, feeds: Mapping[str, Array], *, optimise: bool = True) -> list[Array]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def evaluate(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Run with every tensor rounded to its type."""
    with np.errstate(over="ignore", invalid="ignore"):
        return list(ReferenceEvaluator(model).run(None, dict(feeds)))


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(each for each in model.graph.node if each.name == name)
    return found


def count(model: onnx.ModelProto, op_type: str, *networks: str) -> int:
    return sum(each.op_type == op_type and network_of(each) in networks for each in model.graph.node)


def casts(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The casts between fp32 and fp16."""
    types = element_types(model)
    floats = {FLOAT, HALF}
    return [
        each
        for each in model.graph.node
        if each.op_type == "Cast" and {types[each.input[0]], types[each.output[0]]} <= floats
    ]


def refuse_needless_casts(model: onnx.ModelProto) -> None:
    made_by = {name: each for each in model.graph.node for name in each.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    taken = {name for each in model.graph.node for name in each.input} | {each.name for each in model.graph.output}
    seen = set()
    between = casts(model)
    for cast in between:
        source = cast.input[0]
        assert (source, cast.attribute[0].i) not in seen
        seen.add((source, cast.attribute[0].i))
        assert source not in constants
        assert made_by.get(source) not in between  # fp16 -> fp32 -> fp16
        assert cast.output[0] in taken
        assert element_types(model)[source] != cast.attribute[0].i


def graph_of(
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, Array],
    *,
    opset: int = 18,
    shape: tuple[Any, ...] = (1, 4, 6, 6),
) -> onnx.ModelProto:
    """A model from ``x`` to ``y``, both fp32."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, [None] * 4)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 18 else 10)


def weights(*shape: int, scale: float = 0.3, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def image(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, shape or (1, 4, 6, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def fp32(exported: Bundle) -> onnx.ModelProto:
    model: onnx.ModelProto = read_model(exported.file("fp32"))
    return model


@pytest.fixture(scope="module")
def fp16(fp32: onnx.ModelProto) -> onnx.ModelProto:
    return to_float16(fp32)


# ---- the whole inspection ----


def test_the_map_and_the_score_stay(
    fp32: onnx.ModelProto, fp16: onnx.ModelProto, smooth_images: npt.NDArray[np.uint8]
) -> None:
    close(run(fp32, {"image": smooth_images}), run(fp16, {"image": smooth_images}))
    close(run(fp32, {"image": smooth_images[:2]}), evaluate(fp16, {"image": smooth_images[:2]}))


def close(wanted: list[Array], found: list[Array], bound: float = BOUND) -> None:
    assert wanted[0].std() > 0.01  # no flat map, which would agree with anything
    for one, other in zip(wanted, found, strict=True):
        assert one.dtype == other.dtype == np.float32
        np.testing.assert_allclose(other, one, atol=bound * float(one.max()), rtol=0)


def test_it_computes_what_torch_computes_in_half(
    exported: Bundle, fp16: onnx.ModelProto, smooth_images: npt.NDArray[np.uint8]
) -> None:
    cfrg = checkpoint.load(exported.file("checkpoint"))
    inspection = Inspection(cfrg)
    images = torch.from_numpy(smooth_images[:3])
    with torch.inference_mode():
        whole = inspection(images)[0].numpy()
        pixels = cfrg.normalise(images).half()
        for name in NETWORKS:
            getattr(cfrg, name).half()
        teacher, student = list(cfrg.teacher(pixels)), list(cfrg.student(pixels))
        recovery = list(cfrg.recovery(teacher))
        distances = cfrg.cosine(teacher, student, recovery)
        halved = type(distances)(*([level.half() for level in each] for each in distances))
        logits = cfrg.segmentation(teacher, student, halved)
        assert logits.dtype == torch.float16
        assert cfrg.statistics is not None
        whole_output = Output(teacher, student, recovery, distances, logits, cfrg.statistics(teacher))
        wanted = inspection.judge(whole_output)[0].numpy()
    found = evaluate(fp16, {"image": smooth_images[:3]})[0]
    assert 0 < np.abs(wanted - whole).max() < BOUND * whole.max()
    assert np.abs(found - wanted).max() < BOUND * whole.max()


def test_networks_are_fp16_and_the_rest_is_fp32(fp16: onnx.ModelProto) -> None:
    types = element_types(fp16)
    seen = Counter[str]()
    of_cosine = {name for each in fp16.graph.node if network_of(each) == "cosine" for name in each.output}
    for each in fp16.graph.node:
        used = {types[name] for name in (*each.input, *each.output) if name} & {FLOAT, HALF}
        if each.op_type == "Cast":
            continue
        if network_of(each) in NETWORKS:
            # Resize takes its scales in fp32.
            scales = each.op_type == "Resize" and {types[name] for name in (each.input[0], each.output[0])} == {HALF}
            gates = each.op_type == "Mul" and of_cosine.issuperset(each.input)  # one channel, not rounded twice
            assert used == {HALF} or scales or (gates and used == {FLOAT}), each.name
        else:
            assert used <= {FLOAT}, each.name
        seen[network_of(each)] += 1
    assert set(seen) == {*NETWORKS, "cosine", "fusion", "statistics", ""}
    assert seen["cosine"] > 70


def test_casts_are_few_and_none_is_needless(fp16: onnx.ModelProto) -> None:
    refuse_needless_casts(fp16)
    found = Counter((network_of(cast), cast.attribute[0].i) for cast in casts(fp16))
    # 9 levels to the cosine head and the logits to the score; the pixels, 6 distances and 3 gates to the networks.
    assert found == {("cosine", FLOAT): 9, ("", FLOAT): 1, ("teacher", HALF): 1, ("segmentation", HALF): 9}


def test_names_types_and_metadata_are_kept(fp32: onnx.ModelProto, fp16: onnx.ModelProto) -> None:
    assert fp16.graph.input == fp32.graph.input
    assert fp16.graph.output == fp32.graph.output
    assert fp16.opset_import == fp32.opset_import
    assert fp16.metadata_props == fp32.metadata_props
    assert not fp16.graph.value_info
    before = {each.name: (each.op_type, module_of(each), list(each.output)) for each in fp32.graph.node}
    after = {each.name: (each.op_type, module_of(each), list(each.output)) for each in fp16.graph.node}
    assert before.items() <= after.items()
    assert len(after) == len(fp16.graph.node)
    assert all(after[name][0] == "Cast" for name in after.keys() - before.keys())
    types = element_types(fp16)
    assert {types[name] for name in ("pixels", "anomaly_map", "pred_score")} == {FLOAT}
    assert {types[name] for name in ("teacher_1", "student_2", "recovery_3", "logits")} == {HALF}
    sizes = [sum(len(tensor.raw_data) for tensor in model.graph.initializer) for model in (fp32, fp16)]
    assert sizes[1] < 0.51 * sizes[0]


def test_the_model_given_is_left_alone(fp32: onnx.ModelProto) -> None:
    before = fp32.SerializeToString()
    to_float16(fp32)
    assert fp32.SerializeToString() == before


@pytest.mark.parametrize("network", NETWORKS)
def test_one_network_keeps_the_types_of_its_ends(exported: Bundle, network: str) -> None:
    before = read_model(exported.file(network))
    after = to_float16(before)
    refuse_needless_casts(after)
    assert (after.graph.input, after.graph.output) == (before.graph.input, before.graph.output)
    feeds = {
        each.name: image(2, *(dim.dim_value for dim in each.type.tensor_type.shape.dim[1:]))
        for each in before.graph.input
    }
    for wanted, found in zip(run(before, feeds), evaluate(after, feeds), strict=True):
        np.testing.assert_allclose(found, wanted, atol=0.01 * float(np.abs(wanted).max()), rtol=0)
        assert np.array_equal(found, found.astype(np.float16))  # it was rounded


def test_a_model_made_elsewhere_goes_by_its_operators(
    fp32: onnx.ModelProto, smooth_images: npt.NDArray[np.uint8]
) -> None:
    bare = onnx.ModelProto()
    bare.CopyFrom(fp32)
    for each in bare.graph.node:
        del each.metadata_props[:]
    fp32_modules = {each.name: network_of(each) for each in fp32.graph.node}
    half = to_float16(bare)
    types = element_types(half)
    refuse_needless_casts(half)
    for each in half.graph.node:
        kind = types[each.output[0]]
        if each.op_type == "Conv":
            sums = fp32_modules[each.name] == "cosine"  # convolutions with ones
            assert kind == (FLOAT if sums else HALF), each.name
        moves = each.op_type == "Transpose" and fp32_modules[each.name] == ""  # of the pre-processing, as Div is
        if moves or each.op_type in ("Pow", "Sqrt", "Reciprocal", "ReduceSum", "ReduceMax", "Div"):
            assert kind == FLOAT, each.name
    close(run(fp32, {"image": smooth_images}), run(half, {"image": smooth_images}), 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["cfrg-r18", "cfrg-wrn50"])
def test_the_other_networks(network: str, smooth_images: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "model.onnx"
    export_inspection(build(network, 64).eval(), path, smooth_images[:3], {})
    model = read_model(path)
    half = to_float16(model)
    refuse_needless_casts(half)
    types = element_types(half)
    for each in half.graph.node:
        if network_of(each) not in NETWORKS and each.op_type != "Cast":
            assert HALF not in {types[name] for name in (*each.input, *each.output) if name}, each.name
        if each.op_type == "ReduceMean":  # squeeze and excitation of cfrg-wrn50
            assert types[each.input[0]] == FLOAT, each.name
    close(run(model, {"image": smooth_images[:3]}), run(half, {"image": smooth_images[:3]}))
    census, plan_bytes = build_engine(half)
    assert census["CONVOLUTION", "HALF"] == count(half, "Conv", *NETWORKS)
    assert census["DECONVOLUTION", "HALF"] == count(half, "ConvTranspose", *NETWORKS)
    assert plan_bytes > 1e6


# ---- TensorRT ----


def parse(model: onnx.ModelProto) -> tuple[Any, Any, Any]:
    """Parse with TensorRT-RTX; the library, its builder and the strongly typed network."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx")
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse(model.SerializeToString())
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    return trt, builder, network


def build_engine(model: onnx.ModelProto) -> tuple[Counter[tuple[str, str]], int]:
    """Build for SM86; what layers of what type there are, and the engine's size."""
    trt, builder, network = parse(model)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    census = Counter((layer.type.name, layer.get_output_type(0).name) for layer in layers)
    config = builder.create_builder_config()
    entry = network.get_input(0)
    profile = builder.create_optimization_profile()
    shapes = [tuple(batch if size < 0 else size for size in entry.shape) for batch in (1, 2, 4)]
    profile.set_shape(entry.name, *shapes)
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return census, plan.nbytes


def test_tensorrt_builds_it_with_half_convolutions(fp32: onnx.ModelProto, fp16: onnx.ModelProto) -> None:
    census, halved = build_engine(fp16)
    assert census["CONVOLUTION", "HALF"] == count(fp16, "Conv", *NETWORKS) > 80
    assert census["CONVOLUTION", "FLOAT"] == count(fp16, "Conv", "cosine")
    assert census["REDUCE", "HALF"] == census["MATRIX_MULTIPLY", "HALF"] == census["UNARY", "HALF"] == 0
    full_census, full = build_engine(fp32)
    assert full_census["CONVOLUTION", "HALF"] == 0
    assert halved < 0.75 * full


# ---- operators, constants, overflow ----


def block(opset: int = 18) -> onnx.ModelProto:
    """Two convolutions with a residual branch."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["y"], "add"),
    ]
    constants = {"w1": weights(4, 4, 3, 3), "b1": weights(4, seed=2), "w2": weights(4, 4, 3, 3, seed=3)}
    return graph_of(nodes, constants, opset=opset)


def test_a_block_is_half_precision_as_torch_has_it() -> None:
    model, x = block(), image()
    found = evaluate(to_float16(model), {"x": x})[0]
    known = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in model.graph.initializer}

    def torch_block(kind: torch.dtype) -> Array:
        value = {name: tensor.to(kind) for name, tensor in known.items()}
        first = torch.nn.functional.conv2d(torch.from_numpy(x).to(kind), value["w1"], value["b1"], padding=1).relu()
        return (torch.nn.functional.conv2d(first, value["w2"], padding=1) + first).float().numpy()

    wanted, full = torch_block(torch.float16), torch_block(torch.float32)
    spacing = np.spacing(np.abs(wanted).max().astype(np.float16)).astype(np.float32)
    assert np.abs(found - wanted).max() <= 2 * spacing
    assert np.abs(found - full).max() > 0.1 * spacing
    assert np.array_equal(found, found.astype(np.float16))


def mixed(opset: int) -> onnx.ModelProto:
    """One of each input that needs care: Resize scales, optional ones, constants as nodes, shared and of both types."""
    value = numpy_helper.from_array
    nodes = [
        helper.make_node("Constant", [], ["six"], "c_six", value_float=6.0),
        helper.make_node("Constant", [], ["scales"], "c_scales", value=value(np.array([1, 1, 2, 2], np.float32))),
        helper.make_node("Constant", [], ["huge"], "c_huge", value=value(np.array(3e38, np.float32))),
        helper.make_node("Constant", [], ["half"], "c_half", value_float=0.5),
        helper.make_node("Conv", ["x", "w"], ["conv"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["conv", "", "six"], ["clip"], "clip"),
        helper.make_node("Clip", ["clip", "minus_six", "huge"], ["clip2"], "clip2"),
        helper.make_node("Resize", ["clip2", "", "scales"], ["resized"], "resize", mode="nearest"),
        helper.make_node("Pad", ["resized", "pads", "half"], ["padded"], "pad"),
        helper.make_node("Cast", ["padded"], ["again"], "cast", to=FLOAT),  # fp32 to fp32
        helper.make_node("Greater", ["again", "half"], ["mask"], "greater"),
        helper.make_node("Where", ["mask", "again", "half"], ["where"], "where"),
        helper.make_node("Mul", ["where", "half"], ["halved"], "mul"),
        helper.make_node("Shape", ["halved"], ["shape"], "shape"),
        helper.make_node("Reshape", ["halved", "shape"], ["reshaped"], "reshape"),
        helper.make_node("GlobalAveragePool", ["reshaped"], ["mean"], "pool"),
        helper.make_node("Sigmoid", ["mean"], ["gate"], "sigmoid"),
        helper.make_node("Mul", ["reshaped", "gate"], ["gated"], "gate"),
        helper.make_node("Conv", ["gated", "w"], ["again2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMax", ["again2"], ["y"], "max", axes=[1])
        if opset < 18
        else helper.make_node("ReduceMax", ["again2", "axes"], ["y"], "max"),
    ]
    constants = {
        "w": weights(4, 4, 3, 3),
        "minus_six": np.array(-6, np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        **({"axes": np.array([1], np.int64)} if opset >= 18 else {}),
    }
    return graph_of(nodes, constants, opset=opset)


@pytest.mark.parametrize("opset", [17, 18, 19, 20, 21])
def test_every_input_of_every_operator_has_its_type(opset: int) -> None:
    model = mixed(opset)
    half = to_float16(model)
    refuse_needless_casts(half)
    types = element_types(half)
    kinds = {each.name: types[each.output[0]] for each in half.graph.node}
    halves = ("conv", "clip", "clip2", "resize", "pad", "cast", "where", "mul", "reshape", "gate", "conv2")
    assert {name: kinds[name] for name in halves} == dict.fromkeys(halves, HALF)
    assert kinds["pool"] == kinds["sigmoid"] == kinds["max"] == FLOAT
    assert types[node(half, "resize").input[2]] == FLOAT
    assert types[node(half, "shape").output[0]] == INT64
    assert len({tensor.name for tensor in half.graph.initializer}) == len(half.graph.initializer)
    named = Counter(tensor.name.removesuffix("_fp16") for tensor in half.graph.initializer)
    assert named["w"] == 1  # taken twice, written once
    assert named["half"] == 2  # Greater takes it in fp32
    assert half.opset_import[0].version == opset
    wanted, found = run(model, {"x": image()})[0], evaluate(half, {"x": image()})[0]
    np.testing.assert_allclose(found, wanted, atol=4e-3 * float(np.abs(wanted).max()), rtol=0)


def test_tensorrt_takes_the_mixture() -> None:
    census, _ = build_engine(to_float16(mixed(18)))
    assert census["CONVOLUTION", "HALF"] == 2
    assert census["RESIZE", "HALF"] == 1


def tail_of(op_type: str) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Nodes from ``h`` (1, 4, 6, 6) to ``y`` with an operator that follows the type that comes in."""
    floats, shapes, attributes = list[Array](), list[Array](), dict[str, Any]()
    match op_type:
        case "BatchNormalization":
            floats = [np.full(4, 0.5), weights(4), weights(4, seed=5), np.full(4, 0.3)]
        case "PRelu":
            floats = [np.full((4, 1, 1), 0.1)]
        case "Max" | "Min" | "Div":
            floats = [np.array(0.1)]
        case "DepthToSpace":
            attributes = {"blocksize": 2}
        case "ConvTranspose":
            floats, attributes = [weights(4, 4, 2, 2)], {"strides": [2, 2]}
        case "MatMul":
            floats = [weights(6, 5)]
        case "AveragePool" | "MaxPool":
            attributes = {"kernel_shape": [2, 2]}
        case "Tile" | "Expand":
            shapes = [np.array([1, 1, 2, 2] if op_type == "Tile" else [2, 4, 6, 6])]
        case "Slice":
            shapes = [np.array([0]), np.array([3]), np.array([1])]
        case "Transpose":
            attributes = {"perm": [0, 2, 3, 1]}
    constants = {f"f{index}": values.astype(np.float32) for index, values in enumerate(floats)}
    constants |= {f"i{index}": values.astype(np.int64) for index, values in enumerate(shapes)}
    return [helper.make_node(op_type, ["h", *constants], ["y"], "followed", **attributes)], constants


PLAIN = "Neg Abs Relu LeakyRelu Elu Sigmoid HardSigmoid HardSwish Tanh Softplus Mish Identity Sum"
WITH_INPUTS = "BatchNormalization PRelu Max Min Div DepthToSpace ConvTranspose MatMul AveragePool MaxPool Tile Expand"


@pytest.mark.parametrize("op_type", [*PLAIN.split(), *WITH_INPUTS.split(), "Slice", "Transpose"])
def test_operators_follow_the_type_that_comes_in(op_type: str) -> None:
    nodes, constants = tail_of(op_type)
    first = helper.make_node("Conv", ["x", "w"], ["h"], "conv")
    model = graph_of([first, *nodes], {"w": weights(4, 4, 1, 1), **constants})
    half = to_float16(model)
    refuse_needless_casts(half)
    assert element_types(half)[node(half, "followed").output[0]] == HALF
    assert len(casts(half)) == 2
    wanted, found = run(model, {"x": image()})[0], evaluate(half, {"x": image()})[0]
    np.testing.assert_allclose(found, wanted, atol=2e-3 * float(np.abs(wanted).max()), rtol=0)
    parse(half)


def test_what_follows_fp32_stays_there() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["a"], "in front of all weights"),
        helper.make_node("Conv", ["a", "w"], ["b"], "conv"),
        helper.make_node("ReduceMean", ["b"], ["c"], "mean"),
        helper.make_node("Relu", ["c"], ["d"], "relu"),
        helper.make_node("Reshape", ["d", "shape"], ["e"], "reshape"),
        helper.make_node("Exp", ["e"], ["f"], "exp"),
        helper.make_node("Conv", ["f", "ones"], ["y"], "sum"),
    ]
    constants = {"w": weights(4, 4, 1, 1), "ones": np.ones((1, 4, 1, 1), np.float32)}
    nodes[2].input.append("axes")
    model = graph_of(nodes, {**constants, "axes": np.array([2, 3]), "shape": np.array([1, 4, 1, 1])})
    half = to_float16(model)
    types = element_types(half)
    assert [name for name in "abcdefy" if types[name] == HALF] == ["b"]
    assert len(casts(half)) == 2


def large() -> onnx.ModelProto:
    """An activation of 1e5 that a later layer brings back."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["large"], "grow"),
        helper.make_node("Relu", ["large"], ["relu"], "relu"),
        helper.make_node("Mul", ["relu", "small"], ["usual"], "shrink"),
        helper.make_node("Conv", ["usual", "v"], ["y"], "last"),
    ]
    eye = np.eye(4, dtype=np.float32)[:, :, None, None]
    return graph_of(nodes, {"w": eye * 1e4, "small": np.array(1e-4, np.float32), "v": eye})


def test_a_tensor_that_overflows_is_kept_in_fp32_if_it_is_known_to() -> None:
    model, x = large(), np.full((1, 4, 6, 6), 10, np.float32)
    assert not np.isfinite(evaluate(to_float16(model), {"x": x})[0]).any()
    peak = {"large": 1e5, "relu": 1e5, "usual": 10.0, "y": 10.0}
    half = to_float16(model, overflowing=overflowing(peak))
    np.testing.assert_allclose(evaluate(half, {"x": x})[0], 10, rtol=1e-3)
    np.testing.assert_allclose(run(half, {"x": x})[0], 10, rtol=1e-3)
    types = element_types(half)
    kinds = {each.name: types[each.output[0]] for each in half.graph.node if each.op_type != "Cast"}
    assert kinds == {"grow": FLOAT, "relu": FLOAT, "shrink": FLOAT, "last": HALF}
    refuse_needless_casts(half)
    assert len(casts(half)) == 2


def test_the_margin_says_how_far_an_unseen_image_may_reach() -> None:
    peak = {"near": 20000.0, "far": 16000.0, "beyond": 1e6}
    assert overflowing(peak) == {"near", "beyond"}  # margin 4: from 16376 on
    assert overflowing(peak, margin=1) == {"beyond"}
    assert overflowing(peak, margin=8) == {"near", "far", "beyond"}


@pytest.mark.parametrize("margin", [0.5, float("nan"), float("inf")])
def test_a_margin_below_one_is_refused(margin: float) -> None:
    with pytest.raises(ConfigError, match="expected 1 or more"):
        overflowing({"x": 1.0}, margin)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_peak_that_is_no_peak_is_refused(value: float) -> None:
    with pytest.raises(ArtefactError, match=r"'logits' peaked at .*; train again"):
        overflowing({"logits": value})


def with_channel(size: float, others: float) -> Array:
    values = np.random.default_rng(6).uniform(0.5, 1, (4, 4, 3, 3)) * others
    values[2] *= size / others
    return values.astype(np.float32)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (with_channel(0.1, 0.1), True),
        (with_channel(0.0, 0.1), True),  # pruned
        (with_channel(1e-8, 0.1), True),  # dead: it drowns in the rounding of the others
        (with_channel(1e-6, 1e-3), False),  # small, but heard beside the others
        (with_channel(1e-9, 1e-9), False),  # all would be zero
        (with_channel(7e4, 0.1), False),
        (with_channel(2e-5, 2e-5), True),  # denormal, and right to 0.2 %
    ],
)
def test_a_convolution_with_weights_that_fp16_cannot_hold_stays_in_fp32(values: Array, kept: bool) -> None:
    assert fits(values, (1, 2, 3)) == kept
    model = block()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w1"))
    types = element_types(to_float16(model))
    assert types["c1"] == types["r1"] == (HALF if kept else FLOAT)  # the activation follows
    assert types["c2"] == HALF
    x = image() / max(1, float(values.max()))  # so that only the weights are large
    wanted, found = run(model, {"x": x})[0], evaluate(to_float16(model), {"x": x})[0]
    np.testing.assert_allclose(found, wanted, atol=4e-3 * float(np.abs(wanted).max()), rtol=0)


def test_a_divisor_is_never_taken_for_dead() -> None:
    values = np.array([1, 1, 1, 1e-8], np.float32).reshape(1, 4, 1, 1)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Div", ["c", "d"], ["y"], "div"),
    ]
    half = to_float16(graph_of(nodes, {"w": weights(4, 4, 1, 1), "d": values}))
    assert element_types(half)["y"] == FLOAT
    assert np.isfinite(run(half, {"x": image()})[0]).all()


# ---- Q/DQ ----


def quantised(opset: int, stored: bool, scale: float = 1 / 100) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A convolution, and one with int8 inputs; the weight stored as int8, or as floats with a pair."""
    w2 = weights(4, 4, 3, 3, seed=3)
    w_scale = (np.abs(w2).max((1, 2, 3)) / 127).astype(np.float16).astype(np.float32)
    q2 = np.clip(np.rint(w2 / w_scale[:, None, None, None]), -127, 127).astype(np.int8)
    s = np.array(scale, np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu"),
        helper.make_node("QuantizeLinear", ["r1", "s", "z"], ["r1_q"], "q"),
        helper.make_node("DequantizeLinear", ["r1_q", "s", "z"], ["r1_dq"], "dq"),
        *([] if stored else [helper.make_node("QuantizeLinear", ["w2", "ws", "wz"], ["w2_q"], "wq", axis=0)]),
        helper.make_node("DequantizeLinear", ["w2_q", "ws", "wz"], ["w2_dq"], "wdq", axis=0),
        helper.make_node("Conv", ["r1_dq", "w2_dq", "b2"], ["c2"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1_dq"], ["y"], "add"),
    ]
    constants = {
        "w1": weights(4, 4, 3, 3),
        "s": s,
        "z": np.array(0, np.int8),
        "ws": w_scale,
        "wz": np.zeros(4, np.int8),
        "b2": weights(4, seed=4),
        **({"w2_q": q2} if stored else {"w2": w2}),
    }
    return graph_of(nodes, constants, opset=opset), {"q2": q2, **constants}


@pytest.mark.parametrize("stored", [True, False], ids=["int8 weight", "weight with a pair"])
@pytest.mark.parametrize("opset", [17, 19, 21])
def test_quantised_tensors_have_scales_of_their_own_type(opset: int, stored: bool) -> None:
    model, known = quantised(opset, stored)
    half = to_float16(model)
    types = element_types(half)
    for each in half.graph.node:
        if each.op_type == "QuantizeLinear":
            assert types[each.input[0]] == types[each.input[1]] == HALF
        if each.op_type == "DequantizeLinear":
            assert types[each.input[1]] == types[each.output[0]] == HALF
        if each.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert types[each.input[2]] == INT8
    zeros = {tensor.name: numpy_helper.to_array(tensor) for tensor in half.graph.initializer if "z" in tensor.name}
    assert not any(values.any() for values in zeros.values())
    made_by = {each.output[0]: each.op_type for each in half.graph.node}
    assert [made_by[name] for name in node(half, "second").input[:2]] == ["DequantizeLinear"] * 2
    assert len(casts(half)) == 2  # in and out
    assert half.opset_import[0].version == max(opset, 19)

    x = image()
    found = run(half, {"x": x}, optimise=False)[0]
    # By hand: the first convolution in half, then integers, then the second in half.
    first = torch.nn.functional.conv2d(
        torch.from_numpy(x).half(), torch.from_numpy(known["w1"]).half(), padding=1
    ).relu()
    s, ws = known["s"].astype(np.float16), known["ws"].astype(np.float16)[:, None, None, None]
    q = np.clip(np.rint(first.numpy().astype(np.float32) / s.astype(np.float32)), -128, 127)
    assert q.max() == 127  # it saturates somewhere
    back = torch.from_numpy(q.astype(np.float16) * s)
    w = torch.from_numpy(known["q2"].astype(np.float16) * ws)
    bias = torch.from_numpy(known["b2"]).half()
    wanted = (torch.nn.functional.conv2d(back, w, bias, padding=1) + back).float().numpy()
    np.testing.assert_allclose(found, wanted, atol=2 * float(known["s"]), rtol=0)
    assert np.abs(found - wanted).mean() < 2e-3


def test_a_scale_below_fp16_keeps_its_readers_in_fp32() -> None:
    model, _ = quantised(18, True, scale=1e-8)
    types = element_types(to_float16(model))
    assert types["c1"] == HALF
    assert types["r1_dq"] == types["c2"] == FLOAT
    q = node(to_float16(model), "q")
    assert types[q.input[0]] == types[q.input[1]] == FLOAT


def test_a_dequantised_tensor_is_written_in_each_type_that_is_taken() -> None:
    model, _ = quantised(18, True)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "b2")
    bias.CopyFrom(numpy_helper.from_array(np.full(4, 1e5, np.float32), "b2"))  # the second convolution stays in fp32
    half = to_float16(model)
    refuse_needless_casts(half)
    types = element_types(half)
    made_by = {each.output[0]: each.op_type for each in half.graph.node}
    assert types["c2"] == FLOAT
    assert types["y"] == FLOAT
    for name in ("second", "add"):
        for source in node(half, name).input:
            if made_by.get(source) == "DequantizeLinear":
                assert types[source] == types[node(half, name).output[0]]


def test_an_overflowing_tensor_is_seen_through_its_pair() -> None:
    model, _ = quantised(18, True)
    types = element_types(to_float16(model, overflowing={"r1"}))
    assert types["r1"] == types["r1_dq"] == types["c2"] == FLOAT


def test_tensorrt_builds_a_quantised_model_with_half_scales() -> None:
    census, _ = build_engine(to_float16(quantised(18, True)[0]))
    assert census["QUANTIZE", "INT8"] == 1
    assert census["DEQUANTIZE", "HALF"] == 2
    assert census["CONVOLUTION", "HALF"] == 2


def test_the_whole_int8_inspection_gets_half_scales(
    fp32: onnx.ModelProto, smooth_images: npt.NDArray[np.uint8]
) -> None:
    from export.int8 import insert, tensors_to_calibrate

    names = tensors_to_calibrate(fp32)
    seen = onnx.ModelProto()
    seen.CopyFrom(fp32)
    seen.graph.output.extend(helper.make_tensor_value_info(name, FLOAT, None) for name in names)
    full, *_ = found = run(seen, {"image": smooth_images})
    amax = {name: float(np.abs(values).max()) for name, values in zip(names, found[2:], strict=True)}
    int8 = insert(fp32, amax, "tensorrt")
    half = to_float16(int8)
    refuse_needless_casts(half)
    assert len(casts(half)) == 20  # those of the fp16 model
    types = element_types(half)
    pairs = [each for each in half.graph.node if each.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {types[each.input[1]] for each in pairs} == {HALF}
    assert all(network_of(each) in NETWORKS for each in pairs)
    # ONNX Runtime's optimiser is wrong about fp16 scales: without it.
    wanted, got = run(int8, {"image": smooth_images})[0], run(half, {"image": smooth_images}, optimise=False)[0]
    assert np.abs(got - wanted).max() < 5e-3 * full.max()  # 1e-3 measured; int8 itself is 1e-3 from fp32
    census, _ = build_engine(half)
    assert census["CONVOLUTION", "HALF"] == count(half, "Conv", *NETWORKS)
    assert census["QUANTIZE", "INT8"] == sum(each.op_type == "QuantizeLinear" for each in pairs)
    assert census["DEQUANTIZE", "HALF"] == sum(each.op_type == "DequantizeLinear" for each in pairs)
    assert census["DEQUANTIZE", "FLOAT"] == 0


# ---- bad input ----


def test_bad_models_are_refused() -> None:
    with pytest.raises(ArtefactError, match="has fp16 tensors already"):
        to_float16(to_float16(block()))
    with pytest.raises(ArtefactError, match="opset 11, expected 17 to"):
        to_float16(block(opset=11))
    model = block()
    model.graph.node[1].input[0] = "nowhere"
    with pytest.raises(ArtefactError, match="the model is inconsistent"):
        to_float16(model)
    model = block()
    model.graph.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(ArtefactError, match=r"the type that the node 'relu' \(Relu\) gives is not known"):
        to_float16(model)
    model = block()
    branch = helper.make_graph([], "branch", [], [])
    model.graph.node[1].attribute.append(helper.make_attribute("then_branch", branch))
    with pytest.raises(ArtefactError, match=r"'relu' \(Relu\) holds a sub-graph"):
        to_float16(model)


def test_an_unknown_overflowing_tensor_is_refused() -> None:
    with pytest.raises(ArtefactError, match="no fp32 tensor 'c_1', which overflows in the calibration; calibrate with"):
        to_float16(block(), overflowing={"c_1"})


@pytest.mark.parametrize("scale", [0.0, -0.1])
def test_a_scale_that_is_not_positive_is_refused(scale: float) -> None:
    with pytest.raises(ArtefactError, match="the scale 's' is not above 0 everywhere"):
        to_float16(quantised(18, True, scale=scale)[0])
