"""A station: cameras to parts to verdicts to sinks, around an engine that it may share with other stations.

One thread a camera resizes frames straight into the engine's ring; one thread feeds the sinks; with a takt, a clock
triggers the parts. Recorded sources are held back while there is no room; otherwise parts without room are rejected
whole.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np

from edgead.config import StationConfig
from edgead.errors import CameraError, DataError
from edgead.images import AnomalyMap, Image, resize
from edgead.runtime.cameras import open_cameras
from edgead.runtime.engine import Engine
from edgead.runtime.events import Event, Events, slot_name
from edgead.runtime.frames import Camera, Frame
from edgead.runtime.fusion import Judge
from edgead.runtime.journal import Journal
from edgead.runtime.ledger import TaktLedger
from edgead.runtime.line import Pacing
from edgead.runtime.outputs.feed import Feed, check
from edgead.runtime.parts import Evidence, Slot
from edgead.runtime.recovery import cut_half_line, recover
from edgead.runtime.report import StationReport, report_of
from edgead.runtime.showing import BEAT_S, Showing
from edgead.runtime.sinks import LOG_NAME, Pictures, VerdictLog

_GRACE_S = 0.5  # for threads of cameras that hang in a read when the station ends
_TRACED = 2000  # parts


class Station:
    """One run of a station: its constructor opens the cameras, ``open`` the sinks, ``start`` lets it run, once.

    Args:
        engine: judges its frames; opened after all its stations are made.
        problems: known before it starts, for the report.

    Raises:
        ConfigError, CameraError: a camera cannot be opened.
    """

    def __init__(self, config: StationConfig, engine: Engine, judge: Judge, problems: Sequence[str] = ()) -> None:
        self.config = config
        self.error: BaseException | None = None
        self._engine, self._judge = engine, judge
        self._problems = list(problems)
        self._unsettled: list[int] = []  # triggers whose verdicts the outbox does not take at present
        self._draws = config.sinks.pictures is not None
        self._threads: list[threading.Thread] = []
        self._begin_s = self._wall_s = 0.0
        self._life = ExitStack()
        check(config.outputs)
        with self._life as opening:
            self._cameras = open_cameras(config.cameras)
            for camera in self._cameras:
                opening.callback(camera.close)
            slots = {camera.name: camera.slots for camera in self._cameras}
            frames_per_part = sum(map(len, slots.values()))
            self._line = engine.flow.line(
                slots,
                judge,
                capacity=max(config.parts_in_flight * frames_per_part, 4 * engine.runner.max_batch),
                pacing=self._pacing(),
                per_part=config.sinks.pictures.per_part if config.sinks.pictures else 0,
            )
            deadline_ms = config.deadline_ms or config.takt_ms
            self._ledger = TaktLedger(
                deadline_s=deadline_ms / 1e3 if deadline_ms else None,
                clocked=config.takt_ms is not None,
                keep=_TRACED if config.trace else 0,
            )
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
        config, run, threshold = self.config, uuid.uuid4().hex[:12], self._judge.unit_threshold
        self._journal = Journal(config.output)
        self._life.callback(self._journal.close)
        cut_half_line(config.output / LOG_NAME)
        self._log = VerdictLog(config)
        self._life.callback(self._log.close)
        kept = config.sinks.pictures
        self._pictures = Pictures(config.output, kept, run=run, threshold=threshold) if kept else None
        self._events = Events(config, run=run, threshold=threshold)
        self._feed = Feed(config) if config.outputs else None
        if self._feed is not None:
            self._life.callback(self._feed.close)
        self._begin_journal(run)
        self._showing = Showing(config, self._engine.runner, threshold, self._cameras) if config.page else None
        if self._showing is not None:
            self._life.callback(self._showing.close)
        if self._showing is not None or self._draws:
            self._line.see = self._see

    def _begin_journal(self, run: str) -> None:
        """Give the parts of an earlier run that was killed the verdicts that they lack, then note this run's."""
        feed, earlier = self._feed, self._journal.earlier
        found = recover(self.config.output, earlier, self._log.write, feed.write if feed is not None else None)
        slots = [slot_name(slot) for camera in self._cameras for slot in camera.slots]
        self._journal.begin(run, constant=self._events.constant, missing=slots)
        self._line.triggered = self._journal.triggered
        self._problems += [*([found.problem] if found.problem else []), *self._journal.problems]

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
        self._note(why)
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
            problems=(
                *self._problems,
                *(self._feed.problems if self._feed else ()),
                *(self._showing.problems if self._showing else ()),
            ),
            verdict_file=self._log.path,
            pictures=(self._pictures.written, self._pictures.removed) if self._pictures else (0, 0),
            outputs=self._feed.reports() if self._feed else (),
            unsaved=self._feed.unsaved if self._feed else 0,
            cameras={camera.name: deepcopy(camera.health) for camera in self._cameras},
            trace=trace,
        )

    def _write_trace(self) -> Path | None:
        if self.config.trace is None or not self._ledger.traced:
            return None
        from edgead.runtime.trace import write_trace

        try:
            write_trace(self.config.trace, self.config.name, self._ledger.traced)
        except DataError as error:
            self._note(str(error))
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
        flow, line = self._engine.flow, self._line
        try:
            while line.is_live(camera.name):
                frame = camera.read(self.config.silence_ms / 1e3)
                if frame is None:
                    break
                place = flow.claim(line, frame)
                if place is not None:
                    self._fill(place, frame)
        except CameraError as error:
            self._note(str(error))
        finally:
            flow.end(line, camera.name)
            camera.close()

    def _fill(self, place: int, frame: Frame) -> None:
        image, flow = frame.image, self._engine.flow
        try:
            # OpenCV would put an image of another type elsewhere than into the slot, and say nothing.
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise CameraError(
                    f"camera '{frame.camera}' gave {image.dtype} {image.shape}; expected uint8 (height, width, 3)"
                )
            resize(image, self._engine.runner.size_hw, out=flow.images[place])
        except BaseException:
            flow.give_up(place)
            raise
        flow.fill(place)

    def _see(self, trigger: int, slot: Slot, score: float, image: Image, anomaly_map: AnomalyMap) -> Evidence | None:
        """Show a frame, and copy it if it is NG by itself: its slot is about to be written again."""
        if self._showing is not None:
            self._showing.frame(trigger, slot, score, image, anomaly_map)
        if self._draws and score > self._judge.unit_threshold.ng:
            return Evidence(slot, score, image.copy(), anomaly_map.copy())
        return None

    def _write(self, over: Callable[[], None], advance: Callable[..., None]) -> None:
        """Feed the sinks until there are no more verdicts."""
        try:
            beat_s = BEAT_S if self._showing is not None else None
            while (verdicts := self._line.next_verdicts(beat_s)) is not None:
                if verdicts:
                    begin_s = time.monotonic()
                    events = self._events.of(verdicts)
                    self._publish(events, [verdict.trigger for verdict in verdicts])
                    self._ledger.note(verdicts, begin_s, time.monotonic())
                    try:
                        if self._draws and self._pictures is not None:
                            self._pictures.write(verdicts)
                    except DataError as error:
                        self._note(f"{error}; verdicts go on without pictures")
                        self._draws = False
                    advance(len(verdicts))
                    if self._showing is not None:
                        self._showing.verdicts([event.text for event in events])
                if self._showing is not None:
                    self._show()
        finally:
            self._wall_s = time.monotonic() - self._begin_s
            over()

    def _publish(self, events: Sequence[Event], triggers: Sequence[int]) -> None:
        self._unsettled += triggers
        are_kept = True
        if self._feed is not None:  # before the file: what can be read there is never lost to the outputs
            try:
                self._feed.write(events)
            except DataError as error:
                are_kept = False
                self._note(str(error))
                if self._feed.is_overfull:
                    self.stop("too many verdicts wait for the outbox; the station has stopped")
        try:
            self._log.write(events)
        except DataError as error:
            self._journal.said(self._unsettled)
            self.stop(str(error))
        if are_kept:
            self._journal.published(self._unsettled)
            self._unsettled.clear()

    def _show(self) -> None:
        assert self._showing is not None
        outputs = self._feed.reports if self._feed is not None else (lambda: ())
        wall_s = time.monotonic() - self._begin_s
        self._showing.count(self._line.standing(), self._ledger, self._engine, outputs, wall_s, self._problems)

    def _note(self, problem: str) -> None:
        if problem not in self._problems and len(self._problems) < 100:
            self._problems.append(problem)
