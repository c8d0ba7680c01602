"""The device layer, over both CUDA libraries, on a stand-in of the driver; and without a driver."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from driver_stand_in import build, calls, driver, live, on_stand_in, told

from edgead.errors import ArtefactError, ConfigError, EdgeadError, MissingError
from edgead.runtime.cuda import LIBRARIES, Device, open_device

HAS_DRIVER = ctypes.util.find_library("cuda") is not None
PYCUDA = pytest.param(
    "pycuda",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("pycuda") is None, reason="pycuda is not installed; tests/install_pycuda.sh builds it"
    ),
)
both = pytest.mark.parametrize("library", ["cuda-python", PYCUDA])


def refusal(call: Callable[[], object], kind: type[EdgeadError] = ArtefactError) -> str:
    """Return the one line that a call is refused with."""
    with pytest.raises(kind) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    return line


def there_and_back(device: Device, values: np.ndarray) -> np.ndarray:
    """Copy values to the device and back, through two pinned arrays."""
    with device.current():
        stream, memory = device.stream(), device.memory(values.nbytes)
        source = device.pinned(values.shape, values.dtype)
        target = device.pinned(values.shape, values.dtype)
        source.array[...] = values
        stream.copy_in(memory.pointer, source.array)
        stream.copy_out(target.array, memory.pointer)
        assert not target.array.any()  # a copy waits in its stream
        stream.synchronise()
        return target.array.copy()


@both
@on_stand_in
def test_a_device_says_what_it_is(library: str) -> None:
    device = open_device(prefer=library)
    assert (device.name, device.capability, device.integrated) == ("Stand-in GPU 0", "8.7", False)
    assert device.graphs is (library == "cuda-python")
    device.close()
    with told(INTEGRATED=1, DEVICES=2):
        device = open_device(1, prefer=library)
        assert (device.name, device.integrated) == ("Stand-in GPU 1", True)
        device.close()


@on_stand_in
def test_cuda_python_is_taken_first() -> None:
    device = open_device()
    assert type(device.driver).__name__ == "CudaPython"
    device.close()


@both
@on_stand_in
def test_copies_arrive(library: str) -> None:
    values = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32)
    device = open_device(prefer=library)
    assert np.array_equal(there_and_back(device, values), values)
    assert calls("non-blocking") == 1
    device.close()
    device.close()


@both
@on_stand_in
def test_any_thread_may_use_and_close_a_device(library: str) -> None:
    values = np.arange(100, dtype=np.uint8) + 1
    device = open_device(prefer=library)
    found: list[object] = []

    def work() -> None:
        found.append(there_and_back(device, values))
        device.close()
        found.append(live())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert np.array_equal(found[0], values)  # type: ignore[arg-type]
    assert found[1] == {}


@both
@on_stand_in
def test_each_thing_can_be_given_back_before_its_device(library: str) -> None:
    device = open_device(prefer=library)
    with device.current():
        things = [device.memory(10), device.pinned((4,), np.float32), device.stream()]
    assert live() == {"memory": 1, "pinned": 1, "stream": 1, "context": 1}
    for thing in things:
        thing.close()
        thing.close()
    assert live() == {"context": 1}
    device.close()


@both
@on_stand_in
def test_the_context_that_was_current_comes_back(library: str) -> None:
    outer, inner = open_device(prefer="cuda-python"), open_device(prefer=library)
    with outer.current():
        depth = live()["stack"]
        there_and_back(inner, np.ones(3, np.uint8))
        inner.close()
        assert live()["stack"] == depth
        assert there_and_back(outer, np.ones(3, np.uint8)).all()
    outer.close()


@both
@on_stand_in
def test_mapped_memory_is_worked_in_directly(library: str) -> None:
    device = open_device(prefer=library)
    with device.current():
        plain, mapped = device.pinned((8,), np.float32), device.pinned((8,), np.float32, mapped=True)
        stream, copy = device.stream(), device.pinned((8,), np.float32)
        mapped.array[...] = np.arange(8)
        stream.copy_out(copy.array, mapped.pointer)
        stream.synchronise()
    assert plain.pointer == 0
    assert mapped.pointer not in (0, mapped.array.ctypes.data)
    assert np.array_equal(copy.array, np.arange(8))
    device.close()


@on_stand_in
def test_a_graph_does_again_what_was_recorded_and_no_more() -> None:
    device = open_device(prefer="cuda-python")
    with device.current():
        stream, memory = device.stream(), device.memory(4)
        source, target = device.pinned((4,), np.uint8), device.pinned((4,), np.uint8)

        def work() -> None:
            stream.copy_in(memory.pointer, source.array)
            stream.copy_out(target.array, memory.pointer)

        source.array[...] = 1
        graph = stream.record(work)
        stream.synchronise()
        assert not target.array.any()  # recording does not run it
        for value in (2, 3):
            source.array[...] = value
            graph.launch()
            stream.synchronise()
            assert (target.array == value).all()
        forgetful = stream.record(lambda: stream.copy_out(target.array, memory.pointer))
        source.array[...] = 4
        forgetful.launch()
        stream.synchronise()
        assert (target.array == 3).all()  # so a graph without its copies is found out
    assert calls("thread-local") == 2
    device.close()


@on_stand_in
def test_a_capture_always_ends() -> None:
    device = open_device(prefer="cuda-python")
    with device.current():
        stream = device.stream()

        def fails() -> None:
            raise ValueError("the caller's own")

        with pytest.raises(ValueError, match="the caller's own"):
            stream.record(fails)
        assert "CAPTURE_UNSUPPORTED" in refusal(lambda: stream.record(stream.synchronise))
        assert calls("cuStreamEndCapture") == 2
        assert live() == {"stream": 1, "context": 1, "stack": 1}
        for fault in ("cuStreamBeginCapture_v2:900", "cuStreamEndCapture:901", "cuGraphInstantiateWithFlags:2"):
            with told(FAIL=fault):
                assert "CUDA_ERROR_" in refusal(lambda: stream.record(lambda: None))
        assert live() == {"stream": 1, "context": 1, "stack": 1}
        stream.record(lambda: None).launch()  # and another may begin
        stream.synchronise()
    device.close()


@pytest.mark.parametrize("library", [PYCUDA])
@on_stand_in
def test_without_graphs_it_says_so(library: str) -> None:
    device = open_device(prefer=library)
    with device.current():
        stream = device.stream()
        assert "has no CUDA graphs; pip install cuda-bindings" in refusal(lambda: stream.record(lambda: None))
    device.close()


@both
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("cuMemAlloc_v2:2", "CUDA_ERROR_OUT_OF_MEMORY"),
        ("cuMemHostAlloc:2", "CUDA_ERROR_OUT_OF_MEMORY"),
        ("cuMemcpyHtoDAsync_v2:1", "cuMemcpyHtoDAsync"),
        ("cuMemcpyDtoHAsync_v2:700", "cuMemcpyDtoHAsync"),
        ("cuStreamCreate:999", "cuStreamCreate"),
        ("cuStreamSynchronize:700", "cuStreamSynchronize"),
    ],
)
@on_stand_in
def test_what_the_driver_refuses_is_one_line_and_leaves_nothing(library: str, fault: str, says: str) -> None:
    device = open_device(prefer=library)
    with told(FAIL=fault):
        line = refusal(lambda: there_and_back(device, np.ones(10, np.float32)))
    assert says in line
    assert "edgead" in line
    if library == "cuda-python":
        assert "CUDA_ERROR_" in line
    device.close()


@both
@on_stand_in
def test_a_full_device_says_how_much_was_wanted(library: str) -> None:
    device = open_device(prefer=library)
    with told(MEMORY=1000), device.current():
        device.memory(900)
        assert "0.2 MB wanted" in refusal(lambda: device.memory(200_000))
    device.close()


@both
@on_stand_in
def test_closing_goes_on_after_a_refusal(library: str) -> None:
    device = open_device(prefer=library)
    with device.current():
        device.memory(8)
        device.pinned((8,), np.uint8)
    with told(FAIL="cuMemFreeHost:999"):
        if library == "pycuda":
            device.close()  # pycuda prints it
        else:
            assert "CUDA_ERROR_UNKNOWN in cuMemFreeHost" in refusal(device.close)
    assert live() == {"pinned": 1}  # what the driver would not take back, and nothing else
    device.close()
    driver().fake_cuda_reset()


@both
@on_stand_in
def test_a_gpu_that_is_not_there(library: str) -> None:
    assert "there is no GPU 1; this machine has 1" in refusal(lambda: open_device(1, prefer=library), MissingError)
    assert "there is no GPU -1" in refusal(lambda: open_device(-1, prefer=library), MissingError)
    with told(DEVICES=0):
        assert "GPU" in refusal(lambda: open_device(prefer=library), MissingError)


@on_stand_in
def test_a_library_that_is_not_one() -> None:
    assert "did you mean 'pycuda'" in refusal(lambda: open_device(prefer="pycude"), ConfigError)


@on_stand_in
def test_without_a_library_it_says_what_to_install() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pycuda", None)
        assert "pip install '.[pycuda]'" in refusal(lambda: open_device(prefer="pycuda"), MissingError)
        patch.setitem(sys.modules, "cuda.bindings", None)
        line = refusal(open_device, MissingError)
    assert "neither cuda-python nor pycuda is installed" in line
    assert "pip install '.[tensorrt]'" in line


def test_a_driver_older_than_the_library_says_so(tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings", reason="cuda-python is not installed: pip install '.[tensorrt]'")
    build(tmp_path)
    code = (
        "from edgead.runtime.cuda import open_device as o\nd = o(prefer='cuda-python')\nwith d.current(): d.memory(1)"
    )
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "FAKE_CUDA_WITHOUT": "cuMemAlloc"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("edgead.errors.MissingError: the NVIDIA driver has no cuMemAlloc"), done.stderr
    assert "install cuda-bindings of its CUDA version" in last


@pytest.mark.skipif(HAS_DRIVER, reason="here is a driver")
@pytest.mark.parametrize("library", [None, *LIBRARIES])
def test_without_a_driver_nothing_else_is_asked(library: str | None) -> None:
    assert "no NVIDIA driver" in refusal(lambda: open_device(prefer=library), MissingError)
