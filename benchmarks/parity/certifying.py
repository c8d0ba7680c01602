"""Certify an artefact: hold it against its checkpoint, judge it by its gates, and record what was found."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgead
from benchmarks.parity.certificate import Certificate, DatasetRecord, certificate_path, write_certificate
from benchmarks.parity.comparison import Comparison, Near, compare
from benchmarks.parity.gates import Limits, judge, limits_for
from benchmarks.parity.images import choose, fingerprint, names, shown
from benchmarks.parity.networks import IMAGES, Difference, can_isolate, names_networks, network_differences
from benchmarks.reference import Reference
from benchmarks.speed import machine
from edgead.bundle import NETWORKS, Bundle
from edgead.datasets.sample import Sample
from edgead.errors import ArtefactError, MissingError
from edgead.runtime.nvidia_driver import gpu
from edgead.runtime.open import backend_of, open_runner
from edgead.runtime.runner import Runner, usable_cores
from edgead.runtime.torch_runner import TorchRunner

if TYPE_CHECKING:
    from edgead.cfrg.model import Cfrg

_NOTES = {
    "engine": "an engine gives no tensors between its networks: it was compared end to end only",
    "checkpoint": "a checkpoint runs on torch itself: it was compared end to end only",
    "onnx": "",
}


@dataclass(frozen=True, eq=False)
class Certified:
    """A certificate, with the pictures that no JSON holds.

    Attributes:
        near: images nearest to flipping, with both maps.
    """

    certificate: Certificate
    near: tuple[Near, ...]


@dataclass(frozen=True)
class Images:
    """The images to certify on.

    Attributes:
        kind, category: of their dataset.
        available: how many there were to choose from.
    """

    kind: str
    category: str
    samples: tuple[Sample, ...]
    available: int


def precision_of(bundle: Bundle, artefact: str, backend: str) -> str:
    """Return the precision that an artefact is judged by: a float32 model that is run in bfloat16 is not exact."""
    precision = bundle.artefacts[artefact].precision
    return "bf16" if backend.endswith("-bf16") and precision == "fp32" else precision


def pairs(bundle: Bundle) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return every artefact with every backend that runs it here, but for the checkpoint and its networks.

    Returns:
        Artefacts with backends, and engines that cannot run here with the reason.
    """
    found, left_out = [], {}
    for name, record in bundle.artefacts.items():
        if record.kind == "engine":
            try:
                gpu()
                found.append((name, backend_of(bundle, name)))
            except MissingError as error:
                left_out[name] = str(error)
        elif record.kind == "onnx" and name not in NETWORKS:
            # Q/DQ with fp16 scales is made for TensorRT; ONNX Runtime runs it only to prove it.
            backends = ("onnxruntime",) if name == "int8-fp16" else ("onnxruntime", "openvino")
            found += [(name, each) for each in backends if importlib.util.find_spec(each)]
    return found, left_out


def certify(
    bundle: Bundle,
    artefact: str,
    images: Images,
    *,
    backend: str | None = None,
    threads: int = 0,
    changed_limits: Mapping[str, Any] | None = None,
    record: bool = True,
) -> Certified:
    """Hold an artefact, and the networks in it, against the checkpoint.

    Args:
        backend: what runs it; None takes the artefact's own.
        changed_limits: over the limits of the artefact's precision.
        record: keep the certificate in the bundle and as a file.

    Raises:
        ArtefactError: the artefact or the checkpoint is missing or changed, or it cannot run; the last is recorded.
        DataError: no images, or one that cannot be read.
        MissingError: the backend is not installed.
    """
    bundle.file(artefact)
    from edgead.cfrg import checkpoint

    cfrg = checkpoint.load(bundle.file("checkpoint"))
    word = backend_of(bundle, artefact, backend)
    limits = limits_for(precision_of(bundle, artefact, word), changed_limits)
    try:
        found, networks, note = _measure(bundle, artefact, cfrg, images, word, threads)
    except ArtefactError as error:
        if record:  # so that a certificate of an older library does not stand for a model that cannot run any more
            bundle.set_parity(artefact, word, {"passed": False, "error": str(error)})
        raise
    certificate = _certificate(bundle, artefact, word, images, limits, found, networks, note, threads)
    certificate = certificate.model_copy(update={"changed_limits": tuple(sorted(changed_limits or {}))})
    if record:
        write_certificate(certificate_path(bundle, artefact, word), certificate)
        bundle.set_parity(artefact, word, certificate.summary())
    return Certified(certificate, found.near)


def threshold_of(bundle: Bundle, artefact: str) -> str | None:
    """Return the artefact whose threshold verdicts are compared at: its own, else fp32's; None where both have none."""
    for name in (artefact, "fp32"):
        if name in bundle.artefacts and bundle.artefacts[name].threshold is not None:
            return name
    return None


