"""Accuracy of a variant by training it, and speed of all of them in turns."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.accuracy import measure_accuracy
from benchmarks.exploration.variants import BASE, VARIANTS, Variant
from benchmarks.speed import Images, Speed, measure, ratio
from edgead.bundle import Bundle
from edgead.cli.untrained import made
from edgead.config import TrainConfig
from edgead.datasets.simulated import render
from edgead.onnx_graph import read_model
from edgead.runtime.open import open_runner
from edgead.runtime.runner import Runner
from edgead.yaml_file import check

RUNNERS = ("int8@openvino", "fp32@openvino", "fp32@onnxruntime")

_KEPT = ("image_AUROC", "pixel_AUPRO", "pixel_AP", "by_defect")
_PARTS = 8  # simulated, for the speed


def accuracy(variant: Variant, config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Train a variant and evaluate it on the test images; returns what the table shows of it."""
    values = {**config.model_dump(), **variant.training, "size": variant.size}
    row = measure_accuracy(check(TrainConfig, values, name=variant.changed), folder, variant.networks)
    return {name: row[name] for name in _KEPT}


def arithmetic(variant: Variant) -> dict[str, Any]:
    """Count multiplications and parameters."""
    cfrg = variant.networks(variant.size).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        cfrg(torch.zeros(1, 3, variant.size, variant.size))
    gmac = round(counter.get_total_flops() / 2e9, 3)
    return {"GMAC": gmac, "M_parameters": round(sum(each.numel() for each in cfrg.parameters()) / 1e6, 3)}


def exported(name: str, folder: Path) -> Bundle:
    """Return a variant's bundle with random weights in fp32 and int8, made where there is none in ``folder``."""
    if (folder / name / "bundle.json").is_file():
        return Bundle.open(folder / name)
    variant = VARIANTS[name]
    torch.manual_seed(0)
    return made(variant.networks(variant.size), _images(variant.size), ("int8",), folder / name)


def speeds(bundles: Mapping[str, Bundle], *, threads: int, seconds: float) -> dict[str, dict[str, Any]]:
    """Time every variant at batch 1 in turns with ``cfrg-lite0``, which must be among them.

    Returns:
        By variant: nodes of its graph, and by runner FPS from the median and the multiple of ``cfrg-lite0``'s.
    """
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}
        for name, bundle in bundles.items():
            for word in RUNNERS:
                artefact, _, backend = word.partition("@")
                runner = open_runner(bundle, artefact, backend=backend, threads=threads, max_batch=1)
                runners[f"{name} {word}"] = stack.enter_context(runner)
        found = {each.runner: each for each in measure(runners, _images(256), seconds=seconds)}
    rows: dict[str, dict[str, Any]] = {}
    for name, bundle in bundles.items():
        by_runner = {word: _figures(found[f"{name} {word}"], found[f"{BASE} {word}"]) for word in RUNNERS}
        rows[name] = {"nodes": len(read_model(bundle.file("fp32")).graph.node), **by_runner}
    return rows


def _figures(speed: Speed, base: Speed) -> dict[str, Any]:
    return {
        "FPS": round(1e3 / speed.p50_ms, 1),
        "IQR_ms": round(speed.iqr_ms, 3),
        "times": round(ratio(speed, base), 3),
    }


def _images(size: int) -> Images:
    shots = [
        render("magnetic_core", seed=1, part=part, view="front", illumination="ring", size=size).image
        for part in range(_PARTS)
    ]
    return np.stack(shots)
