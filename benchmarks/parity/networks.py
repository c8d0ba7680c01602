"""Parity by network: each one alone, fed with torch's tensors, so that no network is blamed for the one before it.

In fp32 the networks' own files are run. In another precision each is cut out of the very model that is certified. The
tensors inside an engine cannot be reached: engines are compared end to end only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgead.bundle import NETWORKS, Bundle
from edgead.errors import ArtefactError, require
from edgead.images import Image
from edgead.runtime.openvino_runner import open_core
from edgead.runtime.runner import usable_cores

if TYPE_CHECKING:
    from edgead.cfrg.model import Cfrg

Arrays = Mapping[str, npt.NDArray[Any]]
Network = Callable[[Arrays], list[npt.NDArray[np.float32]]]

IMAGES = 8
"""Images that the networks are compared on: their tensors have a hundred times as many values as images have scores."""


@dataclass(frozen=True)
class Difference:
    """How far one output of a network is from the reference's, over several images.

    Attributes:
        max_abs: largest difference.
        max_relative: the same relative to the largest value of the reference.
        mean_abs: mean difference.
        cosine: cosine similarity over all values; None where one side is zero.
        snr_db: power of the reference over that of the difference, dB; None where nothing differs.
    """

    network: str
    output: str
    max_abs: float
    max_relative: float
    mean_abs: float
    cosine: float | None
    snr_db: float | None


class _Sums:
    """Running sums of one output."""

    def __init__(self) -> None:
        self.largest, self.worst = 0.0, 0.0
        self.count = 0
        self.apart = self.noise = self.dot = self.wanted = self.found = 0.0

    def add(self, wanted: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> None:
        a, b = wanted.ravel().astype(np.float64), found.ravel().astype(np.float64)
        apart = a - b
        self.largest = max(self.largest, float(np.abs(a).max()))
        self.worst = max(self.worst, float(np.abs(apart).max()))
        self.count += a.size
        self.apart += float(np.abs(apart).sum())
        self.noise += float(apart @ apart)
        self.dot += float(a @ b)
        self.wanted += float(a @ a)
        self.found += float(b @ b)

    def difference(self, network: str, output: str) -> Difference:
        lengths = (self.wanted * self.found) ** 0.5
        return Difference(
            network=network,
            output=output,
            max_abs=self.worst,
            max_relative=self.worst / max(self.largest, 1e-12),
            mean_abs=self.apart / self.count,
            cosine=min(1.0, self.dot / lengths) if lengths else None,
            snr_db=10 * float(np.log10(self.wanted / self.noise)) if self.noise and self.wanted else None,
        )


def can_isolate(bundle: Bundle, artefact: str) -> bool:
    """Tell whether an artefact's networks can be run one by one."""
    return bundle.artefacts[artefact].kind == "onnx"


def names_networks(bundle: Bundle, artefact: str) -> bool:
    """Tell whether an ONNX artefact names the tensors between its networks; one made by another tool may not.

    Raises:
        ArtefactError: it cannot be read.
    """
    if _has_own_files(bundle, artefact):
        return True
    from edgead.onnx_graph import read_model

    made = {name for node in read_model(bundle.file(artefact)).graph.node for name in node.output}
    return {"pixels", "teacher_1", "student_1", "recovery_1", "logits"} <= made


def network_differences(
    bundle: Bundle, artefact: str, cfrg: Cfrg, images: Iterable[Image], *, backend: str, threads: int = 0
) -> tuple[Difference, ...]:
    """Hold each network of an ONNX artefact against torch's, both fed with torch's tensors.

    Returns:
        One difference an output, in the order in which the networks run.

    Raises:
        ArtefactError: the model does not name the tensors between its networks, or cannot run.
    """
    torch = require("torch", extra="train")
    from edgead.cfrg.parts import parts, tensors

    known_parts = parts(cfrg)
    networks = {
        name: _open(bundle, artefact, name, part.outputs, backend, threads) for name, part in known_parts.items()
    }
    sums = {output: (name, _Sums()) for name, part in known_parts.items() for output in part.outputs}
    for image in images:
        known = {name: tensor.numpy() for name, tensor in tensors(cfrg, torch.from_numpy(image[None])).items()}
        for name, part in known_parts.items():
            for output, found in zip(part.outputs, networks[name](known), strict=True):
                if not np.isfinite(found).all():
                    raise ArtefactError(
                        f"{artefact}: its {name} gives NaN or infinity in '{output}'; quantize or export again"
                    )
                sums[output][1].add(known[output], found)
    return tuple(total.difference(name, output) for output, (name, total) in sums.items())


def _open(bundle: Bundle, artefact: str, name: str, outputs: tuple[str, ...], backend: str, threads: int) -> Network:
    """Open one network: its own file in fp32, else what is cut out of the artefact."""
    if _has_own_files(bundle, artefact):
        path = bundle.file(name)
        model, named = _bytes(path), str(path)
    else:
        from edgead.onnx_graph import extract, read_model

        path = bundle.file(artefact)
        model, named = extract(read_model(path), name).SerializeToString(), f"the {name} of {path}"
    # ONNX Runtime's optimiser breaks Q/DQ with fp16 scales: such a model is run as it stands.
    plain = artefact == "int8-fp16"
    try:
        if backend.startswith("openvino"):
            return _on_openvino(model, outputs, threads, "bf16" if backend.endswith("-bf16") else "f32")
        return _on_onnxruntime(model, outputs, threads, optimise=not plain)
    except (RuntimeError, ValueError) as error:
        raise _cannot_run(named, error) from error


def _has_own_files(bundle: Bundle, artefact: str) -> bool:
    return artefact == "fp32" and all(each in bundle.artefacts for each in NETWORKS)


def _on_onnxruntime(model: bytes, outputs: tuple[str, ...], threads: int, *, optimise: bool) -> Network:
    ort = require("onnxruntime", extra="export")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a dozen unrelated types
        raise RuntimeError(str(error)) from error
    types = {each.name: np.float16 if "float16" in each.type else np.float32 for each in session.get_inputs()}

    def run(known: Arrays) -> list[npt.NDArray[np.float32]]:
        found = session.run(list(outputs), {name: known[name].astype(dtype) for name, dtype in types.items()})
        return [values.astype(np.float32) for values in found]

    return run


def _on_openvino(model: bytes, outputs: tuple[str, ...], threads: int, precision: str) -> Network:
    core = open_core()
    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": str(threads or usable_cores())}
    compiled = core.compile_model(core.read_model(model=model), "CPU", hints)
    inputs = {port.any_name: port.element_type.to_dtype() for port in compiled.inputs}

    def run(known: Arrays) -> list[npt.NDArray[np.float32]]:
        found = compiled({name: known[name].astype(dtype) for name, dtype in inputs.items()})
        return [np.asarray(found[name]).astype(np.float32) for name in outputs]

    return run


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be read ({error.strerror}); make it again: edgead export") from error


def _cannot_run(named: str, error: Exception) -> ArtefactError:
    reason = " ".join(str(error).split())[:200]
    return ArtefactError(f"{named}: cannot be run alone ({reason}); make it again: edgead export or edgead quantize")
