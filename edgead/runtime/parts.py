"""From triggers and frames to verdicts on parts: views x illuminations of one trigger make one part.

A part is admitted whole at its trigger, with room for all its frames, or rejected whole. Every trigger ends as exactly
one outcome, so that at any moment ``triggers = decided + open`` and in the end ``triggers = OK + UNSURE + NG +
INCOMPLETE + MISSED + REJECTED``.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from edgead.images import AnomalyMap, Image
from edgead.runtime.fusion import Judge
from edgead.runtime.ledger import FrameTimes


class Slot(NamedTuple):
    """One of the frames that a part is made of."""

    view: str
    illumination: str


class Outcome(str, enum.Enum):
    """How a trigger ended: with a verdict, or with the reason why there is none."""

    OK = "OK"
    UNSURE = "UNSURE"
    NG = "NG"
    INCOMPLETE = "INCOMPLETE"  # some of its frames never came
    MISSED = "MISSED"  # none of its frames came
    REJECTED = "REJECTED"  # there was no room for it when it was triggered

    @property
    def is_judged(self) -> bool:
        """Tell whether it is a verdict on the part, not the reason why there is none."""
        return self in (Outcome.OK, Outcome.UNSURE, Outcome.NG)


class Evidence(NamedTuple):
    """A frame that is NG by itself, kept for its picture."""

    slot: Slot
    score: float
    image: Image
    anomaly_map: AnomalyMap


@dataclass(frozen=True)
class PartVerdict:
    """What became of one trigger.

    Attributes:
        part: the source's name of the part; None when no frame of it came.
        score: what its judge made of the scores of its frames; None when none was judged.
        worst: the frame that speaks most against it.
        frames: number of frames judged.
        missing: frames that never came or could not be judged.
        due_s, triggered_s, decided_s: monotonic clock; due is when the takt wanted it.
        evidence: NG frames, the worst first.
        times: of each frame judged.
    """

    trigger: int
    part: str | None
    outcome: Outcome
    score: float | None
    worst: Slot | None
    frames: int
    missing: tuple[Slot, ...]
    triggered_s: float
    decided_s: float
    due_s: float = 0.0
    evidence: tuple[Evidence, ...] = ()
    times: tuple[FrameTimes, ...] = ()


@dataclass
class _OpenPart:
    trigger: int
    due_s: float
    triggered_s: float
    waiting: set[Slot]  # not yet come
    missing: list[Slot]  # given up
    pending: int = 0  # come, not yet judged
    part: str | None = None
    scores: dict[Slot, float] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)
    times: list[FrameTimes] = field(default_factory=list)


class Parts:
    """The ledger of triggers and the assembler of parts; its owner serialises all calls and tells the time.

    Args:
        slots: by camera, the frames that it gives for each part.
        judge: makes one verdict of the scores of a part's frames.
        capacity: frames that may be admitted and not yet judged.
        backlog: decided parts that may wait for the sinks before no more are admitted.
        per_part: NG frames kept of a part.
    """

    def __init__(
        self,
        slots: Mapping[str, Sequence[Slot]],
        judge: Judge,
        *,
        capacity: int,
        backlog: int = 32,
        per_part: int = 4,
    ) -> None:
        self._slots = {camera: tuple(own) for camera, own in slots.items()}
        self._judge = judge
        self._capacity = capacity
        self._backlog = backlog
        self._per_part = per_part
        self._frames_per_part = sum(map(len, self._slots.values()))
        self._at = dict.fromkeys(self._slots, 0.0)  # by camera, the earliest trigger that it can still give frames of
        self._open: dict[int, _OpenPart] = {}
        self._reserved = 0
        self.decided: deque[PartVerdict] = deque()
        self.counts = dict.fromkeys(Outcome, 0)
        self.triggers = 0
        self.unused_frames = 0  # late, doubled, or of a rejected part

    @property
    def has_room(self) -> bool:
        """Tell whether a part that is triggered now would be admitted."""
        return self._reserved + self._frames_per_part <= self._capacity and len(self.decided) < self._backlog

    @property
    def oldest_waiting_s(self) -> float | None:
        """Return when the oldest part that still waits for frames was triggered."""
        return next((part.triggered_s for part in self._open.values() if part.waiting), None)

    @property
    def open(self) -> int:
        """Return the number of parts that are admitted and not decided."""
        return len(self._open)

    def trigger(self, now_s: float, due_s: float | None = None) -> bool:
        """Admit the next part whole, or reject it whole."""
        due_s = now_s if due_s is None else due_s
        number = self.triggers
        self.triggers += 1
        if not self.has_room:
            missing = tuple(slot for own in self._slots.values() for slot in own)
            self._decide(_OpenPart(number, due_s, now_s, set(), list(missing)), Outcome.REJECTED, now_s)
            return False
        part = _OpenPart(number, due_s, now_s, set(), [])
        for camera, own in self._slots.items():
            if self._at[camera] <= number:
                part.waiting.update(own)
            else:
                part.missing.extend(own)
        self._open[number] = part
        self._reserved += len(part.waiting)
        self._close_if_done(part, now_s)
        return True

    def reach(self, camera: str, trigger: float, now_s: float) -> None:
        """Note that a camera has come to a trigger: frames of earlier ones, not here yet, it has lost."""
        if trigger <= self._at[camera]:
            return
        self._at[camera] = trigger
        for part in [part for part in self._open.values() if part.trigger < trigger]:
            self._give_up(part, part.waiting.intersection(self._slots[camera]), now_s)

    def end(self, camera: str, now_s: float) -> None:
        """Note that a camera will give no more frames."""
        self.reach(camera, math.inf, now_s)

    def expire(self, before_s: float, now_s: float) -> None:
        """Give up the missing frames of parts that were triggered before ``before_s``."""
        for part in [part for part in self._open.values() if part.triggered_s <= before_s and part.waiting]:
            self._give_up(part, set(part.waiting), now_s)

    def claim(self, trigger: int, slot: Slot, part_name: str) -> bool:
        """Take a frame in for its part; False when the part does not, or no longer, wait for it."""
        part = self._open.get(trigger)
        if part is None or slot not in part.waiting:
            self.unused_frames += 1
            return False
        part.waiting.remove(slot)
        part.pending += 1
        part.part = part_name
        return True

    def judge(
        self,
        trigger: int,
        slot: Slot,
        score: float,
        now_s: float,
        evidence: Evidence | None = None,
        times: FrameTimes | None = None,
    ) -> None:
        """Add the score of a frame that was claimed."""
        part = self._open[trigger]
        part.scores[slot] = score
        if times is not None:
            part.times.append(times)
        if evidence is not None:
            part.evidence = sorted([*part.evidence, evidence], key=lambda seen: -seen.score)[: self._per_part]
        self._settle(part, now_s)

    def lose(self, trigger: int, slot: Slot, now_s: float) -> None:
        """Give up a frame that was claimed but cannot be judged."""
        part = self._open[trigger]
        part.missing.append(slot)
        self._settle(part, now_s)

    def take_decided(self) -> list[PartVerdict]:
        """Hand over the parts decided since the last call, in the order of their decisions."""
        taken = list(self.decided)
        self.decided.clear()
        return taken

    def check(self) -> None:
        """Hold the conservation law: every trigger is decided exactly once, or still open."""
        decided, open_parts = sum(self.counts.values()), len(self._open)
        reserved = sum(len(part.waiting) + part.pending for part in self._open.values())
        if self.triggers != decided + open_parts or self._reserved != reserved or reserved > self._capacity:
            raise AssertionError(
                f"{self.triggers} triggers but {decided} decided and {open_parts} open parts; "
                f"{self._reserved} frames reserved but {reserved} held, of {self._capacity}"
            )

    def _give_up(self, part: _OpenPart, slots: set[Slot], now_s: float) -> None:
        part.waiting -= slots
        part.missing.extend(sorted(slots))
        self._reserved -= len(slots)
        self._close_if_done(part, now_s)

    def _settle(self, part: _OpenPart, now_s: float) -> None:
        part.pending -= 1
        self._reserved -= 1
        self._close_if_done(part, now_s)

    def _close_if_done(self, part: _OpenPart, now_s: float) -> None:
        if part.waiting or part.pending:
            return
        del self._open[part.trigger]
        self._decide(part, Outcome.INCOMPLETE if part.part is not None else Outcome.MISSED, now_s)

    def _decide(self, part: _OpenPart, outcome: Outcome, now_s: float) -> None:
        """Decide a part; ``outcome`` is what became of it if something is missing."""
        judged = self._judge.judge(part.scores) if part.scores else None
        if judged is not None and not part.missing:
            outcome = Outcome(judged.verdict.value)
        self.counts[outcome] += 1
        self.decided.append(
            PartVerdict(
                trigger=part.trigger,
                part=part.part,
                outcome=outcome,
                score=judged.score if judged else None,
                worst=judged.worst if judged else None,
                frames=len(part.scores),
                missing=tuple(part.missing),
                triggered_s=part.triggered_s,
                decided_s=now_s,
                due_s=part.due_s,
                times=tuple(part.times),
                evidence=tuple(part.evidence) if outcome is Outcome.NG else (),
            )
        )
