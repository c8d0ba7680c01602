"""Drive a station faster than its engine, and hold that what it admits stays whole and in time.

    python -m benchmarks.overload --load 1.5 --save benchmarks/results/overload.json

Before each of the two loads the source is held back by the station, which tells what station and engine can do
together. Then a clock triggers parts at a share of that: 80 %, for comparison, and the overload. Parts without room are
rejected whole at their trigger; all others must be judged, whole, and wait no longer than for the frames that are
admitted at a time, and one batch.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.endurance.conservation import logged
from benchmarks.endurance.engine import small_bundle, write_station
from benchmarks.endurance.processes import StationProcess
from benchmarks.results import save
from edgead.errors import EdgeadError, GateError

_VIEWS, _LIGHTS = ("front", "back"), 4
_FRAMES_PER_PART = len(_VIEWS) * _LIGHTS
_IN_FLIGHT = 4  # parts
_LARGEST_BATCH = 8
_ADMITTED = max(_IN_FLIGHT * _FRAMES_PER_PART, 4 * _LARGEST_BATCH)  # frames; as in edgead.runtime.station
_UNDER = 0.8
_JUDGED = frozenset({"OK", "UNSURE", "NG"})
_PARTS = 200  # of the run that tells what it can do


def run_overload(folder: Path, *, load: float, seconds: float, bundle: Path | None = None) -> list[dict[str, Any]]:
    """Measure 80 % and the overload in one go, in a folder; return a row for each.

    Args:
        load: triggers over what the station can do.
        seconds: for each of the two.
        bundle: another engine than a small convolution.

    Raises:
        GateError: a station failed, or lost a trigger.
        MissingError: onnx is not installed.
    """
    bundle = bundle or small_bundle(folder / "bundle", channels=32, layers=2).path
    rows = []
    for share in (_UNDER, load):
        held = _run(folder / f"held_{share:g}", bundle, parts=_PARTS, takt_ms=None)
        takt_ms = 1e3 * _FRAMES_PER_PART / (share * held["fps"])
        parts = math.ceil(1e3 * seconds / takt_ms)
        rows.append(_row(share, takt_ms, folder / f"load_{share:g}", bundle, parts))
    return rows


def _run(output: Path, bundle: Path, *, parts: int, takt_ms: float | None) -> dict[str, Any]:
    uri = f"sim://magnetic_core?seed=3&size=64&cache=4&parts={parts}"
    document: dict[str, Any] = {
        "name": output.name,
        "bundle": str(bundle),
        "output": str(output),
        "cameras": [{"name": view, "view": view, "uri": uri} for view in _VIEWS],
        "parts_in_flight": _IN_FLIGHT,
        "sinks": {"pictures": None},
        "takt_ms": takt_ms,
        "timeout_ms": 60_000,  # so that no part is given up that only waits for its turn
    }
    return StationProcess(write_station(output.with_suffix(".yaml"), document), output).report(600)


def _row(share: float, takt_ms: float, output: Path, bundle: Path, parts: int) -> dict[str, Any]:
    report = _run(output, bundle, parts=parts, takt_ms=takt_ms)
    verdicts = list(logged(output))
    counts = report["verdicts"]
    if sorted(verdict["trigger"] for verdict in verdicts) != list(range(parts)) or sum(counts.values()) != parts:
        raise GateError(f"{parts} triggers, but the verdicts {counts} and {len(verdicts)} lines")
    waits_ms = [verdict["latency_ms"] for verdict in verdicts if verdict["verdict"] in _JUDGED]
    if not waits_ms:
        raise GateError(f"at a load of {share:g} no part was judged: {counts}")
    batch_ms = report["latency_ms"]["engine"]["p99"]
    p50, p99 = np.percentile(waits_ms, (50, 99))
    return {
        "load": share,
        "takt_ms": takt_ms,
        "triggers": parts,
        "judged": len(waits_ms),
        "incomplete": counts["INCOMPLETE"] + counts["MISSED"],
        "rejected": counts["REJECTED"],
        "rejected_share": counts["REJECTED"] / parts,
        "fps": report["fps"],
        "mean_batch": report["mean_batch"],
        "batch_p99_ms": batch_ms,
        "part_p50_ms": float(p50),
        "part_p99_ms": float(p99),
        "bound_ms": (_ADMITTED / report["mean_batch"] + 1) * batch_ms,
    }


def failures(row: dict[str, Any]) -> list[str]:
    """Return what a run under load did not keep."""
    bad = []
    if row["incomplete"]:
        bad.append(f"{row['incomplete']} admitted parts were not judged whole")
    if row["rejected"] != row["triggers"] - row["judged"] - row["incomplete"]:
        bad.append(f"{row['rejected']} rejections, but {row['triggers']} triggers and {row['judged']} judged")
    if row["part_p99_ms"] > row["bound_ms"]:
        bad.append(f"p99 of {row['part_p99_ms']:.1f} ms is above its bound of {row['bound_ms']:.1f} ms")
    if row["load"] > 1 and not row["rejected"]:
        bad.append("nothing was rejected: this was no overload")
    return [f"load {row['load']:g}: {line}" for line in bad]


def main(arguments: Sequence[str] | None = None) -> int:
    """Drive a station faster than its engine, and hold that what it admits stays whole and in time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=main.__doc__)
    parser.add_argument("--load", type=float, default=1.5, help="triggers over what the station can do (default 1.5)")
    parser.add_argument("--seconds", type=float, default=20, help="for each load (default 20)")
    parser.add_argument("--bundle", type=Path, help="with an fp32 artefact and its threshold (default: a small engine)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the measurements as JSON")
    given = parser.parse_args(arguments)
    if not 1 < given.load <= 100:
        parser.error(f"--load is {given.load:g}; expected more than 1, up to 100")
    if not 0.5 <= given.seconds <= 3600:
        parser.error(f"--seconds is {given.seconds:g}; expected 0.5 to 3600")
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = run_overload(Path(folder), load=given.load, seconds=given.seconds, bundle=given.bundle)
    except EdgeadError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for row in rows:
        print(
            f"load {row['load']:.0%}: {row['triggers']} triggers, {row['judged']} judged, {row['incomplete']} "
            f"incomplete, {row['rejected']} rejected ({row['rejected_share']:.1%}); part p50 "
            f"{row['part_p50_ms']:.1f} ms, p99 {row['part_p99_ms']:.1f} ms, bound {row['bound_ms']:.1f} ms"
        )
    if given.save is not None:
        conditions = {"frames_per_part": _FRAMES_PER_PART, "frames_admitted": _ADMITTED, "seconds": given.seconds}
        conditions["bound_ms"] = "(frames_admitted / mean_batch + 1) * batch_p99_ms"
        command = f"python -m benchmarks.overload --load {given.load:g} --seconds {given.seconds:g}"
        save(given.save, command=f"{command} --save {given.save}", conditions=conditions, rows=rows)
    bad = [line for row in rows for line in failures(row)]
    for line in bad:
        print(line, file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
