"""Fusion of a part's frames: the largest score against conformal p-values, and ways to combine these.

    python -m benchmarks.fusion RUN [RUN ...]                  print a row for each set of parts and each fusion
    python -m benchmarks.fusion RUN [RUN ...] --save X.json    write the measurements: what a station can choose from
                                                               on parts as they are, and all else to X_rules.json

A run of a simulated object is measured on fresh parts, as they are and with one noisy camera; any other run on the
parts of its dataset that have one image of every view and light. Good parts are divided at random, many times, into
those that calibrate and those that are judged; the judged ones are drawn with replacement, so that intervals tell of
few parts, too. All rules see the same draws.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.results import save
from edgead.bundle import Bundle
from edgead.datasets import Sample
from edgead.datasets.simulated import OBJECTS, ObjectSpec, render
from edgead.errors import DataError, EdgeadError
from edgead.evaluate import score_samples
from edgead.good_parts import FEWEST, GoodParts
from edgead.metrics import auroc
from edgead.progress import task
from edgead.runtime.fusion import FUSIONS, Curve, Judge, Largest, calibrated
from edgead.runtime.open import open_runner
from edgead.runtime.parts import Slot
from edgead.runtime.runner import Runner
from edgead.thresholds import Verdict, threshold_from_good

Floats = npt.NDArray[np.float64]
BUDGET: dict[str, Any] = {"false_reject_ppm": 50_000.0, "confidence": 0.95, "unsure_ratio": 4.0}
_CALIBRATED = (12, 60, 200)  # Good parts
_EQUAL = 0.05  # share of the judged Good parts that all rules are made to reject, to compare what they miss
_ONE_FRAME = ", seen by one frame"
_NOISE = 6.0  # of the noisy camera, grey levels


class Scores(NamedTuple):
    """Scores of parts, ``(parts, slots)``.

    Attributes:
        shown: which frames of the defective parts show the defect.
    """

    name: str
    slots: tuple[Slot, ...]
    good: Floats
    defective: Floats
    shown: npt.NDArray[np.bool_]


def _harmonic(evidence: Floats) -> Floats:
    return _power(evidence, 1.0)


def _power(evidence: Floats, exponent: float) -> Floats:
    """Return -log10 of (mean of p ** -exponent) ** (-1 / exponent)."""
    largest = evidence.max(axis=1, keepdims=True)
    mean = np.mean(10 ** (exponent * (evidence - largest)), axis=1)
    combined: Floats = largest[:, 0] + np.log10(mean) / exponent
    return combined


def _cauchy(evidence: Floats) -> Floats:
    p = np.clip(10**-evidence, 1e-300, 1 - 1e-9)
    tangents: Floats = np.where(p < 1e-9, 1 / (np.pi * p), np.tan((0.5 - p) * np.pi)).mean(axis=1)
    return tangents


# Merging functions that are valid under any dependence, but for the last; constant factors order nothing otherwise.
RULES: Mapping[str, Callable[[Floats], Floats]] = {
    "smallest p (Bonferroni)": lambda evidence: evidence.max(axis=1),
    "harmonic mean": _harmonic,
    "mean of power -1/2": lambda evidence: _power(evidence, 0.5),
    "geometric mean": lambda evidence: evidence.mean(axis=1),
    "second smallest p (Rüger)": lambda evidence: np.sort(evidence, axis=1)[:, -2],
    "twice the mean": lambda evidence: -np.log10(np.mean(10**-evidence, axis=1)),
    "Cauchy": _cauchy,
}


def compare(scores: Scores, *, calibrated_by: int, draws: int, seed: int) -> list[dict[str, Any]]:
    """Return a row for each fusion: means over all draws, and intervals of 95 % of them."""
    random = np.random.default_rng([seed, calibrated_by])
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(draws):
        order = random.permutation(len(scores.good))
        chosen, rest = scores.good[order[:calibrated_by]], scores.good[order[calibrated_by:]]
        good = rest[random.integers(len(rest), size=len(rest))]
        picked = random.integers(len(scores.defective), size=len(scores.defective))
        for name, measured in _draw(scores, chosen, good, picked).items():
            found.setdefault(name, []).append(measured)
    rows = []
    for name, all_measured in found.items():
        columns = {key: np.array([measured[key] for measured in all_measured]) for key in all_measured[0]}
        gain = columns["part_AUROC"] - np.array([measured["part_AUROC"] for measured in found["max"]])
        row: dict[str, Any] = {"parts": scores.name, "calibrated_by": calibrated_by, "fusion": name}
        row |= {key: round(float(column.mean()), 4) for key, column in columns.items()}
        row["part_AUROC_interval"] = [round(float(q), 4) for q in np.quantile(columns["part_AUROC"], (0.025, 0.975))]
        row["gain"] = round(float(gain.mean()), 4)
        row["gain_interval"] = [round(float(q), 4) for q in np.quantile(gain, (0.025, 0.975))]
        rows.append(row)
    return rows


def _draw(scores: Scores, chosen: Floats, good: Floats, picked: npt.NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Judge one draw by all fusions."""
    bad, shown = scores.defective[picked], scores.shown[picked]
    source = "benchmark"
    places = tuple((slot.view, slot.illumination) for slot in scores.slots)
    kept = GoodParts(places, tuple(map(tuple, chosen.tolist())), **BUDGET, source=source)
    judges: dict[str, Judge] = {
        "max": Largest(threshold_from_good(chosen.max(axis=1), unit="part", **BUDGET, source=source)),
        "conformal": calibrated(kept, scores.slots),
    }
    curves = [Curve(column) for column in chosen.T]
    evidence = [np.array([[c(s) for c, s in zip(curves, row, strict=True)] for row in x.tolist()]) for x in (good, bad)]
    found = {}
    for name, judge in judges.items():
        judged = [[judge.judge(dict(zip(scores.slots, row, strict=True))) for row in x.tolist()] for x in (good, bad)]
        fused = [np.array([each.score for each in some]) for some in judged]
        rejected = [float(np.mean([each.verdict is Verdict.NG for each in some])) for some in judged]
        frames = (good, bad) if name == "max" else tuple(evidence)
        found[name] = {
            **_ordered(*fused),
            "image_AUROC": _auroc(np.concatenate([frames[0].ravel(), frames[1][~shown]]), frames[1][shown]),
            "promised": judge.unit_threshold.guaranteed_ppm / 1e6,
            "false_rejects": rejected[0],
            "misses": 1 - rejected[1],
        }
    for name, rule in RULES.items():
        found[name] = _ordered(rule(evidence[0]), rule(evidence[1]))
    return found


