"""Where verdicts go: one JSON line each, and pictures of NG parts."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import zlib
from collections import deque
from collections.abc import Sequence
from datetime import date, datetime, timezone
from pathlib import Path

from edgead.config import PicturesConfig, StationConfig
from edgead.errors import ConfigError, DataError
from edgead.images import overlay, write_png
from edgead.runtime.events import Event
from edgead.runtime.fusion import Judge
from edgead.runtime.parts import Evidence, Outcome, PartVerdict

LOG_NAME = "verdicts.ndjson"
PICTURES_NAME = "pictures"
_MIB = 1 << 20
_ROLLED = re.compile(r"verdicts-\d{6,}\.ndjson")
_DATE = re.compile(rb'"time": "(\d{4}-\d\d-\d\d)T')
_PICTURE = re.compile(r"[0-9a-f]+-\d+_.*_(image|overlay)\.png")
_HALF = re.compile(rf"\.{_PICTURE.pattern}\.tmp")  # of a run that was killed
_NAME_BYTES = 50  # three of them, and what tells them apart, stay below the 255 of file systems


class VerdictLog:
    """NDJSON: one line a verdict, appended whole or not at all, on its way to the disk when ``write`` returns.

    Args:
        config: its output folder gets the file ``verdicts.ndjson``; earlier lines are kept.

    Attributes:
        removed: rolled files that went to keep within ``sinks.roll.keep_mib``.

    Raises:
        ConfigError: the folder cannot be written.
    """

    def __init__(self, config: StationConfig) -> None:
        self.path = config.output / LOG_NAME
        self.removed = 0
        self._roll = config.sinks.roll
        try:
            config.output.mkdir(parents=True, exist_ok=True)
            self._open()
            self._make_room()
        except OSError as error:
            raise ConfigError(f"{_cannot(self.path, error)}; choose a writable output folder") from error

    @property
    def problems(self) -> list[str]:
        """Return what the report has to say, one line each."""
        gone = f"{self.removed} of the oldest verdict files are gone (sinks.roll.keep_mib {self._roll.keep_mib})"
        return [gone] if self.removed else []

    def write(self, events: Sequence[Event]) -> None:
        """Append verdicts.

        Raises:
            DataError: the disk is full or gone; the file ends with a whole line; later verdicts go to stderr.
        """
        lines = "".join(f"{event.text}\n" for event in events).encode()
        written = 0
        try:
            if self._is_due(len(lines)):
                self._begin_anew()
            while written < len(lines):
                written += os.write(self._file, lines[written:])
        except OSError as error:
            whole = lines.rfind(b"\n", 0, written) + 1
            if written > whole:
                with contextlib.suppress(OSError):  # such as a disk that is suddenly read-only
                    os.ftruncate(self._file, self._end + whole)
            self._end += whole
            sys.stderr.write(lines[whole:].decode())
            raise DataError(
                f"{_cannot(self.path, error)}; verdicts from then on are on stderr: free the disk and start again"
            ) from error
        self._end += written

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._end = os.fstat(self._file).st_size  # one station a folder, so that nobody else appends
        self._begun = _today()
        if self._end and self._roll.days is not None:
            with self.path.open("rb") as file:
                found = _DATE.search(file.readline())
            self._begun = date.fromisoformat(found[1].decode()) if found else self._begun

    def _is_due(self, more: int) -> bool:
        """Tell whether what comes belongs into a new file."""
        mib, days = self._roll.mib, self._roll.days
        is_large = mib is not None and self._end + more > mib * _MIB
        today = _today()
        self._begun = min(self._begun, today)  # else a clock that was ahead would keep this file for years
        is_old = days is not None and (today - self._begun).days >= days
        return self._end > 0 and (is_large or is_old)

    def _begin_anew(self) -> None:
        numbers = [int(path.stem.rpartition("-")[2]) for path in rolled(self.path.parent)]
        self.path.rename(self.path.with_name(f"verdicts-{max(numbers, default=0) + 1:06d}.ndjson"))
        self.close()
        self._open()
        self._make_room()

    def _make_room(self) -> None:
        if self._roll.keep_mib is None:
            return
        sizes = {path: path.stat().st_size for path in rolled(self.path.parent)}
        for path in list(sizes):
            if sum(sizes.values()) <= self._roll.keep_mib * _MIB:
                break
            path.unlink(missing_ok=True)
            del sizes[path]
            self.removed += 1

    def close(self) -> None:
        """Close the file; twice is allowed."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def rolled(folder: Path) -> list[Path]:
    """Return the files of earlier verdicts in an output folder, the oldest first."""
    found = [path for path in folder.glob("verdicts-*.ndjson") if _ROLLED.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem.rpartition("-")[2]))


