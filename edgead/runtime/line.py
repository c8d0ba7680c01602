"""A station's share of the monitor: its triggers, its parts, its verdicts."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from edgead.errors import DataError
from edgead.images import AnomalyMap, Image
from edgead.runtime.frames import Frame
from edgead.runtime.fusion import Judge
from edgead.runtime.ledger import FrameTimes
from edgead.runtime.parts import Evidence, Parts, PartVerdict, Slot

_STUCK, _STUCK_S = 10_000, 5.0  # verdicts waiting for sinks that have taken none for so long


See = Callable[[int, Slot, float, Image, AnomalyMap], "Evidence | None"]


class Pacing(enum.Enum):
    """What triggers parts, and what happens when there is no room for one."""

    HELD = "held"  # recorded frames: the first of a part triggers it, and waits for room
    CLOCKED = "clocked"  # a clock, each takt; a part without room is rejected
    FREE = "free"  # live frames: the first of a part triggers it; a part without room is rejected


class Standing(NamedTuple):
    """The ledger of parts at a moment; ``triggers = open + sum(counts)``, and whether one more would be admitted."""

    triggers: int
    open: int
    counts: Mapping[str, int]
    unused_frames: int
    has_room: bool


class Line:
    """Made by ``Flow.line``. Methods that end with *the caller holds the lock* belong to the flow.

    Attributes:
        fire: called by the clock for each part that it admits, without the lock: cameras that the station triggers.
        triggered: called for each trigger, with the lock: it must not take long.
        see: called for each frame judged, by the engine's thread, with trigger, slot, score, image and anomaly map; the
            two are gone when it returns; what it returns is kept as evidence against the part.
    """

    def __init__(
        self,
        lock: threading.Lock,
        slots: Mapping[str, Sequence[Slot]],
        judge: Judge,
        *,
        capacity: int,
        pacing: Pacing,
        per_part: int,
    ) -> None:
        self.fire: Callable[[int], None] | None = None
        self.triggered: Callable[[int], None] | None = None
        self.see: See | None = None
        self._parts = Parts(slots, judge, capacity=capacity, per_part=per_part)
        self._pacing = pacing
        self._taken_s = time.monotonic()  # when the sinks last took verdicts
        self._live = set(slots)  # cameras that may still give frames
        self._lock = lock
        self._admitted = threading.Condition(lock)  # cameras wait: for room, or for their trigger
        self._decided = threading.Condition(lock)  # the sinks wait: for verdicts
        self._ended = threading.Condition(lock)  # the clock waits: for its next time, or for the end

    def is_live(self, camera: str | None = None) -> bool:
        """Tell whether frames of a camera, or of any, are still wanted."""
        return bool(self._live) if camera is None else camera in self._live

    def standing(self) -> Standing:
        """Return how the ledger of parts stands."""
        with self._lock:
            parts = self._parts
            counts = {outcome.value: count for outcome, count in parts.counts.items()}
            return Standing(parts.triggers, parts.open, counts, parts.unused_frames, parts.has_room)

    def run_clock(self, takt_s: float | None, timeout_s: float, triggers: int | None) -> None:
        """Trigger a part each takt, ``triggers`` in all, and give up on late frames, until all cameras have ended.

        Args:
            takt_s: None only gives up on late frames.

        Raises:
            DataError: the sinks have been stuck for so long that verdicts pile up.
        """
        due_s = time.monotonic()
        while (due := self._tick(due_s, takt_s, timeout_s, triggers)) is not None:
            trigger, due_s = due
            if trigger is not None and self.fire is not None:
                self.fire(trigger)

    def _tick(
        self, due_s: float, takt_s: float | None, timeout_s: float, triggers: int | None
    ) -> tuple[int | None, float] | None:
        """Wait for what comes next; return the part that was admitted and when the next is due, None at the end."""
        with self._lock:
            while self._live:
                now_s = time.monotonic()
                self._parts.expire(now_s - timeout_s, now_s)
                if len(self._parts.decided) > _STUCK and now_s - self._taken_s > _STUCK_S:
                    raise DataError(f"{_STUCK} verdicts wait for the output folder; is its disk still there?")
                more = takt_s is not None and (triggers is None or self._parts.triggers < triggers)
                if more and takt_s is not None and now_s >= due_s:
                    trigger = self._parts.triggers
                    is_admitted = self._trigger(now_s, due_s)
                    self._admitted.notify_all()
                    self.wake()
                    return (trigger if is_admitted else None), due_s + takt_s
                self.wake()
                oldest_s = self._parts.oldest_waiting_s
                times = ([due_s] if more else []) + ([] if oldest_s is None else [oldest_s + timeout_s])
                self._ended.wait(max(0.0, min(times) - time.monotonic()) if times else None)
        return None

    def next_verdicts(self, timeout_s: float | None = None) -> list[PartVerdict] | None:
        """Wait for verdicts and return those that are there; none after ``timeout_s``; None when no more will come."""
        with self._lock:
            while not self._parts.decided:
                if not self._live and not self._parts.open:
                    return None
                if not self._decided.wait(timeout_s):
                    break
            verdicts = self._parts.take_decided()
            self._taken_s = time.monotonic()
            self._parts.check()
            self.wake()
            return verdicts

    def admit(self, frame: Frame) -> bool:
        """Wait until a frame's part is admitted; tell whether the frame is wanted. The caller holds the lock."""
        parts = self._parts
        if frame.camera not in self._live:
            return False
        parts.reach(frame.camera, frame.trigger, frame.captured_s)
        while parts.triggers <= frame.trigger:
            if self._pacing is Pacing.FREE or (self._pacing is Pacing.HELD and parts.has_room):
                self._trigger(time.monotonic())
                self._ended.notify()
                continue
            self.wake()
            self._admitted.wait()
            if frame.camera not in self._live:
                return False
        is_wanted = parts.claim(frame.trigger, frame.slot, frame.part)
        self.wake()
        return is_wanted

    def judge(self, trigger: int, times: FrameTimes, score: float, evidence: Evidence | None) -> None:
        """Take in the score of a frame; ``wake`` follows. The caller holds the lock."""
        self._parts.judge(trigger, times.slot, score, time.monotonic(), evidence, times)

    def lose(self, trigger: int, slot: Slot, now_s: float) -> None:
        """Give up a frame that was claimed; ``wake`` follows. The caller holds the lock."""
        self._parts.lose(trigger, slot, now_s)

    def end(self, cameras: Sequence[str] = ()) -> None:
        """Note that cameras give no more frames, without names none of them. The caller holds the lock."""
        for camera in cameras or tuple(self._live):
            self._live.discard(camera)
            self._parts.end(camera, time.monotonic())
        self._admitted.notify_all()
        self._ended.notify()
        self._decided.notify()
        self.wake()

    def _trigger(self, now_s: float, due_s: float | None = None) -> bool:
        number = self._parts.triggers
        is_admitted = self._parts.trigger(now_s, due_s)
        if self.triggered is not None:
            self.triggered(number)
        return is_admitted

    def wake(self) -> None:
        """Wake whoever can go on now. The caller holds the lock."""
        if self._parts.decided:
            self._decided.notify()
        if self._pacing is Pacing.HELD and self._parts.has_room:
            self._admitted.notify_all()
