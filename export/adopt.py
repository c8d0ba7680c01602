"""Take a model into a bundle that another tool has quantised (ModelOpt, torchao, ONNX Runtime), after checking it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgead.bundle import Bundle
from edgead.errors import ArtefactError
from edgead.onnx_graph import constants, read_model, write_model
from edgead.runtime.onnx_runner import OnnxRunner
from export.lint import Finding, lint
from export.placement import Target

if TYPE_CHECKING:
    import onnx

_KEPT = 20  # findings in the bundle's record


def adopt(bundle: Bundle, path: Path) -> tuple[str, tuple[Finding, ...]]:
    """Check a quantised inspection of any origin and keep it: ``int8-fp16`` where its scales are fp16, else ``int8``.

    Returns:
        The artefact's name, and the lint's findings that only cost speed.

    Raises:
        ArtefactError: it cannot be read, is not quantised, inspects other images than the bundle, cannot run, or has
            findings that a runtime refuses or that would cost the verdict.
    """
    model = read_model(path, again="make it again with the tool that quantised it")
    if not any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        raise ArtefactError(f"{path}: the model has no Q/DQ pairs; expected one that a tool has quantised")
    name, target = _kind(model)
    findings = lint(model, target)
    if severe := next((each for each in findings if each.severity != "slow"), None):
        raise ArtefactError(f"{path}: {severe}")
    size_hw = bundle.info.size_hw
    with OnnxRunner(path, optimise=name == "int8") as runner:
        if runner.size_hw != size_hw:
            raise ArtefactError(
                f"{path}: inspects images of {runner.size_hw[1]}x{runner.size_hw[0]}, the bundle of "
                f"{size_hw[1]}x{size_hw[0]}; quantise the bundle's own model.fp32.onnx"
            )
        runner.infer(np.full((1, *size_hw, 3), 127, np.uint8))
    bundle.add(
        name,
        lambda target_path: write_model(model, target_path),
        kind="onnx",
        precision=name,
        made_from="fp32",
        tools={"producer": f"{model.producer_name or 'unknown'} {model.producer_version}".strip()},
        calibration={"origin": "another tool", "findings": [str(each) for each in findings[:_KEPT]]},
    )
    return name, findings


def _kind(model: onnx.ModelProto) -> tuple[str, Target]:
    """Tell by the scales which artefact a model is."""
    known = constants(model)
    scales = [known.get(node.input[1]) for node in model.graph.node if node.op_type == "DequantizeLinear"]
    in_half = any(scale is not None and scale.dtype == np.float16 for scale in scales)
    return ("int8-fp16", "tensorrt") if in_half else ("int8", "cpu")