def _today() -> date:
    return datetime.now(timezone.utc).date()


class Pictures:
    """Image and overlay of the NG frames of NG parts; the oldest go when there are too many or too large ones."""

    def __init__(self, folder: Path, config: PicturesConfig, *, run: str, judge: Judge) -> None:
        self.folder = folder / PICTURES_NAME
        self.written = self.removed = 0
        self._config = config
        self._run = run
        self._judge = judge
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.iterdir():
                if _HALF.fullmatch(path.name):
                    path.unlink()
            old = [path for path in self.folder.iterdir() if _PICTURE.fullmatch(path.name)]
            old_first = sorted((path.stat().st_mtime, path, path.stat().st_size) for path in old)
        except OSError as error:
            raise ConfigError(f"{_cannot(self.folder, error)}; choose a writable output folder") from error
        self._kept = deque((path, size) for _, path, size in old_first)
        self._bytes = sum(size for _, size in self._kept)
        try:
            self._trim()
        except OSError as error:
            raise ConfigError(f"{_cannot(self.folder, error)}; choose a writable output folder") from error

    def write(self, verdicts: Sequence[PartVerdict]) -> None:
        """Write the pictures of the NG parts among these.

        Raises:
            DataError: the folder cannot be written.
        """
        for verdict in verdicts:
            if verdict.outcome is Outcome.NG:
                for evidence in verdict.evidence:
                    self._draw(verdict, evidence)

    def _draw(self, verdict: PartVerdict, evidence: Evidence) -> None:
        part, view, light = map(_safe, (verdict.part or "", *evidence.slot))
        name = f"{self._run}-{verdict.trigger}_{part}_{view}+{light}"
        # The map from half the threshold up: what is wrong shines, and what is nearly wrong can be seen.
        limit = self._judge.limit(evidence.slot)
        low, high = limit / 2, max(limit, evidence.score)
        drawn = overlay(evidence.image, evidence.anomaly_map, low=low, high=high)
        for kind, picture in (("image", evidence.image), ("overlay", drawn)):
            path = self.folder / f"{name}_{kind}.png"
            try:
                write_png(path, picture)
            except DataError:
                with contextlib.suppress(OSError):
                    path.with_name(f".{path.name}.tmp").unlink(missing_ok=True)
                raise
            self.written += 1
            self._keep(path)

    def _keep(self, path: Path) -> None:
        try:
            size = path.stat().st_size
            self._kept.append((path, size))
            self._bytes += size
            self._trim()
        except OSError as error:
            raise DataError(_cannot(self.folder, error)) from error

    def _trim(self) -> None:
        while self._kept and (len(self._kept) > self._config.limit or self._bytes > self._config.limit_mib * _MIB):
            oldest, size = self._kept.popleft()
            self._bytes -= size
            oldest.unlink(missing_ok=True)
            self.removed += 1


def _safe(name: str) -> str:
    """Return a name as a piece of a file's name; two names that differ stay different."""
    plain = re.sub(r"[^\w.-]", "-", name).encode()[:_NAME_BYTES].decode(errors="ignore")
    return plain if plain == name else f"{plain}~{zlib.crc32(name.encode(errors='surrogatepass')):08x}"


def _cannot(path: Path, error: OSError) -> str:
    return f"{path}: cannot be written ({error.strerror})"
