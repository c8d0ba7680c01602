"""INT8: where pairs go, and that their arithmetic is that of torch's and numpy's fake quantisers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch

from edgead.bundle import Bundle
from edgead.errors import ArtefactError
from edgead.onnx_graph import NETWORKS, constants, extract, network_of, read_model, write_model
from export.calibration import Ranges, collect
from export.fewer import fewer, signed
from export.float16 import to_float16
from export.int8 import activation_scale, insert, quantise, shift, tensors_to_calibrate
from export.lint import lint
from export.placement import Target, placement

Images = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def model(exported: Bundle) -> onnx.ModelProto:
    found: onnx.ModelProto = read_model(exported.file("fp32"))
    return found


@pytest.fixture(scope="module")
def ranges(exported: Bundle, model: onnx.ModelProto, smooth_images: Images) -> Ranges:
    return collect(exported.file("fp32"), [smooth_images[:6]], tensors_to_calibrate(model))


def run(model: onnx.ModelProto, path: Path, image: Images, tensors: list[str]) -> list[npt.NDArray[np.float32]]:
    """Run a model node by node and return some of its tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    write_model(copy, path)
    opened = onnx.load(path)
    there = {value.name for value in opened.graph.output}
    opened.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in tensors if name not in there)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(opened.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[npt.NDArray[np.float32]] = session.run(tensors, {"image": image})
    return found


def of(model: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == kind]


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_every_pair_computes_what_torch_s_fake_quantiser_does(
    model: onnx.ModelProto, ranges: Ranges, smooth_images: Images, tmp_path: Path, target: Target
) -> None:
    quantised = insert(model, ranges.amax("mse"), target)
    known = constants(quantised)
    pairs = {node.input[0]: node for node in of(quantised, "QuantizeLinear")}
    tensors = [name for source in pairs for name in (source, f"{source}_dequantized")]
    # Other images than those calibrated on, so that clipping is seen as well.
    values = dict(zip(tensors, run(quantised, tmp_path / "q.onnx", smooth_images[8:10], tensors), strict=True))
    clipped = 0
    for name, node in pairs.items():
        scale, zero = known[node.input[1]], known[node.input[2]]
        low, high = (0, 255) if zero.dtype == np.uint8 else (-127, 127)
        wanted = torch.fake_quantize_per_tensor_affine(torch.from_numpy(values[name]), float(scale), 0, low, high)
        found = values[f"{name}_dequantized"]
        inside = values[name] > -127.5 * scale  # ONNX has a level more at the negative end: -128
        assert zero == 0
        np.testing.assert_allclose(found[inside], wanted.numpy()[inside], rtol=1e-6, atol=1e-7)
        clipped += int((np.abs(values[name]) > high * scale).sum())
    assert clipped > 0


def test_weights_are_what_a_numpy_quantiser_makes_of_them(model: onnx.ModelProto, ranges: Ranges) -> None:
    before = {node.name: node for node in of(model, "Conv")}
    quantised = insert(model, ranges.amax("max"), "cpu")
    known, makers = constants(quantised), {name: node for node in quantised.graph.node for name in node.output}
    original = constants(model)
    seen = 0
    for node in of(quantised, "Conv"):
        back = makers.get(node.input[1])
        if back is None:
            continue
        weight = original[before[node.name].input[1]]
        values, scale = known[back.input[0]], known[back.input[1]]
        assert values.dtype == np.int8
        assert scale.shape == (weight.shape[0],)
        for channel in range(weight.shape[0]):  # the plain definition, one channel at a time
            largest = max(abs(float(value)) for value in weight[channel].flat)
            assert scale[channel] == pytest.approx(max(largest / 127, 2.0**-17), rel=6e-4)  # rounded to fp16
            error = np.abs(values[channel] * scale[channel] - weight[channel])
            assert error.max() <= scale[channel] * 0.5001 + 127 * scale[channel] * 5e-4
        seen += 1
    assert seen > 80


def test_a_quantised_block_equals_integers_multiplied_by_hand() -> None:
    """Two pixels, two channels: the whole arithmetic on paper."""
    weight = np.asarray([[[[0.5]], [[-1.0]]], [[[0.25]], [[0.0]]]], np.float32)
    values, scale = quantise(weight, 0)
    assert values.reshape(2, 2).tolist() == [[64, -127], [127, 0]] or values.reshape(2, 2).tolist() == [
        [63, -127],
        [127, 0],
    ]
    step = float(activation_scale(2.0, unsigned=True))
    assert step == pytest.approx(2 / 255, rel=5e-4)
    pixels = np.asarray([1.0, 0.3])
    integers = np.rint(pixels / step)
    wanted = (values.reshape(2, 2).astype(int) @ integers) * scale.astype(float) * step
    assert wanted == pytest.approx([0.5 - 0.3, 0.25], abs=0.01)


@pytest.mark.parametrize("groups", [1, 4])
def test_the_bias_takes_back_what_rounding_the_weight_shifts(groups: int) -> None:
    torch.manual_seed(0)
    weight, image = torch.randn(8, 8 // groups, 3, 3), torch.rand(2, 8, 12, 12)
    values, scale = quantise(weight.numpy() * 0.1, 0)
    lost = weight * 0.1 - torch.from_numpy(values * scale.reshape(-1, 1, 1, 1))
    moved = torch.nn.functional.conv2d(image, lost, groups=groups).mean((0, 2, 3))
    # Without padding every tap sees nearly the whole image: the mean of the image stands for all.
    found = shift(lost.numpy(), image.mean((0, 2, 3)).numpy())
    assert np.abs(found - moved.numpy()).max() < 0.1 * float(moved.abs().max())


def test_correcting_biases_brings_the_map_nearer(
    model: onnx.ModelProto, ranges: Ranges, smooth_images: Images, tmp_path: Path
) -> None:
    (exact,) = run(model, tmp_path / "e.onnx", smooth_images[8:12], ["anomaly_map"])
    errors = []
    for means in (None, ranges.means):
        quantised = insert(model, ranges.amax("mse"), "cpu", means=means)
        (found,) = run(quantised, tmp_path / "q.onnx", smooth_images[8:12], ["anomaly_map"])
        errors.append(float(np.abs(found - exact).mean()))
    assert errors[1] < 0.9 * errors[0]


def test_pairs_stay_out_of_the_cosine_head_the_fusion_and_the_tail(model: onnx.ModelProto, ranges: Ranges) -> None:
    for target in ("cpu", "tensorrt"):
        quantised = insert(model, ranges.amax("mse"), target)
        backs = {node.output[0] for node in of(quantised, "DequantizeLinear")}
        readers = [node for node in quantised.graph.node if backs.intersection(node.input)]
        assert {network_of(node) for node in readers} == set(NETWORKS)
        assert not lint(quantised, target)
        assert not [node.name for node in readers if node.name.startswith("segmentation.merge")]  # gated features


def test_tensorrt_gets_signed_values_and_wide_plain_convolutions_only(model: onnx.ModelProto, ranges: Ranges) -> None:
    quantised = insert(model, ranges.amax("mse"), "tensorrt")
    known, makers = constants(quantised), {name: node for node in quantised.graph.node for name in node.output}
    assert all(known[node.input[2]].dtype == np.int8 for node in of(quantised, "QuantizeLinear"))
    for node in of(quantised, "Conv"):
        back = makers.get(node.input[1])
        if back is not None:
            assert min(known[back.input[0]].shape[:2]) >= 32
            assert all(each.i == 1 for each in node.attribute if each.name == "group")
    plain, all_of_them = placement(model, "tensorrt"), placement(model, "cpu")
    assert set(plain.weights) < set(all_of_them.weights)
    assert not plain.unsigned
    assert "pixels" in all_of_them.readers
    assert "pixels" not in plain.readers


def test_each_tensor_has_one_pair_and_no_activation_is_cut_from_its_convolution(
    model: onnx.ModelProto, ranges: Ranges
) -> None:
    quantised = insert(model, ranges.amax("mse"), "tensorrt")
    sources = [node.input[0] for node in of(quantised, "QuantizeLinear")]
    assert len(sources) == len(set(sources))
    makers = {name: node for node in quantised.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in quantised.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for source in sources:
        if source in makers and makers[source].op_type == "Conv":
            assert not [node for node in readers[source] if node.op_type in ("Relu", "Clip")]


def test_fewer_takes_out_what_builders_lack_kernels_for(
    model: onnx.ModelProto, ranges: Ranges, smooth_images: Images, tmp_path: Path
) -> None:
    quantised = insert(model, ranges.amax("mse"), "cpu")
    left = fewer(quantised)
    makers = {name: node for node in left.graph.node for name in node.output}
    for node in of(left, "Conv"):
        if any(each.i > 1 for each in node.attribute if each.name == "group"):
            assert node.input[1] not in makers
    for node in of(left, "Add"):
        assert not [name for name in node.input if name in makers and makers[name].op_type == "DequantizeLinear"]
    count = len(of(left, "QuantizeLinear"))
    assert 0 < count < len(of(quantised, "QuantizeLinear"))
    names = ["anomaly_map"]
    (exact,) = run(model, tmp_path / "a.onnx", smooth_images[:2], names)
    (some,) = run(left, tmp_path / "b.onnx", smooth_images[:2], names)
    assert 0 < np.abs(some - exact).max() < 0.1 * np.abs(exact).max()


def test_fewer_casts_where_a_pair_changed_the_type(model: onnx.ModelProto, ranges: Ranges, tmp_path: Path) -> None:
    """In fp16 graphs a tensor can be float32 before its pair: the convolution behind it takes half all the same."""
    half = to_float16(insert(model, ranges.amax("mse"), "tensorrt"))
    makers = {name: node for node in half.graph.node for name in node.output}
    back = next(makers[node.input[0]] for node in of(half, "Conv") if node.input[0].endswith("_dequantized"))
    pair = makers[back.input[0]]
    up = onnx.helper.make_node("Cast", [pair.input[0]], ["up"], name="up", to=onnx.TensorProto.FLOAT)
    scale = constants(half)[pair.input[1]].astype(np.float32)
    half.graph.initializer.append(onnx.numpy_helper.from_array(scale, "wide_scale"))
    half.graph.node.insert(list(half.graph.node).index(pair), up)
    pair.input[:2] = ["up", "wide_scale"]
    write_model(half, tmp_path / "before.onnx")
    write_model(fewer(half), tmp_path / "after.onnx")  # which checks the types of every node


def test_signed_pairs_keep_the_range(
    model: onnx.ModelProto, ranges: Ranges, smooth_images: Images, tmp_path: Path
) -> None:
    quantised = insert(model, ranges.amax("mse"), "cpu")
    changed = signed(quantised)
    before, after = constants(quantised), constants(changed)
    unsigned = [node for node in of(quantised, "QuantizeLinear") if before[node.input[2]].dtype == np.uint8]
    assert unsigned
    for node in unsigned:
        assert after[node.input[2]].dtype == np.int8
        assert after[node.input[1]] * 127 == pytest.approx(before[node.input[1]] * 255)
    assert not [each for each in lint(changed, "tensorrt") if each.severity != "slow"]
    assert {each.rule for each in lint(quantised, "tensorrt") if each.severity == "inexact"} == {"unsigned"}
    (exact,) = run(model, tmp_path / "a.onnx", smooth_images[:2], ["anomaly_map"])
    (some,) = run(changed, tmp_path / "b.onnx", smooth_images[:2], ["anomaly_map"])
    assert np.abs(some - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_keeps_its_precision_when_it_is_cut_out(
    model: onnx.ModelProto, ranges: Ranges, tmp_path: Path, network: str
) -> None:
    part = extract(insert(model, ranges.amax("mse"), "cpu"), network)
    write_model(part, tmp_path / "part.onnx")
    ort.InferenceSession(str(tmp_path / "part.onnx"), providers=["CPUExecutionProvider"])
    assert of(part, "QuantizeLinear")
    assert {network_of(node) for node in of(part, "Conv")} - {"cosine"} == {network}


def test_wrong_models_and_ranges_are_refused(model: onnx.ModelProto, ranges: Ranges) -> None:
    amax = ranges.amax("mse")
    first = next(iter(amax))
    with pytest.raises(ArtefactError, match=r"no calibrated range.*edgead quantize"):
        insert(model, {name: value for name, value in amax.items() if name != first}, "cpu")
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ArtefactError, match="expected a positive finite number"):
            insert(model, {**amax, first: value}, "cpu")
    with pytest.raises(ArtefactError, match="quantised already"):
        insert(insert(model, amax, "cpu"), amax, "cpu")
    foreign = onnx.ModelProto()
    foreign.CopyFrom(model)
    for node in foreign.graph.node:
        del node.metadata_props[:]
    with pytest.raises(ArtefactError, match="edgead build as it is"):
        insert(foreign, amax, "tensorrt")
