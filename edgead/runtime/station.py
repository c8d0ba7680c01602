"""A station: cameras to parts to verdicts to sinks, around an engine that it may share with other stations.

One thread a camera resizes frames straight into the engine's ring; one thread feeds the sinks; with a takt, a clock
triggers the parts. Recorded sources are held back while there is no room; otherwise parts without room are rejected
whole.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np

from edgead.config import StationConfig
from edgead.errors import CameraError, DataError, FrameError
from edgead.images import resize
from edgead.runtime.cameras import armed, open_cameras
from edgead.runtime.engine import Engine
from edgead.runtime.frames import Camera, Frame
from edgead.runtime.fusion import Judge
from edgead.runtime.ledger import TaktLedger
from edgead.runtime.line import Pacing
from edgead.runtime.outputs.feed import check
from edgead.runtime.parts import Slot
from edgead.runtime.publisher import Problems, Publisher
from edgead.runtime.report import StationReport, report_of

JudgeOf = Callable[[Collection[Slot]], Judge]
_GRACE_S = 0.5  # for threads of cameras that hang in a read when the station ends
_TRACED = 2000  # parts
_FEW = 3  # frames of a camera whose faults are told one by one


class Station:
    """One run of a station: its constructor opens the cameras, ``open`` the sinks, ``start`` lets it run, once.

    Args:
        engine: judges its frames; opened after all its stations are made.
        judge_of: returns the judge of parts that are made of these frames.
        problems: known before it starts, for the report.

    Raises:
        ConfigError, CameraError: a camera cannot be opened.
        EdgeadError: its parts cannot be judged.
    """

    def __init__(
        self,
        config: StationConfig,
        engine: Engine,
        judge_of: JudgeOf,
        problems: Sequence[str] = (),
    ) -> None:
        self.config = config
        self.error: BaseException | None = None
        self._engine = engine
        self._problems = Problems(problems)
        self._threads: list[threading.Thread] = []
        self._begin_s = self._wall_s = 0.0
        self._life = ExitStack()
        check(config.outputs)
        with self._life as opening:
            self._cameras = open_cameras(config.cameras)
            for camera in self._cameras:
                opening.callback(camera.close)
            slots = {camera.name: camera.slots for camera in self._cameras}
            frames = [slot for own in slots.values() for slot in own]
            self._judge = judge_of(frames)
            self._line = engine.flow.line(
                slots,
                self._judge,
                capacity=max(config.parts_in_flight * len(frames), 4 * engine.runner.max_batch),
                pacing=self._pacing(),
                per_part=config.sinks.pictures.per_part if config.sinks.pictures else 0,
            )
            deadline_ms = config.deadline_ms or config.takt_ms
            self._ledger = TaktLedger(
                deadline_s=deadline_ms / 1e3 if deadline_ms else None,
                clocked=config.takt_ms is not None,
                keep=_TRACED if config.trace else 0,
            )
            if config.takt_ms is not None:
                self._line.fire = armed(self._cameras)
            self._life = opening.pop_all()

    @property
    def triggers(self) -> int | None:
        """Return the number of parts that its cameras have frames for; None if that is not known beforehand."""
        totals = [camera.triggers for camera in self._cameras]
        return None if None in totals else max(total or 0 for total in totals)

    def open(self) -> None:
        """Open the sinks: last, so that a station that cannot start leaves no output folder.

        Raises:
            ConfigError: one of them cannot be written, or what it needs is not there.
        """
        self._publisher = Publisher(
            self.config, self._engine, self._judge, self._cameras, self._problems, stop=self.stop
        )
        self._life.callback(self._publisher.close)
        self._line.see, self._line.triggered = self._publisher.see, self._publisher.triggered

    def start(self, over: Callable[[], None], advance: Callable[..., None]) -> None:
        """Let it run in threads of its own.

        Args:
            over: called once, when its last verdict is out, or can no longer be.
            advance: called with the number of parts that were decided.
        """
        config, line = self.config, self._line
        lives: dict[str, Callable[[], None]] = {"sinks": partial(self._write, over, advance)}
        if self._pacing() is not Pacing.HELD:
            takt_s = config.takt_ms / 1e3 if config.takt_ms else None
            lives["clock"] = partial(line.run_clock, takt_s, config.timeout_ms / 1e3, self.triggers)
        lives |= {f"camera {camera.name}": partial(self._capture, camera) for camera in self._cameras}
        self._begin_s = time.monotonic()
        self._threads = [threading.Thread(None, self._live, name, (life,), daemon=True) for name, life in lives.items()]
        for thread in self._threads:
            thread.start()

    def stop(self, why: str) -> None:
        """Take no more frames; what has come is judged, what is missing is given up."""
        self._problems.note(why)
        self._engine.flow.end(self._line)

    def join(self) -> None:
        """Wait for its threads; cameras that hang are left behind."""
        self._engine.flow.end(self._line)
        for camera in self._cameras:
            camera.stop()
        for thread in self._threads:
            thread.join(_GRACE_S)

    def close(self) -> None:
        """Close sinks and cameras; outputs get their time to catch up. Twice is allowed."""
        self._life.close()

    def report(self) -> StationReport:
        """Return what it came to, after ``close``."""
        trace = self._write_trace()
        return report_of(
            self.config,
            self._engine,
            self._line.standing(),
            self._ledger,
            wall_s=self._wall_s,
            cameras={camera.name: deepcopy(camera.health) for camera in self._cameras},
            trace=trace,
            **self._publisher.told(),
        )

    def _write_trace(self) -> Path | None:
        if self.config.trace is None or not self._ledger.traced:
            return None
        from edgead.runtime.trace import write_trace

        try:
            write_trace(self.config.trace, self.config.name, self._ledger.traced)
        except DataError as error:
            self._problems.note(str(error))
            return None
        return self.config.trace

    def _pacing(self) -> Pacing:
        if self.config.takt_ms is not None:
            return Pacing.CLOCKED
        return Pacing.FREE if self.triggers is None else Pacing.HELD

    def _live(self, life: Callable[[], None]) -> None:
        """Run a thread's life; what it did not foresee ends the station with that error."""
        try:
            life()
        except BaseException as error:
            self.error = self.error or error
            self._engine.flow.end(self._line)

    def _capture(self, camera: Camera) -> None:
        """Read one camera to its end."""
        flow, line, refused = self._engine.flow, self._line, 0
        try:
            while line.is_live(camera.name):
                try:
                    frame = camera.read(self.config.silence_ms / 1e3)
                    if frame is None:
                        break
                    place = flow.claim(line, frame)
                    if place is not None:
                        self._fill(place, frame)
                except FrameError as error:
                    refused += 1
                    if refused <= _FEW:
                        self._problems.note(str(error))
        except CameraError as error:
            self._problems.note(str(error))
        finally:
            if refused:
                self._problems.note(f"camera '{camera.name}' gave {refused} frames that were of no use")
            flow.end(line, camera.name)
            camera.close()

    def _fill(self, place: int, frame: Frame) -> None:
        image, flow = frame.image, self._engine.flow
        try:
            # OpenCV would put an image of another type elsewhere than into the slot, and say nothing.
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise FrameError(
                    f"camera '{frame.camera}' gave {image.dtype} {image.shape}; expected uint8 (height, width, 3)"
                )
            resize(image, self._engine.runner.size_hw, out=flow.images[place])
        except BaseException:
            flow.give_up(place)
            raise
        flow.fill(place)

    def _write(self, over: Callable[[], None], advance: Callable[..., None]) -> None:
        """Feed the sinks until there are no more verdicts."""
        publisher, line = self._publisher, self._line
        try:
            while (verdicts := line.next_verdicts(publisher.beat_s)) is not None:
                if verdicts:
                    begin_s = time.monotonic()
                    publisher.publish(verdicts)
                    self._ledger.note(verdicts, begin_s, time.monotonic())
                    publisher.draw(verdicts)
                    advance(len(verdicts))
                publisher.beat(line.standing(), self._ledger, time.monotonic() - self._begin_s)
        finally:
            self._wall_s = time.monotonic() - self._begin_s
            publisher.beat(line.standing(), self._ledger, self._wall_s, ended=True)
            over()
