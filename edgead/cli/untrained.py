"""``edgead bench --networks``: how fast a configuration would be on this machine, before anything is trained."""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgead.cli.answer import Answer, table
from edgead.errors import ConfigError, nearest, require

if TYPE_CHECKING:
    from edgead.bundle import Bundle
    from edgead.cfrg.model import Cfrg

_PARTS = 8  # simulated, so that the images are pictures and not noise
_ARTEFACTS = ("checkpoint", "fp32", "fp16", "int8", "int8-fp16")


def bench_networks(wanted: argparse.Namespace) -> Answer:
    """Measure artefacts of configurations with random weights against each other."""
    for module in ("torch", "onnx", "onnxscript"):
        require(module, extra="export")
    from benchmarks import results
    from edgead.cfrg.model import NETWORKS
    from edgead.cli.proving import artefacts_of
    from edgead.runtime.open import BACKENDS

    names = [name.strip() for name in wanted.networks.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"--networks is '{wanted.networks}'; expected names such as {', '.join(NETWORKS)}")
    asked = artefacts_of(wanted)
    for word in asked:
        artefact, _, backend = word.partition("@")
        if artefact not in _ARTEFACTS:
            raise ConfigError(f"an untrained network has no artefact '{artefact}'{nearest(artefact, _ARTEFACTS)}")
        if (backend := backend or wanted.backend or "torch") not in BACKENDS:
            raise ConfigError(f"there is no backend '{backend}'{nearest(backend, BACKENDS)}")
    rows = [row for name in names for row in _measure(name, asked, wanted)]
    command = f"edgead bench --networks {','.join(names)} --artefacts {','.join(asked)}"
    command += f" --size {wanted.size}" if wanted.size else ""
    command += f" --threads {wanted.threads} --batch {wanted.batch}" + (f" --n {wanted.n}" if wanted.n else "")
    command += f" --backend {wanted.backend}" if wanted.backend else ""
    conditions = {"weights": "random", "images": "simulated magnetic cores"}
    document: dict[str, Any] = {"command": command, "conditions": conditions, "rows": rows}
    if wanted.save:
        kept = results.save(wanted.save, command=command, conditions=conditions, rows=rows)
        document = kept.model_dump(mode="json")
    columns = (
        "network",
        ">size",
        "runner",
        ">threads",
        ">batch",
        ">n",
        ">p50 ms",
        ">IQR",
        ">p95",
        ">p99",
        ">FPS",
        ">x",
    )
    shown = [
        (row["network"], row["size"], row["runner"], row["threads"], row["batch"], row["n"], f"{row['p50_ms']:.1f}",
         f"{row['iqr_ms']:.1f}", f"{row['p95_ms']:.1f}", f"{row['p99_ms']:.1f}", f"{row['fps']:.2f}",
         f"{row['times_faster']:.2f}")
        for row in rows
    ]  # fmt: skip
    title = "Speed with random weights, of each network in turns"
    return Answer(document, [table(title, columns, shown), f"x: times faster than {asked[0]} by the medians"])


def _measure(name: str, asked: Sequence[str], wanted: argparse.Namespace) -> Sequence[dict[str, Any]]:
    import torch

    from benchmarks.speed import measure, ratio
    from edgead.cfrg.model import build
    from edgead.cli.proving import choice
    from edgead.config import SIZES
    from edgead.datasets.simulated import render
    from edgead.runtime.open import open_runner

    torch.manual_seed(0)
    cfrg = build(name, wanted.size or SIZES.get(name, 256), statistics=True)
    size = cfrg.size_hw[0]
    shots = [
        render("magnetic_core", seed=1, part=part, view="front", illumination="ring", size=size).image
        for part in range(_PARTS)
    ]
    images = np.stack(shots)
    options = {"threads": wanted.threads, "max_batch": max(8, wanted.batch)}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        wanted_artefacts = {word.partition("@")[0] for word in asked}
        bundle = made(cfrg, images, wanted_artefacts, Path(folder))
        choices = {word: choice(bundle, word, wanted.backend) for word in asked}
        runners = {
            word: stack.enter_context(open_runner(bundle, artefact, backend=backend, **options))
            for word, (artefact, backend) in choices.items()
        }
        speeds = measure(runners, images, batch=wanted.batch, n=wanted.n)
    rows = [{"network": name, "size": size, **speed.to_dict()} for speed in speeds]
    return [{**row, "times_faster": round(ratio(speed, speeds[0]), 3)} for row, speed in zip(rows, speeds, strict=True)]


def made(cfrg: Cfrg, images: npt.NDArray[np.uint8], artefacts: Collection[str], folder: Path) -> Bundle:
    """Make a bundle of networks whose accuracy does not matter, with int8 calibrated on the images to be measured on.

    Args:
        images: uint8 ``(N, H, W, 3)`` RGB of the networks' size.
        artefacts: of those that are made from ``fp32``; ``checkpoint`` and ``fp32`` are always made.
    """
    from edgead.bundle import Bundle, BundleInfo
    from edgead.cfrg import checkpoint
    from edgead.onnx_graph import read_model, write_model
    from export.calibration import collect
    from export.int8 import tensors_to_calibrate
    from export.quantize import PRECISIONS, make
    from export.to_onnx import export_inspection

    cfrg = cfrg.eval()
    bundle = Bundle.create(folder, BundleInfo(network=cfrg.network, category="untrained", size_hw=cfrg.size_hw))
    how: dict[str, Any] = {"tools": {}}
    bundle.add(
        "checkpoint",
        lambda path: checkpoint.save(cfrg, path),
        kind="checkpoint", precision="fp32", made_from=None, **how,
    )  # fmt: skip
    source = bundle.add(
        "fp32",
        lambda path: export_inspection(cfrg, path, images, {"network": cfrg.network}),
        kind="onnx", precision="fp32", made_from="checkpoint", **how,
    )  # fmt: skip
    if wanted := [precision for precision in PRECISIONS if precision in artefacts]:
        model = read_model(source)
        ranges = collect(source, [images], tensors_to_calibrate(model))
        for precision in wanted:
            write = functools.partial(write_model, make(model, precision, ranges))
            bundle.add(precision, write, kind="onnx", precision=precision, made_from="fp32", **how)
    return bundle
