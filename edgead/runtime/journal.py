"""The trigger journal: which parts a killed station still owes a verdict.

A small file in the output folder, mapped into memory. It survives a SIGKILL, because its pages belong to the system; a
loss of power may take its last moments, because nothing waits for the disk. It also is the lock that keeps a second
station out of the folder. ``recovery`` settles what it says.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from edgead.errors import ConfigError

NAME = "triggers.journal"
WINDOW = 1 << 14  # more than the parts in flight and the verdicts that may wait before a station stops; 256 KiB
_MAGIC = int.from_bytes(b"EDGEADJ1", "little")
_PAGE = 4096
_WORDS = ("magic", "window", "ended", "bytes", "crc", "forgotten")  # of 8 bytes; then the notes, then the triggers
_ENDED, _FORGOTTEN = _WORDS.index("ended"), _WORDS.index("forgotten")
_NOTES = 64
_OPEN, _PUBLISHED, _SAID = 1, 2, 3  # the two lowest bits of a trigger's word; above them its number + 1
_LOCK_S = 1.0  # a station that was just killed may still be on its way out


class Notes(BaseModel):
    """What the next run has to know of this one.

    Attributes:
        constant: fields that all events of the run have in common: station, artefact, thresholds.
        missing: "VIEW/ILLUMINATION" of all frames of a part.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str = Field(pattern=r"^[0-9a-f]{12}$")
    constant: dict[str, JsonValue]
    missing: tuple[str, ...]


class Unsettled(NamedTuple):
    """A trigger whose verdict was not yet published; ``is_said`` if it was said on stderr, so that it has one."""

    trigger: int
    triggered_s: float  # wall clock
    is_said: bool


class Dead(NamedTuple):
    """The run that had the journal before: whether it came to its end, and what it left unsettled."""

    notes: Notes
    has_ended: bool
    unsettled: list[Unsettled]


