"""What a run of a station came to: counts, speed, latencies by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgead.config import StationConfig
from edgead.runtime.engine import Engine
from edgead.runtime.frames import Health
from edgead.runtime.ledger import Spread, TaktLedger, TaktReport, bottleneck
from edgead.runtime.line import Standing
from edgead.runtime.outputs.feed import OutputReport


@dataclass(frozen=True)
class StationReport:
    """The end of a run.

    Attributes:
        triggers: parts that were triggered; the sum of ``verdicts``.
        verdicts: number of parts by outcome: OK, UNSURE, NG, INCOMPLETE, MISSED, REJECTED.
        frames: frames judged.
        unused_frames: late, doubled, or of rejected parts.
        fps: frames judged a second, from the first image in its slot to the last score.
        mean_batch: frames an inference, of all stations that share the engine.
        latency_ms: by stage, see ``ledger``.
        takt: how surely verdicts came in time; None where there is neither takt nor deadline.
        busy: by resource, share of the time for which it worked.
        bottleneck: what keeps the station from being faster.
        trace: file with the times of the last parts, for ui.perfetto.dev.
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
    takt: TaktReport | None = None
    busy: Mapping[str, float] = field(default_factory=dict)
    bottleneck: str = ""
    trace: Path | None = None
    cameras: Mapping[str, Health] = field(default_factory=dict)
    outputs: tuple[OutputReport, ...] = ()
    unsaved: int = 0
    pictures_removed: int = 0

    @property
    def station_over_engine(self) -> float:
        """Return the frames a second as a share of what the engine would do if it never waited, 0 to 1.

        From the time for which the engine worked, for all stations that share it. A line that sends fewer frames than
        the engine could take has a low one; ``edgead bench --station`` measures it at full load, beside a bare runner.
        """
        return self.busy.get("engine", 0.0)

    @property
    def is_conserved(self) -> bool:
        """Tell whether every trigger ended as exactly one outcome."""
        return self.triggers == sum(self.verdicts.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        latency_ms = {name: spread._asdict() for name, spread in self.latency_ms.items()}
        return {
            **asdict(self),
            "latency_ms": latency_ms,
            "verdict_file": str(self.verdict_file),
            "trace": str(self.trace) if self.trace else None,
            "is_conserved": self.is_conserved,
            "station_over_engine": self.station_over_engine,
        }


def report_of(
    config: StationConfig,
    engine: Engine,
    standing: Standing,
    ledger: TaktLedger,
    *,
    wall_s: float,
    **rest: Any,
) -> StationReport:
    """Return the report of a station that has ended; ``rest`` are the fields that are known as they are."""
    accounted = standing.open + sum(standing.counts.values())
    if standing.triggers != accounted:
        raise AssertionError(f"{standing.triggers} triggers, but {accounted} parts")
    busy = busy_shares(ledger, engine, wall_s)
    return StationReport(
        station=config.name,
        runner=engine.runner.name,
        triggers=standing.triggers,
        verdicts=standing.counts,
        frames=ledger.frames,
        unused_frames=standing.unused_frames,
        wall_s=wall_s,
        fps=ledger.fps,
        mean_batch=engine.mean_batch,
        latency_ms=ledger.spreads(),
        takt=ledger.takt(),
        busy=busy,
        bottleneck=bottleneck(busy),
        **rest,
    )


def busy_shares(ledger: TaktLedger, engine: Engine, wall_s: float) -> dict[str, float]:
    """Return for each resource the share of the time for which it worked: the engine, cameras, the sinks."""
    busy_s = {"engine": engine.busy_s, **ledger.busy_s}
    return {name: round(min(1.0, seconds / max(wall_s, 1e-9)), 4) for name, seconds in busy_s.items()}
