"""The reference's segmentation in INT8 on CPUs: the same function before pairs, and none of its work left in float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgead.cfrg.backbones import Backbone
from edgead.cfrg.model import Cfrg
from edgead.cfrg.recovery import LightRecovery, UpsamplingBottleneck
from edgead.cfrg.segmentation import ReferenceSegmentation, _Up
from edgead.cfrg.student import LightStudent
from edgead.onnx_graph import network_of, read_model, write_model
from edgead.runtime.onnx_runner import OnnxRunner
from edgead.runtime.openvino_runner import OpenVINORunner
from export.calibration import Ranges, collect
from export.for_cpu import STEPS, for_cpu
from export.int8 import insert, insert_as_it_is, tensors_to_calibrate
from export.lint import lint
from export.placement import placement
from export.to_onnx import export_inspection

SIZE, WIDTH = 64, 128
Images = npt.NDArray[np.uint8]


class _Teacher(Backbone):
    channels, strides = (WIDTH,) * 3, (4, 8, 16)

    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 4), (WIDTH, 2), (WIDTH, 2))
        self.stages = nn.ModuleList(nn.Conv2d(inputs, WIDTH, stride, stride) for inputs, stride in sizes)

    def forward(self, image: Tensor) -> list[Tensor]:
        levels = []
        for stage in self.stages:
            image = stage(image).relu()
            levels.append(image)
        return levels


class _Recovery(LightRecovery):
    """With the reference's upsampling block at the finest level."""

    def __init__(self) -> None:
        super().__init__((WIDTH,) * 3, (8, 8, 8), 8)
        self.decode3 = UpsamplingBottleneck(WIDTH, 8, WIDTH)

    def forward(self, teacher: list[Tensor]) -> list[Tensor]:
        first, second, third = super().forward(teacher)
        return [first + self.decode3(second), second, third]


class _Segmentation(ReferenceSegmentation):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.up1, self.up2 = _Up(WIDTH, 16, WIDTH), _Up(16, 12, WIDTH)
        self.up3, self.up4 = _Up(12, 8, 0), _Up(8, 8, 0)
        self.final = nn.Conv2d(8, 1, 3, padding=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, smooth_images: Images) -> Path:
    torch.manual_seed(0)
    teacher = _Teacher()
    student = LightStudent(teacher.channels, teacher.strides, 8)
    cfrg = Cfrg("cfrg-wrn50", teacher, student, _Recovery(), _Segmentation(), (SIZE, SIZE))
    for module in cfrg.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        cfrg.train()(cfrg.normalise(torch.from_numpy(smooth_images)))
    path = tmp_path_factory.mktemp("reference") / "model.onnx"
    export_inspection(cfrg.eval(), path, smooth_images[:3], {})
    return path


@pytest.fixture(scope="module")
def model(source: Path) -> onnx.ModelProto:
    found: onnx.ModelProto = read_model(source)
    return found


@pytest.fixture(scope="module")
def ranges(source: Path, model: onnx.ModelProto, smooth_images: Images) -> Ranges:
    return collect(source, [smooth_images], tensors_to_calibrate(model))


def maps(model: onnx.ModelProto, path: Path, images: Images) -> npt.NDArray[np.float32]:
    write_model(model, path)
    with OnnxRunner(path, threads=1) as runner:
        return runner.infer(images).anomaly_map


def kinds(model: onnx.ModelProto, network: str) -> list[str]:
    return [node.op_type for node in model.graph.node if network_of(node) == network]


def test_each_step_keeps_the_function_at_any_batch(
    model: onnx.ModelProto, tmp_path: Path, smooth_images: Images
) -> None:
    some = smooth_images[:3]
    exact = maps(for_cpu_of(model, 0), tmp_path / "a.onnx", some)
    assert exact.std() > 1e-3
    for count in range(1, len(STEPS) + 1):
        rewritten = for_cpu_of(model, count)
        assert len(rewritten.graph.node) > len(for_cpu_of(model, count - 1).graph.node)
        np.testing.assert_allclose(maps(rewritten, tmp_path / "b.onnx", some), exact, atol=2e-5)


def for_cpu_of(model: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """Take the first few steps."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for step in list(STEPS.values())[:count]:
        copy = step(copy)
    return copy


def test_what_was_gated_is_quantised_before_its_gate(model: onnx.ModelProto, ranges: Ranges) -> None:
    assert kinds(model, "segmentation").count("ConvTranspose") == 4
    rewritten = for_cpu(model)
    assert "ConvTranspose" not in kinds(rewritten, "segmentation") + kinds(rewritten, "recovery")
    chosen = placement(rewritten, "cpu")
    plain = {index for index, node in enumerate(rewritten.graph.node) if node.op_type == "Conv"}
    left = plain - set(chosen.weights)
    assert {network_of(rewritten.graph.node[index]) for index in left} == {"cosine"}
    before = placement(model, "cpu")
    in_float = [index for index, node in enumerate(model.graph.node) if node.op_type in ("Conv", "ConvTranspose")]
    names = {model.graph.node[index].name.split("/")[0] for index in set(in_float) - set(before.weights)}
    assert names == {
        "cosine",
        "segmentation.up1.up",
        "segmentation.up1.convolutions.0",
        "segmentation.up2.convolutions.0",
    }
    quantised = insert(model, ranges.amax("mse"), "cpu", means=ranges.means)
    assert not lint(quantised, "cpu")
    sources = [node.input[0] for node in quantised.graph.node if node.op_type == "QuantizeLinear"]
    assert len(sources) == len(set(sources))
    assert not [name for name in sources if "_gated" in name or "tap" in name]


def test_openvino_runs_all_convolutions_in_int8(
    model: onnx.ModelProto, ranges: Ranges, tmp_path: Path, smooth_images: Images
) -> None:
    pytest.importorskip("openvino")
    exact = maps(for_cpu_of(model, 0), tmp_path / "exact.onnx", smooth_images[:4])
    errors = []
    for name, quantised in (
        ("old", insert_as_it_is(model, ranges.amax("mse"), "cpu", means=ranges.means)),
        ("new", insert(model, ranges.amax("mse"), "cpu", means=ranges.means)),
    ):
        on_onnxruntime = maps(quantised, tmp_path / f"{name}.onnx", smooth_images[:4])
        with OpenVINORunner(tmp_path / f"{name}.onnx", threads=1) as runner:
            found = runner.infer(smooth_images[:4]).anomaly_map
            layers = {key: precision for key, precision in runner.layers().items() if key.startswith("segmentation")}
        errors.append(float(np.abs(found - exact).mean()))
        in_float = [
            key for key, precision in layers.items() if key.endswith("Conv/WithoutBiases") and precision == "f32"
        ]
        assert bool(in_float) == (name == "old"), in_float
        assert np.abs(found - on_onnxruntime).mean() < 0.1 * exact.std()
    assert errors[1] < 0.2 * exact.std()


def test_tensorrt_keeps_the_graph_as_it_is(model: onnx.ModelProto, ranges: Ranges) -> None:
    quantised = insert(model, ranges.amax("mse"), "tensorrt", means=ranges.means)
    assert kinds(quantised, "segmentation").count("ConvTranspose") == 4
    assert "DepthToSpace" not in kinds(quantised, "segmentation")
    assert not [found for found in lint(quantised, "tensorrt") if found.severity != "slow"]
