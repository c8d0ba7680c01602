"""What a station does at its start about the parts that it had in work when it was killed.

Triggers that were noted in the journal and not published: their verdicts are taken from whichever of outbox and verdict
file has them, and given to the other; those that neither has become INCOMPLETE under their old event ids. So every
trigger has one verdict, and none is ever changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from edgead.errors import ConfigError, DataError
from edgead.runtime.events import SCHEMA, Event
from edgead.runtime.journal import WINDOW, Dead, Unsettled
from edgead.runtime.outputs import outbox
from edgead.runtime.sinks import LOG_NAME, rolled

KILLED, FAILED = "station killed", "station failed"  # reasons of an INCOMPLETE part
_ASKED = 500
_BLOCK = 1 << 20
_EVENT_ID = re.compile(rb'"event_id": "(([0-9a-f]{12})-\d+)"')


class Recovered(NamedTuple):
    """What was done about the triggers that an earlier run left unsettled.

    Attributes:
        completed: verdicts that one of outbox and verdict file had, and that the other one has now.
        incomplete: verdicts that neither had: INCOMPLETE.
        problem: a line for the report; empty where there was nothing to do.
    """

    completed: tuple[Event, ...] = ()
    incomplete: tuple[Event, ...] = ()
    problem: str = ""


def recover(
    folder: Path,
    earlier: Dead | None,
    write_log: Callable[[Sequence[Event]], None],
    write_outbox: Callable[[Sequence[Event]], None] | None,
) -> Recovered:
    """Settle what an earlier run left; may be killed and done again, and then comes to the same.

    Args:
        folder: the station's output folder.
        earlier: of its journal.
        write_log: ``VerdictLog.write``.
        write_outbox: ``Feed.write``; None where the station has no outputs.

    Raises:
        DataError: the outbox or the verdict file cannot be read or written.
    """
    if earlier is None or not earlier.unsettled:
        return Recovered()
    run = earlier.notes.run
    ids = {f"{run}-{one.trigger}": one for one in earlier.unsettled}
    in_outbox = _in_outbox(folder / outbox.FOLDER / outbox.EVENTS, list(ids))
    in_log = last_events(folder / LOG_NAME, run, set(ids))
    found = {event_id: Event(event_id, text) for event_id, text in {**in_log, **in_outbox}.items()}
    made = {
        event_id: Event(event_id, _incomplete(event_id, one, earlier))
        for event_id, one in ids.items()
        if event_id not in found and not one.is_said
    }
    events = [event for event_id in ids if (event := found.get(event_id) or made.get(event_id))]
    for_outbox = [event for event in events if event.event_id not in in_outbox]
    for_log = [event for event in events if event.event_id not in in_log]
    if write_outbox is not None and for_outbox:  # first, as always: what can be read in the file is never lost to it
        write_outbox(for_outbox)
    if for_log:
        write_log(for_log)
    moved = {event.event_id for event in (*for_log, *(for_outbox if write_outbox is not None else ()))}
    completed = tuple(found[event_id] for event_id in ids if event_id in moved and event_id in found)
    if not made and not completed:
        return Recovered()
    problem = (
        f"run {run} {'failed' if earlier.has_ended else 'was killed'}: {len(made)} of its parts are INCOMPLETE, "
        f"{len(completed)} of its verdicts were known to the outbox or to {LOG_NAME} only, and are with both now"
    )
    return Recovered(completed, tuple(made.values()), problem)


def cut_half_line(path: Path) -> None:
    """Take the half line off the end of a verdict file; a verdict that lacks nothing but its line end gets it.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose a writable output folder") from error
    try:
        size = os.fstat(file).st_size
        half = b""
        while len(half) < size and b"\n" not in half:
            first = max(0, size - len(half) - _BLOCK)
            half = os.pread(file, size - len(half) - first, first) + half
        half = half[half.rfind(b"\n") + 1 :]
        if half and _is_whole(half):
            os.pwrite(file, b"\n", size)
        elif half:
            os.ftruncate(file, size - len(half))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); free the disk") from error
    finally:
        os.close(file)


def last_events(path: Path, run: str, wanted: set[str], *, most: int = WINDOW) -> dict[str, str]:
    """Return by event id the wanted verdicts among the last ones of a run, in a verdict file or those before it.

    Args:
        path: the verdict file that is being written; those before it stand beside it.
        most: the lines of the run that are searched. Enough is the journal's window: after the first verdict that is
            in the file and not noted as published, none is.

    Raises:
        DataError: a file cannot be read.
    """
    found: dict[str, str] = {}
    seen = 0
    try:
        for line in _lines_backwards([*rolled(path.parent), path]):
            match = _EVENT_ID.search(line)
            if match is None:
                continue
            event_id, of_run = (group.decode() for group in match.groups())
            if of_run != run or seen == most or len(found) == len(wanted):
                break  # a folder has one run after the other
            seen += 1
            if event_id in wanted:
                found[event_id] = line.decode()
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read ({error.strerror}); move it away") from error
    return found


def _lines_backwards(paths: list[Path]) -> Iterator[bytes]:
    """Give the lines of files that follow each other, the last one first, reading no more than is asked for."""
    for path in reversed(paths):
        if not path.exists():
            continue
        with path.open("rb") as file:
            at = file.seek(0, os.SEEK_END)
            rest = b""
            while at:
                first = max(0, at - _BLOCK)
                file.seek(first)
                rest, *lines = (file.read(at - first) + rest).split(b"\n")
                at = first
                yield from reversed([line for line in lines if line])
            if rest:
                yield rest


def _is_whole(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _in_outbox(path: Path, event_ids: list[str]) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        with contextlib.closing(outbox.connect(path, synchronous="FULL")) as file:
            file.execute("PRAGMA query_only = ON")
            found: dict[str, str] = {}
            for first in range(0, len(event_ids), _ASKED):
                asked = event_ids[first : first + _ASKED]
                marks = ",".join("?" * len(asked))
                found |= dict(file.execute(f"SELECT event_id, body FROM events WHERE event_id IN ({marks})", asked))
            return found
    except sqlite3.Error as error:
        raise DataError(f"{path}: cannot be read ({error}); free the disk, or move it away") from error


def _incomplete(event_id: str, one: Unsettled, earlier: Dead) -> str:
    """Return the event of a part that was never judged, or whose verdict nobody has heard of."""
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "event_id": event_id,
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "trigger": one.trigger,
        "part": None,
        "verdict": "INCOMPLETE",
        "score": None,
        "worst": None,
        "frames": 0,
        "missing": list(earlier.notes.missing),
        "latency_ms": round(max(0.0, 1e3 * (time.time() - one.triggered_s)), 3),
        **earlier.notes.constant,
        "reason": FAILED if earlier.has_ended else KILLED,
    }
    return json.dumps(fields, allow_nan=False)
