"""OpenVINO answers as ONNX Runtime does, in the precision and on the threads asked for, and refuses in one line."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_runners import tiny

from edgead.bundle import Bundle
from edgead.errors import ArtefactError, ConfigError, MissingError
from edgead.runtime.onnx_runner import OnnxRunner
from edgead.runtime.openvino_runner import OpenVINORunner, open_core, refuse_without_bf16
from edgead.runtime.runner import usable_cores

openvino = pytest.importorskip("openvino")

Pixels = npt.NDArray[np.uint8]
HAS_BF16 = "BF16" in open_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def convolution(path: Path) -> tuple[Path, npt.NDArray[np.float64]]:
    """Write an int8 model: Q/DQ before one 3x3 convolution of 16 channels, whose mean is the map.

    Returns the file and the weights, ``(16, 3, 3, 3)``, multiples of their scale.
    """
    rng = np.random.default_rng(5)
    weights = rng.integers(-127, 128, (16, 3, 3, 3)).astype(np.int8)
    constants = {
        "scale": np.float32(2.0),  # pixels 0 to 255 in steps of 2
        "zero": np.int8(0),
        "weights": weights,
        "weight_scale": np.full(16, 2.0**-10, np.float32),
        "zeros": np.zeros(16, np.int8),
        "channels": np.array([1]),
        "pixels": np.array([1, 2]),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("QuantizeLinear", ["planes", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node("DequantizeLinear", ["weights", "weight_scale", "zeros"], ["w"], axis=0),
        helper.make_node("Conv", ["dq", "w"], ["features"], name="the_convolution", pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["features", "channels"], ["anomaly_map"], keepdims=0),
        helper.make_node("ReduceMax", ["anomaly_map", "pixels"], ["pred_score"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 32, 32, 3])],
        [
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["batch", 32, 32]),
            helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, ["batch"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path, weights.astype(np.float64) * 2.0**-10


@pytest.mark.parametrize("n", [1, 3, 8])
def test_it_answers_as_onnx_runtime_does(exported: Bundle, smooth_images: Pixels, n: int) -> None:
    path = exported.file("fp32")
    with OpenVINORunner(path, threads=1) as runner, OnnxRunner(path, threads=1) as reference:
        assert (runner.name, runner.size_hw, runner.max_batch) == ("openvino-cpu", (64, 64), 8)
        found, wanted = runner.infer(smooth_images[:n]), reference.infer(smooth_images[:n])
    assert found.anomaly_map.dtype == found.pred_score.dtype == np.float32
    assert np.ptp(wanted.pred_score) > 0 or n == 1
    np.testing.assert_allclose(found.anomaly_map, wanted.anomaly_map, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.pred_score, wanted.pred_score, rtol=1e-4, atol=1e-5)


def test_an_image_is_judged_alone(exported: Bundle, smooth_images: Pixels) -> None:
    with OpenVINORunner(exported.file("fp32"), threads=1) as runner:
        together, alone = runner.infer(smooth_images[:3]), runner.infer(smooth_images[2:3])
    np.testing.assert_array_equal(together.anomaly_map[2], alone.anomaly_map[0])
    assert together.pred_score[2] == alone.pred_score[0]


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_the_threads_are_those_asked_for(exported: Bundle, threads: int) -> None:
    with OpenVINORunner(exported.file("fp32"), threads=threads) as runner:
        cores = usable_cores()
        assert runner.threads == min(threads or cores, cores)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc: nothing says which threads work")
def test_with_one_thread_one_thread_works(exported: Bundle) -> None:
    code = """
import os, sys, numpy as np
from edgead.runtime.openvino_runner import OpenVINORunner
runner = OpenVINORunner(sys.argv[1], threads=1)
images = np.zeros((8, 64, 64, 3), np.uint8)
runner.infer(images)

def ticks():  # CPU time of each thread, in hundredths of a second
    tasks = os.listdir("/proc/self/task")
    lines = {task: open(f"/proc/self/task/{task}/stat").read().rpartition(")")[2].split() for task in tasks}
    return {task: int(fields[11]) + int(fields[12]) for task, fields in lines.items()}

before = ticks()
for _ in range(30):
    runner.infer(images)
