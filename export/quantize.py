"""Make the fp16 and INT8 models of a bundle from its fp32 one, with one calibration on Good images."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgead.bundle import Bundle
from edgead.errors import ArtefactError
from edgead.onnx_graph import read_model, write_model
from edgead.progress import task
from edgead.runtime.onnx_runner import OnnxRunner
from export.calibration import Listed, Ranges, batches, card, check_method, collect
from export.float16 import overflowing, to_float16
from export.int8 import insert, tensors_to_calibrate
from export.lint import Finding, lint

if TYPE_CHECKING:
    import onnx

Precision = Literal["fp16", "int8", "int8-fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
METHOD = "mse"  # least loss of image AUROC on magnetic tiles: 0.001, against 0.003 by the maximum


def quantise(
    bundle: Bundle,
    listed: Listed,
    *,
    precisions: Collection[Precision] = PRECISIONS,
    method: str = METHOD,
    threads: int = 0,
) -> Ranges:
    """Calibrate the bundle's fp32 model and write ``fp16``, ``int8`` and ``int8-fp16``.

    ``int8`` has fp32 scales, for ONNX Runtime and OpenVINO; ``int8-fp16`` computes all else in fp16, for TensorRT. What
    a model loses is not judged here: ``edgead parity`` does that, and without it none is deployable.

    Args:
        listed: the calibration images.
        method: how int8 ranges follow from what the images gave, see ``export.calibration.METHODS``.
        threads: CPU threads of an inference; 0 takes all cores that the process may use.

    Returns:
        The ranges of all tensors.

    Raises:
        ArtefactError: no fp32 model or a damaged one; a result that gives NaN, or that TensorRT would refuse.
        ConfigError: unknown method.
        DataError: calibration images of which one cannot be read.
        MissingError: onnx or onnxruntime is not installed.
    """
    check_method(method)
    source = bundle.file("fp32")
    model = read_model(source)
    size_hw = bundle.info.size_hw
    with task("Calibrating", len(listed.samples)) as advance:
        images = batches(listed.samples, size_hw)
        ranges = collect(source, images, tensors_to_calibrate(model), threads=threads, progress=advance)
    about = card(ranges, listed, method)
    sample = next(batches(listed.samples[:1], size_hw))
    with task("Quantising", len(precisions)) as advance:
        for precision in precisions:
            made = make(model, precision, ranges, method)
            kept = {"fp32_kept_for": sorted(overflowing(ranges.peak))} if "fp16" in precision else {}
            _add(bundle, precision, made, {**about, **kept}, sample)
            advance(1, precision)
    return ranges


def _add(
    bundle: Bundle, precision: Precision, made: onnx.ModelProto, about: Mapping[str, Any], sample: npt.NDArray[np.uint8]
) -> None:
    """Keep a model that runs: a graph that no runtime takes, or that gives NaN, is not kept."""

    def write(path: Path) -> None:
        write_model(made, path)
        with OnnxRunner(path, optimise=precision != "int8-fp16") as runner:
            runner.infer(sample)

    tools = {name: version(name) for name in ("onnx", "onnxruntime", "numpy")}
    bundle.add(precision, write, kind="onnx", precision=precision, made_from="fp32", tools=tools, calibration=about)


def make(model: onnx.ModelProto, precision: Precision, ranges: Ranges, method: str = METHOD) -> onnx.ModelProto:
    """Return an fp32 model in another precision, held to the lint's rules.

    Raises:
        ArtefactError: it breaks one of them.
    """
    match precision:
        case "fp16":
            return to_float16(model, overflowing=overflowing(ranges.peak))
        case "int8":
            made = insert(model, ranges.amax(method), "cpu", means=ranges.means)
            _refuse(lint(made, "cpu"))
        case "int8-fp16":
            made = insert(model, ranges.amax(method), "tensorrt", means=ranges.means)
            made = to_float16(made, overflowing=overflowing(ranges.peak))
            _refuse(lint(made, "tensorrt"))
    return made


def _refuse(findings: Collection[Finding]) -> None:
    """Hold what is made here to the rules that others' models are held to."""
    for found in findings:
        raise ArtefactError(f"{found}; report this as a bug")
