"""The station's side of its outputs: the outbox, and the process that delivers from it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from edgead.config import StationConfig
from edgead.errors import ConfigError, require
from edgead.output_config import OutputConfig
from edgead.runtime.events import Event
from edgead.runtime.outputs.deliver import END, NEW, NO_ROOM, ROOM, Task
from edgead.runtime.outputs.outbox import FOLDER, Outbox, Progress, read_progress
from edgead.runtime.outputs.recipe import recipe_of

_GRACE_S = 4.0  # beyond drain_s: the process starts, says good-bye, ends
_RESTART_S = (1.0, 60.0)  # first and longest wait between two starts of a process that dies
_LIBRARIES = {"mqtt": "paho.mqtt.client", "modbus": "pymodbus", "opcua": "asyncua"}


@dataclass(frozen=True)
class OutputReport:
    """What became of the verdicts on their way to one output, in this run.

    Attributes:
        delivered: acknowledged by the receiver.
        pending: in the outbox, still to be delivered: by the next run, if not by this one.
        refused: the receiver will not have them.
        dropped: gone from the outbox undelivered, because it was full.
        errors: attempts that failed, connections that were lost.
    """

    name: str
    kind: str
    delivered: int
    pending: int
    refused: int
    dropped: int
    errors: int
    last_error: str


class Feed:
    """Verdicts to all outputs of a station.

    Raises:
        ConfigError: the outbox cannot be written, or a file that an output needs cannot be read.
        MissingError: the library of an output is not installed.
    """

    def __init__(self, config: StationConfig) -> None:
        check(config.outputs)
        self.unsaved = 0
        self._outputs = config.outputs
        self._drain_s = config.outbox.drain_s
        names = [output.title for output in config.outputs]
        folder = (config.output / FOLDER).absolute()
        self._outbox = Outbox(folder, config.outbox, names)
        try:
            self._before = read_progress(folder), self._outbox.dropped()
        except sqlite3.Error as error:
            self._outbox.close()
            raise ConfigError(f"{folder}: {error}; free the disk, or move delivered.sqlite away") from error
        task = Task(
            folder=folder,
            station=config.name,
            recipe=recipe_of(config),
            outputs=config.outputs,
            drain_s=self._drain_s,
        )
        try:
            self._task = task.model_dump_json().encode() + b"\n"
        except ValueError as error:
            self._outbox.close()
            raise ConfigError(f"{str(folder)!r} or a file of an output is no UTF-8; choose another path") from error
        self._reports: tuple[OutputReport, ...] = ()
        self._doubt = ""
        self._started_s = 0.0
        self._restarts, self._pause_s = 0, _RESTART_S[0]
        self._has_room, self._is_room_shown = True, any(output.modbus is not None for output in config.outputs)
        self._process = self._start()

    @property
    def problems(self) -> list[str]:
        """Return what the report has to say, one line each."""
        restarted = [f"the process that delivers died and was started again {self._restarts} times"]
        unsaved = [f"{self.unsaved} verdicts are not in the outbox but on stderr: {self._outbox.path} was not writable"]
        dropped = [
            f"output '{one.name}' has lost {one.dropped} verdicts: {self._outbox.path} was full (outbox.limit_mib)"
            for one in self._reports
            if one.dropped
        ]
        return [
            *self._outbox.problems,
            *[self._doubt] * bool(self._doubt),
            *restarted * bool(self._restarts),
            *unsaved * bool(self.unsaved),
            *dropped,
        ]

    @property
    def is_overfull(self) -> bool:
        """Tell whether the disk has taken nothing for so long that the station has to stop."""
        return self._outbox.is_overfull

    def write(self, events: Sequence[Event]) -> None:
        """Put events into the outbox, then tell the process that delivers; never waits for a network.

        Raises:
            DataError: the disk is full or gone; the events wait in memory for the next call.
        """
        self._outbox.write(events)
        self._tell(NEW)

    def show_room(self, has_room: bool) -> None:
        """Tell the outputs whether there is room for one more part; waits for nothing, and any thread may call."""
        if has_room is not self._has_room and self._is_room_shown:
            self._has_room = has_room
            assert self._process.stdin is not None
            with contextlib.suppress(OSError, ValueError):  # a process that has died is told when it is started again
                os.write(self._process.stdin.fileno(), ROOM if has_room else NO_ROOM)

    def reports(self) -> tuple[OutputReport, ...]:
        """Return how each output stands; after ``close``, how it stood then."""
        return self._reports or self._stand()

    def close(self) -> None:
        """Let the outputs catch up for ``drain_s`` at most, and end their process; twice is allowed."""
        if self._reports:
            return
        if self._process.poll() is not None:
            self._restart()
        self._tell(END)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(self._drain_s + _GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reports = self._stand()
        self.unsaved = self._outbox.close()

    def _stand(self) -> tuple[OutputReport, ...]:
        try:
            now = read_progress(self._outbox.folder)
        except sqlite3.Error as error:  # a full disk: what is delivered is known again when there is room
            self._doubt = f"{self._outbox.folder}: what was delivered cannot be read ({error}); free the disk"
            now = self._before[0]
        dropped, pending = self._outbox.dropped(), self._outbox.pending(now)
        return tuple(self._report(output, now, dropped, pending) for output in self._outputs)

    def _report(
        self, output: OutputConfig, now: dict[str, Progress], dropped: dict[str, int], pending: dict[str, int]
    ) -> OutputReport:
        name = output.title
        after, before = now.get(name, Progress()), self._before[0].get(name, Progress())
        return OutputReport(
            name=name,
            kind=output.kind,
            delivered=after.delivered - before.delivered,
            pending=pending[name] + self._outbox.held,
            refused=after.refused - before.refused,
            dropped=dropped[name] - self._before[1][name],
            errors=after.errors - before.errors,
            last_error=after.last_error,
        )

    def _start(self) -> subprocess.Popen[bytes]:
        self._started_s = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "edgead.runtime.outputs.deliver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(self._task + NO_ROOM * (not self._has_room))  # a pipe takes so much at once: 64 KiB
        os.set_blocking(process.stdin.fileno(), False)
        return process

    def _restart(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._restarts += 1
        self._process = self._start()

    def _tell(self, what: bytes) -> None:
        """Wake the process, or start it again if it has died; a full pipe means that it is awake anyway."""
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(BlockingIOError):
                os.write(self._process.stdin.fileno(), what)
        except BrokenPipeError:
            if time.monotonic() - self._started_s > self._pause_s:
                self._pause_s = min(2 * self._pause_s, _RESTART_S[1])
                self._restart()


def check(outputs: Sequence[OutputConfig]) -> None:
    """Hold that outputs have what they need on this machine; nothing is opened or written.

    Raises:
        ConfigError: a file that an output names cannot be read.
        MissingError: its library is not installed.
    """
    for output in outputs:
        if output.kind in _LIBRARIES:
            require(_LIBRARIES[output.kind], extra=output.kind)
        for path in output.files():
            try:
                path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"output '{output.title}': {path}: cannot be read ({error}); name a text file"
                ) from error
