"""The monitor between the threads of a station: one lock around the ring of images and the ledger of parts.

Cameras wait here for room or for their trigger, the engine for images, the sinks for verdicts, the clock for its takt;
nobody polls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgead.errors import DataError
from edgead.runtime.frames import Frame
from edgead.runtime.parts import Evidence, Parts, PartVerdict, Slot
from edgead.runtime.slots import Claimed, Ring
from edgead.thresholds import Threshold

_STUCK = 10_000  # verdicts waiting for the sinks


class Batch(NamedTuple):
    """Images that lie in one piece in the ring.

    Attributes:
        images: uint8 ``(N, H, W, 3)``, a view that is valid until the batch is settled.
        owners: whose they are; None for what was given up.
        filled_s: when they were written, monotonic.
    """

    images: npt.NDArray[np.uint8]
    owners: Sequence[Claimed | None]
    filled_s: Sequence[float]


class Flow:
    """Frames in, batches out, scores in, verdicts out; safe for all threads.

    Args:
        slots: by camera, the frames that it gives for each part.
        capacity: frames that may be admitted and not yet judged; the memory is fixed by it.
        clocked: parts are triggered by ``run_clock``, and rejected when there is no room; else by their first frame,
            which waits for room.
    """

    def __init__(
        self,
        slots: Mapping[str, Sequence[Slot]],
        threshold: Threshold,
        *,
        size_hw: tuple[int, int],
        capacity: int,
        clocked: bool,
        per_part: int,
    ) -> None:
        self._parts = Parts(slots, threshold, capacity=capacity, per_part=per_part)
        self._ring = Ring(capacity, size_hw)
        self._clocked = clocked
        self._live = set(slots)  # cameras that may still give frames
        self._judged_all = False
        lock = threading.Lock()
        self._lock = lock
        self._admitted = threading.Condition(lock)  # cameras wait: for room, or for their trigger
        self._filled = threading.Condition(lock)  # the engine waits: for images
        self._decided = threading.Condition(lock)  # the sinks wait: for verdicts
        self._ended = threading.Condition(lock)  # the clock waits: for its next time, or for the end

    @property
    def images(self) -> npt.NDArray[np.uint8]:
        """Return the memory of the ring, uint8 ``(capacity, H, W, 3)``."""
        return self._ring.images

    @property
    def ledger(self) -> Parts:
        """Return the ledger, for reading when all threads have ended."""
        return self._parts

    def is_live(self, camera: str) -> bool:
        """Tell whether frames of a camera are still wanted."""
        return camera in self._live

    def claim(self, frame: Frame) -> int | None:
        """Wait until the frame's part is admitted; return the frame's place in ``images``, None when not wanted."""
        with self._lock:
            if frame.camera not in self._live:
                return None
            self._parts.reach(frame.camera, frame.trigger, frame.captured_s)
            while self._parts.triggers <= frame.trigger:
                if not self._clocked and self._parts.has_room:
                    self._parts.trigger(time.monotonic())
                    continue
                self._wake()
                self._admitted.wait()
                if frame.camera not in self._live:
                    return None
            wanted = self._parts.claim(frame.trigger, frame.slot, frame.part)
            self._wake()
            return self._ring.claim(Claimed(frame.trigger, frame.slot)) if wanted else None

    def fill(self, place: int) -> None:
        """Note that the image of a claimed place is written."""
        with self._lock:
            if self._ring.fill(place, time.monotonic()):
                self._filled.notify()

    def give_up(self, place: int) -> None:
        """Note that a claimed place will not get its image."""
        with self._lock:
            now_s = time.monotonic()
            owner = self._ring.give_up(place, now_s)
            if owner is not None:
                self._parts.lose(*owner, now_s)
            self._filled.notify()
            self._wake()

    def end(self, *cameras: str) -> None:
        """Note that cameras give no more frames; without names, none does: the station stops."""
        with self._lock:
            for camera in cameras or tuple(self._live):
                self._live.discard(camera)
                self._parts.end(camera, time.monotonic())
            self._admitted.notify_all()
            self._filled.notify()
            self._ended.notify()
            self._wake()

    def run_clock(self, takt_s: float, timeout_s: float, triggers: int | None) -> None:
        """Trigger a part each takt, ``triggers`` in all, and give up on late frames, until all cameras have ended.

        Raises:
            DataError: the sinks have been stuck for so long that verdicts pile up.
        """
        due_s = time.monotonic()
        with self._lock:
            while self._live:
                now_s = time.monotonic()
                self._parts.expire(now_s - timeout_s, now_s)
                more = triggers is None or self._parts.triggers < triggers
                if more and now_s >= due_s:
                    self._parts.trigger(now_s)
                    self._admitted.notify_all()
                    due_s += takt_s
                if len(self._parts.decided) > _STUCK:
                    raise DataError(f"{_STUCK} verdicts wait for the output folder; is its disk still there?")
                self._wake()
                oldest_s = self._parts.oldest_waiting_s
                times = ([due_s] if more else []) + ([] if oldest_s is None else [oldest_s + timeout_s])
                self._ended.wait(max(0.0, min(times) - time.monotonic()) if times else None)

    def next_batch(self, largest: int) -> Batch | None:
        """Wait for images and return those that are there; None when all cameras have ended and all is judged."""
        with self._lock:
            while True:
                first, owners, filled_s = self._ring.batch(largest)
                if owners:
                    return Batch(self._ring.images[first : first + len(owners)], owners, filled_s)
                if not self._live and self._ring.is_empty:
                    self._judged_all = True
                    self._decided.notify()
                    return None
                self._filled.wait()

    def settle(self, batch: Batch, scores: Sequence[float] | None, evidence: Sequence[Evidence | None]) -> None:
        """Hand in the scores of a batch, or None when it could not be judged, and give its places back."""
        now_s = time.monotonic()
        with self._lock:
            for index, owner in enumerate(batch.owners):
                if owner is None:
                    continue
                if scores is None:
                    self._parts.lose(*owner, now_s)
                else:
                    self._parts.judge(*owner, scores[index], now_s, evidence[index])
            self._ring.release(len(batch.owners))
            self._wake()

    def next_verdicts(self) -> list[PartVerdict] | None:
        """Wait for verdicts and return those that are there; None when there will be no more."""
        with self._lock:
            while not self._parts.decided:
                if self._judged_all:
                    return None
                self._decided.wait()
            verdicts = self._parts.take_decided()
            self._parts.check()
            self._wake()
            return verdicts

    def _wake(self) -> None:
        if self._parts.decided:
            self._decided.notify()
        if not self._clocked and self._parts.has_room:
            self._admitted.notify_all()
