"""What a run of a station came to: counts, speed, latencies by stage."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgead.runtime.frames import Health
from edgead.runtime.outputs.feed import OutputReport

_LAST = 10_000  # values kept of each stage: a station runs for weeks


@dataclass(frozen=True)
class Spread:
    """Percentiles of a stage's latency, milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class StationReport:
    """The end of a run.

    Attributes:
        triggers: parts that were triggered; the sum of ``verdicts``.
        verdicts: number of parts by outcome: OK, UNSURE, NG, INCOMPLETE, MISSED, REJECTED.
        frames: frames judged.
        unused_frames: late, doubled, or of rejected parts.
        fps: frames judged a second, from the first image in its slot to the last score.
        mean_batch: frames an inference.
        latency_ms: by stage, of the last ten thousand: ``resize`` into the slot, ``queue`` until the engine takes it,
            ``engine`` a batch, ``part`` from its trigger to its verdict.
        problems: one line each: cameras that vanished, sinks that failed, a signal.
        pictures: picture files written.
        pictures_removed: picture files, of this run or an earlier one, that made room for newer ones.
        cameras: by name, what became of its frames.
        outputs: by output, what was delivered, what is pending, and the last error.
        unsaved: verdicts that the outbox could not take; they are on stderr.
    """

    station: str
    runner: str
    triggers: int
    verdicts: Mapping[str, int]
    frames: int
    unused_frames: int
    wall_s: float
    fps: float
    mean_batch: float
    latency_ms: Mapping[str, Spread]
    problems: tuple[str, ...]
    verdict_file: Path
    pictures: int
    cameras: Mapping[str, Health] = field(default_factory=dict)
    outputs: tuple[OutputReport, ...] = ()
    unsaved: int = 0
    pictures_removed: int = 0

    @property
    def is_conserved(self) -> bool:
        """Tell whether every trigger ended as exactly one outcome."""
        return self.triggers == sum(self.verdicts.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "verdict_file": str(self.verdict_file), "is_conserved": self.is_conserved}


class StageTimes:
    """Latencies by stage, as the threads of a station note them."""

    def __init__(self) -> None:
        self.resize: deque[float] = deque(maxlen=_LAST)
        self.parts: deque[float] = deque(maxlen=_LAST)
        self.frames = 0
        self._queue: deque[float] = deque(maxlen=_LAST)
        self._engine: deque[float] = deque(maxlen=_LAST)
        self._batches = 0
        self._first_s = 0.0
        self._last_s = 0.0

    def batch(self, begin_s: float, end_s: float, filled_s: Sequence[float]) -> None:
        """Note one inference of images that were written at ``filled_s``."""
        if not filled_s:
            return
        if not self._batches:
            self._first_s = filled_s[0]
        self._batches += 1
        self.frames += len(filled_s)
        self._last_s = end_s
        self._queue.extend([begin_s - filled for filled in filled_s])
        self._engine.append(end_s - begin_s)

    @property
    def fps(self) -> float:
        """Frames a second, from the first image written to the last score."""
        return self.frames / (self._last_s - self._first_s) if self.frames else 0.0

    @property
    def mean_batch(self) -> float:
        """Frames an inference."""
        return self.frames / self._batches if self._batches else 0.0

    def spreads(self) -> dict[str, Spread]:
        """Return the percentiles of each stage that happened, milliseconds."""
        stages = {"resize": self.resize, "queue": self._queue, "engine": self._engine, "part": self.parts}
        return {
            name: Spread(*(round(float(ms), 4) for ms in np.percentile(np.asarray(seconds) * 1e3, (50, 95, 99))))
            for name, seconds in stages.items()
            if seconds
        }
