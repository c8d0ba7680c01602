"""The head of a report: the verdict in one sentence, and the figures that carry it."""

from __future__ import annotations

from benchmarks.parity.statistics import binomial_upper
from benchmarks.report.findings import Findings
from benchmarks.report.markup import Markup, count, number, percent, tag
from edgead.thresholds import Verdict


def headline(found: Findings) -> Markup:
    """Say what the model is worth, for who reads no further."""
    info = found.bundle.info
    title = tag("h1", f"{info.category}: {info.network}")
    over = f"edgead report · {found.artefact} on {found.backend} · images of {info.size_hw[1]}x{info.size_hw[0]}"
    tiles = [_area(found), *_verdicts(found), _speed(found), _parity(found)]
    return tag(
        "header",
        tag("p", over, class_="over"),
        title,
        tag("p", sentence(found), class_="verdict-line"),
        tag("div", *tiles, class_="tiles"),
    )


def sentence(found: Findings) -> str:
    """Sum the report up in a few plain words; what is not measured is left to the tiles, which say so."""
    counts = found.accuracy.counts
    tested = f"Tested on {count(counts.images, 'image')} of {count(counts.parts, 'part')}"
    if found.threshold is None:
        judged = "no threshold has been set, so nothing is judged yet"
    else:
        bad, good, unit = found.tally(good=False), found.tally(good=True), found.unit
        judged = (
            f"it finds {bad[Verdict.NG]:,} of {count(sum(bad.values()), f'defective {unit}')} "
            f"and rejects {good[Verdict.NG]:,} of {count(sum(good.values()), f'Good {unit}')}"
        )
    rows, parity = found.speed_rows(), found.parity
    more = [f"It inspects {rows[0]['fps']:.3g} images a second on {_share_of_machine(found)}."] if rows else []
    if parity is not None:
        more.append(f"It {'agrees' if parity['passed'] else 'does not agree'} with the network that was trained.")
    return " ".join([f"{tested}: {judged}{_ranking(found)}.", *_promise(found), *more])


def _share_of_machine(found: Findings) -> str:
    """Say how much of a processor the speed was measured with."""
    threads = found.speed_rows()[0].get("threads")
    return "this machine" if threads is None else count(int(threads), "thread")


def _ranking(found: Findings) -> str:
    area, interval = found.accuracy.image_AUROC, found.interval
    if area is None:
        return ""
    between = f", 95\N{NO-BREAK SPACE}% interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
    return f" (image AUROC {number(area)}{between})"


def _promise(found: Findings) -> list[str]:
    threshold = found.threshold
    if threshold is None:
        return []
    unit = threshold.unit
    said = (
        f"The threshold was set from {count(threshold.n_good, f'Good {unit}')} alone: at most "
        f"{percent(threshold.guaranteed_ppm / 1e6)} of Good {unit}s will be rejected, at "
        f"{percent(threshold.confidence)} confidence"
    )
    if threshold.holds_budget:
        return [f"{said}."]
    lacking = count(threshold.needed_good - threshold.n_good, f"more Good {unit}")
    return [f"{said}; to promise {percent(threshold.false_reject_ppm / 1e6)} takes {lacking}."]


def _area(found: Findings) -> Markup:
    area, part = found.accuracy.image_AUROC, found.accuracy.part_AUROC
    if area is None:
        return _tile("Image AUROC", "not defined", "needs Good and defective test images", "none")
    more = ""
    if found.interval is not None:
        low, high = found.interval
        more = f"95\N{NO-BREAK SPACE}% interval {low:.3f} to {high:.3f} over parts"
        if low == high:
            more = f"every draw of the {found.accuracy.counts.parts} parts gives this; more parts would tell more"
    return _tile("Image AUROC", number(area), more if part is None else f"{more}; by part {number(part)}", "")


def _verdicts(found: Findings) -> list[Markup]:
    if found.threshold is None:
        ask = f"edgead threshold {found.path}"
        return [_tile("Threshold", "not set", tag("code", ask), "none")]
    bad, good, unit = found.tally(good=False), found.tally(good=True), found.unit
    tiles = []
    if n_bad := sum(bad.values()):
        more = f"{bad[Verdict.UNSURE]} more UNSURE, {bad[Verdict.OK]} missed"
        tiles.append(_tile(f"Defective {unit}s found", f"{bad[Verdict.NG]} of {n_bad}", more, ""))
    if n_good := sum(good.values()):
        upper = percent(binomial_upper(good[Verdict.NG], n_good))
        more = f"{good[Verdict.UNSURE]} more UNSURE; below {upper} at 95\N{NO-BREAK SPACE}% confidence"
        tiles.append(_tile(f"Good {unit}s rejected", f"{good[Verdict.NG]} of {n_good}", more, ""))
    return tiles


def _speed(found: Findings) -> Markup:
    rows = found.speed_rows()
    if not rows:
        return _tile("Speed", "not measured", tag("code", f"edgead bench {found.path}"), "none")
    row = rows[0]
    threads = "" if row.get("threads") is None else f", {count(row['threads'], 'thread')}"
    stale = "; of an older model" if found.speed_is_stale() else ""
    more = f"p50 {row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.1f} ms, batch {row['batch']}{threads}{stale}"
    return _tile("Images a second", f"{row['fps']:.3g}", more, "unsure" if stale else "")


def _parity(found: Findings) -> Markup:
    parity = found.parity
    if parity is None:
        return _tile("Parity with training", "not measured", tag("code", f"edgead parity {found.path}"), "none")
    if "gates" not in parity:
        return _tile("Parity with training", "failed", str(parity.get("error", "")), "ng")
    passed = bool(parity["passed"])
    flips = "" if parity["flips"] is None else f"{parity['flips']} verdicts changed, "
    more = f"{flips}maps within {parity['map_abs']:.1e} on {parity['images']} images"
    return _tile("Parity with training", "passed" if passed else "failed", more, "ok" if passed else "ng")


def _tile(what: str, value: str, more: str, kind: str) -> Markup:
    parts = (("what", what), ("value", value), ("more", more))
    return tag("div", *(tag("div", words, class_=name) for name, words in parts), class_=f"tile {kind}".rstrip())
