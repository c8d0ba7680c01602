"""Runners take what the contract says, and answer anything else in one line."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgead.bundle import Bundle, BundleInfo
from edgead.errors import ArtefactError, DataError
from edgead.runtime.onnx_runner import OnnxRunner
from edgead.runtime.open import open_runner
from edgead.runtime.openvino_runner import OpenVINORunner

HW = (8, 12)


def tiny(path: Path, *, factor: float = 1.0, batch: int | str = "batch", **names: Any) -> Path:
    """Write a model whose map is factor times the mean over colours."""
    image, score = names.get("image", "image"), names.get("score", "pred_score")
    height, width = names.get("hw", HW)
    nodes = [
        helper.make_node("Cast", [image], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "colours"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "factor"], ["anomaly_map"]),
        helper.make_node("ReduceMax", ["anomaly_map", "pixels"], [score], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(image, names.get("dtype", TensorProto.UINT8), [batch, height, width, 3])],
        [
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, [batch, height, width]),
            helper.make_tensor_value_info(score, TensorProto.FLOAT, [batch]),
        ],
        [
            helper.make_tensor("colours", TensorProto.INT64, [1], [3]),
            helper.make_tensor("pixels", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("factor", TensorProto.FLOAT, [], [factor]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *HW, 3), dtype=np.uint8)


def test_onnx_answers_are_the_models(tmp_path: Path) -> None:
    with OnnxRunner(tiny(tmp_path / "m.onnx", factor=0.5), threads=1, max_batch=4) as runner:
        assert (runner.name, runner.size_hw, runner.max_batch, runner.threads) == ("onnxruntime-cpu", HW, 4, 1)
        for n in (1, 4, 2):
            batch = images(n, seed=n)
            prediction = runner.infer(batch)
            expected = batch.mean(axis=3) * 0.5
            assert prediction.anomaly_map.dtype == prediction.pred_score.dtype == np.float32
            np.testing.assert_allclose(prediction.anomaly_map, expected, rtol=1e-6)
            np.testing.assert_allclose(prediction.pred_score, expected.max(axis=(1, 2)), rtol=1e-6)


def test_strided_images_are_taken_as_they_look(tmp_path: Path) -> None:
    bgr = images(2)
    with OnnxRunner(tiny(tmp_path / "m.onnx"), threads=1) as runner:
        np.testing.assert_array_equal(
            runner.infer(bgr[:, ::-1]).anomaly_map, runner.infer(bgr[:, ::-1].copy()).anomaly_map
        )


Opened = type[OnnxRunner] | type[OpenVINORunner]


@pytest.fixture(params=[OnnxRunner, OpenVINORunner], ids=["onnxruntime", "openvino"])
def opened(request: pytest.FixtureRequest) -> Opened:
    """The runners that open ONNX files: they take and refuse the same."""
    if request.param is OpenVINORunner:
        pytest.importorskip("openvino")
    chosen: Opened = request.param
    return chosen


def test_answers_belong_to_the_caller(tmp_path: Path, opened: Opened) -> None:
    runner = opened(tiny(tmp_path / "m.onnx"), threads=1)
    first = runner.infer(images(2, seed=1))
    kept = first.anomaly_map.copy()
    runner.infer(images(2, seed=2)).anomaly_map[:] = -1
    first.pred_score[:] = 7  # writable
    runner.close()
    runner.close()
    gc.collect()
    np.testing.assert_array_equal(first.anomaly_map, kept)
    with pytest.raises(ArtefactError, match="has been closed"):
        runner.infer(images(1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (images(1).astype(np.float32), "images are float32; expected uint8"),
        (images(1)[0], r"shape \(8, 12, 3\)"),
        (images(1)[..., :1], r"shape \(1, 8, 12, 1\)"),
        (images(1).transpose(0, 3, 1, 2), r"shape \(1, 3, 8, 12\)"),
        (images(1)[:, :4], "edgead.images.resize"),
        (images(3), "3 images in a batch.*1 to 2"),
        (images(1)[:0], "0 images in a batch"),
        ([[1]], "images are a list"),
    ],
)
def test_wrong_images_are_refused(tmp_path: Path, opened: Opened, wrong: Any, message: str) -> None:
    with (
        opened(tiny(tmp_path / "m.onnx"), threads=1, max_batch=2) as runner,
        pytest.raises(DataError, match=message),
    ):
        runner.infer(wrong)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"image": "input"}, "not an inspection model, it has input uint8"),
        ({"score": "score"}, "not an inspection model"),
        ({"dtype": TensorProto.FLOAT}, r"image float32 \((batch|\?), 8, 12, 3\)"),
        ({"batch": 1}, "takes batches of 1 only"),
        ({"hw": ("h", "w")}, r"image uint8 \((batch, h, w|\?, \?, \?), 3\) is no image of a fixed size"),
    ],
)
def test_models_of_another_kind_are_refused(
    tmp_path: Path, opened: Opened, model: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArtefactError, match=message) as caught:
        opened(tiny(tmp_path / "m.onnx", **model), threads=1)
    assert "edgead export" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "truncated", "zeros"])
def test_files_that_are_no_models_are_refused(
    tmp_path: Path, opened: Opened, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    data = tiny(path).read_bytes()
    contents = {"empty": b"", "text": b"hello, station\n" * 9, "truncated": data[: len(data) // 2], "zeros": bytes(500)}
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind in contents:
        path.write_bytes(contents[kind])
    with pytest.raises(ArtefactError, match="edgead export") as caught:
        opened(path, threads=1)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # OpenVINO's other readers would print what they make of the file


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_nan_weights_never_pass_as_ok(tmp_path: Path, opened: Opened, factor: float) -> None:
    with (
        opened(tiny(tmp_path / "m.onnx", factor=factor), threads=1) as runner,
        pytest.raises(ArtefactError, match="NaN or infinity"),
    ):
        runner.infer(images(1))


def bundle_of(tmp_path: Path, hw: tuple[int, int]) -> Bundle:
    bundle = Bundle.create(tmp_path / "b", BundleInfo(network="tiny", category="tile", size_hw=hw))

    def write(path: Path) -> None:
        tiny(path)

    bundle.add("fp32", write, kind="onnx", precision="fp32", made_from=None, tools={})
    return bundle


def test_open_runner_verifies_bytes_and_size(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, HW)
    with open_runner(bundle, "fp32", threads=1) as runner:
        assert runner.infer(images(1)).pred_score.shape == (1,)
    path = bundle.file("fp32")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match="bytes have changed"):
        open_runner(bundle, "fp32", threads=1)


def test_open_runner_refuses_a_model_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="images of 12x8, its bundle says 32x32"):
        open_runner(bundle_of(tmp_path, (32, 32)), "fp32", threads=1)


def test_the_station_side_imports_without_torch_and_onnx() -> None:
    blocked = ("torch", "onnx", "onnxruntime", "scipy", "sklearn", "lightning")
    code = (
        f"import sys\nfor name in {blocked}: sys.modules[name] = None\n"
        "import edgead.bundle, edgead.runtime.open\n"
        "from edgead.errors import MissingError\n"
        "for runner in (edgead.runtime.open.OnnxRunner, edgead.runtime.open.TorchRunner):\n"
        "    try:\n        runner('model')\n    except MissingError as error:\n        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    onnx_line, torch_line = done.stdout.splitlines()
    assert onnx_line.startswith("onnxruntime cannot be imported")
    assert "'.[train]'" in torch_line


def test_onnx_runtime_tells_nobody_and_leaves_no_thread_and_no_file(tmp_path: Path) -> None:
    code = """
import os, sys
from edgead.runtime.onnx_runner import OnnxRunner
with OnnxRunner(sys.argv[1], threads=1):
    print(len(os.listdir("/proc/self/task")))
"""
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in {"CI", "ORT_DISABLE_TELEMETRY"}}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny(tmp_path / "m.onnx"))],
        env={**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert list(home.iterdir()) == []
