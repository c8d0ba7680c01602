"""The outbox: each verdict is on the disk before any output hears of it, and stays until all of them have it.

Two SQLite files in the folder ``outbox``: the station alone writes ``events.sqlite``, the process that delivers alone
writes ``delivered.sqlite``; so neither ever waits for the other, even if it hangs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgead.errors import ConfigError, DataError
from edgead.output_config import OutboxConfig
from edgead.runtime.events import Event

FOLDER = "outbox"
EVENTS = "events.sqlite"
DELIVERED = "delivered.sqlite"
_GATHER_S = 0.005  # least time between two commits: under load, what came meanwhile shares one
_HELD = 10_000  # verdicts that may wait in memory while the disk takes none
_TIDY_S = 2.0
_CHUNK = 5_000  # rows deleted at once: tens of milliseconds
_MIB = 1 << 20
_BUSY_S = 5.0

_EVENTS_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outputs (name TEXT PRIMARY KEY, since INTEGER NOT NULL, dropped INTEGER NOT NULL DEFAULT 0);
"""
_DELIVERED_SCHEMA = """
CREATE TABLE IF NOT EXISTS outputs (name TEXT PRIMARY KEY, cursor INTEGER NOT NULL DEFAULT 0,
    delivered INTEGER NOT NULL DEFAULT 0, refused INTEGER NOT NULL DEFAULT 0, errors INTEGER NOT NULL DEFAULT 0,
    last_error TEXT NOT NULL DEFAULT '');
"""


class Progress(NamedTuple):
    """How far an output has come: all up to ``cursor`` is settled; counts are of all runs."""

    cursor: int = 0
    delivered: int = 0
    refused: int = 0
    errors: int = 0
    last_error: str = ""


