"""Say how a worker of pytest-xdist ended that ended before its tests: xdist itself only says that it did.

What Python's fault handler catches prints its own traceback. This tells the rest, such as SIGKILL by a system that is
out of memory, a crash in a thread whose signals are blocked, or an exit by a library.
"""

from __future__ import annotations

import resource
import signal
import subprocess
from typing import Any

import pytest


def ended(status: int | None) -> str:
    """Say in words what ``Popen.returncode`` means."""
    if status is None:
        return "it still runs: its channel broke"
    if status >= 0:
        return f"it exited with {status}"
    try:
        return f"it was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"it was ended by signal {-status}"


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    if error is None:
        return
    process = node.gateway._io.popen
    try:
        status = process.wait(10)
    except subprocess.TimeoutExpired:
        status = None
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    reporter = node.config.pluginmanager.get_plugin("terminalreporter")
    reporter.write_line(f"\n[{node.gateway.id}] {ended(status)}; the largest process that has ended had {largest} MiB")