def _ordered(good: Floats, bad: Floats) -> dict[str, float]:
    """Measure how well fused scores tell parts apart, and what is missed where all rules reject equally many."""
    allowed = math.floor(_EQUAL * len(good))
    limit = np.sort(good)[len(good) - 1 - allowed]
    return {"part_AUROC": _auroc(good, bad), "misses_at_equal": float(np.mean(bad <= limit))}


def _auroc(good: Floats, bad: Floats) -> float:
    area = auroc(np.concatenate([good, bad]), np.repeat([False, True], [len(good), len(bad)]))
    if area is None:
        raise DataError("there are no Good parts, or no defective ones; expected both")
    return area


def with_one_frame_only(scores: Scores) -> Scores:
    """Return parts whose defect is seen by one frame, the clearest; their other frames are those of Good parts."""
    middle, spread = np.median(scores.good, axis=0), scores.good.std(axis=0)
    best = np.argmax((scores.defective - middle) / spread, axis=1)
    of = np.random.default_rng(0).integers(len(scores.good), size=len(best))
    rows = np.arange(len(best))
    mixed = scores.good[of]
    mixed[rows, best] = scores.defective[rows, best]
    shown = np.zeros_like(scores.shown)
    shown[rows, best] = True
    return scores._replace(name=f"{scores.name}{_ONE_FRAME}", defective=mixed, shown=shown)


