"""Cameras behind a GenTL producer, in a process of their own: a producer's threads stay for as long as its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("genicam")
pytest.importorskip("harvesters")


def test_cameras_behind_a_producer() -> None:
    cases = Path(__file__).with_name("cti_cases.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "100%" in done.stdout
    assert "SKIPPED" not in done.stdout
