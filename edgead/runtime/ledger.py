"""The takt ledger: what each part spent its time on, in constant memory however long a station runs.

Stages of a frame, in their order, each only where it is known:

- ``trigger``: how late the clock fired (stations with a takt);
- ``exposure``, ``decode``: as the camera says; ``transport``: the rest from the trigger until the frame was complete
  (stations with a takt);
- ``admission``: until its part had room, or its trigger came; ``resize``: into its slot;
- ``queue``: until the engine took it; ``engine``: the batch that it was in, with the copies to and from a GPU, which
  are part of the same CUDA graph;
- ``fuse``: from the last score of the part to its verdict; ``publish``: until the verdict was in the file and the
  outbox;
- ``part``: from trigger to verdict, the sum that the line feels.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from edgead.runtime.parts import PartVerdict, Slot

STAGES = (
    "trigger",
    "exposure",
    "transport",
    "decode",
    "admission",
    "resize",
    "queue",
    "engine",
    "fuse",
    "publish",
    "part",
)
_SHORTEST_S = 1e-7
_PER_DECADE = 100  # bins: 2.3 % wide each
_BINS = 10 * _PER_DECADE
_SCALE = _PER_DECADE / math.log(10)


@dataclass(slots=True)
class FrameTimes:
    """When a frame passed where; monotonic clock, seconds. 0 is not yet."""

    camera: str
    slot: Slot
    captured_s: float
    exposure_s: float = 0.0
    decode_s: float = 0.0
    claimed_s: float = 0.0
    filled_s: float = 0.0
    taken_s: float = 0.0
    judged_s: float = 0.0
    is_lost: bool = False  # its image was never written


class Spread(NamedTuple):
    """Percentiles and mean of a stage's latency, milliseconds."""

    p50: float
    p95: float
    p99: float
    p999: float
    mean: float


class Histogram:
    """Counts of durations in bins 2.3 % wide, from 0.1 microseconds to 1000 seconds; longer ones go to the last."""

    def __init__(self) -> None:
        self.counts = [0] * _BINS
        self.sum_s = 0.0
        self.largest_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        index = int(math.log(seconds / _SHORTEST_S) * _SCALE) if seconds > _SHORTEST_S else 0
        self.counts[min(index, _BINS - 1)] += 1
        self.sum_s += seconds
        self.largest_s = max(self.largest_s, seconds)

    @property
    def count(self) -> int:
        """Number of durations."""
        return sum(self.counts)

    def spread(self) -> Spread:
        """Return percentiles: the middle of the bin that each falls into, never above the longest duration."""
        values = [min(value, self.largest_s) for value in percentiles(self.counts)]
        return Spread(*(round(1e3 * value, 4) for value in (*values, self.sum_s / max(self.count, 1))))


def edges_s() -> npt.NDArray[np.float64]:
    """Return the upper edges of a histogram's bins, seconds ``(bins,)``."""
    edges: npt.NDArray[np.float64] = _SHORTEST_S * 10 ** (np.arange(1, _BINS + 1) / _PER_DECADE)
    return edges


def percentiles(
    counts: Sequence[int] | npt.NDArray[np.int64], shares: Sequence[float] = (0.5, 0.95, 0.99, 0.999)
) -> list[float]:
    """Return percentiles of a histogram, seconds: the geometric middle of their bins; 0 without any count."""
    below = np.cumsum(np.asarray(counts))
    if not below[-1]:
        return [0.0] * len(shares)
    indices = np.searchsorted(below, np.ceil(np.asarray(shares) * below[-1]).clip(1))
    return [float(_SHORTEST_S * 10 ** ((index + 0.5) / _PER_DECADE)) for index in indices]


@dataclass(frozen=True)
class TaktReport:
    """How surely the line gets a verdict in time.

    Attributes:
        deadline_ms: from the trigger to the verdict; the takt unless the station says otherwise.
        parts: triggers.
        missed: verdicts that came later, and parts without one: INCOMPLETE, MISSED, REJECTED.
        share: of all triggers: the probability of missing the takt, as far as so many parts tell.
        upper: upper limit of that probability at 95 % confidence (Wilson 1927), if parts are late independently.
    """

    deadline_ms: float
    parts: int
    missed: int
    share: float
    upper: float