def simulated(runner: Runner, spec: ObjectSpec, name: str, *, good: int, defective: int, seed: int) -> list[Scores]:
    """Score fresh parts, as they are and with noise in one view."""
    slots = tuple(Slot(view, light) for view in spec.views for light in spec.illuminations)
    noisy = [slot.view == spec.views[len(spec.views) // 2] for slot in slots]
    random = np.random.default_rng(seed)
    rows: list[tuple[list[float], list[float], list[bool]]] = []
    with task(f"Scoring {name}", good + defective) as advance:
        for part in range(good + defective):
            defect = "good" if part < good else spec.defects[part % len(spec.defects)]
            size = runner.size_hw[0]
            made = [
                render(name, seed=seed, part=part, view=s.view, illumination=s.illumination, defect=defect, size=size)
                for s in slots
            ]
            images = np.stack([each.image for each in made])
            noise = random.normal(0, _NOISE, images.shape) * np.array(noisy)[:, None, None, None]
            spoilt = np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)
            rows.append((_infer(runner, images), _infer(runner, spoilt), [bool(each.mask.any()) for each in made]))
            advance(1)
    shown = np.array([row[2] for row in rows[good:]])
    found = []
    for which, label in enumerate((name, f"{name}, one noisy view")):
        scores = np.array([row[which] for row in rows])
        found.append(Scores(label, slots, scores[:good], scores[good:], shown))
    return found


def _infer(runner: Runner, images: npt.NDArray[np.uint8]) -> list[float]:
    batches = [images[begin : begin + runner.max_batch] for begin in range(0, len(images), runner.max_batch)]
    return [float(score) for batch in batches for score in runner.infer(batch).pred_score]


def recorded(runner: Runner, samples: Sequence[Sample], name: str) -> Scores:
    """Score the parts of a dataset that have one image each of the views and lights that most parts have.

    Raises:
        DataError: none have, or an image cannot be read.
    """
    by_part: dict[str, list[Sample]] = {}
    for sample in samples:
        by_part.setdefault(sample.part, []).append(sample)
    seen = Counter(frozenset(Slot(s.view, s.illumination) for s in own) for own in by_part.values())
    slots = tuple(sorted(seen.most_common(1)[0][0])) if seen else ()
    whole = [
        sorted(own, key=lambda s: (s.view, s.illumination))
        for own in by_part.values()
        if len(own) == len(slots) and {Slot(s.view, s.illumination) for s in own} == set(slots)
    ]
    scores = np.array([scored.score for scored in score_samples(runner, [s for own in whole for s in own])])
    table = scores.reshape(len(whole), len(slots))
    bad = np.array([any(not s.is_good for s in own) for own in whole])
    shown = np.array([[not s.is_good for s in own] for own in whole])
    return Scores(name, slots, table[~bad], table[bad], shown[bad])


def divided(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of what a station can choose from on parts as they are, and those that led to the choice."""
    judges = [row for row in rows if row["fusion"] in FUSIONS and not row["parts"].endswith(_ONE_FRAME)]
    keys = [key for key in rows[0] if all(key in row for row in rows)]
    return judges, [{key: row[key] for key in keys} for row in rows if row["fusion"] != "conformal"]


def _measure(given: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for path in given.runs:
        bundle = Bundle.open(path)
        name = next((key for key, spec in OBJECTS.items() if spec.folder == bundle.info.category), None)
        with open_runner(bundle, given.artefact, threads=1) as runner:
            if name is not None and bundle.info.dataset is not None and bundle.info.dataset.kind == "sim":
                tables = simulated(
                    runner, OBJECTS[name], name, good=given.good, defective=given.defective, seed=given.seed
                )
            elif bundle.info.dataset is not None:
                dataset = bundle.info.dataset.open()
                tables = [recorded(runner, [*dataset.validation, *dataset.test], bundle.info.category)]
            else:
                raise DataError(
                    f"{path}: the bundle does not say what it was trained on; expected a run of edgead train"
                )
        for scores in [*tables, *map(with_one_frame_only, tables)]:
            counts = {"good": len(scores.good), "defective": len(scores.defective), "frames": len(scores.slots)}
            half = len(scores.good) // 2
            for number in sorted({min(number, half) for number in _CALIBRATED}):
                if number < FEWEST:
                    raise DataError(f"{path}: {len(scores.good)} whole Good parts; expected at least {2 * FEWEST}")
                found = compare(scores, calibrated_by=number, draws=given.draws, seed=given.seed)
                rows += [{**row, **counts} for row in found]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare fusions."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fusion", description=main.__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--artefact", default="fp32")
    parser.add_argument("--good", type=int, default=400, help="simulated Good parts (default 400)")
    parser.add_argument("--defective", type=int, default=270, help="simulated defective parts (default 270)")
    parser.add_argument("--draws", type=int, default=200, help="divisions of the Good parts (default 200)")
    parser.add_argument("--seed", type=int, default=7001)
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the measurements as JSON")
    given = parser.parse_args(arguments)
    if min(given.draws, given.good, given.defective) < 1:
        parser.error("expected numbers of 1 or more")
    conditions = {
        "draws": given.draws, "seed": given.seed, "artefact": given.artefact, "equal_false_rejects": _EQUAL,
        "noise": _NOISE, **BUDGET,
    }  # fmt: skip
    try:
        rows = _measure(given)
        for row in rows:
            print(", ".join(f"{key} {value}" for key, value in row.items()))
        if given.save is not None:
            command = f"python -m benchmarks.fusion {' '.join(map(str, given.runs))} --save {given.save}"
            judges, rules = divided(rows)
            save(given.save, command=command, conditions=conditions, rows=judges)
            others = given.save.with_stem(f"{given.save.stem}_rules")
            save(others, command=command, conditions=conditions, rows=rules)
    except EdgeadError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
