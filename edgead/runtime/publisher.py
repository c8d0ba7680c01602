"""Where the verdicts of a station go: outbox, file, pictures, page; and the journal of what still owes one.

Apart from ``see``, which the engine's thread calls, all is called by the one thread that feeds the sinks.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from edgead.config import StationConfig
from edgead.errors import DataError
from edgead.images import AnomalyMap, Image
from edgead.runtime.engine import Engine
from edgead.runtime.events import Event, Events, slot_name
from edgead.runtime.frames import Camera
from edgead.runtime.fusion import Judge
from edgead.runtime.journal import Journal
from edgead.runtime.ledger import TaktLedger
from edgead.runtime.line import Standing
from edgead.runtime.outputs.feed import Feed
from edgead.runtime.parts import Evidence, PartVerdict, Slot
from edgead.runtime.recovery import cut_half_line, recover
from edgead.runtime.showing import BEAT_S, Showing
from edgead.runtime.sinks import LOG_NAME, Pictures, VerdictLog

_MOST_PROBLEMS = 100


class Problems:
    """What the report has to say, one line each, in the order of its first mention; bounded."""

    def __init__(self, known: Sequence[str] = ()) -> None:
        self.lines = list(known)

    def note(self, problem: str) -> None:
        """Remember a problem, once."""
        if problem and problem not in self.lines and len(self.lines) < _MOST_PROBLEMS:
            self.lines.append(problem)


class Publisher:
    """The sinks of one run of a station.

    Args:
        problems: gets what goes wrong, for the report.
        stop: called when verdicts can no longer be kept, with the reason.

    Raises:
        ConfigError: one of the sinks cannot be written, or what it needs is not there.
        MissingError: the library of an output or of the page is not installed.
    """

    def __init__(
        self,
        config: StationConfig,
        engine: Engine,
        judge: Judge,
        cameras: Sequence[Camera],
        problems: Problems,
        *,
        stop: Callable[[str], None],
    ) -> None:
        run, threshold, kept = uuid.uuid4().hex[:12], judge.unit_threshold, config.sinks.pictures
        self._engine, self._judge, self._problems, self._stop = engine, judge, problems, stop
        self._unsettled: list[int] = []
        self._had_room = True
        self._feed: Feed | None = None
        self._showing: Showing | None = None
        with ExitStack() as opening:
            self._journal = Journal(config.output)
            opening.callback(self._journal.close)
            cut_half_line(config.output / LOG_NAME)
            self._log = VerdictLog(config)
            opening.callback(self._log.close)
            self._pictures = Pictures(config.output, kept, run=run, judge=judge) if kept else None
            self._draws = kept is not None
            self._events = Events(config, run=run, threshold=threshold)
            if config.outputs:
                self._feed = Feed(config)
                opening.callback(self._feed.close)
            self._begin_journal(config, run, [slot_name(slot) for camera in cameras for slot in camera.slots])
            if config.page:
                self._showing = Showing(config, engine.runner, threshold, cameras)
                opening.callback(self._showing.close)
            self._life = opening.pop_all()
        self.triggered = self._journal.triggered
        self.beat_s = BEAT_S if self._showing or self._feed else None
        self.see = self._see if self._showing or self._draws else None

    def publish(self, verdicts: Sequence[PartVerdict]) -> None:
        """Hand verdicts to outbox and file, then note that they have been: what is in the file is in the outbox."""
        events = self._events.of(verdicts)
        self._keep(events, [verdict.trigger for verdict in verdicts])
        if self._showing is not None:
            self._showing.verdicts([event.text for event in events])

    def draw(self, verdicts: Sequence[PartVerdict]) -> None:
        """Write the pictures of NG parts."""
        try:
            if self._draws and self._pictures is not None:
                self._pictures.write(verdicts)
        except DataError as error:
            self._problems.note(f"{error}; verdicts go on without pictures")
            self._draws = False

    def beat(self, standing: Standing, ledger: TaktLedger, wall_s: float, *, ended: bool = False) -> None:
        """Show how the station stands; at least each ``beat_s`` while it lives."""
        if self._feed is not None and standing.has_room != self._had_room:
            self._had_room = standing.has_room
            self._feed.show_room(standing.has_room)
        if self._showing is not None:
            outputs = self._feed.reports if self._feed is not None else (lambda: ())
            self._showing.count(standing, ledger, self._engine, outputs, wall_s, self._problems.lines, ended=ended)

    def close(self) -> None:
        """Close all sinks; outputs get their time to catch up. Twice is allowed."""
        self._life.close()

    def told(self) -> dict[str, Any]:
        """Return the fields of the report that the sinks know, after ``close``."""
        feed, showing, pictures = self._feed, self._showing, self._pictures
        return {
            "problems": (
                *self._problems.lines,
                *self._log.problems,
                *(feed.problems if feed else ()),
                *(showing.problems if showing else ()),
            ),
            "verdict_file": self._log.path,
            "pictures": pictures.written if pictures else 0,
            "pictures_removed": pictures.removed if pictures else 0,
            "outputs": feed.reports() if feed else (),
            "unsaved": feed.unsaved if feed else 0,
        }

    def _begin_journal(self, config: StationConfig, run: str, slots: Sequence[str]) -> None:
        """Give the parts of an earlier run that was killed the verdicts that they lack, then note this run's."""
        write = self._feed.write if self._feed is not None else None
        found = recover(config.output, self._journal.earlier, self._log.write, write)
        self._journal.begin(run, constant=self._events.constant, missing=slots)
        for problem in (found.problem, *self._journal.problems):
            self._problems.note(problem)

    def _see(self, trigger: int, slot: Slot, score: float, image: Image, anomaly_map: AnomalyMap) -> Evidence | None:
        """Show a frame, and copy it if its part may be NG by it: its slot is about to be written again."""
        if self._showing is not None:
            self._showing.frame(trigger, slot, score, image, anomaly_map)
        if self._draws and score > self._judge.limit(slot):
            return Evidence(slot, score, image.copy(), anomaly_map.copy())
        return None

    def _keep(self, events: Sequence[Event], triggers: Sequence[int]) -> None:
        self._unsettled += triggers
        are_kept = True
        if self._feed is not None:  # before the file: what can be read there is never lost to the outputs
            try:
                self._feed.write(events)
            except DataError as error:
                are_kept = False
                self._problems.note(str(error))
                if self._feed.is_overfull:
                    self._stop("too many verdicts wait for the outbox; the station has stopped")
        try:
            self._log.write(events)
        except DataError as error:
            self._journal.said(self._unsettled)
            self._stop(str(error))
        if are_kept:
            self._journal.published(self._unsettled)
            self._unsettled.clear()
