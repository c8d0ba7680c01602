"""Simulated cameras over parts with a known truth: ``sim://<object>?...`` and ``dataset://<folder>?kind=...``.

``sim://chip_inductor?seed=1&parts=100&view=top&ng_share=0.2`` renders parts,
``dataset://data?kind=mvtec&category=bottle`` shows those of a data set. ``docs/simulator.md`` lists the options;
``sim_faults`` says what may go wrong on the way, and what a station makes of it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator

from edgead.config import CameraConfig
from edgead.errors import CameraError, ConfigError, DataError
from edgead.images import Image
from edgead.runtime.dataset_parts import DatasetCameraOptions, DatasetParts
from edgead.runtime.frames import Frame, Health, options_of
from edgead.runtime.parts import Slot
from edgead.runtime.sim_faults import Coming, FaultOptions, changed, coming
from edgead.runtime.sim_parts import PartSource, RenderedParts, Shown, SimOptions, defect_of

__all__ = ["LineCamera", "Shown", "SimCamera", "dataset_camera", "defect_of", "simulated_camera"]


class LineCamera:
    """A camera over a line of simulated parts.

    Frames keep the number of their trigger whatever befalls others, as at a station that counts the triggers of the
    line. ``health.missed`` counts what a camera can know of: frames lost on their way, and those without a buffer.
    ``health.transport`` counts each fault by name, those too that no camera could know of.

    Attributes:
        options: what goes wrong; may be changed before the line begins.
        counts: frames by fault.
    """

    def __init__(self, config: CameraConfig, source: PartSource, options: FaultOptions) -> None:
        self.name = config.name
        self.options = options
        self.health = Health()
        # A camera that runs on whatever the station does is a live one, and those know no last trigger.
        self.triggers: int | None = None if options.queue else options.parts
        self._source = source
        self._is_faulty = bool(options.on or options.queue)
        self._line: Iterator[Coming] = iter(())
        self._ahead: Coming | None = None  # the next one, whose time has not come
        self._buffers: deque[Coming] = deque()
        self.counts: Counter[str] = Counter()
        self._part: tuple[int, str] = (-1, "")
        self._begin_s = 0.0
        self._stopped = threading.Event()
        self._is_closed = False

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Frames that it gives for each part; known once it is open."""
        return self._source.slots

    def shown(self, trigger: int) -> Shown:
        """Return the truth about a trigger, once the camera is open: name and defect of its part."""
        return Shown(self._source.part(trigger), self._source.defect(trigger))

    def open(self) -> None:
        """Make the parts ready; the line begins to run now."""
        self._source.open()
        self.begin()

    def begin(self, at_s: float | None = None) -> None:
        """Let the line run from its first part, from now on or from ``at_s`` (monotonic); also after a ``stop``."""
        self.counts.clear()
        self._buffers.clear()
        self._line, self._ahead = coming(self.options, self.slots, self.counts), None
        self._begin_s = time.monotonic() if at_s is None else at_s
        self._stopped.clear()

    def read(self, timeout_s: float) -> Frame | None:
        """Wait for the next frame to come, and render, decode or recall it."""
        if self._is_closed or self._stopped.is_set():
            return None
        frame = self._next(timeout_s)
        if self._is_faulty:
            self._count()
        if frame is None:
            if self.options.vanish_after is None or self._is_closed or self._stopped.is_set():
                return None
            raise CameraError(
                f"camera '{self.name}' has vanished after {self.options.vanish_after} frames; check its cable"
            )
        return self._frame(frame)

    def image(self, frame: Coming) -> Image:
        """Return what a frame shows.

        Raises:
            CameraError: its file has gone.
        """
        try:
            image = self._source.image(frame.trigger, frame.shot)
        except DataError as error:
            raise CameraError(f"camera '{self.name}' has vanished: {error}") from error
        return changed(image, frame) if frame.gain != 1.0 or frame.fuzz >= 0 else image

    def stop(self) -> None:
        """Wake a read that waits for its time."""
        self._stopped.set()

    def close(self) -> None:
        """Forget the images and give no more frames."""
        self._is_closed = True
        self._source.close()

    def _next(self, timeout_s: float) -> Coming | None:
        if self.options.rate is None:
            return next(self._line, None)
        if self.options.queue:
            self._fill_buffers(self.options.queue)
            if self._buffers:
                return self._buffers.popleft()
        frame = self._peek()
        if frame is None or not self._wait_until(frame.arrives_s, timeout_s):
            return None
        self._ahead = None
        return frame

    def _peek(self) -> Coming | None:
        self._ahead = self._ahead or next(self._line, None)
        return self._ahead

    def _fill_buffers(self, most: int) -> None:
        """Take in what has come since the last read; nobody took a frame meanwhile, so what finds no room is missed."""
        now_s = time.monotonic() - self._begin_s
        while (frame := self._peek()) is not None and frame.arrives_s <= now_s:
            self._ahead = None
            if len(self._buffers) < most:
                self._buffers.append(frame)
            else:
                self.counts["overflowed"] += 1
                self._count()

    def _wait_until(self, at_s: float, timeout_s: float) -> bool:
        wait_s = self._begin_s + at_s - time.monotonic()
        if wait_s <= 0:
            return True
        stopped = self._stopped.wait(min(wait_s, timeout_s))
        if wait_s > timeout_s and not stopped:
            self._count()
            raise CameraError(
                f"camera '{self.name}' gave no frame for {timeout_s:g} s; check its cable and its trigger"
            )
        return not stopped

    def _count(self) -> None:
        self.health.missed = self.counts["lost"] + self.counts["overflowed"]
        self.health.transport.update(self.counts)

    def _frame(self, frame: Coming) -> Frame:
        trigger, options = frame.trigger, self.options
        begin_s = time.monotonic()
        image = self.image(frame)
        end_s = time.monotonic()
        if self._part[0] != trigger:
            self._part = trigger, self._source.part(trigger)
        self.health.frames += 1
        captured_s = self._begin_s + frame.arrives_s if options.queue else end_s
        slot, exposure_s = self._source.slots[frame.shot], options.exposure_ms / 1e3
        return Frame(image, self.name, slot, trigger, self._part[1], captured_s, exposure_s, end_s - begin_s)


class SimCamera(LineCamera):
    """A camera over rendered parts: ``sim://<object>``."""

    def __init__(self, config: CameraConfig) -> None:
        options = options_of(config, SimOptions)
        super().__init__(config, RenderedParts(config, options), options)


def dataset_camera(config: CameraConfig) -> LineCamera:
    """Make a camera over the parts of a data set: ``dataset://<folder>``."""
    options = options_of(config, DatasetCameraOptions)
    return LineCamera(config, DatasetParts(config, options), options)


def simulated_camera(config: CameraConfig) -> LineCamera:
    """Make the camera of a simulated address.

    Raises:
        ConfigError: it is of another scheme, or says what the camera cannot do.
    """
    match config.uri.partition("://")[0]:
        case "sim":
            return SimCamera(config)
        case "dataset":
            return dataset_camera(config)
    raise ConfigError(
        f"camera '{config.name}': '{config.uri}' is not simulated; expected sim://OBJECT or dataset://FOLDER"
    )
