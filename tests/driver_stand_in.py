"""Run tests in a process that has the stand-in of the NVIDIA driver (fake_cuda.c), so that no other process has it."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

KINDS = ("memory", "pinned", "stream", "graph", "executable", "context", "stack")

_HERE = "EDGEAD_DRIVER_STAND_IN"
_Test = TypeVar("_Test", bound=Callable[..., None])


def driver() -> ctypes.CDLL:
    """Return the stand-in, in the process that has it."""
    library = ctypes.CDLL("libcuda.so.1")
    library.fake_cuda_live.restype = library.fake_cuda_calls.restype = ctypes.c_long
    library.fake_cuda_host.argtypes = [ctypes.c_uint64, ctypes.c_size_t]
    library.fake_cuda_host.restype = ctypes.c_void_p
    library.cuLaunchHostFunc.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    return library


def live() -> dict[str, int]:
    """Return what is not given back, by kind."""
    return {kind: number for kind in KINDS if (number := driver().fake_cuda_live(kind.encode()))}


def calls(name: str) -> int:
    """Return how often a function of the driver was called in this test."""
    return int(driver().fake_cuda_calls(name.encode()))


@contextmanager
def told(**settings: str | int) -> Iterator[None]:
    """Tell the stand-in something for a while: ``told(FAIL="cuMemAlloc_v2:2")``."""
    names = {f"FAKE_CUDA_{name}": str(value) for name, value in settings.items()}
    os.environ.update(names)
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


def on_stand_in(test: _Test) -> _Test:
    """Run a test, with its arguments, in the process that has the stand-in; it fails if it leaves anything behind."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        pytest.importorskip("cuda.bindings", reason="cuda-python is not installed: pip install '.[tensorrt]'")
        if _HERE in os.environ:
            driver().fake_cuda_reset()
            test(*arguments, **named)
            assert live() == {}, f"not given back: {live()}"
            return
        try:
            _process().submit(run, *arguments, **named).result(timeout=120)
        except BrokenProcessPool:
            _process.cache_clear()  # it crashed: the next test gets a new one
            raise

    return run  # type: ignore[return-value]  # it has the signature of the test


@functools.cache
def _process() -> ProcessPoolExecutor:
    folder = tempfile.TemporaryDirectory(prefix="edgead-driver-")
    build(Path(folder.name))
    before = dict(os.environ)
    os.environ |= {"LD_LIBRARY_PATH": folder.name, _HERE: "1"}
    try:
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        pool.submit(os.getpid).result(timeout=60)  # it has started, with that environment
    finally:
        os.environ.clear()
        os.environ.update(before)
    pool.folder = folder  # type: ignore[attr-defined]  # it goes when the pool goes
    return pool


def build(folder: Path) -> Path:
    """Compile the stand-in into a folder as libcuda.so.1."""
    source, library = Path(__file__).with_name("fake_cuda.c"), folder / "libcuda.so.1"
    options = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run(["gcc", *options, str(source), "-o", str(library), "-ldl"], check=True, timeout=60)
    return library
