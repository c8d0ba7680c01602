"""Which pulse of the line a frame belongs to: what a camera that misses a pulse does not say by itself.

A camera that is triggered while it is busy gives no frame for the pulse, and numbers the next frame as if there had
been none. So pulses are counted by the camera, where it has a counter, or by the clock, where the line has a period.
"""

from __future__ import annotations

import threading


class LineClock:
    """The time of the line's first pulse, shared by the cameras of a station that one line triggers."""

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self._lock = threading.Lock()
        self._first_s: float | None = None

    def first_s(self, now_s: float) -> float:
        """Return when the first pulse came, which is now if no camera has seen one before."""
        with self._lock:
            if self._first_s is None:
                self._first_s = now_s
            return self._first_s


class ByClock:
    """Number frames by when they were taken: k periods after the last one means that k - 1 pulses were missed.

    It holds while the pulses of one camera come within half a period of their time; slow drift is followed. A frame
    sooner than that has no pulse of its own.
    """

    _FOLLOW = 0.25  # share of a frame's deviation by which the expected times move

    def __init__(self, clock: LineClock) -> None:
        self._clock = clock
        self._due_s: float | None = None  # when the last pulse was due
        self._number = 0

    def number(self, captured_s: float) -> int | None:
        """Return the number of the pulse of a frame, from 0; None when none was due."""
        period_s = self._clock.period_s
        if self._due_s is None:
            first_s = self._clock.first_s(captured_s)
            number = round((captured_s - first_s) / period_s)
            if number < 0:
                return None
            self._due_s, self._number = captured_s, number
            return number
        steps = round((captured_s - self._due_s) / period_s)
        if steps < 1:
            return None
        due_s = self._due_s + steps * period_s
        self._due_s = due_s + self._FOLLOW * (captured_s - due_s)
        self._number += steps
        return self._number


class ByCounter:
    """Number frames by the camera's own count of pulses.

    Args:
        exact: the count belongs to the frame (a chunk). Otherwise it was read a little later: where it jumps, a pulse
            was missed before the frame or after it, so that the frame has no number; the next one has.
    """

    def __init__(self, *, exact: bool) -> None:
        self._exact = exact
        self._last: int | None = None
        self._base = 0  # count of pulse number 0
        self._doubtful = False  # the last frame had no number

    def start(self, count: int | None, following: int) -> None:
        """Note the count before the first frame of a connection, whose pulse is to have the number ``following``.

        A camera that has counted on while it was away keeps its numbers.
        """
        if self._last is not None and count is not None and count >= self._last:
            self._last, self._doubtful = count, False
            return
        self._last, self._doubtful = count, False
        if count is not None:
            self._base = count + 1 - following

    def number(self, count: int | None, following: int, skipped: int = 0) -> int | None:
        """Return the number of the pulse of a frame; None when it is in doubt.

        Args:
            count: what the camera has counted; None where it could not be read in time.
            following: number of the frame if no pulse was missed.
            skipped: frames known to have been lost on the way since the last one.
        """
        last = self._last
        if count is None:
            if last is not None:
                self._last = last + 1 + skipped
            return following + skipped
        if last is None or count < last or (count == last and not self._doubtful):  # the counter began anew
            self._last, self._doubtful = count, False
            self._base = count - following - skipped
            return following + skipped
        self._last = count
        expected = count - last == 1 + skipped or (self._doubtful and count == last)
        self._doubtful = not (self._exact or expected)
        return None if self._doubtful else max(following, count - self._base)