class Outbox:
    """The station's side of the outbox.

    Args:
        folder: made where it is missing.
        outputs: names of the outputs; a new one gets the verdicts from now on.

    Raises:
        ConfigError: the folder cannot be written, is no outbox, or another station has it.
    """

    def __init__(self, folder: Path, config: OutboxConfig, outputs: Sequence[str]) -> None:
        self.folder = folder
        self.path = folder / EVENTS
        self.problems: list[str] = []
        self._config = config
        self._outputs = tuple(outputs)
        self._held: list[Event] = []
        self._committed_s = self._tidied_s = 0.0
        with contextlib.ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._lock = lock(folder / "station.lock", wait_s=0)
                stack.callback(os.close, self._lock)
                self._events = connect(self.path, synchronous="FULL")
                stack.callback(self._events.close)
                with self._events:
                    self._events.executescript(f"BEGIN IMMEDIATE;{_EVENTS_SCHEMA}")
                    self._register()
                self._forget_another()
            except BlockingIOError as error:
                raise ConfigError(f"{folder}: another station has it; give each its own output") from error
            except OSError as error:
                raise ConfigError(
                    f"{folder}: cannot be written ({error.strerror}); choose a writable folder"
                ) from error
            except sqlite3.Error as error:
                raise ConfigError(f"{folder}: cannot be written as an outbox ({error}); move it away") from error
            stack.pop_all()

    @property
    def held(self) -> int:
        """Return how many verdicts wait in memory because the disk takes none."""
        return len(self._held)

    @property
    def is_overfull(self) -> bool:
        """Tell whether so many wait that the station has to stop."""
        return len(self._held) >= _HELD

    def write(self, events: Sequence[Event]) -> None:
        """Put events on the disk, with those that an earlier call could not.

        Raises:
            DataError: the disk is full or gone; they wait in memory for the next call.
        """
        self._held.extend(events)
        if not self._held:
            return
        time.sleep(max(0.0, self._committed_s + _GATHER_S - time.monotonic()))
        self._committed_s = time.monotonic()
        rows = [(event.event_id, event.text) for event in self._held]
        try:
            with self._events:
                self._events.executemany("INSERT OR IGNORE INTO events (event_id, body) VALUES (?, ?)", rows)
            self._held.clear()
            if self._committed_s - self._tidied_s > _TIDY_S:
                self._tidied_s = self._committed_s
                self._tidy()
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._events.rollback()
            raise DataError(
                f"{self.path}: cannot be written ({error}); verdicts wait in memory: free the disk"
            ) from error

    def close(self) -> int:
        """Close the files; twice is allowed.

        Returns:
            How many verdicts could not be saved; they are on stderr.
        """
        if self._lock < 0:
            return 0
        with contextlib.suppress(DataError):  # what is left says so itself
            self.write(())
        lost = len(self._held)
        sys.stderr.write("".join(f"{event.text}\n" for event in self._held))
        self._held.clear()
        self._events.close()
        os.close(self._lock)
        self._lock = -1
        return lost

    def pending(self, progress: dict[str, Progress]) -> dict[str, int]:
        """Count by output the events that are not yet settled."""
        since = dict(self._events.execute("SELECT name, since FROM outputs"))
        count = "SELECT count(*) FROM events WHERE seq > ?"
        cursors = {name: max(since[name], progress.get(name, Progress()).cursor) for name in self._outputs}
        return {name: int(self._events.execute(count, (at,)).fetchone()[0]) for name, at in cursors.items()}

    def dropped(self) -> dict[str, int]:
        """Count by output the events that went undelivered for want of room, over all runs."""
        return dict(self._events.execute("SELECT name, dropped FROM outputs"))

    def _register(self) -> None:
        """Enter new outputs, and take out those that are no longer wanted, saying so."""
        last = self._last()
        before = {str(name) for (name,) in self._events.execute("SELECT name FROM outputs")}
        for name in before.difference(self._outputs):
            self._events.execute("DELETE FROM outputs WHERE name = ?", (name,))
            self.problems.append(f"output '{name}' is no longer in station.yaml: what it has not got, it will not get")
        for name in set(self._outputs) - before:
            self._events.execute("INSERT INTO outputs (name, since) VALUES (?, ?)", (name, last))

    def _forget_another(self) -> None:
        """Remove notes on what was delivered of events that are no longer here: new ones would count as delivered."""
        last = self._last()
        if any(progress.cursor > last for progress in read_progress(self.folder).values()):
            self.problems.append(f"{self.path} is a new one: {DELIVERED} was of another and is forgotten")
            for ending in ("", "-wal", "-shm"):
                (self.folder / f"{DELIVERED}{ending}").unlink(missing_ok=True)

    def _last(self) -> int:
        row = self._events.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return int(row[0]) if row else 0

    def _tidy(self) -> None:
        """Delete what all outputs have, but for the last ones; and the oldest of all where there is no room."""
        progress = read_progress(self.folder)
        since = dict(self._events.execute("SELECT name, since FROM outputs"))
        cursors = {name: max(since[name], progress.get(name, Progress()).cursor) for name in self._outputs}
        settled = min(min(cursors.values()), self._last() - self._config.keep)
        with self._events:
            chunk = "SELECT seq FROM events WHERE seq <= ? ORDER BY seq LIMIT ?"
            self._events.execute(f"DELETE FROM events WHERE seq IN ({chunk})", (settled, _CHUNK))
        while self._bytes() > self._config.limit_mib * _MIB:
            with self._events:
                seqs = [seq for (seq,) in self._events.execute(chunk, (self._last(), _CHUNK))]
                if not seqs:
                    break
                self._events.execute("DELETE FROM events WHERE seq <= ?", (seqs[-1],))
                for name, cursor in cursors.items():
                    late = sum(seq > cursor for seq in seqs)
                    self._events.execute("UPDATE outputs SET dropped = dropped + ? WHERE name = ?", (late, name))

    def _bytes(self) -> int:
        pages, free, size = (
            int(self._events.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size


class Delivered:
    """The deliverer's side: what each output has settled."""

    def __init__(self, folder: Path, outputs: Sequence[str]) -> None:
        self._file = connect(folder / DELIVERED, synchronous="NORMAL")
        with self._file:
            self._file.executescript(f"BEGIN IMMEDIATE;{_DELIVERED_SCHEMA}")
            for name in outputs:
                self._file.execute("INSERT OR IGNORE INTO outputs (name) VALUES (?)", (name,))
                self._file.execute("UPDATE outputs SET last_error = '' WHERE name = ?", (name,))

    def write(self, name: str, progress: Progress) -> None:
        """Note how far an output has come."""
        with self._file:
            self._file.execute(
                "UPDATE outputs SET cursor=?, delivered=?, refused=?, errors=?, last_error=? WHERE name=?",
                (*progress, name),
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Backlog:
    """Reads what is to be delivered to one output."""

    def __init__(self, folder: Path) -> None:
        self._events = connect(folder / EVENTS, synchronous="FULL")
        self._events.execute("PRAGMA query_only = ON")

    def since(self, name: str) -> int:
        """Return the last event before an output was entered."""
        row = self._events.execute("SELECT since FROM outputs WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def after(self, seq: int, most: int) -> list[tuple[int, str, str]]:
        """Return (seq, event_id, body) of the next events."""
        wanted = "SELECT seq, event_id, body FROM events WHERE seq > ? ORDER BY seq LIMIT ?"
        return self._events.execute(wanted, (seq, most)).fetchall()

    def close(self) -> None:
        """Close the file."""
        self._events.close()


def read_progress(folder: Path) -> dict[str, Progress]:
    """Return by output how far it has come; empty where nothing was ever delivered."""
    path = folder / DELIVERED
    if not path.exists():
        return {}
    with contextlib.closing(connect(path, synchronous="NORMAL")) as file:
        file.execute("PRAGMA query_only = ON")
        try:
            rows = file.execute("SELECT name, cursor, delivered, refused, errors, last_error FROM outputs").fetchall()
        except sqlite3.OperationalError:  # just being made
            return {}
    return {name: Progress(*values) for name, *values in rows}


def connect(path: Path, *, synchronous: str) -> sqlite3.Connection:
    """Open a file in WAL mode; its user serialises the threads."""
    connection = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {16 * _MIB}")
    except BaseException:
        connection.close()
        raise
    return connection


def lock(path: Path, *, wait_s: float) -> int:
    """Lock a file for this process, until its descriptor is closed or the process dies.

    Raises:
        BlockingIOError: another process has it for longer than ``wait_s``.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    give_up_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() >= give_up_s:
                os.close(file)
                raise
            time.sleep(0.05)
