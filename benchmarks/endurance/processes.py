"""Real processes, to be killed: stations with those that they start, and an MQTT broker."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgead.errors import GateError, MissingError

_SEARCHED = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"


class StationProcess:
    """``edgead stream``: a real one, to be killed.

    Attributes:
        output: its output folder.
    """

    def __init__(self, yaml: Path, output: Path) -> None:
        self.output = output
        self.stderr = yaml.with_suffix(".stderr")
        self._stdout = yaml.with_suffix(".json")
        with self.stderr.open("ab") as errors, self._stdout.open("wb") as answer:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgead", "stream", str(yaml), "--json"],
                stdout=answer,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def children(self) -> list[int]:
        """Return the processes that it has started: the one that delivers, the one that serves the page."""
        found: list[int] = []
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{self.process.pid}/task").iterdir():
                found += [int(word) for word in (task / "children").read_text().split()]
        return found

    def kill(self) -> None:
        """Kill it alone; those that it has started have to notice."""
        self.process.kill()
        self.process.wait()

    def kill_all(self) -> None:
        """Kill it and all that it has started, as when a service manager loses its patience."""
        children = self.children()
        self.process.kill()
        for child in children:
            kill(child)
        self.process.wait()

    def stop(self, within_s: float = 120) -> dict[str, Any]:
        """Ask it to end, and return its report.

        Raises:
            GateError: it does not end, or fails.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.report(within_s)

    def report(self, within_s: float) -> dict[str, Any]:
        """Wait for its end, and return its report.

        Raises:
            GateError: it does not end, or fails.
        """
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired as error:
            self.kill_all()
            raise GateError(f"the station did not end within {within_s:g} s; see {self.stderr}") from error
        if code:
            raise GateError(f"the station ended with {code}: {last_line(self.stderr)}")
        report: dict[str, Any] = json.loads(self._stdout.read_text())
        return report


class Broker:
    """A mosquitto of its own. Nothing that it has acknowledged depends on its disk: see the settings.

    Raises:
        MissingError: mosquitto is not installed.
    """

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("mosquitto", path=_SEARCHED)
        if binary is None:
            raise MissingError("mosquitto is not installed; apt-get install mosquitto")
        folder.mkdir()
        self.port = free_port()
        settings = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", "user root"]
        # Handed to the subscriber before it is acknowledged: a SIGKILL then finds it in a socket, not in a queue.
        settings += ["max_inflight_messages 0", "max_queued_messages 0"]
        settings += ["persistence true", f"persistence_location {folder}/"]
        (folder / "mosquitto.conf").write_text("\n".join(settings) + "\n")
        self._command = [binary, "-c", str(folder / "mosquitto.conf")]
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._answers, "mosquitto to answer")

    def save(self) -> None:
        """Write subscriptions to the disk, so that they outlive a kill."""
        self.process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise GateError(f"mosquitto ended with {self.process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


def memory_mib(pid: int) -> float | None:
    """Return the memory of a process that is in RAM; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/status").read_text().split()
        return int(fields[fields.index("VmRSS:") + 1]) / 1024
    except (OSError, ValueError):
        return None


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(happened: Callable[[], object], what: str, within_s: float = 60) -> None:
    """Wait for something.

    Raises:
        GateError: it does not happen.
    """
    give_up_s = time.monotonic() + within_s
    while not happened():
        if time.monotonic() > give_up_s:
            raise GateError(f"waited {within_s:g} s for {what}")
        time.sleep(0.05)


def kill(pid: int) -> None:
    """Kill a process that may have ended by itself."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def last_line(path: Path) -> str:
    """Return the last line of a file that is not empty."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
