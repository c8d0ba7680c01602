"""The TensorRT runner on the stand-ins of driver and engine: held against ONNX Runtime on the same images."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from driver_stand_in import calls, driver, live, on_stand_in, told
from stand_in_engine import LIBRARIES, dropped, passport, rtx_settings, runs, write_engine
from test_cuda import HAS_DRIVER, PYCUDA, refusal

from edgead.bundle import Bundle
from edgead.errors import DataError, MissingError
from edgead.runtime.onnx_runner import OnnxRunner
from edgead.runtime.runner import Prediction, Runner
from edgead.runtime.tensorrt_runner import TensorRTRunner

SIZE = 64
Images = npt.NDArray[np.uint8]

both = pytest.mark.parametrize("prefer", ["cuda-python", PYCUDA])


@pytest.fixture(scope="session")
def model(exported: Bundle) -> Path:
    """The exported inspection in fp32."""
    return exported.file("fp32")


def opened(engine: Path, *, version: str = "10.3.0", **options: object) -> TensorRTRunner:
    library = LIBRARIES[version]
    return TensorRTRunner(engine, passport=passport(library, SIZE), library=library, **options)  # type: ignore[arg-type]


def same(found: Prediction, wanted: Prediction) -> bool:
    return all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(found, wanted, strict=True))


def inspect_all(runner: Runner, model: Path, images: Images) -> None:
    """Hold batches of all sizes, repeated and in turns, against ONNX Runtime."""
    with OnnxRunner(model, threads=1) as reference:
        wanted = {}
        for turn, count in enumerate((1, 3, 8, 1, 8, 3, 3, 1, 1, 8)):
            start = turn % (len(images) - count + 1)
            key = (start, count)
            if key not in wanted:
                wanted[key] = reference.infer(images[start : start + count])
            assert same(runner.infer(images[start : start + count]), wanted[key]), (turn, count)


@both
@pytest.mark.parametrize("integrated", [0, 1])
@pytest.mark.parametrize("graphs", [True, False])
@on_stand_in
def test_it_answers_as_onnx_runtime_does(
    tmp_path: Path, model: Path, smooth_images: Images, prefer: str, integrated: int, graphs: bool
) -> None:
    with told(INTEGRATED=integrated), opened(write_engine(tmp_path, model), graphs=graphs, prefer=prefer) as runner:
        assert (runner.name, runner.size_hw, runner.max_batch) == ("tensorrt-fp16", (SIZE, SIZE), 8)
        assert runner.zero_copy is bool(integrated)
        inspect_all(runner, model, smooth_images)
        replays = graphs and prefer == "cuda-python"
        assert bool(runner.no_graphs) is not replays
        assert calls("cuGraphLaunch") == (10 if replays else 0)
        assert calls("thread-local") == calls("cuStreamBeginCapture_v2") == (3 if replays else 0)
        assert calls("non-blocking") == calls("cuStreamCreate") == 1
        if integrated:
            assert calls("cuMemcpyHtoDAsync_v2") == calls("cuMemcpyDtoHAsync_v2") == 0
    assert live() == {}
    runner.close()


@pytest.mark.parametrize("version", LIBRARIES)
@on_stand_in
def test_every_tensorrt_is_run(tmp_path: Path, model: Path, smooth_images: Images, version: str) -> None:
    rtx_settings.clear()
    with opened(write_engine(tmp_path, model), version=version) as runner:
        inspect_all(runner, model, smooth_images)
        if version == "1.7.1":
            assert runner.name == "tensorrt-rtx-fp16"
            assert "graphs of its own" in runner.no_graphs
            assert [each.cuda_graph_strategy.name for each in rtx_settings] == ["WHOLE_GRAPH_CAPTURE"] * 3
            assert {each.strategy.name for each in rtx_settings} == {"USER_MANAGED"}
        else:
            assert not runner.no_graphs


@on_stand_in
def test_memory_is_taken_once_and_given_back_in_order(tmp_path: Path, model: Path, smooth_images: Images) -> None:
    dropped.clear()
    with opened(write_engine(tmp_path, model)) as runner:
        before = live()
        assert before == {"memory": 4, "pinned": 3, "stream": 1, "context": 1}
        for count in (1, 3, 8, 1, 3, 8):
            runner.infer(smooth_images[:count])
        assert live() == {**before, "executable": 3}
    assert [what for what, _ in dropped] == ["context"] * 3 + ["engine"]
    for _, there in dropped:
        assert there.get("executable", 0) == 0  # a graph goes before its context
        assert (there["memory"], there["stack"]) == (4, 1)  # and what contexts work in after them


@on_stand_in
def test_a_batch_is_warmed_up_once_and_its_answers_are_the_callers(
    tmp_path: Path, model: Path, smooth_images: Images
) -> None:
    runs.clear()
    with opened(write_engine(tmp_path, model)) as runner:
        first = runner.infer(smooth_images[:2])
        kept = Prediction(*(part.copy() for part in first))
        for start in range(2, 6):
            runner.infer(smooth_images[start : start + 2])
        assert same(first, kept)
        assert first.anomaly_map.flags.owndata
        first.anomaly_map[...] = 7
        assert same(runner.infer(smooth_images[:2]), kept)
    assert runs == {2: 1 + 6}
    assert same(first, Prediction(np.full_like(first.anomaly_map, 7), kept.pred_score))  # and outlive it


@both
@pytest.mark.parametrize("integrated", [0, 1])
@on_stand_in
def test_images_can_be_written_where_the_gpu_reads_them(
    tmp_path: Path, model: Path, smooth_images: Images, prefer: str, integrated: int
) -> None:
    with told(INTEGRATED=integrated), opened(write_engine(tmp_path, model), prefer=prefer) as runner:
        for count in (3, 1):
            runner.input_slot(count)[...] = smooth_images[5 : 5 + count]
            with OnnxRunner(model, threads=1) as reference:
                assert same(runner.infer_slot(count), reference.infer(smooth_images[5 : 5 + count]))
        assert "9 images" in refusal(lambda: runner.input_slot(9), DataError)
        assert "0 images" in refusal(lambda: runner.infer_slot(0), DataError)


@both
@on_stand_in
def test_another_thread_may_inspect_and_close(tmp_path: Path, model: Path, smooth_images: Images, prefer: str) -> None:
    runner = opened(write_engine(tmp_path, model), prefer=prefer)
    first = runner.infer(smooth_images[:2])
    found: list[Prediction] = []

    def work() -> None:
        found.extend([runner.infer(smooth_images[:2]), runner.infer(smooth_images[:3])])
        runner.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert same(found[0], first)
    assert live() == {}


@both
@on_stand_in
def test_two_runners_do_not_disturb_each_other(tmp_path: Path, model: Path, smooth_images: Images, prefer: str) -> None:
    engine = write_engine(tmp_path, model)
    with opened(engine, prefer=prefer) as first:
        with opened(engine, prefer=prefer) as second:
            wanted = [second.infer(smooth_images[start : start + 2]) for start in range(4)]
            for start in range(4):
                assert same(first.infer(smooth_images[start : start + 2]), wanted[start])
                second.infer(smooth_images[9:10])
        assert same(first.infer(smooth_images[:2]), wanted[0])


@pytest.mark.parametrize(
    "fault", ["cuStreamBeginCapture_v2:900", "cuStreamEndCapture:901", "cuGraphInstantiateWithFlags:2"]
)
@on_stand_in
def test_without_its_graph_a_batch_is_enqueued_plainly_and_the_reason_is_kept(
    tmp_path: Path, model: Path, smooth_images: Images, fault: str
) -> None:
    with told(FAIL=fault), opened(write_engine(tmp_path, model)) as runner:
        assert runner.no_graphs == ""
        inspect_all(runner, model, smooth_images)
        assert "recording a graph for 1 images failed: CUDA_ERROR_" in runner.no_graphs
        assert calls("cuStreamBeginCapture_v2") == 1  # it does not try again with each batch
        assert calls("cuGraphLaunch") == 0
    driver().fake_cuda_reset()
    with told(FAIL=f"{fault}:1"), opened(write_engine(tmp_path, model)) as runner:  # the second size fails
        inspect_all(runner, model, smooth_images)
        assert "for 3 images" in runner.no_graphs
        assert calls("cuGraphLaunch") == 4  # the first keeps its graph


@on_stand_in
def test_less_memory_is_taken_for_smaller_batches(tmp_path: Path, model: Path, smooth_images: Images) -> None:
    with opened(write_engine(tmp_path, model), max_batch=2) as runner:
        assert runner.max_batch == 2
        assert runner.input_slot(2).nbytes == 2 * SIZE * SIZE * 3
        runner.infer(smooth_images[:2])
        assert "3 images in a batch" in refusal(lambda: runner.infer(smooth_images[:3]), DataError)


@on_stand_in
def test_images_that_it_does_not_take(tmp_path: Path, model: Path, smooth_images: Images) -> None:
    runner = opened(write_engine(tmp_path, model))
    assert "float32" in refusal(lambda: runner.infer(smooth_images.astype(np.float32)), DataError)
    assert "16 images" in refusal(lambda: runner.infer(smooth_images), DataError)
    assert "shape" in refusal(lambda: runner.infer(smooth_images[:, :32]), DataError)
    runner.close()
    assert "closed" in refusal(lambda: runner.infer(smooth_images[:1]))
    assert "closed" in refusal(lambda: runner.input_slot(1))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"score": "score"}, "not an inspection engine, it has input image UINT8 (-1, 64, 64, 3); output anomaly_map"),
        ({"input": "FLOAT"}, "expected image uint8"),
        ({"batch": 4}, "not an inspection engine"),
        ({"max_batch": 4}, "takes up to 4 images of 64x64, and its passport says 8 of 64x64"),
        ({"min_batch": 2}, "takes 2 to 8 images, and batches of 1 to 8 are asked for"),
    ],
)
@on_stand_in
def test_another_engine_is_refused(tmp_path: Path, model: Path, settings: dict[str, object], says: str) -> None:
    engine = write_engine(tmp_path, model, **settings)
    line = refusal(lambda: opened(engine))
    assert says in line
    assert "edgead build" in line
    assert str(engine) in line


@pytest.mark.parametrize(
    ("refuses", "says"),
    [
        ("context", "opens no execution context (Cuda error: out of memory"),
        ("pred_score", "refuses the memory of pred_score"),
        ("shape", "refuses images of shape (2, 64, 64, 3)"),
        ("infer_shapes", "for images (2, 64, 64, 3) it answers with"),
        ("execute", "refuses a batch of 2 (enqueue failed)"),
        ("nan", "NaN or infinity"),
    ],
)
@on_stand_in
def test_each_answer_of_tensorrt_is_looked_at(
    tmp_path: Path, model: Path, smooth_images: Images, refuses: str, says: str
) -> None:
    with opened(write_engine(tmp_path, model, refuses=[refuses])) as runner:
        line = refusal(lambda: runner.infer(smooth_images[:2]))
    assert says in line
    assert "edgead" in line


@both
@pytest.mark.parametrize("call", ["cuMemcpyHtoDAsync_v2:700", "cuMemcpyDtoHAsync_v2:700", "cuStreamSynchronize:700"])
@on_stand_in
def test_a_gpu_that_fails_is_one_line(
    tmp_path: Path, model: Path, smooth_images: Images, prefer: str, call: str
) -> None:
    def inspect() -> None:
        with told(FAIL=call), opened(write_engine(tmp_path, model), prefer=prefer) as runner:
            runner.infer(smooth_images[:2])

    assert call.split("_v2")[0].split(":")[0] in refusal(inspect)


@on_stand_in
def test_a_full_gpu_and_an_absent_one(tmp_path: Path, model: Path) -> None:
    engine = write_engine(tmp_path, model)
    with told(MEMORY=100_000):
        assert "CUDA_ERROR_OUT_OF_MEMORY in cuMemAlloc, 0.1 MB wanted" in refusal(lambda: opened(engine))
    with told(DEVICES=0):
        assert "GPU" in refusal(lambda: opened(engine), MissingError)
    assert "there is no GPU 3" in refusal(lambda: opened(engine, device=3), MissingError)


@on_stand_in
def test_the_passport_is_held_against_the_machine_first(tmp_path: Path, model: Path) -> None:
    library = LIBRARIES["10.3.0"]
    engine = write_engine(tmp_path, model)

    def with_passport(**changes: object) -> str:
        return refusal(lambda: TensorRTRunner(engine, passport=passport(library, SIZE, **changes), library=library))

    assert "compute capability 8.6, Stand-in GPU 0 has 8.7" in with_passport(compute_capabilities=("8.6",))
    assert "built for Orin, this is Stand-in GPU 0" in with_passport(gpu="Orin")
    assert "built with tensorrt 10.7.0" in with_passport(version="10.7.0")
    assert f"edgead build {tmp_path} --target tensorrt --precision fp16" in with_passport(version="10.7.0")
    assert "its passport says 8 of 32x32" in with_passport(size_hw=(32, 32))
    engine.write_bytes(engine.read_bytes()[:-20])
    assert "cannot open this engine" in with_passport()
    engine.unlink()
    assert "cannot be read" in with_passport()


@on_stand_in
def test_batches_that_an_engine_is_not_built_for(tmp_path: Path, model: Path) -> None:
    engine = write_engine(tmp_path, model)
    assert "batches of 1 to 9 are asked for" in refusal(lambda: opened(engine, max_batch=9))
    assert "batches of 1 to 0 are asked for" in refusal(lambda: opened(engine, max_batch=0))


def test_the_stand_in_has_only_what_tensorrt_has() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    import stand_in_engine as stand_in

    def own(kind: type) -> set[str]:
        return {name for each in kind.__mro__[:-1] for name in vars(each) if not name.startswith("_")}

    assert own(stand_in.Context) <= set(dir(trt.IExecutionContext))
    assert own(stand_in.EngineRtx) - {"fail"} <= set(dir(trt.ICudaEngine))
    assert {member.name for member in stand_in.Mode} <= set(trt.TensorIOMode.__members__)
    assert {member.name for member in stand_in.Type} <= set(trt.DataType.__members__)
    for name in (
        "ExecutionContextAllocationStrategy",
        "CudaGraphStrategy",
        "DynamicShapesKernelSpecializationStrategy",
    ):
        assert {each.name for each in getattr(stand_in.TrtRtx, name)} <= set(getattr(trt, name).__members__)
    settings = {"set_execution_context_allocation_strategy", *vars(stand_in.RtxSettings())} - {"strategy"}
    assert settings <= set(dir(trt.IRuntimeConfig))


@pytest.mark.skipif(HAS_DRIVER, reason="here is a driver")
def test_without_a_driver_it_says_so_before_anything_else(tmp_path: Path) -> None:
    line = refusal(lambda: opened(tmp_path / "missing.engine"), MissingError)
    assert "no NVIDIA driver" in line
