"""The verb parity: certify artefacts against their checkpoint, and compare certificates across updates."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgead.cli.answer import Answer, percent, table
from edgead.cli.dataset import add_dataset_flags, of_bundle
from edgead.cli.measuring import add_artefact, add_backend
from edgead.errors import ConfigError, require

if TYPE_CHECKING:
    from rich.table import Table

    from benchmarks.parity import Certificate, Images
    from benchmarks.parity.difference import Difference
    from edgead.bundle import Bundle
    from edgead.cli.parser import Verbs

_DIFF = "diff"
_OFF = "none"
_COUNT = 200  # benchmarks.parity.images.DEFAULT_COUNT, which is heavy


def add_verbs(verbs: Verbs) -> None:
    """Add parity."""
    parser = verbs.add(
        "parity",
        parity,
        summary="prove that an artefact gives the maps, scores and verdicts of its checkpoint",
        example="edgead parity runs/my_part --artefact int8 --backend openvino\n"
        "         edgead parity diff before.json runs/my_part/parity/int8-openvino.json",
        more="Compares on Good and defective test images, end to end and network by network. The certificate is kept\n"
        "in the bundle and as RUN/parity/<artefact>-<backend>.json, with a page beside it. Code 1 when a gate is\n"
        "missed, or could not be measured: the artefact is not deployable then.\n"
        "edgead parity diff OLD.json NEW.json compares two certificates of the same images, as before and after an\n"
        "update; code 1 when a gate is lost or verdicts changed. (A run in a folder named diff: ./diff.)",
    )
    add_artefact(parser)
    parser.add_argument("certificates", nargs="*", type=Path, metavar="OLD NEW", help="of diff: two certificates")
    add_backend(parser)
    parser.add_argument("--all", action="store_true", help="every artefact, on every backend that is installed")
    parser.add_argument(
        "--n",
        type=_count,
        default=_COUNT,
        metavar="N",
        help="test images to compare on, half of them Good, or 'all' (%(default)s)",
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML too: a test case a gate")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the figures too, a row a certificate")
    gates = parser.add_argument_group("gates", f"over those of the precision; '{_OFF}' takes a gate off")
    gates.add_argument(
        "--max-auroc-drop", type=_share, metavar="X", help="loss of image AUROC (int8 0.005, fp16 0.001)"
    )
    gates.add_argument("--max-aupro-drop", type=_share, metavar="X", help="loss of AUPRO (int8 0.01)")
    gates.add_argument("--max-flips", type=_whole, metavar="N", help="verdicts that may differ (fp32 0)")
    gates.add_argument("--gates", type=Path, metavar="FILE", help="YAML with limits below 'gates:'")
    add_dataset_flags(parser)


def parity(wanted: argparse.Namespace) -> Answer:
    """Certify, or compare certificates."""
    if str(wanted.bundle) == _DIFF and wanted.certificates:
        return _diff(wanted)
    if wanted.certificates:
        raise ConfigError(
            f"'{wanted.certificates[0]}' is one word too many; expected edgead parity RUN, "
            "or edgead parity diff OLD.json NEW.json"
        )
    require("torch", extra="train")
    from benchmarks.parity import certify, pairs
    from benchmarks.parity.page import write_page
    from edgead.bundle import Bundle

    bundle = Bundle.open(wanted.bundle)
    left_out: dict[str, str] = {}
    if wanted.all:
        every, left_out = pairs(bundle)
        chosen = [pair for pair in every if wanted.backend in (None, pair[1])]
        if not chosen:
            raise ConfigError(f"{bundle.path}: no artefact here runs on what is installed; make one: edgead export")
    else:
        bundle.file(wanted.artefact)
        chosen = [(wanted.artefact, wanted.backend)]
    changed = _changed_limits(wanted)
    images = _images(bundle, wanted)
    found = []
    for artefact, backend in chosen:
        done = certify(bundle, artefact, images, backend=backend, threads=wanted.threads, changed_limits=changed)
        write_page(bundle, done)
        found.append(done.certificate)
    if wanted.save is not None:
        _save(wanted, bundle, found)
    if wanted.junit is not None:
        from benchmarks.parity.junit import write_junit

        write_junit(wanted.junit, found)
    return _answer(bundle, found, left_out, every=wanted.all)


def _save(wanted: argparse.Namespace, bundle: Bundle, found: list[Certificate]) -> None:
    from benchmarks import results

    first = found[0]
    rows = []
    for each in found:
        metrics: dict[str, float | None] = {}
        for name in ("image_AUROC", "pixel_AUPRO"):
            metric = each.metrics[name]
            metrics |= {name: metric.candidate, f"{name}_change": metric.change}
            metrics |= {f"{name}_low": metric.low, f"{name}_high": metric.high}
        counts = {"images": each.images, "flips": each.flips, "flips_at_most": each.flips_at_most}
        rows.append({"artefact": each.artefact, "backend": each.backend, **metrics, **counts, "passed": each.passed})
    what = "--all" if wanted.all else f"--artefact {first.artefact} --backend {first.backend}"
    results.save(
        wanted.save,
        command=f"edgead parity {bundle.path} {what} --n {'all' if wanted.n is None else wanted.n}",
        conditions={
            "network": bundle.info.network,
            "category": bundle.info.category,
            "reference": first.reference,
            "reference_image_AUROC": first.metrics["image_AUROC"].reference,
            "reference_pixel_AUPRO": first.metrics["pixel_AUPRO"].reference,
            "checkpoint_sha256": first.checkpoint_sha256,
        },
        rows=rows,
    )


def _images(bundle: Bundle, wanted: argparse.Namespace) -> Images:
    from benchmarks.parity import Images, choose

    config, dataset = of_bundle(bundle, wanted)
    samples = dataset.test or dataset.validation
    return Images(config.kind, config.category, choose(samples, wanted.n), len(samples))


def _changed_limits(wanted: argparse.Namespace) -> dict[str, Any]:
    """Return the limits that flags set, over those of the gates' file."""
    from benchmarks.parity.gates import limits_for, read_limits

    changed = {} if wanted.gates is None else read_limits(wanted.gates)
    flags = {
        "image_AUROC_drop": wanted.max_auroc_drop,
        "pixel_AUPRO_drop": wanted.max_aupro_drop,
        "flips": wanted.max_flips,
    }
    changed |= {name: None if value == _OFF else value for name, value in flags.items() if value is not None}
    limits_for("fp32", changed)  # refuses what makes no sense before anything is measured
    return changed


