"""Rates and percentiles of the last minute, from the counters of a board, which only ever grow."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgead.runtime.ledger import edges_s, percentiles

if TYPE_CHECKING:
    from edgead.runtime.board import Numbers

Stage = tuple[Sequence[tuple[int, int]], float]  # pairs of bin and count, and the sum in seconds, as a board has them

_EVERY_S = 1.0
_STAGES_S, _RATES_S = 60.0, 5.0
_NAMES = ("p50", "p95", "p99", "p999")
_BINS = len(edges_s())


class Window:
    """The numbers of the last minute, one a second; its caller tells the time (monotonic)."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, Numbers]] = deque(maxlen=round(_STAGES_S / _EVERY_S) + 1)
        self._beat_s: float | None = None
        self._changed_s = 0.0

    def note(self, numbers: Numbers, now_s: float, wall_s: float) -> None:
        """Take in what the board says now; often, so that a heartbeat is seen when it comes.

        Args:
            wall_s: wall clock; only to tell how old the first heartbeat is.
        """
        if self._beat_s is None:
            self._changed_s = now_s - (max(0.0, wall_s - numbers.beat_s) if numbers.beat_s else 0.0)
        elif numbers.beat_s != self._beat_s:
            self._changed_s = now_s
        self._beat_s = numbers.beat_s
        if not self._kept or now_s - self._kept[-1][0] >= _EVERY_S:
            self._kept.append((now_s, numbers))

    def beat_age_s(self, now_s: float) -> float:
        """Return how long ago the station showed that it lives, by this process's clock: wall clocks jump."""
        return max(0.0, now_s - self._changed_s)

    def rates(self, numbers: Numbers, now_s: float) -> dict[str, float]:
        """Return frames and parts a second over the last five seconds."""
        then_s, then = self._at(now_s - _RATES_S)
        span_s = now_s - then_s
        if then is None or span_s <= 0:
            return {"frames": 0.0, "parts": 0.0}
        decided = sum(numbers.counts.values()) - sum(then.counts.values())
        return {"frames": round((numbers.frames - then.frames) / span_s, 2), "parts": round(decided / span_s, 2)}

    def stages(self, numbers: Numbers, now_s: float) -> list[dict[str, Any]]:
        """Return mean and percentiles of each stage over the last minute, milliseconds; of all, if nothing came."""
        _, then = self._at(now_s - _STAGES_S)
        rows = []
        for name, stage in numbers.stages.items():
            before = then.stages.get(name) if then is not None else None
            row = spread(stage, before) or spread(stage, None)
            if row is not None:
                rows.append({"name": name, **row})
        return rows

    def _at(self, at_s: float) -> tuple[float, Numbers | None]:
        """Return the oldest that is kept of those since a moment, or the last."""
        for when_s, numbers in self._kept:
            if when_s >= at_s:
                return when_s, numbers
        return self._kept[-1] if self._kept else (at_s, None)


def spread(stage: Stage, before: Stage | None) -> dict[str, float] | None:
    """Return count, mean and percentiles in milliseconds of what came after ``before``; None if nothing did."""
    counts, sum_s = Counter(dict(stage[0])), stage[1]
    if before is not None:
        counts.subtract(dict(before[0]))
        sum_s -= before[1]
    number = sum(counts.values())
    if number <= 0 or min(counts.values()) < 0:
        return None
    dense = np.zeros(_BINS, np.int64)
    dense[list(counts.keys())] = list(counts.values())
    values = {name: round(1e3 * value, 4) for name, value in zip(_NAMES, percentiles(dense), strict=True)}
    return {"n": number, "mean": round(1e3 * sum_s / number, 4), **values}