@dataclass
class TaktLedger:
    """Times of one station, noted by the thread that publishes its verdicts.

    Attributes:
        deadline_s: later verdicts have missed the takt; None where there is none.
        clocked: a clock triggers the parts, so that what comes before the frame is known.
        keep: parts whose times are kept for the trace, the last ones.
        busy_s: by resource, a camera or the sinks, the time for which it worked.
    """

    deadline_s: float | None = None
    clocked: bool = False
    keep: int = 0
    stages: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram() for name in STAGES})
    busy_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    frames: int = 0
    parts: int = 0
    missed: int = 0
    first_s: float = math.inf
    last_s: float = 0.0

    def __post_init__(self) -> None:
        self.traced: deque[tuple[PartVerdict, float]] = deque(maxlen=self.keep)

    def note(self, verdicts: Sequence[PartVerdict], begin_s: float, published_s: float) -> None:
        """Take in parts that were decided, and published between ``begin_s`` and ``published_s``."""
        self.busy_s["sinks"] += published_s - begin_s
        for verdict in verdicts:
            self._note(verdict, published_s)
        if self.keep:
            self.traced.extend((verdict, published_s) for verdict in verdicts)

    def _note(self, verdict: PartVerdict, published_s: float) -> None:
        self.parts += 1
        latency_s = verdict.decided_s - verdict.triggered_s
        if self.deadline_s is not None and (latency_s > self.deadline_s or not verdict.outcome.is_judged):
            self.missed += 1
        stages = self.stages
        stages["part"].add(latency_s)
        stages["publish"].add(published_s - verdict.decided_s)
        if self.clocked:
            stages["trigger"].add(verdict.triggered_s - verdict.due_s)
        for times in verdict.times:
            for name, begin_s, end_s in spans(times, verdict.triggered_s if self.clocked else None):
                stages[name].add(end_s - begin_s)
                if name in ("decode", "resize"):
                    self.busy_s[f"camera {times.camera}"] += end_s - begin_s
        if verdict.times:
            judged_s = [times.judged_s for times in verdict.times]
            self.frames += len(judged_s)
            stages["fuse"].add(max(0.0, verdict.decided_s - max(judged_s)))
            self.first_s = min(self.first_s, min(times.filled_s for times in verdict.times))
            self.last_s = max(self.last_s, max(judged_s))

    @property
    def fps(self) -> float:
        """Frames a second, from the first image written to the last score."""
        return self.frames / (self.last_s - self.first_s) if self.frames else 0.0

    def takt(self) -> TaktReport | None:
        """Return how surely verdicts came in time; None without a deadline."""
        if self.deadline_s is None:
            return None
        parts = max(self.parts, 1)
        return TaktReport(
            1e3 * self.deadline_s, self.parts, self.missed, self.missed / parts, _wilson_upper(self.missed, parts)
        )

    def spreads(self) -> dict[str, Spread]:
        """Return the percentiles of each stage that happened, milliseconds."""
        return {name: stage.spread() for name, stage in self.stages.items() if stage.sum_s}


def spans(times: FrameTimes, triggered_s: float | None) -> Iterator[tuple[str, float, float]]:
    """Yield name, begin and end of each stage of a frame that is known; monotonic seconds."""
    decoding_s = times.captured_s - times.decode_s
    if triggered_s is not None and decoding_s > triggered_s:
        exposed_s = min(triggered_s + times.exposure_s, decoding_s)
        yield "transport", exposed_s, decoding_s
    else:
        exposed_s = decoding_s
    if times.exposure_s:
        yield "exposure", exposed_s - times.exposure_s, exposed_s
    if times.decode_s:
        yield "decode", decoding_s, times.captured_s
    yield "admission", times.captured_s, max(times.captured_s, times.claimed_s)
    yield "resize", times.claimed_s, times.filled_s
    yield "queue", times.filled_s, times.taken_s
    yield "engine", times.taken_s, times.judged_s


def _wilson_upper(events: int, trials: int, z: float = 1.6449) -> float:
    """Return the upper end of Wilson's score interval, one-sided; z is that of the confidence."""
    share, width = events / trials, z * z / trials
    return (share + width / 2 + math.sqrt(width * (share * (1 - share) + width / 4))) / (1 + width)


def bottleneck(busy: dict[str, float]) -> str:
    """Name what keeps a station from being faster: the busiest resource, or its source when all of them wait.

    Args:
        busy: by resource, the share of the time for which it worked.
    """
    name = max(busy, key=busy.__getitem__, default="")
    return name if name and busy[name] > 0.5 else "the source: everything waits for frames"