def _answer(bundle: Bundle, found: list[Certificate], left_out: dict[str, str], *, every: bool) -> Answer:
    from benchmarks.parity import certificate_path

    files = [str(certificate_path(bundle, each.artefact, each.backend)) for each in found]
    first, summaries = found[0], [each.summary() for each in found]
    document: dict[str, Any] = {"bundle": str(bundle.path)}
    if every:
        document["certificates"] = [
            {"artefact": each.artefact, "backend": each.backend, "file": file, "parity": summary}
            for each, file, summary in zip(found, files, summaries, strict=True)
        ]
        document["left_out"] = left_out
    else:
        document |= {"artefact": first.artefact, "backend": first.backend, "file": files[0], "parity": summaries[0]}
    body: list[Table | str] = []
    if every:
        body += [_overview(found), f"certificates and their pages: {bundle.path / 'parity'}"]
    else:
        body += [*_told(first), f"certificate: {files[0]}, page: {Path(files[0]).with_suffix('.html')}"]
    body += [f"not certified here: {name}: {reason}" for name, reason in left_out.items()]
    missed = next((each for each in found if not each.passed), None)
    gate = None if missed is None else missed.missed
    return Answer(document, body, f"{missed.artefact}: {gate.sentence}" if missed and gate else None)


def _overview(found: list[Certificate]) -> Table:
    """Tell all artefacts in one table, a line each."""
    rows = [
        (
            each.artefact,
            each.candidate,
            None if each.flips is None else each.flips,
            _points(each.metrics["image_AUROC"].change),
            _points(each.metrics["pixel_AUPRO"].change),
            "deployable" if each.missed is None else each.missed.sentence,
        )
        for each in found
    ]
    columns = ("artefact", "runs on", ">flips", ">image AUROC, change", ">AUPRO, change", "")
    dataset = found[0].dataset
    title = f"Parity with {found[0].reference} on {found[0].images} images, {dataset.defective} of them defective"
    return table(title, columns, rows)