def _measure(
    bundle: Bundle, artefact: str, cfrg: Cfrg, images: Images, backend: str, threads: int
) -> tuple[Comparison, tuple[Difference, ...], str]:
    source = threshold_of(bundle, artefact)
    size_hw = bundle.info.size_hw
    networks: tuple[Difference, ...] = ()
    note = _NOTES[bundle.artefacts[artefact].kind]
    if can_isolate(bundle, artefact) and not names_networks(bundle, artefact):
        note = "the model does not name the tensors between its networks: it was compared end to end only"
    elif can_isolate(bundle, artefact):
        few = (each.image for each in shown(choose(images.samples, IMAGES), size_hw))
        networks = network_differences(bundle, artefact, cfrg, few, backend=backend, threads=threads)
    reference: Runner = Reference(cfrg) if importlib.util.find_spec("scipy") else TorchRunner(cfrg, threads=threads)
    with open_runner(bundle, artefact, backend=backend, threads=threads) as candidate, reference:
        found = compare(
            reference,
            candidate,
            shown(images.samples, size_hw),
            total=len(images.samples),
            threshold=None if source is None else bundle.threshold(source),
        )
    return found, networks, note


def _certificate(
    bundle: Bundle,
    artefact: str,
    backend: str,
    images: Images,
    limits: Limits,
    found: Comparison,
    networks: Sequence[Difference],
    note: str,
    threads: int,
) -> Certificate:
    gates = judge(limits, found, networks, isolated=can_isolate(bundle, artefact))
    counts, source = found.counts, threshold_of(bundle, artefact)
    at = None if source is None else bundle.threshold(source)
    fields = {
        "made": datetime.now(timezone.utc).replace(microsecond=0),
        "edgead": edgead.__version__,
        "artefact": artefact,
        "backend": backend,
        "precision": precision_of(bundle, artefact, backend),
        "sha256": bundle.artefacts[artefact].sha256,
        "checkpoint_sha256": bundle.artefacts["checkpoint"].sha256,
        "threads": threads or usable_cores(),
        "machine": _machine(bundle, artefact),
        "dataset": DatasetRecord(
            kind=images.kind,
            category=images.category,
            available=images.available,
            good=counts.good,
            defective=counts.defective,
            masked=counts.masked,
            sha256=fingerprint(found.digests),
        ),
        "threshold": None if at is None else {"artefact": source, "unsure": at.unsure, "ng": at.ng, "unit": at.unit},
        "passed": all(gate.passed for gate in gates),
        "gates": gates,
        "limits": limits,
        "changed_limits": (),
        "networks": [asdict(each) for each in networks],
        "networks_note": note,
    }
    return Certificate.model_validate({**fields, **_figures(found)})


def _figures(found: Comparison) -> dict[str, Any]:
    """Return what was measured end to end, as the certificate names it."""
    flips = found.flips
    return {
        "candidate": found.candidate,
        "reference": found.reference,
        "images": len(found.samples),
        "flips": None if flips is None else flips.count,
        "ties": None if flips is None else flips.ties,
        "flips_at_most": None if flips is None else flips.at_most,
        "map_abs": found.maps.max,
        "maps": asdict(found.maps),
        "score": asdict(found.scores),
        "score_relative": found.score_relative,
        "rank_correlation": found.rank_correlation,
        "metrics": {
            each.name: {
                "reference": each.reference,
                "candidate": each.candidate,
                "change": each.change,
                "low": each.low,
                "high": each.high,
            }
            for each in found.changes
        },
        "scores": {
            "image": names(found.samples),
            "defect": tuple(sample.defect for sample in found.samples),
            "reference": tuple(_float32(score) for score in found.reference_scores),
            "candidate": tuple(_float32(score) for score in found.candidate_scores),
        },
    }


def _machine(bundle: Bundle, artefact: str) -> dict[str, Any]:
    """Describe this machine; for an engine with its GPU, driver, JetPack and the library that it belongs to."""
    here = machine()
    passport = bundle.artefacts[artefact].passport
    if passport is None:
        return here
    from edgead.doctor import jetpack_of

    device = gpu()
    here["libraries"][str(passport["target"])] = str(passport["version"])
    jetpack = jetpack_of(Path("/etc/nv_tegra_release"))
    on = {} if jetpack is None else {"jetpack": str(jetpack)}
    return {**here, "gpu": f"{device.name} ({device.capability})", "cuda_driver": device.driver, **on}


def _float32(value: float) -> float:
    """Write a float32 with the nine digits that it has, not with the seventeen of its double."""
    short = float(f"{value:.9g}")
    return short if math.isfinite(short) else value
