"""The verb that makes a run's fp16 and INT8 models: quantize."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edgead.cli.answer import Answer, table
from edgead.cli.dataset import add_dataset_flags, given, of_bundle
from edgead.errors import ConfigError, nearest, require

if TYPE_CHECKING:
    from edgead.bundle import Bundle
    from edgead.cli.parser import Verbs
    from export.calibration import Listed

_METHODS = ("mse", "max", "percentile", "entropy")
_IMAGES = 200


def add_verbs(verbs: Verbs) -> None:
    """Add quantize."""
    parser = verbs.add(
        "quantize",
        quantize,
        summary="make fp16 and INT8 models of a run, calibrated on Good images",
        example="edgead quantize runs/my_part --images 200",
        more=(
            "Writes fp16, int8 (for ONNX Runtime and OpenVINO) and int8-fp16 (for TensorRT). The images that it\n"
            "calibrates on stand in calibration_data/CATEGORY/calibration.txt; a list that is there is used again.\n"
            "With --onnx, a model quantised by another tool is checked and taken in as it is."
        ),
    )
    parser.add_argument("bundle", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--images", type=int, metavar="N", help=f"how many to calibrate on ({_IMAGES})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of their choice (%(default)s)")
    parser.add_argument("--choose-again", action="store_true", help="replace the list of images that is there")
    parser.add_argument(
        "--calibration-data", type=Path, default=Path("calibration_data"), metavar="DIR", help="lists (%(default)s)"
    )
    parser.add_argument("--method", default=_METHODS[0], help="range of a tensor: mse, max, percentile, entropy (mse)")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="take in this model, quantised elsewhere")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0: all cores (%(default)s)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep what the calibration cost, as JSON")
    add_dataset_flags(parser)


def quantize(wanted: argparse.Namespace) -> Answer:
    """Calibrate and quantise, or take in a quantised model."""
    require("onnx", extra="export")
    from edgead.bundle import Bundle

    bundle = Bundle.open(wanted.bundle)
    return _take_in(bundle, wanted) if wanted.onnx else _calibrate(bundle, wanted)


def _calibrate(bundle: Bundle, wanted: argparse.Namespace) -> Answer:
    from benchmarks.speed import peak_rss_mib
    from export.quantize import PRECISIONS, quantise

    if wanted.method not in _METHODS:
        raise ConfigError(f"there is no method '{wanted.method}'{nearest(wanted.method, _METHODS)}")
    if wanted.threads < 0:
        raise ConfigError(f"--threads is {wanted.threads}; expected 0 or more")
    bundle.file("fp32")
    listed, path, chosen = _listed(bundle, wanted)
    begin = time.monotonic()
    ranges = quantise(bundle, listed, method=wanted.method, threads=wanted.threads)
    cost = {"seconds": round(time.monotonic() - begin, 1), "peak_rss_mib": peak_rss_mib()}
    records = [bundle.artefacts[name] for name in PRECISIONS]
    stability = ranges.spread(wanted.method)
    document = {
        "bundle": str(bundle.path),
        "calibration": {"list": str(path), "images": ranges.images, "method": wanted.method, "chosen_now": chosen},
        "cost": cost,
        "artefacts": {
            name: {"file": record.file, "size": record.size, "sha256": record.sha256}
            for name, record in zip(PRECISIONS, records, strict=True)
        },
    }
    if wanted.save:
        _save(wanted, bundle, {"images": ranges.images, "method": wanted.method, **cost})
    rows = [(each.precision, each.file, f"{each.size / 2**20:.2f}") for each in records]
    unstable = max(stability, key=lambda name: stability[name])
    lines = [
        f"{ranges.images} Good images, {'chosen now' if chosen else 'listed before'}: {path}",
        f"calibrated and written in {cost['seconds']} s",
        f"drawn anew, the range of the least stable tensor ({unstable}) moves by {stability[unstable]:.1%}",
        f"next: edgead parity {bundle.path} --artefact int8",
    ]
    return Answer(document, [table("Quantised, not yet judged", ("artefact", "file", ">MiB"), rows), *lines])


def _save(wanted: argparse.Namespace, bundle: Bundle, row: dict[str, object]) -> None:
    from benchmarks import results

    results.save(
        wanted.save,
        command=f"edgead quantize {bundle.path} --images {row['images']} --method {wanted.method} "
        f"--threads {wanted.threads}",
        conditions={"network": bundle.info.network, "size_hw": list(bundle.info.size_hw)},
        rows=[row],
    )


def _listed(bundle: Bundle, wanted: argparse.Namespace) -> tuple[Listed, Path, bool]:
    """Return the list of calibration images, its file, and whether they were chosen just now."""
    from export.calibration import candidates, choose, list_path, read_list, write_list

    config, dataset = of_bundle(bundle, wanted)
    path = list_path(wanted.calibration_data, dataset.category)
    anew = wanted.choose_again or not path.exists()
    if anew:
        count = _IMAGES if wanted.images is None else wanted.images
        pool = candidates(dataset, count)
        chosen = choose(pool, count, bundle.info.size_hw, seed=wanted.seed, held_out=dataset.test)
        write_list(path, chosen, dataset, config.root)
    listed = read_list(path, dataset, config.root)
    if not anew and wanted.images not in (None, len(listed.samples)):
        raise ConfigError(
            f"{path} lists {len(listed.samples)} images, not {wanted.images}; leave --images out, or --choose-again"
        )
    return listed, path, anew


def _take_in(bundle: Bundle, wanted: argparse.Namespace) -> Answer:
    from export.adopt import adopt

    if given(wanted) or wanted.images or wanted.choose_again:
        raise ConfigError("--onnx takes a model as it is: leave out what chooses images and data sets")
    name, findings = adopt(bundle, wanted.onnx)
    document = {
        "bundle": str(bundle.path),
        "artefact": name,
        "findings": [{"rule": each.rule, "severity": each.severity, "where": each.where} for each in findings],
    }
    rows = [(each.rule, each.severity, each.where, each.what) for each in findings]
    body = [table("What may cost speed", ("rule", "severity", "at", "what"), rows)] if rows else []
    return Answer(
        document, [*body, f"'{name}' taken in, not yet judged: edgead parity {bundle.path} --artefact {name}"]
    )
