"""The share of each exact step of the exporter in the speed of a network, one step more from row to row.

    python -m benchmarks.graph_steps --networks cfrg-wrn50,cfrg-r18,cfrg-lite0 --threads 2 --save FILE

The weights are random, and the same in all rows of a network. All models of a network run in turns.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import results
from benchmarks.speed import Speed, measure, ratio
from edgead.errors import ConfigError, EdgeadError, require
from edgead.onnx_graph import read_model
from edgead.runtime.runner import Runner

Images = npt.NDArray[np.uint8]

_PARTS = 4
_TORCH = "torch"


def gmac(model: Any) -> float:
    """Count the multiplications of an image's convolutions and matrix products, 1e9.

    Args:
        model: with the shapes of its tensors; a dimension that has a name counts as 1.
    """
    graph = model.graph
    shapes = {
        value.name: [each.dim_value or 1 for each in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            weight = shapes[node.input[1]]
            each = shapes[node.output[0] if node.op_type == "Conv" else node.input[0]]
            total += int(np.prod([*each[:1], *each[2:], *weight]))
        elif node.op_type in ("MatMul", "Gemm"):
            total += int(np.prod(shapes[node.output[0]])) * shapes[node.input[0]][-1]
    return total / 1e9


def compare(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> dict[str, float | None]:
    """Hold maps ``(N, H, W)`` against torch's: largest difference, signal to noise (dB), correlation."""
    signal, noise = float(wanted.var()), float(np.square(found - wanted, dtype=np.float64).mean())
    return {
        "difference": float(np.abs(found - wanted).max()),
        "snr_db": None if noise == 0 or signal == 0 else round(10 * float(np.log10(signal / noise)), 1),
        "correlation": None if signal == 0 else round(float(np.corrcoef(found.ravel(), wanted.ravel())[0, 1]), 6),
    }


