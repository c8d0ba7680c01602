"""``edgead bench --networks``: how fast a configuration would be on this machine, before anything is trained."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgead.cli.answer import Answer, table
from edgead.errors import ConfigError, require

if TYPE_CHECKING:
    from edgead.runtime.runner import Runner

_PARTS = 8  # simulated, so that the images are pictures and not noise


def bench_networks(wanted: argparse.Namespace) -> Answer:
    """Measure torch against ONNX Runtime, or what ``--backend`` says, for configurations with random weights."""
    for module in ("torch", "onnx", "onnxscript"):
        require(module, extra="export")
    from benchmarks import results
    from edgead.cfrg.model import NETWORKS

    names = [name.strip() for name in wanted.networks.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"--networks is '{wanted.networks}'; expected names such as {', '.join(NETWORKS)}")
    rows = [row for name in names for row in _measure(name, wanted)]
    command = f"edgead bench --networks {','.join(names)} --size {wanted.size} --threads {wanted.threads}"
    command += f" --batch {wanted.batch}" + (f" --n {wanted.n}" if wanted.n else "")
    command += f" --backend {wanted.backend}" if wanted.backend else ""
    conditions = {"size": wanted.size, "weights": "random", "images": "simulated magnetic cores"}
    document: dict[str, Any] = {"command": command, "conditions": conditions, "rows": rows}
    if wanted.save:
        kept = results.save(wanted.save, command=command, conditions=conditions, rows=rows)
        document = kept.model_dump(mode="json")
    columns = ("network", "runner", ">threads", ">batch", ">n", ">p50 ms", ">IQR", ">p95", ">p99", ">FPS", ">x")
    shown = [
        (row["network"], row["runner"], row["threads"], row["batch"], row["n"], f"{row['p50_ms']:.1f}",
         f"{row['iqr_ms']:.1f}", f"{row['p95_ms']:.1f}", f"{row['p99_ms']:.1f}", f"{row['fps']:.2f}",
         f"{row['times_faster']:.2f}")
        for row in rows
    ]  # fmt: skip
    title = f"Speed at {wanted.size}x{wanted.size} with random weights, each pair in turns"
    return Answer(document, [table(title, columns, shown), "x: times faster than torch by the medians"])


def _measure(name: str, wanted: argparse.Namespace) -> Sequence[dict[str, Any]]:
    import numpy as np
    import torch

    from benchmarks.speed import measure, ratio
    from edgead.cfrg.model import build
    from edgead.datasets.simulated import render
    from edgead.runtime.open import open_model
    from edgead.runtime.torch_runner import TorchRunner
    from export.to_onnx import export_inspection

    torch.manual_seed(0)
    cfrg = build(name, wanted.size).eval()
    shots = [
        render("magnetic_core", seed=1, part=part, view="front", illumination="ring", size=wanted.size).image
        for part in range(_PARTS)
    ]
    images = np.stack(shots)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = Path(folder) / "model.onnx"
        export_inspection(cfrg, path, images, {"network": name})
        backend: str = wanted.backend or "onnxruntime"
        options: dict[str, Any] = {"threads": wanted.threads, "max_batch": max(8, wanted.batch)}
        runners: dict[str, Runner] = {
            "torch": stack.enter_context(TorchRunner(cfrg, **options)),
            backend: stack.enter_context(open_model(path, backend, **options)),
        }
        speeds = measure(runners, images, batch=wanted.batch, n=wanted.n)
    return [{"network": name, **speed.to_dict(), "times_faster": round(ratio(speed, speeds[0]), 3)} for speed in speeds]
