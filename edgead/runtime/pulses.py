"""Which pulse of the line a frame belongs to: what a camera that misses a pulse does not say by itself.

A camera that is triggered while it is busy gives no frame for the pulse, and numbers the next frame as if there had
been none. So pulses are counted by the camera, where it has a counter, or by the clock, where the line has a period.
"""

from __future__ import annotations

import threading

_FOLLOW = 0.25  # share of a pulse's deviation by which the expected times move
_STOPPED = 10  # periods without any pulse after which the line has been stopped


class LineClock:
    """Number the pulses of a line by when they came; shared by the cameras of a station that it triggers.

    It holds while pulses come within half a period of their time; slow drift is followed. A line that stood still goes
    on with the next number, whenever that is.
    """

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self._lock = threading.Lock()
        self._due_s: float | None = None  # when the last pulse was due
        self._number = 0

    def number(self, at_s: float, *, was_away: bool) -> tuple[int, float]:
        """Return the number of the pulse at a time, from 0, and when it was due; below 0 before the first.

        Args:
            was_away: the camera that saw it was, so that pulses since the last may have been missed however many.
        """
        with self._lock:
            if self._due_s is None:
                self._due_s = at_s
            steps = round((at_s - self._due_s) / self.period_s)
            if steps < 1:  # another camera saw it before
                return self._number + steps, self._due_s + steps * self.period_s
            if steps > _STOPPED and not was_away:
                steps, self._due_s = 1, at_s
            else:
                due_s = self._due_s + steps * self.period_s
                self._due_s = due_s + _FOLLOW * (at_s - due_s)
            self._number += steps
            return self._number, self._due_s


class ByClock:
    """Number the frames of one camera by when they were taken; one sooner than its pulse has none of its own."""

    def __init__(self, clock: LineClock) -> None:
        self._clock = clock
        self._later_s: float | None = None  # than the pulse is a frame of this camera
        self._last = -1

    def number(self, captured_s: float, *, was_away: bool = False) -> int | None:
        """Return the number of the pulse of a frame, from 0; None when none was due."""
        number, due_s = self._clock.number(captured_s - (self._later_s or 0.0), was_away=was_away)
        if number <= self._last:
            return None
        if self._later_s is None:
            self._later_s = captured_s - due_s
        self._last = number
        return number


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
