"""What clients do wrong, in one line now and then: libraries of servers log a traceback for each malformed message."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_NOTE_S = 5.0
_SHOWN = 120


class Complaints(logging.Handler):
    """Takes the log of a library, and counts.

    Args:
        logger: name of the library's logger; its records go nowhere else from now on.
        where: the address that clients connect to.
        note: takes the line.
    """

    def __init__(self, logger: str, where: str, note: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._where, self._note = where, note
        self._count, self._last_s = 0, -_NOTE_S
        self._has_begun = False
        self._logger = logging.getLogger(logger)
        self._logger.propagate = False
        self._logger.addHandler(self)

    def begin(self) -> None:
        """Count from now on; what is said before is about the start, and its error says it."""
        self._has_begun = True

    def emit(self, record: logging.LogRecord) -> None:
        """Count a record."""
        self.count(record.getMessage())

    def count(self, what: str) -> None:
        """Count something that was refused, and note it if nothing was lately."""
        if not self._has_begun:
            return
        self._count += 1
        now_s = time.monotonic()
        if now_s - self._last_s >= _NOTE_S:
            self._last_s = now_s
            said = " ".join(what.split())[:_SHOWN]
            self._note(f"{self._where}: {self._count} messages of clients refused so far, this one: {said}")

    def end(self) -> None:
        """Leave the library's logger alone again."""
        self._logger.removeHandler(self)
