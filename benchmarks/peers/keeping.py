"""A fitted peer as a bundle: its ONNX file opens in every backend, and ``edgead quantize`` makes its INT8."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.detector import Detector, Images
from edgead.bundle import Bundle, BundleInfo
from edgead.errors import ArtefactError, require
from edgead.onnx_graph import MODULE, quiet_exporter
from edgead.runtime.onnx_runner import OnnxRunner

OPSET = 18
LIMIT = 1e-3  # largest difference of map and score from torch's, relative to the largest value of the map

_BATCHES = (1, 3)


def keep(detector: Detector, folder: Path, info: BundleInfo, images: Images) -> Bundle:
    """Write a peer's bundle with the artefact ``fp32``, held against torch.

    Args:
        images: uint8 ``(N, H, W, 3)``, at least three.

    Raises:
        ArtefactError: the graph differs from torch or cannot be exported, or the folder holds something else.
        MissingError: onnx or onnxscript is not installed.
    """
    bundle = Bundle.create(folder, info)
    tools = {name: version(name) for name in ("torch", "onnx", "onnxscript")}
    bundle.add(
        "fp32",
        lambda path: write_onnx(detector, path, images),
        kind="onnx",
        precision="fp32",
        made_from=None,
        tools=tools,
    )
    return bundle


def write_onnx(detector: Detector, path: Path, images: Images) -> None:
    """Export a detector for any batch and hold the file against torch.

    Raises:
        ArtefactError: the graph differs from torch, or cannot be made.
        MissingError: onnx or onnxscript is not installed.
    """
    onnx = require("onnx", extra="export")
    require("onnxscript", extra="export")
    detector.eval()
    example = torch.zeros(2, *detector.size_hw, 3, dtype=torch.uint8)
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                detector,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["anomaly_map", "pred_score"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever its stages raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ArtefactError(f"{path}: torch {torch.__version__} cannot export this peer ({reason})") from error
    assert program is not None
    model = program.model_proto
    _name_nodes(model.graph)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)
    hold_against_torch(detector, path, images)


def _name_nodes(graph: Any) -> None:
    """Say of each node which network it belongs to, as edgead's own exporter does: ``edgead quantize`` asks for it.

    The teacher stays the teacher; what a peer has learnt besides counts as recovery, what has no weights as nothing.
    """
    for number, node in enumerate(graph.node):
        module = _module_of(node)
        del node.metadata_props[:]  # the exporter's notes hold local paths
        node.name = f"{module or 'tail'}/{node.op_type}_{number}"
        if module:
            named = module if module.startswith("teacher") else f"recovery.{module}"
            node.metadata_props.add(key=MODULE, value=named)


def _module_of(node: Any) -> str:
    """Return the dotted path of a node's torch module: a layer's by its weight, others' by the exporter's notes."""
    for name in node.input[1:2]:
        if name.endswith(".weight"):
            return str(name.removesuffix(".weight"))
    scopes = {prop.key: prop.value for prop in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "[]")
    path = [scope.strip(" '\"") for scope in scopes.strip("[]").split(",")][:-1]
    known = ("teacher", "student", "autoencoder", "embedding", "decoder")
    return path[-1] if path and path[-1].partition(".")[0] in known else ""


@torch.no_grad()
def hold_against_torch(detector: Detector, path: Path, images: Images) -> None:
    """Compare a model with the detector that it was made from, at two batch sizes.

    Raises:
        ArtefactError: they differ.
    """
    with OnnxRunner(path) as runner:
        for batch in _BATCHES:
            got = runner.infer(images[:batch])
            wanted = [value.numpy() for value in detector(torch.from_numpy(images[:batch]))]
            scale = float(np.abs(wanted[0]).max())
            for name, found, true in zip(got._fields, got, wanted, strict=True):
                difference = float(np.abs(found - true).max()) / scale
                if not difference < LIMIT:  # NaN is refused too
                    raise ArtefactError(
                        f"{path}: {name} differs from torch by {difference:.2e} of the map's largest value, the limit "
                        f"is {LIMIT:.0e}; the file is not kept: report this as a bug"
                    )