def _told(certificate: Certificate) -> list[Table | str]:
    from benchmarks.parity import bound_sentence

    title = (
        f"Parity of {certificate.artefact} on {certificate.candidate} with {certificate.reference}: "
        f"{certificate.images} images, {certificate.dataset.defective} of them defective"
    )
    gates = [
        (gate.name, _number(gate.value), f"{'>=' if gate.at_least else '<='} {gate.limit:g}", gate.status, gate.note)
        for gate in certificate.gates
    ]
    pieces: list[Table | str] = [table(title, ("gate", ">value", ">limit", "", ""), gates)]
    metrics = [
        (name, percent(each.reference), percent(each.candidate), _points(each.change), _between(each.low, each.high))
        for name, each in certificate.metrics.items()
    ]
    columns = ("metric", ">torch %", f">{certificate.artefact} %", ">change", ">95 % interval")
    pieces.append(table("Accuracy of both on these images", columns, metrics))
    if certificate.flips is None or certificate.flips_at_most is None:
        pieces.append("no verdicts compared: run edgead threshold first")
    else:
        told = bound_sentence(certificate.flips, certificate.images, certificate.flips_at_most)
        pieces.append(f"verdicts, at one threshold for both: {told}")
    return pieces


def _diff(wanted: argparse.Namespace) -> Answer:
    from benchmarks.parity import read_certificate
    from benchmarks.parity.difference import difference

    if len(wanted.certificates) != 2:
        raise ConfigError(
            f"diff takes two certificates, not {len(wanted.certificates)}: edgead parity diff OLD.json NEW.json"
        )
    old, new = (read_certificate(path) for path in wanted.certificates)
    limit = None if wanted.max_flips in (None, _OFF) else int(wanted.max_flips)
    found = difference(old, new, max_flips=old.images if wanted.max_flips == _OFF else limit)
    document = {"old": str(wanted.certificates[0]), "new": str(wanted.certificates[1]), **found.to_dict()}
    return Answer(document, _told_difference(found), found.missed)


def _told_difference(found: Difference) -> list[Table | str]:
    changed = [(name, *map(_number, pair)) for name, pair in {**found.identity, **found.versions}.items()]
    numbers = [(name, *map(_number, pair)) for name, pair in found.numbers.items()]
    pieces: list[Table | str] = [
        table(f"What changed, on {found.images} images", ("", "old", "new"), changed or [("nothing", "", "")]),
        table("Numbers of both", ("", ">old", ">new"), numbers),
    ]
    if found.flips:
        rows = [
            (each.image, each.defect, _number(each.old_score), _number(each.new_score), *each.verdicts)
            for each in found.flips
        ]
        pieces.append(table("Verdicts that changed", ("image", "label", ">old", ">new", "old", "new"), rows))
    return [*pieces, found.sentence]


def _number(value: object) -> str | None:
    if value is None:
        return None
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _between(low: float | None, high: float | None) -> str | None:
    return None if low is None or high is None else f"{_points(low)} to {_points(high)}"


def _points(change: float | None) -> str | None:
    return None if change is None else f"{round(100 * change, 3) + 0.0:+.3f}"  # + 0.0: a zero without a minus


def _count(text: str) -> int | None:
    """Read a number of images; None for all."""
    if text == "all":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of images; expected 1 or more, or 'all'") from error


def _share(text: str) -> float | str:
    try:
        return text if text == _OFF else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no limit; expected a share such as 0.005, or {_OFF}") from error


def _whole(text: str) -> int | str:
    if text == _OFF or text.isdecimal():
        return text if text == _OFF else int(text)
    raise argparse.ArgumentTypeError(f"'{text}' is no limit; expected a whole number, or {_OFF}")
