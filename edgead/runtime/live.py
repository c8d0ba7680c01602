"""What all live cameras share: watchdog, reconnection with back-off, counters, numbering of frames, a clean stop.

A source of its own kind only opens, reads and closes; it has no thread and no patience of its own. All runs in the
thread that reads the camera.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from statistics import median
from typing import NamedTuple, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edgead.config import CameraConfig
from edgead.errors import CameraError
from edgead.images import Image
from edgead.runtime.frames import ONLY, Frame, Health
from edgead.runtime.parts import Slot

_SLICE_S = 0.2  # a read is asked to stop, and the watchdog looks, at least this often; a frame wakes it at once


class LiveOptions(BaseModel):
    """Options that every live camera has.

    Attributes:
        watchdog_ms: longest wait for a complete frame before the camera is opened anew; 0 waits for ever, for cameras
            that are triggered by the line.
        open_ms: longest wait for the camera to open.
        retry_ms, retry_max_ms: first and longest pause before the camera is opened anew; it doubles from one failure
            to the next, and is shortened by up to a half at random.
        width, height: of the frames that the camera promises, pixels; without them the first frame promises.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    watchdog_ms: float = Field(default=2000, ge=0)
    open_ms: float = Field(default=5000, gt=0)
    retry_ms: float = Field(default=250, gt=0)
    retry_max_ms: float = Field(default=5000, gt=0)
    width: int | None = Field(default=None, ge=1)
    height: int | None = Field(default=None, ge=1)


class Shot(NamedTuple):
    """What a source has read.

    Attributes:
        image: uint8 ``(H, W, 3)`` RGB; None when the frame came incomplete.
        captured_s: monotonic clock.
        skipped: frames that the camera took since the last one and that never came, by the source's own count.
    """

    image: Image | None
    captured_s: float
    skipped: int = 0


class Source(Protocol):
    """One kind of live camera; opened again after each close."""

    @property
    def transport(self) -> dict[str, int]:
        """What the transport has counted since the camera was last opened."""

    def open(self, timeout_s: float) -> None:
        """Connect.

        Raises:
            CameraError: the camera is not there, is busy, or refuses an option; says why without the camera's name.
        """

    def read(self, timeout_s: float, light: int) -> Shot | None:
        """Wait for the next frame, taken under illumination number ``light``; None when none came in time.

        Raises:
            CameraError: the camera is gone.
        """

    def close(self) -> None:
        """Disconnect, whatever state the camera is in; twice is allowed."""


