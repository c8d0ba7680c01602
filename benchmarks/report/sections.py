"""The report's sections of figures: accuracy, training, speed, parity, provenance."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

import numpy as np

import edgead
from benchmarks.report import charts
from benchmarks.report.findings import Findings, curves_of
from benchmarks.report.markup import NOTHING, Markup, Value, count, join, missing, number, percent, section, table, tag
from benchmarks.speed import machine
from edgead.metrics import auroc
from edgead.part_accuracy import Rate
from edgead.thresholds import Verdict

_METRICS = (
    ("image_AUROC", "chance that a defective image outscores a Good one"),
    ("part_AUROC", "the same by part, over all its views and lights"),
    ("image_F1Max", "best F1 that any threshold reaches by image"),
    ("pixel_AUROC", "chance that a defective pixel outscores a good one"),
    ("pixel_AP", "average precision by pixel"),
    ("pixel_AUPRO", "per-region overlap up to 30 % false positive pixels"),
    ("pixel_AUPRO_005", "per-region overlap up to 5 % false positive pixels"),
)


def accuracy_section(found: Findings) -> Markup:
    """Show how Good and defective scores lie, and what the threshold makes of them."""
    good = [unit.score for unit in found.units if unit.is_good]
    bad = [unit.score for unit in found.units if not unit.is_good]
    figures = [charts.histogram(good, bad, found.threshold, unit=found.unit)]
    if good and bad:
        figures.append(_roc(found, good, bad))
    else:
        figures.append(tag("p", "No ROC curve: it needs Good and defective test images.", class_="missing"))
    accuracy, counts = found.accuracy, found.accuracy.counts
    rows = [(tag("code", name), meaning, number(getattr(accuracy, name), 4)) for name, meaning in _METRICS]
    about = (
        f"{count(counts.images, 'test image')} of {count(counts.parts, 'part')}: {counts.good:,} Good, "
        f"{counts.defective:,} defective. Pixel metrics: {counts.masked:,} defective images with "
        f"{count(counts.regions, 'region')}; {counts.without_mask:,} have no mask, or one that shows nothing."
    )
    return section(
        "Accuracy",
        tag("div", *figures, class_="two"),
        tag(
            "div",
            tag(
                "div",
                tag("h3", "By defect type", tag("small", "AUROC by image, verdicts by " + found.unit)),
                _by_defect(found),
            ),
            tag("div", tag("h3", "By metric"), table(("Metric", "Meaning", "Value"), rows, words=2)),
            *_by_place(found),
            *_by_fusion(found),
            class_="two",
        ),
        tag("p", about, class_="note"),
    )


def training_section(found: Findings) -> Markup:
    """Show the losses by epoch."""
    training = curves_of(found.history, "_loss", without="validation")
    validation = curves_of(found.history, "validation")
    if not training:
        note = "There is no record of a training with this bundle (training/metrics.jsonl)"
        return section("Training", missing(note, "train"))
    titles = ((training, "Losses on corrupted Good images"), (validation, "Losses on Good images held out of training"))
    figures = [
        charts.curves(lines, title=title, x_label="epoch", y_label="loss, no unit") for lines, title in titles if lines
    ]
    seconds = [float(line["seconds"]) for line in found.history if isinstance(line.get("seconds"), (int, float))]
    took = f", {sum(seconds) / 60:.1f} minutes" if seconds else ""
    note = f"{count(len(found.history), 'epoch')}{took}. Lower is better."
    return section("Training", tag("div", *figures, class_="two"), note=note)


def speed_section(found: Findings) -> Markup:
    """Show latency and images a second of the artefacts."""
    if found.speed is None:
        return section("Speed", missing("Speed has not been measured", "bench", found.path))
    heads = ("Artefact", "Backend", "Batch", "Threads", "mean", "p50", "p95", "p99", "images/s")
    keys = ("mean_ms", "p50_ms", "p95_ms", "p99_ms")
    rows: list[list[Value]] = []
    for row in found.speed.rows:
        start = [_value(row, "runner"), _value(row, "backend"), _value(row, "batch"), _value(row, "threads")]
        rows.append([*start, *(_value(row, key, "{:.2f} ms") for key in keys), _value(row, "fps", "{:.1f}")])
    place = found.speed.machine
    note = (
        f"Latency of a batch, all runners in turns in one process, on {place.get('cpu', 'an unknown processor')} "
        f"({place.get('cores', '?')} cores), {found.speed.date:%Y-%m-%d %H:%M} UTC."
    )
    stale = None
    if found.speed_is_stale():
        stale = missing("These figures are of an older model than the bundle holds now", "bench", found.path)
    return section("Speed", stale, table(heads, rows, words=2), note=note)


def parity_section(found: Findings) -> Markup:
    """Show how far the artefact is from the checkpoint, gate by gate, on every backend that it was certified on."""
    certificates: dict[str, Any] = dict(found.record.parity)
    if not certificates:
        return section("Parity", missing("Parity has not been measured", "parity", found.path))
    parts = [piece for backend, parity in certificates.items() for piece in _certificate(found, backend, parity)]
    return section("Parity", *parts)


def _certificate(found: Findings, backend: str, parity: dict[str, Any]) -> Iterable[Markup]:
    if "gates" not in parity:  # it could not be measured: the model cannot run there
        yield tag("p", f"On {backend}: {parity.get('error', 'not measured')}.", class_="missing")
        return
    rows = []
    for gate in parity["gates"]:
        said = gate.get("status", "passed" if gate["passed"] else "failed")
        kind = "ok" if gate["passed"] else "unsure" if gate["value"] is None else "ng"
        sign = "≥" if gate["name"] == "rank_correlation" else "=" if gate["name"] == "flips" else "<"
        sign = "≤" if sign == "=" and gate["limit"] > 0 else sign
        value = NOTHING if gate["value"] is None else f"{gate['value']:.3g}"
        mark = tag("span", said, class_=f"verdict {kind}")
        rows.append((tag("code", gate["name"]), value, f"{sign} {gate['limit']:g}", mark))
    against = f"{parity['candidate']} against {parity['reference']} on {count(parity['images'], 'image')}."
    flips = "Verdicts were not compared, having no threshold."
    if parity["flips"] is not None:
        at_most = parity["flips_at_most"]
        flips = (
            f"{count(parity['flips'], 'verdict')} changed; at 95 % confidence fewer than {percent(at_most)} ever would."
        )
    yield tag("p", against, class_="note")
    yield table(("Gate", "Measured", "Limit", ""), rows)
    yield tag("p", flips, class_="note")
    page = found.path / "parity" / f"{found.artefact}-{backend}.html"
    if page.is_file():
        yield tag("p", "Pictures and figures: ", tag("code", str(page)), class_="note")


def provenance_section(found: Findings) -> Markup:
    """Show what all of this was made from, with which tools, and when."""
    info, here = found.bundle.info, machine()
    rows: list[tuple[Value, Value]] = [
        ("Report made", f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC by edgead {edgead.__version__}"),
        ("Bundle", tag("code", str(found.path))),
        ("Network", str(info)),
        ("Machine of this report", f"{here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB, {here['system']}"),
        ("Libraries", _pairs({"python": here["python"], **here["libraries"]})),
    ]
    dataset = getattr(info, "dataset", None)
    rows.append(
        ("Dataset", "not recorded in the bundle" if dataset is None else _pairs(dataset.model_dump(mode="json")))
    )
    rows.append(("Training", _training(found)))
    if found.threshold is not None:
        rows.append(("Threshold", found.threshold.explain()))
    files = [
        (
            name,
            tag("code", each.file),
            each.precision,
            f"{each.size / (1 << 20):.1f} MiB",
            tag("code", each.sha256[:16]),
        )
        for name, each in sorted(found.bundle.artefacts.items())
    ]
    heads = ("Artefact", "File", "Precision", "Size", "sha256 begins with")
    return section("Provenance", table((), rows, words=2), tag("h3", "Files"), table(heads, files, words=3))


def _roc(found: Findings, good: list[float], bad: list[float]) -> Markup:
    lines = {f"by {found.unit}": _roc_points(good, bad)}
    if found.unit == "part":
        labels = [sample.is_good for sample in found.samples]
        images = list(zip(found.scores, labels, strict=True))
        lines["by image"] = _roc_points([s for s, ok in images if ok], [s for s, ok in images if not ok])
    marks = {}
    if found.threshold is not None:
        ng, unsure = found.threshold.ng, found.threshold.unsure
        for name, limit in {"NG": ng, **({"UNSURE" if unsure < ng else "NG": unsure})}.items():
            marks[name] = (float(np.mean(np.array(good) > limit)), float(np.mean(np.array(bad) > limit)))
    names = {"x_label": "share of Good rejected", "y_label": "share of defects found"}
    return charts.curves(lines, title="ROC: what each threshold would trade", unit_square=True, marks=marks, **names)


def _roc_points(good: list[float], bad: list[float]) -> list[tuple[float, float]]:
    """Return the corners of the ROC curve: sixteen thousand images need no more than these."""
    limits = np.unique([*good, *bad])[::-1]
    across, up = (
        np.concatenate(([0], len(values) - np.searchsorted(np.sort(values), limits, side="left")))
        for values in (good, bad)
    )
    right, upward = np.diff(across), np.diff(up)
    turns = right[1:] * upward[:-1] != right[:-1] * upward[1:]
    corners = np.concatenate(([True], turns, [True]))
    return list(zip((across[corners] / len(good)).tolist(), (up[corners] / len(bad)).tolist(), strict=True))


def _by_defect(found: Findings) -> Markup:
    verdicts = list(Verdict) if found.threshold else []
    heads: list[Value] = ["", "images", "AUROC", f"{found.unit}s", *(verdict.value for verdict in verdicts)]
    rows = []
    for defect in [*found.accuracy.image_AUROC_by_defect, *_only_parts(found), "good"]:
        units = [unit for unit in found.units if unit.defect == defect]
        images = sum(sample.defect == defect for sample in found.samples)
        area = number(found.accuracy.image_AUROC_by_defect.get(defect))
        row: list[Value] = ["Good" if defect == "good" else defect, images, area, len(units)]
        if found.threshold is not None:
            judged = [found.threshold.verdict(unit.score) for unit in units]
            row += [judged.count(verdict) or "·" for verdict in verdicts]
        if images or units:
            rows.append(row)
    return table(heads, rows)


def _only_parts(found: Findings) -> list[str]:
    """Return names of parts that show several defect types."""
    return sorted({unit.defect for unit in found.units} - {"good", *found.accuracy.image_AUROC_by_defect})


def _by_place(found: Findings) -> Iterable[Markup]:
    """Yield a table of image AUROC, views down and lights across, where there is more than one of either."""
    views = sorted({sample.view for sample in found.samples})
    lights = sorted({sample.illumination for sample in found.samples})
    if len(views) * len(lights) == 1:
        return

    def cell(view: str | None, light: str | None) -> Markup:
        chosen = [
            (score, not sample.is_good)
            for sample, score in zip(found.samples, found.scores, strict=True)
            if view in (None, sample.view) and light in (None, sample.illumination)
        ]
        bad = sum(defective for _, defective in chosen)
        area = auroc([score for score, _ in chosen], [defective for _, defective in chosen]) if chosen else None
        shade = 0 if area is None else round(min(60.0, 150 * (1 - area)))  # what is weak stands out
        colour = f"background: color-mix(in srgb, var(--ng) {shade}%, transparent)"
        return tag("div", number(area), tag("small", f"{len(chosen) - bad} + {bad}"), class_="place", style=colour)

    heads = ["", *(f"light {light}" for light in lights), "all lights"]
    rows = [[f"view {view}", *(cell(view, light) for light in [*lights, None])] for view in views]
    rows.append(["all views", *(cell(None, light) for light in [*lights, None])])
    note = "image AUROC, number of Good + defective images"
    yield tag("div", tag("h3", "By view and light", tag("small", note)), table(heads, rows))


def _by_fusion(found: Findings) -> Iterable[Markup]:
    """Yield what each fusion of a station makes of the parts, where a part has several images."""
    if not found.fusions:
        return

    def between(interval: tuple[float, float] | None) -> str:
        return NOTHING if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"

    def wrong(rate: Rate | None, every: int) -> str:
        return NOTHING if rate is None else f"{rate.count} of {every}"

    rows = [
        (row.fusion, row.parts, number(row.part_AUROC), between(row.part_AUROC_interval), number(row.part_F1Max),
         wrong(row.escapes, row.defective), wrong(row.false_alarms, row.parts - row.defective))
        for row in found.fusions
    ]  # fmt: skip
    heads = ("Fusion", "parts", "part AUROC", "95 %", "part F1Max", "defective, but OK", "Good, but NG")
    note = "as a station would judge them; intervals by bootstrap over parts"
    yield tag("div", tag("h3", "By part", tag("small", note)), table(heads, rows))


def _training(found: Findings) -> Value:
    """Read the provenance that a training kept in its checkpoint (dataset, seed, epochs)."""
    if "checkpoint" not in found.bundle.artefacts:
        return "the bundle holds no checkpoint"
    if importlib.util.find_spec("torch") is None:
        return "kept in the checkpoint, which needs torch to be read"
    from edgead.cfrg import checkpoint

    kept = checkpoint.read(found.bundle.file("checkpoint")).get("provenance")
    return _pairs(kept) if isinstance(kept, dict) and kept else "not recorded in the checkpoint"


def _pairs(values: dict[str, Any]) -> Markup:
    return join((join((tag("span", name, class_="key"), " ", str(value))) for name, value in values.items()), " · ")


def _value(row: dict[str, Any], key: str, form: str = "{}") -> str:
    return NOTHING if row.get(key) is None else form.format(row[key])