class Journal:
    """The journal of one station: opened, begun when ``earlier`` is settled, closed.

    ``triggered`` is called under the station's lock, ``published`` and ``said`` by the thread that feeds the sinks.

    Args:
        folder: the station's output folder, made where it is missing.
        window: triggers that may be unsettled at a time.

    Attributes:
        earlier: the run before; None where there was none, or where it cannot be read.
        problems: one line each, for the report.

    Raises:
        ConfigError: another station has the folder, or it cannot be written.
    """

    def __init__(self, folder: Path, *, window: int = WINDOW) -> None:
        self.path = folder / NAME
        self.earlier: Dead | None = None
        self.problems: list[str] = []
        self._window = window
        self._file = -1
        self._head: memoryview[int] | None = None
        self._words: memoryview[int]
        self._times: memoryview[float]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._locked()
            self._read()
        except BlockingIOError as error:
            self.close()
            raise ConfigError(f"{folder}: another station has it; give each its own output") from error
        except OSError as error:
            self.close()
            raise ConfigError(
                f"{self.path}: cannot be written ({error.strerror}); choose a writable output folder"
            ) from error

    def begin(self, run: str, *, constant: Mapping[str, JsonValue], missing: Sequence[str]) -> None:
        """Forget the earlier run, whose verdicts are written by now, and begin to note this one; see ``Notes``.

        Where the disk has no room for it, the run goes on without: ``problems`` says so.
        """
        notes = Notes(run=run, constant=dict(constant), missing=tuple(missing)).model_dump_json().encode()
        header = _header(len(notes))
        size = header + 16 * self._window
        try:
            os.pwrite(self._file, bytes(_NOTES), 0)  # until it has its magic number, it is an empty one
            os.ftruncate(self._file, 0)
            os.posix_fallocate(self._file, 0, size)  # a hole that finds no room later would kill the station
            content = mmap.mmap(self._file, size)
        except OSError as error:
            self.problems.append(
                f"{self.path}: cannot be written ({error.strerror}); free the disk: if this run is killed, the parts "
                "that it then has in work are not accounted for"
            )
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
            content = mmap.mmap(-1, size)
        content[_NOTES : _NOTES + len(notes)] = notes
        self._words = memoryview(content)[header:].cast("Q")
        self._times = memoryview(content)[header:].cast("d")
        self._head = memoryview(content)[:_NOTES].cast("Q")
        for name, value in (("window", self._window), ("bytes", len(notes)), ("crc", zlib.crc32(notes))):
            self._head[_WORDS.index(name)] = value
        self._head[0] = _MAGIC
        self.earlier = None

    def triggered(self, trigger: int) -> None:
        """Note a trigger, before anything is done about it."""
        place = 2 * (trigger % self._window)
        if self._words[place] & 3 == _OPEN and self._head is not None:
            self._head[_FORGOTTEN] += 1
        self._times[place + 1] = time.time()
        self._words[place] = (trigger + 1) << 2 | _OPEN  # one store: a kill leaves the old word or the new one

    def published(self, triggers: Iterable[int]) -> None:
        """Note that the verdicts on these triggers are in the outbox, where there is one, and in the verdict file."""
        self._settle(triggers, _PUBLISHED)

    def said(self, triggers: Iterable[int]) -> None:
        """Note that these verdicts could only be said on stderr: the next run looks for them, and makes up none."""
        self._settle(triggers, _SAID)

    def close(self) -> None:
        """Note that the run has ended, and let the folder go; twice is allowed."""
        if self._file < 0:
            return
        if self._head is not None:
            self._head[_ENDED] = 1
        elif not os.fstat(self._file).st_size:  # a station that did not start leaves nothing behind
            with contextlib.suppress(OSError):
                self.path.unlink()
        fcntl.flock(self._file, fcntl.LOCK_UN)  # closing would not do: the map holds the file open
        os.close(self._file)
        self._file = -1

    def _settle(self, triggers: Iterable[int], how: int) -> None:
        words, window = self._words, self._window
        for trigger in triggers:
            place, word = 2 * (trigger % window), (trigger + 1) << 2
            if words[place] == word | _OPEN:
                words[place] = word | how

    def _locked(self) -> int:
        """Open the file and lock it; a thing of another kind in its place is moved aside."""
        give_up_s = time.monotonic() + _LOCK_S
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(self.path).st_mode):
                self._move_aside("no file")
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file), os.lstat(self.path)):
                    return file
                os.close(file)  # who had it has just removed it
            except FileNotFoundError:
                os.close(file)
            except OSError as error:
                os.close(file)
                if not isinstance(error, BlockingIOError) or time.monotonic() >= give_up_s:
                    raise
                time.sleep(0.05)

    def _read(self) -> None:
        """Read what the earlier run left; what is no journal is moved aside."""
        content = os.pread(self._file, os.fstat(self._file).st_size, 0)
        if not content[:8].strip(b"\0"):  # new, or its run was killed before its first trigger
            return
        try:
            self.earlier, unreadable = parse(content)
        except ValueError as error:
            self._move_aside(str(error))
            held, self._file = self._file, self._locked()
            os.close(held)
            return
        if unreadable:
            self.problems.append(f"{self.path}: {unreadable} triggers of the run before cannot be read in it")

    def _move_aside(self, reason: str) -> None:
        number = 1
        while os.path.lexists(aside := self.path.with_name(f"{NAME}.bad-{number}")):
            number += 1
        self.path.rename(aside)
        self.problems.append(
            f"{self.path}: no whole journal ({reason}); moved to {aside.name}: had its run been killed, the parts that "
            "it then had in work are not accounted for"
        )


def parse(content: bytes) -> tuple[Dead, int]:
    """Read a journal.

    Returns:
        Its run, and how many triggers cannot be read.

    Raises:
        ValueError: it is no whole journal.
    """
    if len(content) < _PAGE:
        raise ValueError(f"{len(content)} bytes")
    magic, window, ended, length, crc, forgotten = memoryview(content)[: 8 * len(_WORDS)].cast("Q")
    header = _header(length)
    if magic != _MAGIC or not window or len(content) != header + 16 * window:
        raise ValueError("its beginning or its length")
    text = content[_NOTES : _NOTES + length]
    if zlib.crc32(text) != crc:
        raise ValueError("its checksum")
    try:
        notes = Notes.model_validate_json(text)
    except ValidationError as error:
        raise ValueError("its notes") from error
    words, times = memoryview(content)[header:].cast("Q"), memoryview(content)[header:].cast("d")
    unsettled, unreadable = [], forgotten
    for place in range(window):
        number, how = divmod(words[2 * place], 4)
        if not words[2 * place]:
            continue
        if not how or not number or (number - 1) % window != place:
            unreadable += 1
        elif how != _PUBLISHED:
            at_s = times[2 * place + 1]
            unsettled.append(Unsettled(number - 1, at_s if 0 < at_s < 1e11 else time.time(), how == _SAID))
    return Dead(notes, bool(ended), sorted(unsettled)), unreadable


def _header(length: int) -> int:
    """Return where the triggers begin after notes of a length."""
    return -(-(_NOTES + length) // _PAGE) * _PAGE
