"""Whether thresholds of fused scores keep what they promise, in simulation.

    python -m benchmarks.fusion_promise                 print a row for each case
    python -m benchmarks.fusion_promise --save FILE     write the measurements, too

Frames are normal or log-normal by turns, at levels and spreads of their own, and correlated within a part. A threshold
is made of few Good parts, many times, and its true false reject rate is that of thousands of others.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.fusion import BUDGET
from benchmarks.results import save
from edgead.errors import EdgeadError
from edgead.good_parts import GoodParts
from edgead.progress import task
from edgead.runtime.fusion import Conformal, calibrated
from edgead.runtime.parts import Slot

_OTHERS = 20_000  # Good parts that measure the true rate of a threshold


def promise(good: int, slots: int, shared: float, *, draws: int, seed: int) -> dict[str, Any]:
    """Count the draws of Good parts whose threshold keeps what it promises.

    Args:
        shared: correlation of the frames of a part.
    """
    random = np.random.default_rng([seed, good, slots, round(100 * shared)])
    names = tuple(Slot(f"view{index}", "0") for index in range(slots))
    places = tuple((slot.view, slot.illumination) for slot in names)
    level, spread = random.uniform(0, 5, slots), random.uniform(0.2, 2, slots)

    def parts(count: int) -> npt.NDArray[np.float64]:
        own = random.normal(size=(count, slots)) * math.sqrt(1 - shared)
        drawn = own + random.normal(size=(count, 1)) * math.sqrt(shared)
        drawn[:, ::2] = np.exp(0.6 * drawn[:, ::2])
        scores: npt.NDArray[np.float64] = level + spread * drawn
        return scores

    rates, promised, is_split = [], 0.0, False
    for _ in range(draws):
        rows = tuple(map(tuple, parts(good).tolist()))
        judge = calibrated(GoodParts(places, rows, **BUDGET, source="simulation"), names)
        promised, is_split = judge.unit_threshold.guaranteed_ppm / 1e6, judge.unit_threshold.holds_budget
        assert isinstance(judge, Conformal)
        rates.append(float(np.mean(judge.many(parts(_OTHERS)) > judge.unit_threshold.ng)))
    kept = float(np.mean(np.array(rates) <= promised))
    return {
        "good_parts": good, "slots": slots, "correlation": shared,
        "slots_calibrated_by": "other parts" if is_split else "the others of each",
        "confidence": BUDGET["confidence"], "kept": round(kept, 4),
        "kept_error": round(1.96 * math.sqrt(kept * (1 - kept) / draws), 4),
        "promised": round(promised, 4), "false_rejects": round(float(np.mean(rates)), 4),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Hold the promise of thresholds of fused scores against simulation."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fusion_promise", description=main.__doc__)
    parser.add_argument("--draws", type=int, default=400, help="of Good parts, for each case (default 400)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the measurements as JSON")
    given = parser.parse_args(arguments)
    if given.draws < 1:
        parser.error(f"--draws {given.draws}; expected 1 or more")
    cases = [(good, slots, shared) for good in (12, 60, 200) for slots in (2, 16) for shared in (0.0, 0.5, 0.9)]
    rows = []
    try:
        with task("Simulating", len(cases)) as advance:
            for good, slots, shared in cases:
                rows.append(promise(good, slots, shared, draws=given.draws, seed=given.seed))
                advance(1)
        for row in rows:
            print(", ".join(f"{key} {value}" for key, value in row.items()))
        if given.save is not None:
            command = f"python -m benchmarks.fusion_promise --save {given.save}"
            conditions = {"draws": given.draws, "seed": given.seed, "others": _OTHERS, **BUDGET}
            save(given.save, command=command, conditions=conditions, rows=rows)
    except EdgeadError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
