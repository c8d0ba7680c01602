"""Which backend opens which artefact, which of them a station trusts, and what the command line says of both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from test_runners import HW, images, tiny

from edgead.bundle import Bundle, BundleInfo
from edgead.cli import main
from edgead.config import CameraConfig, StationConfig
from edgead.engine_passport import Passport
from edgead.errors import ArtefactError, ConfigError, MissingError
from edgead.runtime.onnx_runner import OnnxRunner
from edgead.runtime.open import BACKENDS, backend_of, doubt, open_model, open_runner
from edgead.runtime.station import run_station
from edgead.thresholds import threshold_from_good

pytest.importorskip("openvino")

SIM = "sim://magnetic_core?parts=2&size=64&view=front"
PASSED, FAILED = {"passed": True}, {"passed": False}
PASSPORT: dict[str, Any] = Passport(
    target="tensorrt-rtx",
    version="1.7.1.116",
    precision="int8",
    rung="int8",
    source="int8-fp16",
    onnx="model.int8-fp16.onnx",
    made_from="0" * 64,
    gpu=None,
    compute_capabilities=("8.6",),
    driver=None,
    platform="linux-x86_64",
    max_batch=8,
    size_hw=HW,
).model_dump(mode="json")


def bundle_of(tmp_path: Path, *, passport: dict[str, Any] | None = PASSPORT) -> Bundle:
    """Make a bundle of a checkpoint and an engine that are only text, and of tiny models."""
    bundle = Bundle.create(tmp_path / "b", BundleInfo(network="tiny", category="tile", size_hw=HW))

    def text(path: Path) -> None:
        path.write_text("text")

    def model(path: Path) -> None:
        tiny(path)

    bundle.add("checkpoint", text, kind="checkpoint", precision="fp32", made_from=None, tools={})
    for name in ("fp32", "int8"):
        bundle.add(name, model, kind="onnx", precision=name, made_from="checkpoint", tools={})
    engine = "tensorrt-rtx-int8"
    bundle.add(engine, text, kind="engine", precision="int8", made_from="int8", tools={}, passport=passport)
    return bundle


@pytest.mark.parametrize(
    ("artefact", "backend", "word"),
    [
        ("checkpoint", None, "torch"),
        ("fp32", None, "onnxruntime"),
        ("int8", "openvino", "openvino"),
        ("fp32", "openvino-bf16", "openvino-bf16"),
        ("tensorrt-rtx-int8", None, "tensorrt-rtx"),
        ("tensorrt-rtx-int8", "tensorrt-rtx", "tensorrt-rtx"),
    ],
)
def test_each_kind_has_its_backend(tmp_path: Path, artefact: str, backend: str | None, word: str) -> None:
    assert backend_of(bundle_of(tmp_path), artefact, backend) == word
    assert word in BACKENDS


@pytest.mark.parametrize(
    ("artefact", "backend", "message"),
    [
        ("fp32", "openvno", "there is no backend 'openvno', did you mean 'openvino'?"),
        ("fp32", "", "there is no backend ''; valid: torch, onnxruntime, openvino"),
        ("fp32", "torch", "'fp32' is an ONNX model, which torch cannot open; use onnxruntime or openvino"),
        ("fp32", "tensorrt", "which tensorrt cannot open.*or build an engine from it: edgead build"),
        ("checkpoint", "openvino", "'checkpoint' is a checkpoint, which openvino cannot open; use torch"),
        ("tensorrt-rtx-int8", "openvino", "an engine of tensorrt-rtx, which openvino cannot open; use tensorrt-rtx"),
        ("tensorrt-rtx-int8", "tensorrt", "an engine of tensorrt-rtx, which tensorrt cannot open"),
    ],
)
def test_other_backends_are_refused_in_one_line(tmp_path: Path, artefact: str, backend: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_runner(bundle_of(tmp_path), artefact, backend=backend)
    assert "\n" not in str(caught.value)


def test_an_artefact_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"no artefact 'fp23', did you mean 'fp32'\?"):
        backend_of(bundle_of(tmp_path), "fp23")


@pytest.mark.parametrize(
    ("passport", "message"),
    [
        (None, "has no passport; build it: edgead build"),
        ({"target": "tensorrt-rtx"}, "the passport of 'tensorrt-rtx-int8': version: Field required; build it"),
        (PASSPORT | {"target": "tensorrt"}, "the passport of an engine 'tensorrt-int8'"),
    ],
)
def test_an_engine_without_a_sound_passport_is_refused(tmp_path: Path, passport: Any, message: str) -> None:
    with pytest.raises(ArtefactError, match=message) as caught:
        open_runner(bundle_of(tmp_path, passport=passport), "tensorrt-rtx-int8")
    assert "\n" not in str(caught.value)


def test_an_engine_that_is_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises((ArtefactError, MissingError)) as caught:  # no GPU, no library, or no engine
        open_runner(bundle_of(tmp_path), "tensorrt-rtx-int8")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("backend", "name"), [(None, "onnxruntime-cpu"), ("openvino", "openvino-cpu")])
def test_models_open_on_either_backend(tmp_path: Path, backend: str | None, name: str) -> None:
    with open_runner(bundle_of(tmp_path), "int8", backend=backend, threads=1, max_batch=2) as runner:
        assert (runner.name, runner.max_batch, runner.size_hw) == (name, 2, HW)
        np.testing.assert_allclose(runner.infer(images(2)).anomaly_map, images(2).mean(axis=3), rtol=1e-6)


def test_a_model_in_no_bundle_opens_where_models_do(tmp_path: Path) -> None:
    path = tiny(tmp_path / "m.onnx")
    with open_model(path, "openvino", threads=1) as runner:
        assert runner.name == "openvino-cpu"
    with pytest.raises(ConfigError, match="backend 'tensorrt' opens no ONNX models; valid: onnxruntime"):
        open_model(path, "tensorrt")


def half_scales(path: Path) -> npt.NDArray[np.float64]:
    """Write Q/DQ with float16 scales around two convolutions and a ReLU; returns the map of ``images(2)``."""
    rng = np.random.default_rng(3)
    kernels = [rng.integers(-127, 128, shape).astype(np.int8) for shape in ((16, 3, 1, 1), (16, 16, 1, 1))]
    steps = (2.0, 2.0**-4)  # of the two activations; powers of two, which float16 holds
    weight_step = 2.0**-9
    nodes, constants = [], {"zero": np.int8(0), "channels": np.array([1]), "pixels": np.array([1, 2])}
    nodes.append(helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT16))
    nodes.append(helper.make_node("Transpose", ["float"], ["x0"], perm=[0, 3, 1, 2]))
    for index, (kernel, step) in enumerate(zip(kernels, steps, strict=True)):
        constants |= {f"k{index}": kernel, f"step{index}": np.float16(step)}
        constants |= {f"ks{index}": np.full(16, weight_step, np.float16), f"kz{index}": np.zeros(16, np.int8)}
        nodes += [
            helper.make_node("QuantizeLinear", [f"x{index}", f"step{index}", "zero"], [f"q{index}"]),
            helper.make_node("DequantizeLinear", [f"q{index}", f"step{index}", "zero"], [f"d{index}"]),
            helper.make_node("DequantizeLinear", [f"k{index}", f"ks{index}", f"kz{index}"], [f"w{index}"], axis=0),
            helper.make_node("Conv", [f"d{index}", f"w{index}"], [f"c{index}"]),
            helper.make_node("Relu", [f"c{index}"], [f"x{index + 1}"]),
        ]
    nodes += [
        helper.make_node("Cast", ["x2"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["wide", "channels"], ["anomaly_map"], keepdims=0),
        helper.make_node("ReduceMax", ["anomaly_map", "pixels"], ["pred_score"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *HW, 3])],
        [
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["batch", *HW]),
            helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, ["batch"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    x = images(2).astype(np.float64)
    for kernel, step in zip(kernels, steps, strict=True):
        quantised = np.clip(np.rint(x / step), -128, 127) * step
        x = np.maximum(quantised @ (kernel[:, :, 0, 0].T * weight_step), 0)
    return x.mean(axis=3)


def test_float16_scales_are_run_as_they_stand(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    wanted = half_scales(tmp_path / "m.onnx")
    bundle.add(
        "int8-fp16",
        lambda path: shutil.copyfile(tmp_path / "m.onnx", path) and None,
        kind="onnx",
        precision="int8",
        made_from="fp32",
        tools={},
    )
    with open_runner(bundle, "int8-fp16", threads=1) as runner:
        np.testing.assert_allclose(runner.infer(images(2)).anomaly_map, wanted, rtol=1e-2, atol=wanted.max() * 5e-3)
        assert isinstance(runner, OnnxRunner)
        # Only larger graphs show what the optimiser does to them, so it is asked whether it was off.
        level = runner._session.get_session_options().graph_optimization_level
    assert level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


# ---- what a station trusts


@pytest.mark.parametrize(
    ("artefact", "backend", "certificate", "trusted"),
    [
        ("checkpoint", "torch", None, True),
        ("fp32", "onnxruntime", None, True),
        ("fp32", "openvino", None, True),
        ("fp32", "openvino", FAILED, False),
        ("fp32", "openvino", {}, False),
        ("fp32", "openvino-bf16", None, False),
        ("fp32", "openvino-bf16", PASSED, True),
        ("int8", "openvino", None, False),
        ("int8", "openvino", FAILED, False),
        ("int8", "openvino", PASSED, True),
        ("tensorrt-rtx-int8", "tensorrt-rtx", None, False),
        ("tensorrt-rtx-int8", "tensorrt-rtx", PASSED, True),
    ],
)
def test_what_is_trusted(
    tmp_path: Path, artefact: str, backend: str, certificate: dict[str, Any] | None, trusted: bool
) -> None:
    bundle = bundle_of(tmp_path)
    if certificate is not None:
        bundle.set_parity(artefact, backend, certificate)
    told = doubt(bundle, artefact, backend)
    assert (told is None) == trusted
    if told is not None:
        assert f"edgead parity {bundle.path} --artefact {artefact} --backend {backend}" in told
        assert ("missed a gate" in told) == (certificate is not None)


def test_a_certificate_counts_for_its_backend_alone(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    bundle.set_parity("int8", "onnxruntime", PASSED)
    assert doubt(bundle, "int8", "onnxruntime") is None
    assert doubt(bundle, "int8", "openvino") is not None


def station(tmp_path: Path, bundle: Bundle, **values: Any) -> StationConfig:
    cameras = (CameraConfig(name="cam", uri="sim://magnetic_core?parts=2&size=32&view=front"),)
    return StationConfig(bundle=bundle.path, cameras=cameras, output=tmp_path / "out", threads=1, **values)


def test_a_station_refuses_what_is_unproven_and_leaves_nothing(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    bundle.set_threshold("int8", threshold_from_good([0.1, 0.2], unit="part", source="two"))
    config = station(tmp_path, bundle, artefact="int8", backend="openvino")
    with pytest.raises(ArtefactError, match=r"'int8' on openvino has not been held.*'unproven: true' in station.yaml"):
        run_station(config)
    assert not config.output.exists()


def test_the_brave_are_told_in_the_report(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    bundle.set_threshold("int8", threshold_from_good([0.1, 0.2], unit="part", source="two"))
    report = run_station(station(tmp_path, bundle, artefact="int8", backend="openvino", unproven=True))
    assert report.runner == "openvino-cpu"
    (problem,) = report.problems
    assert problem.startswith("unproven: 'int8' on openvino has not been held against its checkpoint")
    assert report.triggers == 2
    bundle.set_parity("int8", "openvino", PASSED)
    assert run_station(station(tmp_path, bundle, artefact="int8", backend="openvino", unproven=True)).problems == ()


# ---- the command line


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def answer(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> Any:
    capsys.readouterr()
    assert main([str(word) for word in [*words, "--json"]]) == code
    out, err = capsys.readouterr()
    return json.loads(out) if code == 0 else err


def test_verbs_take_a_backend(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choice = ["--backend", "openvino", "--threads", "1"]
    told = answer(capsys, "threshold", copied, *choice, "--false-reject-ppm", "50000")
    assert told["backend"] == "openvino"
    assert told["threshold"]["source"].endswith(" on openvino")
    assert Bundle.open(copied).threshold("fp32").source == told["threshold"]["source"]
    assert answer(capsys, "evaluate", copied, *choice)["backend"] == "openvino"
    assert json.loads((copied / "evaluation.fp32.json").read_text())["backend"] == "openvino"


def test_bench_takes_a_backend_for_each_artefact(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--n", "2", "--threads", "1"]
    names = "checkpoint,fp32,fp32@onnxruntime"
    told = answer(capsys, "bench", copied, "--artefacts", names, "--backend", "openvino", *few)
    rows = {row["runner"]: row["backend"] for row in told["rows"]}
    assert rows == {"checkpoint": "torch-cpu", "fp32": "openvino-cpu", "fp32@onnxruntime": "onnxruntime-cpu"}
    assert set(told["conditions"]["sha256"]) == {"checkpoint", "fp32"}
    assert "did you mean 'openvino'?" in answer(capsys, "bench", copied, "--artefacts", "fp32@openvno", *few, code=2)
    assert "there is no backend ''" in answer(capsys, "bench", copied, "--artefacts", "fp32@", *few, code=2)
    assert "no artefact 'fp23'" in answer(capsys, "bench", copied, "--artefacts", "fp23@openvino", *few, code=2)


def test_stream_takes_a_backend(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values: dict[str, Any] = {"bundle": "run", "output": "out", "cameras": [{"name": "cam", "uri": SIM}]}
    path = tmp_path / "station.yaml"
    path.write_text(yaml.safe_dump(values))
    assert answer(capsys, "stream", path)["runner"] == "onnxruntime-cpu"
    assert answer(capsys, "stream", path, "--backend", "openvino")["runner"] == "openvino-cpu"
    path.write_text(yaml.safe_dump({**values, "backend": "openvino"}))
    assert answer(capsys, "stream", path)["runner"] == "openvino-cpu"
    Bundle.open(copied).set_parity("fp32", "openvino", FAILED)
    told = answer(capsys, "stream", path, code=2)
    assert "'fp32' on openvino missed a gate of parity" in told
    assert told.count("\n") == 1
    path.write_text(yaml.safe_dump({**values, "backend": "openvino", "unproven": True}))
    assert answer(capsys, "stream", path)["problems"][0].startswith("unproven: 'fp32' on openvino missed a gate")
