"""Engines on a real GPU: ``pytest -m gpu tests/test_gpu.py``, where a GPU and TensorRT or TensorRT-RTX are.

Never run so far: there was no GPU where this was written. Figures that it prints are of an untrained network at 64x64.
"""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgead.bundle import Bundle
from edgead.errors import ConfigError, MissingError
from edgead.onnx_graph import read_model, write_model
from edgead.runtime.cuda import LIBRARIES, open_device
from edgead.runtime.onnx_runner import OnnxRunner
from edgead.runtime.runner import Prediction
from edgead.runtime.tensorrt_library import TARGETS, Library, load
from edgead.runtime.tensorrt_runner import TensorRTRunner
from export.build_engine import Built, build
from export.float16 import to_float16

pytestmark = pytest.mark.gpu

Images = npt.NDArray[np.uint8]
TOLERANCE = {"fp32": 1e-3, "fp16": 0.03}  # of the span of the reference's maps


@pytest.fixture(scope="module", params=TARGETS)
def library(request: pytest.FixtureRequest) -> Library:
    try:
        return load(request.param)
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def built(
    request: pytest.FixtureRequest, library: Library, exported: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Built:
    """An engine for the GPU that is here, for batches of 1 to 8."""
    bundle = Bundle.open(shutil.copytree(exported.path, tmp_path_factory.mktemp("gpu") / "run"))

    def write(path: Path) -> None:
        write_model(to_float16(read_model(bundle.file("fp32"))), path)

    bundle.add("fp16", write, kind="onnx", precision="fp16", made_from="fp32", tools={})
    try:
        made = build(bundle, target=library.target, precision=request.param, library=library)
    except ConfigError as error:  # TensorRT-RTX is not for every GPU
        pytest.skip(str(error))
    assert made.passport.precision == request.param, made.tried
    return made


@pytest.fixture(scope="module")
def wanted(exported: Bundle, smooth_images: Images) -> Prediction:
    """ONNX Runtime's answers to all sixteen images, in fp32."""
    with OnnxRunner(exported.file("fp32"), max_batch=16) as reference:
        return reference.infer(smooth_images)


@pytest.mark.parametrize("prefer", LIBRARIES)
def test_bytes_go_to_the_device_and_back(prefer: str) -> None:
    try:
        device = open_device(prefer=prefer)
    except MissingError as error:
        pytest.skip(str(error))
    with device.current():
        stream, memory = device.stream(), device.memory(1 << 20)
        source, target = device.pinned((1 << 20,), np.uint8), device.pinned((1 << 20,), np.uint8)
        source.array[...] = np.random.default_rng(0).integers(0, 256, 1 << 20)
        stream.copy_in(memory.pointer, source.array)
        stream.copy_out(target.array, memory.pointer)
        stream.synchronise()
        assert np.array_equal(source.array, target.array)
    device.close()


@pytest.mark.parametrize("prefer", LIBRARIES)
@pytest.mark.parametrize("graphs", [True, False])
def test_it_answers_as_onnx_runtime_does(
    built: Built, library: Library, smooth_images: Images, wanted: Prediction, graphs: bool, prefer: str
) -> None:
    tolerance = TOLERANCE[built.passport.precision] * float(np.ptp(wanted.anomaly_map))
    try:
        runner = TensorRTRunner(built.path, passport=built.passport, library=library, graphs=graphs, prefer=prefer)
    except MissingError as error:
        pytest.skip(str(error))
    with runner:
        for turn, count in enumerate((1, 3, 8, 1, 8, 3, 3, 1)):
            images = slice(turn, turn + count)
            found = runner.infer(smooth_images[images])
            assert np.abs(found.anomaly_map - wanted.anomaly_map[images]).max() < tolerance, (turn, count)
            assert np.abs(found.pred_score - wanted.pred_score[images]).max() < tolerance, (turn, count)
        if graphs and prefer == "cuda-python" and not library.is_rtx:
            assert runner.no_graphs == ""


def test_a_graph_answers_as_plain_calls_do(built: Built, library: Library, smooth_images: Images) -> None:
    with (
        TensorRTRunner(built.path, passport=built.passport, library=library) as replayed,
        TensorRTRunner(built.path, passport=built.passport, library=library, graphs=False) as plain,
    ):
        for count in (1, 8, 3, 1, 8):
            for first, second in zip(
                replayed.infer(smooth_images[:count]), plain.infer(smooth_images[:count]), strict=True
            ):
                assert np.array_equal(first, second)


def test_print_the_throughput(
    built: Built, library: Library, smooth_images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = []
    for graphs in (True, False):
        with TensorRTRunner(built.path, passport=built.passport, library=library, graphs=graphs) as runner:
            for count in (1, 8):
                runner.input_slot(count)[...] = smooth_images[:count]
                median_s = _median_s(runner, count)
                how = "graph" if not runner.no_graphs else "plain"
                lines.append(f"{library} {runner.name} batch {count} {how}: {count / median_s:.0f} images/s")
    with capsys.disabled():
        print("", *lines, sep="\n")


def _median_s(runner: TensorRTRunner, count: int, repeats: int = 300) -> float:
    """Return the median seconds of a batch, copies included, after a tenth as many to warm up."""
    seconds = []
    for _ in range(repeats + repeats // 10):
        begin = time.perf_counter()
        runner.infer_slot(count)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[repeats // 10 :])
