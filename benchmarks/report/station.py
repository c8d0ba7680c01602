"""What a station's verdict log says: counts by outcome, and whether every trigger ended exactly once."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report.markup import Markup, Value, join, missing, section, table, tag
from edgead.errors import DataError
from edgead.runtime.events import SCHEMA
from edgead.runtime.parts import Outcome
from edgead.runtime.sinks import LOG_NAME, rolled


@dataclass(frozen=True)
class StationLog:
    """The last run in a verdict log.

    Attributes:
        runs: number of runs in the file.
        outcomes: parts by outcome.
        triggers: highest trigger number and one: they are counted from 0 in each run.
        doubled: verdicts on a trigger that had one already.
        unreadable: lines of the whole file that hold no verdict.
        latency_ms: p50, p95 and p99 from trigger to verdict.
        worst: NG parts by the view and light that showed it.
    """

    path: Path
    station: str
    runs: int
    outcomes: dict[str, int]
    triggers: int
    doubled: int
    frames: int
    unreadable: int
    latency_ms: tuple[float, float, float]
    worst: dict[str, int]
    artefact: str
    ng: float

    @property
    def is_conserved(self) -> bool:
        """Tell whether every trigger ended as exactly one outcome."""
        return self.doubled == 0 and self.triggers == sum(self.outcomes.values())


def read_log(path: Path) -> StationLog | None:
    """Read a verdict log with the files that it was rolled to; None where it holds no verdict.

    Raises:
        DataError: it cannot be read.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    unreadable = 0
    try:
        for part in (*rolled(path.parent), path):
            for line in part.read_text(encoding="utf-8", errors="replace").splitlines():
                fields = _verdict(line)
                if fields is None:
                    unreadable += 1
                else:
                    runs.setdefault(fields["event_id"].rpartition("-")[0], []).append(fields)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a station's verdicts") from error
    if not runs:
        return None
    last = list(runs.values())[-1]
    seen = Counter(fields["trigger"] for fields in last)
    outcomes = Counter(fields["verdict"] for fields in last)
    p50, p95, p99 = np.percentile([fields["latency_ms"] for fields in last], (50, 95, 99)).tolist()
    return StationLog(
        path=path,
        station=last[-1]["station"],
        runs=len(runs),
        outcomes={outcome.value: outcomes[outcome.value] for outcome in Outcome},
        triggers=max(seen) + 1,
        doubled=sum(seen.values()) - len(seen),
        frames=sum(fields["frames"] for fields in last),
        unreadable=unreadable,
        latency_ms=(p50, p95, p99),
        worst=dict(Counter(fields["worst"] for fields in last if fields["verdict"] == "NG").most_common()),
        artefact=last[-1]["artefact"],
        ng=last[-1]["ng"],
    )


def station_section(logs: tuple[StationLog, ...], folder: Path) -> Markup:
    """Show each station's last run; paths are written relative to ``folder``."""
    if not logs:
        return section("On the line", missing("No station has run with this bundle", "stream", "station.yaml"))
    return section(
        "On the line",
        *(_log(log, folder) for log in logs),
        note="What a station decided on the parts that it was shown.",
    )


def _log(log: StationLog, folder: Path) -> Markup:
    sum_up = " + ".join(f"{number} {name}" for name, number in log.outcomes.items() if number)
    law = f"{log.triggers} triggers = {sum_up}"
    verdict: Value
    if log.is_conserved:
        verdict = tag("span", "every trigger ended as exactly one outcome", class_="verdict ok")
    else:
        lost = log.triggers - sum(log.outcomes.values()) + log.doubled
        verdict = tag("span", f"not conserved: {lost} without a verdict, {log.doubled} doubled", class_="verdict ng")
    p50, p95, p99 = log.latency_ms
    rows: list[tuple[Value, ...]] = [
        (
            "From trigger to verdict",
            f"{p50:.1f} ms p50, {p95:.1f} ms p95, {p99:.1f} ms p99, waiting for the engine included",
        ),
        ("Frames judged", f"{log.frames:,}"),
        ("Judged by", f"{log.artefact}, NG above {log.ng:.6g}"),
        (
            "Log",
            join(
                [
                    tag("code", log.path.relative_to(folder).as_posix()),
                    f" ({log.runs} runs; this is the last)" if log.runs > 1 else "",
                ]
            ),
        ),
    ]
    if log.worst:
        rows.append(("NG parts by worst frame", ", ".join(f"{name}: {number}" for name, number in log.worst.items())))
    if log.unreadable:
        rows.append(("Lines that hold no verdict", str(log.unreadable)))
    return join((tag("h3", log.station), tag("p", tag("strong", law), " ", verdict), table((), rows, words=2)))


def _verdict(line: str) -> dict[str, Any] | None:
    """Return the fields of a line, None where it is no verdict of this schema: a line may be cut by a full disk."""
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
        return None
    types = {
        "event_id": str,
        "trigger": int,
        "verdict": str,
        "station": str,
        "frames": int,
        "latency_ms": float,
        "ng": float,
    }
    known = all(isinstance(fields.get(key), kind) for key, kind in types.items())
    return fields if known and {"worst", "artefact"} <= fields.keys() else None


def logs_below(folder: Path) -> tuple[StationLog, ...]:
    """Read all verdict logs below a folder."""
    logs = (read_log(path) for path in sorted(folder.glob(f"**/{LOG_NAME}")))
    return tuple(log for log in logs if log is not None)
