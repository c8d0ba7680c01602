"""What is said of a worker of pytest-xdist that dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from workers import ended

pytest.importorskip("xdist")


def test_how_a_worker_died_is_said(tmp_path: Path) -> None:
    (tmp_path / "test_killed.py").write_text(
        "import os, signal\ndef test_killed(): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", "-p", "no:edgead", "-p", "workers"]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "[gw0] it was ended by SIGKILL; the largest process that has ended had " in done.stdout


def test_every_end_has_its_words() -> None:
    assert ended(None) == "it still runs: its channel broke"
    assert ended(1) == "it exited with 1"
    assert ended(-11) == "it was ended by SIGSEGV"
    assert ended(-34 - 4) == "it was ended by signal 38"
