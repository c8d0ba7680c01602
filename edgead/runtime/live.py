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

import numpy as np

from edgead.config import CameraConfig
from edgead.errors import CameraError, FrameError
from edgead.images import Image
from edgead.runtime.firing import Firing
from edgead.runtime.frames import ONLY, Frame
from edgead.runtime.live_source import LiveHealth, LiveOptions, Shot, Source
from edgead.runtime.parts import Slot
from edgead.runtime.pulses import ByClock, ByCounter

_SLICE_S = 0.2  # a read is asked to stop, and the watchdog looks, at least this often; a frame wakes it at once


class Live:
    """A live camera: frames as long as it gives some, and again when it is back.

    Frames are numbered from 0 in the order in which they were taken; with several illuminations they take turns. What
    is known to be lost keeps its number. After a gap the number follows the clock, for the pace of the frames is
    known, and the first frame begins a part.

    Args:
        rate: parts a second that the camera asks for by itself; None takes frames as they come.
        paced: frames are taken when they are asked for, so that none are lost while the camera is away.
        pulses: what numbers the frames of a camera that the line triggers.
        triggers: what its health says of triggers that it misses.
    """

    def __init__(
        self,
        config: CameraConfig,
        source: Source,
        options: LiveOptions,
        *,
        rate: float | None = None,
        paced: bool = False,
        pulses: ByClock | ByCounter | None = None,
        triggers: str = "",
    ) -> None:
        lights = config.illuminations or (ONLY,)
        self.name = config.name
        self.slots = tuple(Slot(config.view or ONLY, light) for light in lights)
        self.triggers: int | None = None
        self.health = LiveHealth(triggers=triggers)
        self._source, self._options = source, options
        self._rate, self._paced = rate, paced
        self._pulses = pulses
        self._firing: Firing | None = None
        self._asked = 0  # frames that the station's clock has asked for end before this number
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
        self._connected()

    def arm(self) -> bool:
        """Take frames for the triggers of ``fire`` alone; False where the camera has its own pace. Before any read."""
        if self._paced and self._rate is None:
            self._firing = Firing()
        return self._firing is not None

    def fire(self, trigger: int) -> None:
        """Take the frames of a part now; from any thread, returns at once. A trigger that waited too long is missed."""
        if self._firing is not None:
            self._firing.fire(trigger)

    def read(self, timeout_s: float) -> Frame | None:
        """Wait for the next complete frame, through as many reconnections as it takes; None when stopped.

        The time-out begins when the frame is asked for, where the station's clock does that.
        """
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
            if self._firing is not None and self._next >= self._asked:
                self._take(self._firing)
                give_up_s = time.monotonic() + timeout_s
                continue
            frame = self._attempt(left_s)
            if frame is not None:
                return frame
        return None

    def stop(self) -> None:
        """Wake a read that waits: at once where it pauses, else after a fifth of a second or the source's time-out."""
        self._stopped.set()
        if self._firing is not None:
            self._firing.stop()

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
        if shot is not None:
            wrong = self._wrong(shot.image)
            is_numbered = self._number(shot)
            if is_numbered and shot.image is not None and not wrong:
                return self._accept(shot.image, shot)
            self._leave_out(shot._replace(image=None) if wrong else shot, is_numbered)
            if wrong:
                raise FrameError(wrong)
        watchdog_s = self._options.watchdog_ms / 1e3 or math.inf
        if time.monotonic() - self._alive_s > watchdog_s:
            self._lose(f"no complete frame for {watchdog_s:g} s")
        return None

    def _accept(self, image: Image, shot: Shot) -> Frame:
        trigger, light = divmod(self._next, len(self.slots))
        self._next += 1
        self.health.frames += 1
        self._came()
        shown = (self.name, self.slots[light], trigger, f"{self.name}-{trigger}")
        return Frame(image, *shown, shot.captured_s, shot.exposure_s, shot.decode_s)

    def _leave_out(self, shot: Shot, is_numbered: bool) -> None:
        if shot.image is None:
            self.health.incomplete += 1
        else:  # whole, but nobody knows which part it shows
            self.health.unnumbered += 1
            self._came()
        self._next += is_numbered

    def _came(self) -> None:
        """Note that a whole frame came."""
        self._alive_s = time.monotonic()
        if self._was_lost:
            self._was_lost = False
            self._failures = 0
            self.health.reconnects += 1
        self._count_transport()

    def _wrong(self, image: Image | None) -> str:
        """Say what is wrong with a frame against what the camera promised; it would be judged as if it were right."""
        if image is None:
            return ""
        shape = image.shape
        if image.dtype != np.uint8 or image.ndim != 3 or shape[2] != 3 or not image.size:
            return f"camera '{self.name}' gave {image.dtype} {shape}; expected uint8 (height, width, 3)"
        self._hw = self._hw or (self._options.height or shape[0], self._options.width or shape[1])
        if shape[:2] == self._hw:
            return ""
        return (
            f"camera '{self.name}' gave a frame of {shape[1]}x{shape[0]} pixels; expected {self._hw[1]}x{self._hw[0]}, "
            "as its address or its first frame promised; set the camera, or the width and height in its address"
        )

    def _number(self, shot: Shot) -> bool:
        """Move ``_next`` to the number of this frame, past those that never came; False when it has none."""
        if self._paced:
            return True  # a frame answers its trigger, whatever became of others
        if isinstance(self._pulses, ByClock):
            return self._skip_to(self._pulses.number(shot.captured_s, was_away=self._was_lost))
        skipped = self._skipped_while_away(shot) if self._was_lost else shot.skipped
        if self._last_s is not None and not self._was_lost:
            self._pauses.append((shot.captured_s - self._last_s) / (1 + skipped))
        self._last_s = shot.captured_s
        if self._pulses is not None:
            return self._skip_to(self._pulses.number(shot.pulses, self._next, skipped))
        self._skip(skipped)
        return True

    def _skip_to(self, number: int | None) -> bool:
        if number is None or number < self._next:
            return False
        self._skip(number - self._next)
        return True

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
        if self._firing is not None:
            self._skip(self._asked - self._next)
            return
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

    def _take(self, firing: Firing) -> None:
        """Wait until the station's clock asks for the frames of a part."""
        fired = firing.take()
        if fired is None:
            return
        lights = len(self.slots)
        self.health.missed += fired.overrun * lights
        self._next, self._asked = fired.trigger * lights, (fired.trigger + 1) * lights
        self._alive_s = time.monotonic()
        if self._alive_s - fired.fired_s > self._options.late_ms / 1e3:
            self._skip(lights)

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
        self._connected()
        self._alive_s = time.monotonic()
        if self._paced:
            self._skip_to_next_part()

    def _connected(self) -> None:
        self._is_open = True
        if isinstance(self._pulses, ByCounter):
            self._pulses.start(self._source.counted, self._next)

    def _disconnect(self) -> None:
        self._count_transport()
        self._transport = dict(self.health.transport)
        self._is_open = False
        self._source.close()

    def _count_transport(self) -> None:
        if self._is_open:
            for name, count in self._source.transport.items():
                self.health.transport[name] = self._transport.get(name, 0) + count
