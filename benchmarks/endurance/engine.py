"""A bundle with a small engine: a convolution with fixed random weights, judged by ONNX Runtime like any other.

What is tried with it is the station around it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgead.bundle import Bundle, BundleInfo
from edgead.errors import require
from edgead.thresholds import Threshold

ARTEFACT = "fp32"
_OPSET = 17


def small_bundle(folder: Path, *, size: int = 64, channels: int = 2, layers: int = 1) -> Bundle:
    """Make a bundle whose scores depend on the whole image, and tell parts apart.

    Args:
        channels, layers: of its convolutions; more make it slower.

    Raises:
        MissingError: onnx is not installed.
    """
    model = _model(size, channels, layers)
    bundle = Bundle.create(folder, BundleInfo(network="convolution", category="simulated", size_hw=(size, size)))
    tools = {"onnx": require("onnx", extra="export").__version__}

    def write(path: Path) -> None:
        path.write_bytes(model)

    bundle.add(ARTEFACT, write, kind="onnx", precision="fp32", made_from=None, tools=tools)
    set_limits(bundle, 1e30, 1e30)
    return bundle


def set_limits(bundle: Bundle, unsure: float, ng: float) -> None:
    """Set the limits above which scores are UNSURE and NG."""
    threshold = Threshold(unsure, ng, "part", 2000, 0.95, 1, 1e6, 1497, "chosen for a test of endurance")
    bundle.set_threshold(ARTEFACT, threshold)


def _model(size: int, channels: int, layers: int) -> bytes:
    onnx = require("onnx", extra="export")
    helper, numpy_helper, proto = onnx.helper, onnx.numpy_helper, onnx.TensorProto
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=proto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
    ]
    constants, last, width = [], "planes", 3
    for layer in range(layers + 1):
        wide = channels if layer < layers else 1
        weights = rng.normal(0, 1 / np.sqrt(9 * width), (wide, width, 3, 3)).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, f"weights_{layer}"))
        nodes.append(helper.make_node("Conv", [last, f"weights_{layer}"], [f"conv_{layer}"], pads=[1, 1, 1, 1]))
        last, width = f"abs_{layer}", wide
        nodes.append(helper.make_node("Abs", [f"conv_{layer}"], [last]))
    constants += [numpy_helper.from_array(np.array([1], np.int64), "channel")]
    constants += [numpy_helper.from_array(np.array([1, 2], np.int64), "pixels")]
    nodes += [
        helper.make_node("Squeeze", [last, "channel"], ["anomaly_map"]),
        helper.make_node("ReduceMean", ["anomaly_map"], ["pred_score"], axes=[1, 2], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("image", proto.UINT8, ["batch", size, size, 3])],
        [
            helper.make_tensor_value_info("anomaly_map", proto.FLOAT, ["batch", size, size]),
            helper.make_tensor_value_info("pred_score", proto.FLOAT, ["batch"]),
        ],
        constants[:-1],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def write_station(path: Path, document: Mapping[str, Any]) -> Path:
    """Write a station.yaml; JSON is YAML."""
    path.write_text(json.dumps({"artefact": ARTEFACT, "unproven": True, "threads": 1, **document}), encoding="utf-8")
    return path
