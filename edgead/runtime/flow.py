"""The monitor between the threads of an engine and its stations: one lock around the ring of images and the ledgers.

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

from edgead.runtime.frames import Frame
from edgead.runtime.fusion import Judge
from edgead.runtime.ledger import FrameTimes
from edgead.runtime.line import Line, Pacing
from edgead.runtime.parts import Evidence, Slot
from edgead.runtime.slots import Ring


class Claimed(NamedTuple):
    """Whose image stands in a place of the ring, and what it has been through."""

    line: Line
    trigger: int
    times: FrameTimes


class Batch(NamedTuple):
    """Images that lie in one piece in the ring.

    Attributes:
        images: uint8 ``(N, H, W, 3)``, a view that is valid until the batch is settled.
        owners: whose they are; those whose ``times.is_lost`` have no image.
    """

    images: npt.NDArray[np.uint8]
    owners: Sequence[Claimed]


class Flow:
    """Frames of all lines in, batches out, scores in; safe for all threads.

    Lines are added first; ``open`` takes the memory that their parts in flight need, and no more is taken later.
    """

    def __init__(self, size_hw: tuple[int, int]) -> None:
        self._size_hw = size_hw
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)  # the engine waits: for images
        self._lines: list[Line] = []
        self._capacity = 0
        self._ring: Ring[Claimed] = Ring(0, size_hw)

    def line(
        self, slots: Mapping[str, Sequence[Slot]], judge: Judge, *, capacity: int, pacing: Pacing, per_part: int = 0
    ) -> Line:
        """Add the line of one station.

        Args:
            slots: by camera, the frames that it gives for each part.
            capacity: its frames that may be admitted and not yet judged.
            per_part: pictures of NG frames kept of a part.
        """
        line = Line(self._lock, slots, judge, capacity=capacity, pacing=pacing, per_part=per_part)
        self._lines.append(line)
        self._capacity += capacity
        return line

    def open(self) -> None:
        """Take the memory for the frames of all lines."""
        self._ring = Ring(self._capacity, self._size_hw)

    @property
    def images(self) -> npt.NDArray[np.uint8]:
        """Return the memory of the ring, uint8 ``(capacity, H, W, 3)``."""
        return self._ring.images

    def claim(self, line: Line, frame: Frame) -> int | None:
        """Wait until a frame's part is admitted; return the frame's place in ``images``, None when not wanted."""
        with self._lock:
            if not line.admit(frame):
                return None
            times = FrameTimes(frame.camera, frame.slot, frame.captured_s, frame.exposure_s, frame.decode_s)
            times.claimed_s = time.monotonic()
            return self._ring.claim(Claimed(line, frame.trigger, times))

    def fill(self, place: int) -> None:
        """Note that the image of a claimed place is written."""
        with self._lock:
            if self._ring.fill(place, time.monotonic()):
                self._filled.notify()

    def give_up(self, place: int) -> None:
        """Note that a claimed place will not get its image."""
        with self._lock:
            # Its part lets go of it when the engine comes to it: until then it takes the place of another frame.
            self._ring.owner(place).times.is_lost = True
            if self._ring.fill(place, time.monotonic()):
                self._filled.notify()

    def end(self, line: Line, *cameras: str) -> None:
        """Note that cameras of a line give no more frames; without names, none of them does: its station stops."""
        with self._lock:
            line.end(cameras)
            self._filled.notify()

    def end_all(self) -> None:
        """Stop all stations: what has come is judged, or given up when the engine has failed."""
        for line in self._lines:
            self.end(line)

    def next_batch(self, largest: int) -> Batch | None:
        """Wait for images and return those that are there; None when all cameras have ended and all is judged."""
        with self._lock:
            while True:
                first, owners, filled_s = self._ring.batch(largest)
                if owners:
                    for owner, at_s in zip(owners, filled_s, strict=True):
                        owner.times.filled_s = at_s
                    return Batch(self._ring.images[first : first + len(owners)], owners)
                if self._ring.is_empty and not any(line.is_live() for line in self._lines):
                    return None
                self._filled.wait()

    def settle(
        self, batch: Batch, taken_s: float, scores: Sequence[float] | None, evidence: Sequence[Evidence | None]
    ) -> None:
        """Hand in the scores of a batch, or None when it could not be judged, and give its places back."""
        judged_s = time.monotonic()
        with self._lock:
            for index, owner in enumerate(batch.owners):
                if scores is None or owner.times.is_lost:
                    owner.line.lose(owner.trigger, owner.times.slot, judged_s)
                    continue
                owner.times.taken_s, owner.times.judged_s = taken_s, judged_s
                owner.line.judge(owner.trigger, owner.times, scores[index], evidence[index])
            self._ring.release(len(batch.owners))
            for line in {owner.line for owner in batch.owners}:
                line.wake()
