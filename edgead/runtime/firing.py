"""Triggers of the station's clock on their way to a camera that takes its frames when it is asked."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple


class Fired(NamedTuple):
    """A trigger that the camera is to take.

    Attributes:
        fired_s: monotonic clock.
        overrun: triggers before it that the camera was too slow to take.
    """

    trigger: int
    fired_s: float
    overrun: int


class Firing:
    """One place for a trigger to wait: a newer one takes it, for a frame taken late would show another part."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: tuple[int, float] | None = None
        self._overrun = 0
        self._stopped = False

    def fire(self, trigger: int) -> None:
        """Put a trigger there; from any thread."""
        with self._changed:
            if self._waiting is not None:
                self._overrun += 1
            self._waiting = (trigger, time.monotonic())
            self._changed.notify_all()

    def stop(self) -> None:
        """Wake a ``take`` that waits, which returns None like all later ones."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def take(self) -> Fired | None:
        """Wait for a trigger, as long as it takes; None when stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._waiting is not None)
            if self._stopped or self._waiting is None:
                return None
            fired, self._waiting = Fired(*self._waiting, self._overrun), None
            self._overrun = 0
            return fired
