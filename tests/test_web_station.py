"""A station with its page, both real: what is shown is what was judged, and the page cannot stop the station."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from outputs_bench import free_port, wait_until

from edgead.config import StationConfig
from edgead.errors import ConfigError
from edgead.runtime.fake import FakeRunner
from edgead.runtime.report import StationReport
from edgead.runtime.stations import run_station
from edgead.thresholds import Threshold

pytest.importorskip("fastapi", reason="the page needs fastapi: pip install '.[page]'")
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

THRESHOLD = Threshold(0.5, 0.75, "part", 2000, 0.95, 3000, 1000, 1500, "by hand")


class Running:
    """A station in a thread, with a page."""

    def __init__(self, folder: Path, parts: int, takt_ms: float, **page: Any) -> None:
        self.port = free_port()
        self.reports: list[StationReport] = []
        config = {
            "name": "line-1",
            "bundle": "b",
            "output": str(folder / "out"),
            "takt_ms": takt_ms,
            "cameras": [{"name": "a", "uri": f"sim://ceramic_tile?parts={parts}&size=32"}],
            "page": {"port": self.port, **page},
        }
        self._config = StationConfig.model_validate(config)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.reports.append(run_station(self._config, runner=FakeRunner((16, 16)), threshold=THRESHOLD))

    def metrics(self) -> dict[tuple[str, str], float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return {
            (sample.name, sample.labels.get("outcome", "")): sample.value
            for family in families
            for sample in family.samples
        }

    def answers(self) -> bool:
        try:
            return bool(self.metrics())
        except (urllib.error.URLError, ConnectionError):
            return False


def test_the_page_shows_what_the_station_has_judged(tmp_path: Path) -> None:
    running = Running(tmp_path, parts=60, takt_ms=100)
    wait_until(running.answers)
    wait_until(lambda: running.metrics()["edgead_triggers_total", ""] > 5)
    events: list[dict[str, Any]] = []
    tiles, last = 0, {}
    with suppress(ConnectionClosed), connect(f"ws://127.0.0.1:{running.port}/ws", max_size=None) as client:
        while True:
            message = client.recv(20)
            assert isinstance(message, bytes)
            said = json.loads(message[4 : 4 + int.from_bytes(message[:4], "big")])
            events += said["verdicts"]
            tiles += len(said["tiles"])
            last = said["numbers"]
            assert last["unaccounted"] == 0
            client.send("a")
    running.thread.join(30)
    (report,) = running.reports
    lines = (tmp_path / "out" / "verdicts.ndjson").read_text().splitlines()
    assert [event["event_id"] for event in events] == [json.loads(line)["event_id"] for line in lines]
    assert tiles > 5
    assert last["ended"] == "ended", "the last word is that the station has ended"
    assert last["triggers"] == report.triggers == 60
    assert last["counts"] == dict(report.verdicts)
    assert not running.answers(), "the page goes with its station"


def test_a_page_that_is_killed_does_not_stop_its_station(tmp_path: Path) -> None:
    running = Running(tmp_path, parts=30, takt_ms=100)
    wait_until(running.answers)
    ours = {int(entry) for entry in os.listdir("/proc") if entry.isdecimal() and is_child_page(int(entry))}
    assert len(ours) == 1
    os.kill(ours.pop(), signal.SIGKILL)
    running.thread.join(60)
    (report,) = running.reports
    assert report.triggers == 30
    assert report.is_conserved
    assert len((tmp_path / "out" / "verdicts.ndjson").read_text().splitlines()) == 30


def is_child_page(pid: int) -> bool:
    """Tell whether a process is a page that this process has started."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return False
    return b"edgead.web.process" in words and parent == os.getpid()


def test_a_station_whose_page_cannot_be_shown_does_not_begin(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = StationConfig.model_validate(
            {
                "bundle": "b",
                "output": str(tmp_path / "out"),
                "cameras": [{"name": "a", "uri": "sim://ceramic_tile?parts=2&size=32"}],
                "page": {"port": port},
            }
        )
        with pytest.raises(ConfigError, match=rf"cannot be served at 127\.0\.0\.1:{port}; take another port"):
            run_station(config, runner=FakeRunner((16, 16)), threshold=THRESHOLD)
    assert f"page: 127.0.0.1:{port} cannot be listened on (Address already in use)" in capfd.readouterr().err
