"""The smallest and the most accurate network on their whole way: exported, quantised, opened by every runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from edgead.bundle import Bundle, BundleInfo  # noqa: E402
from edgead.cfrg import checkpoint  # noqa: E402
from edgead.cfrg.model import build  # noqa: E402
from edgead.onnx_graph import read_model, write_model  # noqa: E402
from edgead.runtime.open import open_runner  # noqa: E402
from export.calibration import Ranges, collect  # noqa: E402
from export.int8 import tensors_to_calibrate  # noqa: E402
from export.lint import lint  # noqa: E402
from export.placement import TARGETS, placement  # noqa: E402
from export.quantize import make  # noqa: E402
from export.to_onnx import export_inspection  # noqa: E402

SIDE = 64


@pytest.fixture(scope="module", params=["cfrg-nano0", "cfrg-duo0"])
def light(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, smooth_images: npt.NDArray[np.uint8]
) -> Bundle:
    """A bundle with its teacher's weights; exporting holds it against torch."""
    torch.manual_seed(0)
    cfrg = build(request.param, SIDE)
    checkpoint.load_teacher(cfrg, None)
    with torch.no_grad():  # a student that begins as the teacher would leave nothing to disagree on
        for weight in cfrg.student.parameters():
            weight *= 1.01
    info = BundleInfo(network=request.param, category="tile", size_hw=(SIDE, SIDE))
    bundle = Bundle.create(tmp_path_factory.mktemp("light"), info)

    writes: dict[str, Callable[[Path], None]] = {
        "checkpoint": lambda path: checkpoint.save(cfrg, path),
        "fp32": lambda path: export_inspection(cfrg, path, smooth_images[:3], {}),
    }
    for name, write in writes.items():
        kind = "checkpoint" if name == "checkpoint" else "onnx"
        bundle.add(name, write, kind=kind, precision="fp32", made_from=None, tools={})
    return bundle


@pytest.fixture(scope="module")
def ranges(light: Bundle, smooth_images: npt.NDArray[np.uint8]) -> Ranges:
    source = light.file("fp32")
    return collect(source, [smooth_images], tensors_to_calibrate(read_model(source)))


def test_all_targets_get_models_without_a_fault(light: Bundle, ranges: Ranges) -> None:
    model = read_model(light.file("fp32"))
    for target in TARGETS:
        chosen = placement(model, target)
        assert len(chosen.weights) > 30
        made = make(model, "int8" if target == "cpu" else "int8-fp16", ranges)
        assert not [found for found in lint(made, target) if found.severity != "slow"]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_int8_stays_near_torch(
    light: Bundle, ranges: Ranges, smooth_images: npt.NDArray[np.uint8], backend: str
) -> None:
    pytest.importorskip(backend)
    if "int8" not in light.artefacts:
        made = make(read_model(light.file("fp32")), "int8", ranges)
        light.add(
            "int8",
            lambda path: write_model(made, path),
            kind="onnx", precision="int8", made_from="fp32", tools={},
        )  # fmt: skip
    with open_runner(light, "checkpoint") as torch_runner, open_runner(light, "int8", backend=backend) as runner:
        exact, found = torch_runner.infer(smooth_images[:3]), runner.infer(smooth_images[:3])
    spread = float(np.abs(exact.anomaly_map).max())
    assert np.abs(found.anomaly_map - exact.anomaly_map).max() < 0.15 * spread


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_builds_in_every_precision(light: Bundle, ranges: Ranges, precision: Any) -> None:
    pytest.importorskip("tensorrt_rtx")
    from edgead.runtime.tensorrt_library import load
    from export.compile_engine import Options, compile_engine

    model = read_model(light.file("fp32"))
    if precision != "fp32":
        model = make(model, "fp16" if precision == "fp16" else "int8-fp16", ranges)
    compiled = compile_engine(load("tensorrt-rtx"), model, precision, Options(capabilities=("8.6",)))
    assert compiled.data[:4] == b"vtrt"
