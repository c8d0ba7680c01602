"""What the tests of outputs share: a broker, a station, free ports."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgead.config import StationConfig
from edgead.runtime.fake import FakeRunner
from edgead.runtime.report import StationReport
from edgead.runtime.stations import run_station
from edgead.thresholds import Threshold

THRESHOLD = Threshold(0.5, 0.75, "part", 2000, 0.95, 3000, 1000, 1500, "by hand")
PROGRAM = """
import sys
from edgead.config import load_station
from edgead.runtime.fake import FakeRunner
from edgead.runtime.stations import run_station
from edgead.thresholds import Threshold
report = run_station(load_station(sys.argv[1]), runner=FakeRunner((16, 16)),
    threshold=Threshold(0.5, 0.75, "part", 2000, 0.95, 3000, 1000, 1500, "by hand"))
print(report.triggers)
"""


EXAMPLE = """{"schema": "edgead.verdict/1", "event_id": "0123456789ab-0", "time": "2026-01-30T10:00:00.500+00:00",
"trigger": 0, "part": "P", "verdict": "NG", "score": 0.9, "worst": "v/i", "frames": 1, "missing": [], "latency_ms": 5.0,
"station": "press", "artefact": "int8", "unsure": 0.5, "ng": 0.75}"""  # as docs/verdict.schema.json has it


def file_system_of_1_mib(tmp_path: Path) -> Iterator[Path]:
    """Mount one for a test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(happened: Callable[[], Any], within_s: float = 30) -> None:
    give_up_s = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < give_up_s, "it did not happen in time"
        time.sleep(0.02)


def station(
    folder: Path, outputs: list[dict[str, Any]], *, parts: int = 20, query: str = "", **values: Any
) -> StationConfig:
    camera = {"name": "cam", "uri": f"sim://ceramic_tile?parts={parts}&cache=4&size=32{query}"}
    document = {"bundle": folder / "b", "output": folder / "out", "cameras": [camera], "outputs": outputs, **values}
    return StationConfig.model_validate(document)


def run(config: StationConfig) -> StationReport:
    return run_station(config, runner=FakeRunner((16, 16)), threshold=THRESHOLD)


def start_station(yaml: Path) -> subprocess.Popen[str]:
    """Start a station in a process of its own, to be killed."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(yaml)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def verdicts(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the verdicts in a station's file, by event id."""
    lines = [json.loads(line) for line in (folder / "out" / "verdicts.ndjson").read_text().splitlines()]
    assert len({line["event_id"] for line in lines}) == len(lines)
    return {line["event_id"]: line for line in lines}


class Broker:
    """A real mosquitto in a folder of its own."""

    def __init__(self, folder: Path, *more: str) -> None:
        binary = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
        if binary is None:
            pytest.skip("mosquitto is not installed: apt-get install mosquitto")
        self.port = free_port()
        folder.mkdir()
        settings = [f"listener {self.port} 127.0.0.1", "persistence true", f"persistence_location {folder}/"]
        settings += ["user root", "autosave_on_changes true", "autosave_interval 1", "max_queued_messages 0"]
        (folder / "mosquitto.conf").write_text("\n".join([*settings, *(more or ("allow_anonymous true",))]) + "\n")
        self._command = [binary, "-c", str(folder / "mosquitto.conf")]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, "mosquitto did not start"
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