def measure_network(
    name: str, images: Images, folder: Path, *, threads: int, n: int | None, floats: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the rows of one network: torch, then a row a step.

    Args:
        folder: of its models, which are made where there are none.
        n: rounds; None takes as many as fit in ten seconds.
        floats: the fp32 models wanted, of ``edgead.cli.stepping.FLOAT_STEPS``.
    """
    from edgead.cli.stepping import CHECKPOINT, INT8, write_steps
    from edgead.runtime.onnx_runner import OnnxRunner
    from edgead.runtime.openvino_runner import OpenVINORunner
    from edgead.runtime.torch_runner import TorchRunner

    files = _kept(folder) or _keep(folder, write_steps(name, images, folder, floats=floats))
    whole = list(files).index(INT8)
    with ExitStack() as stack:
        runners: dict[str, Runner] = {_TORCH: stack.enter_context(TorchRunner(folder / CHECKPOINT, threads=threads))}
        for index, (step, path) in enumerate(files.items()):
            runners[f"{step}@onnxruntime"] = stack.enter_context(OnnxRunner(path, threads=threads))
            if index >= whole - 1:  # before INT8 the last one only: wrn50's would fill the memory
                runners[f"{step}@openvino"] = stack.enter_context(OpenVINORunner(path, threads=threads))
            if index in (whole - 1, len(files) - 1):
                with suppress(ConfigError):  # a processor without bfloat16
                    half = OpenVINORunner(path, threads=threads, hint="bf16")
                    runners[f"{step}@openvino-bf16"] = stack.enter_context(half)
        speeds = {speed.runner: speed for speed in measure(runners, images, n=n, warmup=2)}
        wanted = runners[_TORCH].infer(images).anomaly_map
        maps = {key: runner.infer(images).anomaly_map for key, runner in runners.items()}
    rows: list[dict[str, Any]] = [{"network": name, "step": "torch eager", _TORCH: _spread(speeds, _TORCH)}]
    for index, (step, path) in enumerate(files.items()):
        row = {"network": name, "step": f"+ {step}" if index not in (0, whole) else step, **_counted(path)}
        for backend in ("onnxruntime", "openvino", "openvino-bf16"):
            if (key := f"{step}@{backend}") in speeds:
                row[backend] = {**_spread(speeds, key), **compare(maps[key], wanted)}
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the exporter's steps one by one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.graph_steps", description=main.__doc__)
    parser.add_argument("--networks", default="cfrg-wrn50,cfrg-r18,cfrg-lite0", metavar="A,B")
    parser.add_argument("--size", type=int, default=256, help="height and width of the images (256)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n", type=int, help="rounds; else as many as fit in ten seconds, 5 at least")
    parser.add_argument("--int8", action="store_true", help="leave the fp32 steps out, all but the last")
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="keep the models there, or take those that are")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="write benchmarks/results/graph_steps.json; rows of other networks stay in it",
    )
    given = parser.parse_args(arguments)
    try:
        for module in ("torch", "onnx", "onnxscript", "onnxruntime", "openvino"):
            require(module, extra="export")
        rows = _measure_all(given)
        if given.save:
            _save(given, rows)
    except EdgeadError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for row in rows:
        print(row)
    return 0


def _save(given: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write the rows beside those that the file has of other networks: wrn50's take a run of their own."""
    measured = {row["network"] for row in rows}
    before = results.read(given.save).rows if given.save.is_file() else ()
    rows = rows + [dict(row) for row in before if row["network"] not in measured]
    names = ",".join(dict.fromkeys(str(row["network"]) for row in rows))
    conditions = {"size": given.size, "threads": given.threads, "batch": 1, "images": "simulated magnetic cores"}
    conditions |= {"weights": "random"}
    command = f"python -m benchmarks.graph_steps --networks {names} --size {given.size} --threads {given.threads}"
    results.save(given.save, command=command, conditions=conditions, rows=rows)


def _measure_all(given: argparse.Namespace) -> list[dict[str, Any]]:
    from edgead.cli.stepping import FLOAT_STEPS
    from edgead.datasets.simulated import render

    names = [name.strip() for name in given.networks.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"--networks is '{given.networks}'; expected names such as cfrg-lite0")
    how: dict[str, Any] = {"seed": 1, "view": "front", "illumination": "ring", "size": given.size}
    images = np.stack([render("magnetic_core", part=part, **how).image for part in range(_PARTS)])
    floats = FLOAT_STEPS[-1:] if given.int8 else FLOAT_STEPS
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            folder = (given.models or Path(temporary)) / name
            folder.mkdir(parents=True, exist_ok=True)
            rows += measure_network(name, images, folder, threads=given.threads, n=given.n, floats=floats)
    return rows


def _keep(folder: Path, files: Mapping[str, Path]) -> dict[str, Path]:
    text = "".join(f"{path.name}\t{step}\n" for step, path in files.items())
    (folder / "steps.txt").write_text(text, encoding="utf-8")  # last: its presence says that all are there
    return dict(files)


def _kept(folder: Path) -> dict[str, Path]:
    listed = folder / "steps.txt"
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    return {step: folder / name for name, _, step in (line.partition("\t") for line in lines)}


def _counted(path: Path) -> dict[str, Any]:
    model = read_model(path)
    pairs = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    nodes = sum(node.op_type not in ("Constant", "QuantizeLinear", "DequantizeLinear") for node in model.graph.node)
    return {"nodes": nodes, "pairs": pairs, "gmac": round(gmac(model), 3)}


def _spread(speeds: Mapping[str, Speed], key: str) -> dict[str, Any]:
    speed = speeds[key]
    values = {"p50_ms": round(speed.p50_ms, 3), "iqr_ms": round(speed.iqr_ms, 3), "n": speed.n}
    return values | {"times_torch": round(ratio(speed, speeds[_TORCH]), 3)}


if __name__ == "__main__":
    sys.exit(main())