class Live:
    """A live camera: frames as long as it gives some, and again when it is back.

    Frames are numbered from 0 in the order in which they were taken; with several illuminations they take turns. What
    is known to be lost keeps its number. After a gap the number follows the clock, for the pace of the frames is
    known, and the first frame begins a part.

    Args:
        rate: parts a second that the station itself triggers; None takes frames as they come.
        paced: frames are taken when they are asked for, so that none are lost while the camera is away.
    """

    def __init__(
        self,
        config: CameraConfig,
        source: Source,
        options: LiveOptions,
        *,
        rate: float | None = None,
        paced: bool = False,
    ) -> None:
        lights = config.illuminations or (ONLY,)
        self.name = config.name
        self.slots = tuple(Slot(config.view or ONLY, light) for light in lights)
        self.triggers: int | None = None
        self.health = Health()
        self._source = source
        self._options = options
        self._rate = rate
        self._paced = paced
        self._stopped = threading.Event()
        self._draw = random.Random(f"{config.name} {config.uri}")  # the same pauses in every run
        self._is_open = False
        self._was_lost = False  # no frame since the camera was lost
        self._failures = 0  # in a row
        self._transport: dict[str, int] = {}  # of connections that are closed
        self._next = 0  # number of the next frame
        self._hw: tuple[int, int] | None = None
        self._alive_s = 0.0  # the last complete frame, or since when one is waited for
        self._last_s: float | None = None
        self._pauses: deque[float] = deque(maxlen=32)  # between frames that follow each other
        self._begin_s: float | None = None  # when the first part was due

    def open(self) -> None:
        """Connect for the first time; here a camera that is not there is an error at once."""
        try:
            self._source.open(self._options.open_ms / 1e3)
        except CameraError as error:
            self._source.close()
            raise CameraError(f"camera '{self.name}': {error}") from error
        self._is_open = True

    def read(self, timeout_s: float) -> Frame | None:
        """Wait for the next complete frame, through as many reconnections as it takes; None when stopped."""
        give_up_s = time.monotonic() + timeout_s
        self._alive_s = time.monotonic()  # before that, nobody looked whether there was a frame
        self._begin_s = self._begin_s or self._alive_s
        while not self._stopped.is_set():
            left_s = give_up_s - time.monotonic()
            if left_s <= 0:
                reason = self.health.last_error if self._was_lost else None
                raise CameraError(
                    f"camera '{self.name}' has vanished: it gave no frame for {timeout_s:g} s"
                    f"{f' ({reason})' if reason else ''}; check cable, power and trigger"
                )
            if not self._is_open:
                self._reopen(left_s)
                continue
            if self._rate is not None and not self._wait_for_trigger(self._rate, left_s):
                continue
            frame = self._attempt(left_s)
            if frame is not None:
                return frame
        return None

    def stop(self) -> None:
        """Wake a read that waits: at once where it pauses, else after a fifth of a second or the source's time-out."""
        self._stopped.set()

    def close(self) -> None:
        """Disconnect, for good."""
        self._stopped.set()
        self._disconnect()

    def _attempt(self, left_s: float) -> Frame | None:
        """Read once; None when there was no frame, or the camera was lost."""
        try:
            shot = self._source.read(min(_SLICE_S, left_s), self._next % len(self.slots))
        except CameraError as error:
            self._lose(str(error))
            return None
        if shot is not None and shot.image is not None:
            return self._accept(shot.image, shot)
        if shot is not None:
            self.health.incomplete += 1
            self._number(shot)
            self._next += 1
        watchdog_s = self._options.watchdog_ms / 1e3
        if watchdog_s and time.monotonic() - self._alive_s > watchdog_s:
            self._lose(f"no complete frame for {watchdog_s:g} s")
        return None

    def _accept(self, image: Image, shot: Shot) -> Frame:
        self._check(image)
        self._number(shot)
        trigger, light = divmod(self._next, len(self.slots))
        self._next += 1
        self._alive_s = time.monotonic()
        self.health.frames += 1
        if self._was_lost:
            self._was_lost = False
            self._failures = 0
            self.health.reconnects += 1
        self._count_transport()
        return Frame(image, self.name, self.slots[light], trigger, f"{self.name}-{trigger}", shot.captured_s)

    def _check(self, image: Image) -> None:
        """Hold a frame against what the camera promised: another one would be judged as if it were the same."""
        shape = image.shape
        if image.dtype != np.uint8 or image.ndim != 3 or shape[2] != 3 or not image.size:
            raise CameraError(f"camera '{self.name}' gave {image.dtype} {shape}; expected uint8 (height, width, 3)")
        self._hw = self._hw or (self._options.height or shape[0], self._options.width or shape[1])
        if shape[:2] != self._hw:
            raise CameraError(
                f"camera '{self.name}' gave a frame of {shape[1]}x{shape[0]} pixels; expected {self._hw[1]}x"
                f"{self._hw[0]}, as its address or its first frame promised; set the camera, or the width and height "
                "in its address"
            )

    def _number(self, shot: Shot) -> None:
        """Move ``_next`` to the number of this frame, past those that never came."""
        if self._paced:
            return  # a frame answers its trigger, whatever became of others
        skipped = self._skipped_while_away(shot) if self._was_lost else shot.skipped
        if self._last_s is not None and not self._was_lost:
            self._pauses.append((shot.captured_s - self._last_s) / (1 + skipped))
        self._last_s = shot.captured_s
        self._skip(skipped)

    def _skipped_while_away(self, shot: Shot) -> int:
        """Estimate the frames of the time in which the camera was away, up to the end of the part."""
        skipped = 0
        if self._last_s is not None and self._pauses:
            skipped = max(0, round((shot.captured_s - self._last_s) / max(1e-4, median(self._pauses))) - 1)
        return skipped + -(self._next + skipped) % len(self.slots)

    def _skip(self, frames: int) -> None:
        self._next += frames
        self.health.missed += frames

    def _skip_to_next_part(self) -> None:
        """Leave out the rest of the part in which the camera was lost, and parts that came due without it."""
        part = -(-self._next // len(self.slots))
        if self._rate is not None:
            part = max(part, math.ceil((time.monotonic() - (self._begin_s or 0.0)) * self._rate))
        self._skip(part * len(self.slots) - self._next)

    def _wait_for_trigger(self, rate: float, left_s: float) -> bool:
        """Wait until the next part is due; False when that is too late, or the camera is stopped."""
        wait_s = (self._begin_s or 0.0) + self._next // len(self.slots) / rate - time.monotonic()
        if wait_s <= 0:
            return True
        if self._stopped.wait(min(wait_s, left_s)):
            return False
        self._alive_s = time.monotonic()
        return wait_s <= left_s

    def _lose(self, reason: str) -> None:
        self.health.last_error = reason
        self._was_lost = True
        self._failures += 1
        self._disconnect()

    def _reopen(self, left_s: float) -> None:
        options = self._options
        pause_s = min(options.retry_max_ms, options.retry_ms * 2.0 ** min(self._failures - 1, 30)) / 1e3
        pause_s *= self._draw.uniform(0.5, 1)
        if self._stopped.wait(min(pause_s, left_s)) or pause_s >= left_s:
            return
        try:
            self._source.open(min(options.open_ms / 1e3, left_s - pause_s))
        except CameraError as error:
            self._lose(str(error))
            return
        self._is_open = True
        self._alive_s = time.monotonic()
        if self._paced:
            self._skip_to_next_part()

    def _disconnect(self) -> None:
        self._count_transport()
        self._transport = dict(self.health.transport)
        self._is_open = False
        self._source.close()

    def _count_transport(self) -> None:
        if self._is_open:
            for name, count in self._source.transport.items():
                self.health.transport[name] = self._transport.get(name, 0) + count
