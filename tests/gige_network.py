"""A network namespace with nothing but its loopback: a discovery asks every network that it sees."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgead.errors import MissingError
from edgead.runtime import introspection

Inside = Callable[..., list[dict[str, Any]]]


def problem() -> str | None:
    """Say why no GigE Vision camera can be played here; None when it can."""
    try:
        introspection.load("Aravis")
    except MissingError as error:
        return str(error)
    if not shutil.which("arv-fake-gv-camera-0.8"):
        return "Aravis' fake camera is not installed"
    if os.geteuid() or not shutil.which("ip"):
        return "a network namespace needs root and iproute2"
    return None


needs_gige = pytest.mark.skipif(problem() is not None, reason=str(problem()))


def wait_for_camera(address: str, patience_s: float = 30) -> None:
    """Ask until a camera answers: those played by another program do not say when they are ready."""
    give_up_s = time.monotonic() + patience_s
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.2)
        while time.monotonic() < give_up_s:
            asking.sendto(bytes.fromhex("4211000200000001"), (address, 3956))  # GigE Vision's discovery
            try:
                asking.recv(1024)
            except OSError:  # nothing yet, or nobody
                time.sleep(0.02)
            else:
                return
    raise AssertionError(f"no camera answers at {address}")


@contextmanager
def namespace(name: str, script: str) -> Iterator[Inside]:
    """Make a namespace; what it yields runs a script of this folder in it and returns its lines, read as JSON."""
    enter = ["ip", "netns", "exec", name]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run([*enter, "ip", "link", "set", "lo", "up"], check=True)
        subprocess.run([*enter, "ip", "addr", "add", "127.0.0.2/8", "dev", "lo"], check=True)

        def run(*arguments: str) -> list[dict[str, Any]]:
            command = [*enter, sys.executable, str(Path(__file__).with_name(script)), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr
            return [json.loads(line) for line in done.stdout.splitlines()]

        yield run
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