print(sum(spent - before.get(task, 0) > 2 for task, spent in ticks().items()))
"""
    command = [sys.executable, "-c", code, str(exported.file("fp32"))]
    assert subprocess.check_output(command, timeout=60) == b"1\n"


def test_fp32_is_exact_even_where_the_cpu_has_bf16(exported: Bundle) -> None:
    with OpenVINORunner(exported.file("fp32"), threads=1) as runner:
        assert set(runner.layers().values()) <= {"f32", "i32", "u8", "dynamic", "boolean"}


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bfloat16")
def test_bf16_is_taken_where_the_cpu_has_it(exported: Bundle, smooth_images: Pixels) -> None:
    path = exported.file("fp32")
    with OpenVINORunner(path, threads=1, hint="bf16") as runner, OpenVINORunner(path, threads=1) as exact:
        assert runner.name == "openvino-cpu-bf16"
        assert Counter(runner.layers().values())["bf16"] > 50
        rough, fine = runner.infer(smooth_images[:4]).anomaly_map, exact.infer(smooth_images[:4]).anomaly_map
    assert 1e-4 < np.abs(rough - fine).max() / np.abs(fine).max() < 0.1


def test_bf16_is_refused_where_the_device_has_none() -> None:
    with pytest.raises(ConfigError, match=r"this CPU has no bfloat16 \(it has FP32, INT8\); use backend openvino"):
        refuse_without_bf16(["FP32", "INT8"], "CPU")
    refuse_without_bf16(["FP32", "BF16"], "CPU")


def test_q_dq_runs_as_int8(tmp_path: Path) -> None:
    path, weights = convolution(tmp_path / "m.onnx")
    image = np.random.default_rng(6).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    quantised = np.clip(np.rint(image / 2.0), -128, 127) * 2.0
    padded = np.pad(quantised, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = weights.mean(axis=0)  # the mean over the channels that it gives
    expected = sum(padded[:, dy : dy + 32, dx : dx + 32] @ kernel[:, dy, dx] for dy in range(3) for dx in range(3))
    with OpenVINORunner(path, threads=1) as runner:
        np.testing.assert_allclose(runner.infer(image).anomaly_map, expected, rtol=1e-5, atol=1e-3)
        assert runner.layers()["the_convolution"] in {"i8", "u8"}


def test_layers_of_a_closed_runner_are_refused(tmp_path: Path) -> None:
    runner = OpenVINORunner(tiny(tmp_path / "m.onnx"), threads=1)
    runner.close()
    with pytest.raises(ArtefactError, match="has been closed"):
        runner.layers()


@pytest.mark.parametrize("hint", ["fp32", "bf16"])
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, hint: Any) -> None:
    with pytest.raises(MissingError, match=r"OpenVINO has no device 'ABACUS' here.*it has CPU.*choose") as caught:
        OpenVINORunner(tiny(tmp_path / "m.onnx"), threads=1, device="ABACUS", hint=hint)
    assert "\n" not in str(caught.value)


def test_it_calls_nobody(tmp_path: Path) -> None:
    code = """
import sys
sys.addaudithook(lambda event, args: event.startswith(("socket.", "subprocess.")) and sys.exit(f"{event} {args}"))
import numpy as np
from edgead.runtime.openvino_runner import OpenVINORunner
print(OpenVINORunner(sys.argv[1], threads=1).infer(np.zeros((1, 8, 12, 3), np.uint8)).pred_score)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny(tmp_path / "m.onnx"))], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "[0.]\n"), done.stderr


_SIGNALLED = """
import signal, subprocess, sys, threading
from edgead.runtime.openvino_runner import OpenVINORunner
calls = []
signal.signal(signal.SIGCHLD, lambda *_: calls.append(1))
first, second = OpenVINORunner(sys.argv[1]), OpenVINORunner(sys.argv[1])
if sys.argv[2] == "thread":
    closing = threading.Thread(target=lambda: (first.close(), second.close()))
    closing.start()
    closing.join()
else:
    first.close()
    second.close()
subprocess.run([sys.executable, "-c", ""], check=True)
print(len(calls) > 0)
"""


@pytest.mark.parametrize("closed", ["here", "thread"])
def test_a_process_survives_signals_after_its_runners_are_closed(closed: str, tmp_path: Path) -> None:
    path, _ = convolution(tmp_path / "model.onnx")
    words = [sys.executable, "-X", "faulthandler", "-c", _SIGNALLED, str(path), closed]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
