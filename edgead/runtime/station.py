"""A station: cameras to parts to verdicts to sinks.

One thread a camera resizes frames straight into the ring; one thread takes what is there, up to the engine's largest
batch, and judges it; one thread feeds the sinks. Without a takt, recorded sources are held back while there is no room;
with one, a clock triggers the parts, and those without room are rejected whole.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from copy import deepcopy
from functools import partial

import numpy as np

from edgead.bundle import Bundle
from edgead.config import StationConfig
from edgead.errors import ArtefactError, CameraError, DataError
from edgead.images import resize
from edgead.runtime.cameras import open_cameras
from edgead.runtime.events import Event, Events
from edgead.runtime.flow import Batch, Flow
from edgead.runtime.frames import Camera, Frame
from edgead.runtime.open import backend_of, doubt, open_runner
from edgead.runtime.outputs.feed import Feed, check
from edgead.runtime.parts import Evidence
from edgead.runtime.report import StageTimes, StationReport
from edgead.runtime.runner import Prediction, Runner
from edgead.runtime.signals import stop_signals
from edgead.runtime.sinks import Pictures, VerdictLog
from edgead.thresholds import Threshold

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]  # such as edgead.progress.task
_GRACE_S = 0.5  # for threads of cameras that hang in a read when the station ends


def run_station(
    config: StationConfig,
    *,
    runner: Runner | None = None,
    threshold: Threshold | None = None,
    progress: Progress | None = None,
) -> StationReport:
    """Judge parts until all cameras have ended, or until SIGINT or SIGTERM.

    Args:
        runner: an open one, which stays open; None opens the bundle's artefact.
        threshold: None takes the one of the bundle's artefact.
        progress: ``edgead.progress.task``, to show how it goes.

    Raises:
        EdgeadError: parity is unproven, a camera, the bundle or the output folder cannot be opened, or the engine
            failed; what was admitted is in the verdict file by then, INCOMPLETE where it could not be judged.
    """
    problems: tuple[str, ...] = ()
    with ExitStack() as stack:
        if runner is None or threshold is None:
            bundle = Bundle.open(config.bundle)
            threshold = threshold or bundle.threshold(config.artefact)
        if runner is None:
            problems = _unproven(config, bundle)
            runner = stack.enter_context(
                open_runner(bundle, config.artefact, backend=config.backend, threads=config.threads)
            )
        return Station(config, runner, threshold, problems).run(progress)


def _unproven(config: StationConfig, bundle: Bundle) -> tuple[str, ...]:
    """Return what the report has to say about an artefact that is run unproven.

    Raises:
        ArtefactError: it is not deployable, and the station does not say ``unproven: true``.
    """
    reason = doubt(bundle, config.artefact, backend_of(bundle, config.artefact, config.backend))
    if reason is None:
        return ()
    if not config.unproven:
        raise ArtefactError(f"{bundle.path}: {reason}; or run it at your own risk: 'unproven: true' in station.yaml")
    return (f"unproven: {reason}",)


class Station:
    """One run of a station: opened by its constructor, closed by ``run``, which is called once."""

    def __init__(
        self, config: StationConfig, runner: Runner, threshold: Threshold, problems: Sequence[str] = ()
    ) -> None:
        """Open sinks and cameras, and warm up the engine.

        Args:
            problems: known before it starts, for the report.

        Raises:
            ConfigError, CameraError: a sink or a camera cannot be opened.
            ArtefactError: the engine does not run.
        """
        run, kept = uuid.uuid4().hex[:12], config.sinks.pictures
        self._config = config
        self._runner = runner
        self._threshold = threshold
        check(config.outputs)
        with ExitStack() as stack:
            self._cameras = open_cameras(config.cameras)
            for camera in self._cameras:
                stack.callback(camera.close)
            slots = {camera.name: camera.slots for camera in self._cameras}
            self._flow = Flow(
                slots,
                threshold,
                size_hw=runner.size_hw,
                capacity=max(config.parts_in_flight * sum(map(len, slots.values())), 4 * runner.max_batch),
                clocked=config.takt_ms is not None,
                per_part=kept.per_part if kept else 0,
            )
            runner.infer(self._flow.images[:1])  # the first inference is slow: no part should wait for it
            # Last, so that a station that cannot start leaves no output folder.
            self._log = VerdictLog(config)
            stack.callback(self._log.close)
            self._pictures = Pictures(config.output, kept, run=run, threshold=threshold) if kept else None
            self._feed = Feed(config) if config.outputs else None
            stack.pop_all()
        self._events_of = Events(config, run=run, threshold=threshold).of
        self._draws = self._pictures is not None
        self._times = StageTimes()
        self._problems = list(problems)
        self._error: BaseException | None = None
        self._events: queue.SimpleQueue[str] = queue.SimpleQueue()  # its put may be called by a signal handler

    def run(self, progress: Progress | None = None) -> StationReport:
        """Judge parts until all cameras have ended, or until ``stop`` or a signal."""
        totals = [camera.triggers for camera in self._cameras]
        last = None if None in totals else max(total or 0 for total in totals)
        with ExitStack() as stack:
            stack.callback(self._log.close)
            if self._feed is not None:
                stack.callback(self._feed.close)
            showing = progress("Streaming", last or 0) if progress else nullcontext(lambda _steps: None)
            advance = stack.enter_context(showing)
            stack.enter_context(stop_signals(self._events))
            begin_s = time.monotonic()
            threads = self._start(last, advance)
            while self._events.get() == "stop":
                self.stop("stopped by a signal; what was admitted is judged")
            self._flow.end()
            for camera in self._cameras:
                camera.stop()
            for thread in threads:
                thread.join(_GRACE_S)
            wall_s = time.monotonic() - begin_s
        if self._error is not None:
            raise self._error
        return self._report(wall_s)

    def stop(self, why: str) -> None:
        """Take no more frames; what has come is judged, what is missing is given up."""
        self._note(why)
        self._flow.end()

    def _start(self, last: int | None, advance: Callable[..., None]) -> list[threading.Thread]:
        lives = {"engine": self._judge, "sinks": partial(self._write, advance)}
        if self._config.takt_ms is not None:
            takt_s, timeout_s = self._config.takt_ms / 1e3, self._config.timeout_ms / 1e3
            lives["clock"] = partial(self._flow.run_clock, takt_s, timeout_s, last)
        lives |= {f"camera {camera.name}": partial(self._capture, camera) for camera in self._cameras}
        threads = [threading.Thread(None, self._live, name, (name, life), daemon=True) for name, life in lives.items()]
        for thread in threads:
            thread.start()
        return threads

    def _live(self, name: str, life: Callable[[], None]) -> None:
        """Run a thread's life; what it did not foresee ends the station with that error."""
        try:
            life()
        except BaseException as error:
            self._error = self._error or error
            self._flow.end()
            if name in ("engine", "sinks"):  # the others can be done without: what has come is judged and written
                self._events.put("crashed")

    def _capture(self, camera: Camera) -> None:
        """Read one camera to its end."""
        try:
            while self._flow.is_live(camera.name):
                frame = camera.read(self._config.silence_ms / 1e3)
                if frame is None:
                    break
                place = self._flow.claim(frame)
                if place is not None:
                    self._fill(place, frame)
        except CameraError as error:
            self._note(str(error))
        finally:
            self._flow.end(camera.name)
            camera.close()

    def _fill(self, place: int, frame: Frame) -> None:
        begin_s = time.monotonic()
        image = frame.image
        try:
            # OpenCV would put an image of another type elsewhere than into the slot, and say nothing.
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise CameraError(
                    f"camera '{frame.camera}' gave {image.dtype} {image.shape}; expected uint8 (height, width, 3)"
                )
            resize(image, self._runner.size_hw, out=self._flow.images[place])
        except BaseException:
            self._flow.give_up(place)
            raise
        self._times.resize.append(time.monotonic() - begin_s)
        self._flow.fill(place)

    def _judge(self) -> None:
        """Infer what has come until nothing more can come; after a failure of the engine, give all of it up."""
        while (batch := self._flow.next_batch(self._runner.max_batch)) is not None:
            if self._error is not None:
                self._flow.settle(batch, None, ())
                continue
            begin_s = time.monotonic()
            try:
                prediction = self._runner.infer(batch.images)
            except Exception as error:
                self._error = error
                self._flow.settle(batch, None, ())
                self._flow.end()
                continue
            filled_s = [filled for filled, owner in zip(batch.filled_s, batch.owners, strict=True) if owner]
            self._times.batch(begin_s, time.monotonic(), filled_s)
            self._flow.settle(batch, prediction.pred_score.tolist(), self._evidence(batch, prediction))

    def _evidence(self, batch: Batch, prediction: Prediction) -> Sequence[Evidence | None]:
        """Copy the frames that are NG by themselves: their slots are about to be written again."""
        seen: list[Evidence | None] = [None] * len(batch.owners)
        if self._draws:
            for index in np.flatnonzero(prediction.pred_score > self._threshold.ng).tolist():
                owner, score = batch.owners[index], float(prediction.pred_score[index])
                if owner is not None:
                    image, anomaly_map = batch.images[index].copy(), prediction.anomaly_map[index].copy()
                    seen[index] = Evidence(owner.slot, score, image, anomaly_map)
        return seen

    def _write(self, advance: Callable[..., None]) -> None:
        """Feed the sinks until there are no more verdicts."""
        while (verdicts := self._flow.next_verdicts()) is not None:
            self._times.parts.extend([verdict.decided_s - verdict.triggered_s for verdict in verdicts])
            events = self._events_of(verdicts)
            if self._feed is not None:  # before the file: what can be read there is never lost to the outputs
                self._deliver(self._feed, events)
            try:
                self._log.write(events)
            except DataError as error:
                self.stop(str(error))
            try:
                if self._draws and self._pictures is not None:
                    self._pictures.write(verdicts)
            except DataError as error:
                self._note(f"{error}; verdicts go on without pictures")
                self._draws = False
            advance(len(verdicts))
        self._events.put("done")

    def _deliver(self, feed: Feed, events: Sequence[Event]) -> None:
        try:
            feed.write(events)
        except DataError as error:
            self._note(str(error))
            if feed.is_overfull:
                self.stop("too many verdicts wait for the outbox; the station has stopped")

    def _note(self, problem: str) -> None:
        if problem not in self._problems:
            self._problems.append(problem)

    def _report(self, wall_s: float) -> StationReport:
        ledger = self._flow.ledger
        ledger.check()
        return StationReport(
            station=self._config.name,
            runner=self._runner.name,
            triggers=ledger.triggers,
            verdicts={outcome.value: count for outcome, count in ledger.counts.items()},
            frames=self._times.frames,
            unused_frames=ledger.unused_frames,
            wall_s=wall_s,
            fps=self._times.fps,
            mean_batch=self._times.mean_batch,
            latency_ms=self._times.spreads(),
            problems=(*self._problems, *(self._feed.problems if self._feed else ())),
            verdict_file=self._log.path,
            pictures=self._pictures.written if self._pictures else 0,
            pictures_removed=self._pictures.removed if self._pictures else 0,
            outputs=self._feed.reports() if self._feed else (),
            unsaved=self._feed.unsaved if self._feed else 0,
            cameras={camera.name: deepcopy(camera.health) for camera in self._cameras},
        )
