"""The page of a certificate: one HTML file without scripts, in the style of the report, with pictures in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.parity.certificate import Certificate, ChangeRecord, Scores, certificate_path
from benchmarks.parity.certifying import Certified
from benchmarks.parity.pictures import cards
from benchmarks.parity.statistics import bound_sentence
from benchmarks.report.charts import agreement
from benchmarks.report.markup import NOTHING, Markup, Value, count, join, number, section, table, tag
from benchmarks.report.style import CSS
from edgead.bundle import Bundle
from edgead.bundle_file import write_whole

_KINDS = {"passed": "ok", "failed": "ng", "not measured": "unsure"}


def write_page(bundle: Bundle, certified: Certified) -> Path:
    """Write the page beside its certificate and return its path.

    Raises:
        ArtefactError: the folder cannot be written.
    """
    certificate = certified.certificate
    path = certificate_path(bundle, certificate.artefact, certificate.backend).with_suffix(".html")
    text = page(certified)
    write_whole(path, lambda temporary: _write(temporary, text))
    return path


def page(certified: Certified) -> str:
    """Return the page of a certificate as HTML."""
    found = certified.certificate
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"edgead parity: {found.artefact} on {found.backend}"),
        tag("style", Markup(CSS)),
    )
    sections = (
        _headline(found),
        _gates(found),
        _verdicts(certified),
        _accuracy(found),
        _differences(found),
        _networks(found),
        _provenance(found),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", tag("main", *sections)), lang="en") + "\n"


def _headline(found: Certificate) -> Markup:
    precision = "" if found.precision == found.artefact else f" ({found.precision})"
    over = f"edgead parity · {found.artefact}{precision} on {found.candidate} · against {found.reference}"
    missed = found.missed
    if missed is None:
        said = "It passes every gate: it may be deployed in place of the network that was trained."
    else:
        said = f"It is not deployable: {missed.sentence}."
    flips = (NOTHING, "no threshold: verdicts were not compared")
    if found.flips is not None and found.flips_at_most is not None:
        flips = (str(found.flips), bound_sentence(found.flips, found.images, found.flips_at_most))
    tiles = (
        _tile("Parity", "passed" if found.passed else "not passed", _tally(found), "ok" if found.passed else "ng"),
        _tile("Verdicts that flip", *flips, "" if found.flips is not None else "none"),
        *(
            _tile(f"{name}, change", _signed(each.change), _interval(each), "" if each.change is not None else "none")
            for name, each in ((name, found.metrics[name]) for name in ("image_AUROC", "pixel_AUPRO"))
        ),
    )
    return tag(
        "header",
        tag("p", over, class_="over"),
        tag("h1", f"{found.dataset.category}: {found.artefact} on {found.backend}"),
        tag("p", said, class_="verdict-line"),
        tag("div", *tiles, class_="tiles"),
    )


def _tally(found: Certificate) -> str:
    passed = sum(gate.passed for gate in found.gates)
    return f"{passed} of {count(len(found.gates), 'gate')}, on {count(found.images, 'image')}"


def _gates(found: Certificate) -> Markup:
    rows = [
        (
            tag("code", gate.name),
            tag("span", gate.status, class_=f"verdict {_KINDS[gate.status]}"),
            gate.note,
            _figure(gate.value),
            f"{'≥' if gate.at_least else '≤'} {gate.limit:g}",
        )
        for gate in found.gates
    ]
    changed = f" Limits changed by hand: {', '.join(found.changed_limits)}." if found.changed_limits else ""
    note = (
        "A gate holds the measured value, a point estimate, against its limit. "
        f"What could not be measured is not passed.{changed}"
    )
    unproven = [gate.name for gate in found.gates if gate.passed and gate.proven is False]
    few = tag("p", _unproven(unproven), class_="missing") if unproven else None
    return section("Gates", table(("Gate", "", "", "Measured", "Limit"), rows, words=3), few, note=note)


def _unproven(names: list[str]) -> str:
    return f"Passed, but not proven by so few images: {', '.join(names)}. More test images narrow the bound."


def _verdicts(certified: Certified) -> Markup:
    found, at = certified.certificate, certified.certificate.threshold
    limits = [] if at is None else [at.unsure, at.ng]
    if at is None:
        note = "There is no threshold, so no verdicts. Below: the images whose scores differ most."
    else:
        whose = "its own" if at.artefact == found.artefact else f"that of {at.artefact}, having none of its own"
        note = (
            f"Both judge by one threshold, {whose}: UNSURE above {at.unsure:.5g}, NG above {at.ng:.5g}. "
            f"{found.ties or 'No'} scores differ only by lying on a limit. Below: the images that flip, then those "
            "nearest to it; room says how many times the present difference of the scores it would take."
        )
    chart = _chart(found.scores, limits, found) if found.scores is not None else None
    return section("Verdicts and scores", chart, *cards(certified), note=note)


def _chart(scores: Scores, limits: list[float], found: Certificate) -> Markup:
    points = list(zip(scores.reference, scores.candidate, strict=True))
    good = [point for point, defect in zip(points, scores.defect, strict=True) if defect == "good"]
    bad = [point for point, defect in zip(points, scores.defect, strict=True) if defect != "good"]
    names = found.reference, found.candidate
    drawn = (agreement(good, bad, limits, names=names, apart=apart) for apart in (False, True))
    return tag("div", *drawn, class_="two")


def _accuracy(found: Certificate) -> Markup:
    rows = [
        (tag("code", name), number(each.reference, 4), number(each.candidate, 4), _signed(each.change), _interval(each))
        for name, each in found.metrics.items()
    ]
    note = (
        f"Of both, on the same {count(found.images, 'image')}: {found.dataset.good:,} Good and "
        f"{found.dataset.defective:,} defective, {found.dataset.masked:,} of them with a mask. Intervals: paired "
        "bootstrap of whole parts, 2000 draws; both are judged on the same draws."
    )
    heads = ("Metric", "torch", found.artefact, "Change", "95 % interval of the change")
    return section("Accuracy", table(heads, rows), note=note)


def _differences(found: Certificate) -> Markup:
    rows: list[tuple[Value, ...]] = [
        (what, *(f"{value:.3g}" for value in (each.max, each.mean, each.p99)))
        for what, each in (("anomaly map, by pixel", found.maps), ("score, by image", found.score))
    ]
    rho = "not defined" if found.rank_correlation is None else f"{found.rank_correlation:.6f}"
    said = (
        f"Largest difference of a score relative to it: {found.score_relative:.2e}. Spearman's rank correlation: {rho}."
    )
    heads = ("Absolute difference", "largest", "mean", "99 % below")
    return section("Differences end to end", table(heads, rows), tag("p", said, class_="note"))


def _networks(found: Certificate) -> Markup:
    if not found.networks:
        return section("Network by network", tag("p", f"{found.networks_note.capitalize()}.", class_="note"))
    rows = [
        (
            each.network,
            tag("code", each.output),
            f"{each.max_abs:.2e}",
            f"{each.max_relative:.2e}",
            f"{each.mean_abs:.2e}",
            NOTHING if each.cosine is None else f"{each.cosine:.6f}",
            "identical" if each.snr_db is None else f"{each.snr_db:.1f}",
        )
        for each in found.networks
    ]
    heads = ("Network", "Output", "largest", "relative", "mean", "cosine", "SNR, dB")
    note = "Each network alone, fed with torch's tensors, so that no network is blamed for the one before it."
    return section("Network by network", table(heads, rows, words=2), note=note)


def _provenance(found: Certificate) -> Markup:
    dataset, machine = found.dataset, found.machine
    rows: list[tuple[Value, Value]] = [
        ("Measured", f"{found.made:%Y-%m-%d %H:%M} UTC by edgead {found.edgead}"),
        ("Artefact", join((f"{found.artefact}, sha256 ", tag("code", found.sha256)))),
        ("Checkpoint", join(("sha256 ", tag("code", found.checkpoint_sha256)))),
        (
            "Images",
            join(
                (
                    f"{found.images} of {dataset.available} of {dataset.kind} {dataset.category}, sha256 ",
                    tag("code", dataset.sha256),
                )
            ),
        ),
        ("Machine", f"{machine.get('cpu')}, {machine.get('system')}; {count(found.threads, 'thread')}"),
        ("Libraries", _pairs(found.libraries)),
    ]
    return section("Provenance", table((), rows, words=2))


def _tile(what: str, value: str, more: str, kind: str) -> Markup:
    parts = (("what", what), ("value", value), ("more", more))
    return tag("div", *(tag("div", words, class_=name) for name, words in parts), class_=f"tile {kind}".rstrip())


def _figure(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}"


def _signed(change: float | None) -> str:
    return "not measured" if change is None else f"{round(change, 4) + 0.0:+.4f}"  # + 0.0: a zero without a minus


def _interval(each: ChangeRecord) -> str:
    return NOTHING if each.low is None or each.high is None else f"{_signed(each.low)} to {_signed(each.high)}"


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
