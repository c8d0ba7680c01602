"""Parity: do two runners, and the networks inside them, agree on the same images?"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.reference import Reference
from edgead.bundle import NETWORKS, Bundle
from edgead.errors import DataError, require
from edgead.progress import task
from edgead.runtime.onnx_runner import open_session
from edgead.runtime.open import open_runner
from edgead.runtime.runner import Runner, usable_cores
from edgead.runtime.torch_runner import TorchRunner
from edgead.thresholds import Threshold

if TYPE_CHECKING:
    from edgead.cfrg.model import Cfrg

Images = npt.NDArray[np.uint8]  # (N, H, W, 3) RGB
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Limits:
    """What counts as agreement; the defaults are for fp32.

    Attributes:
        map_abs: largest difference of an anomaly map.
        score_relative: largest relative difference of a score.
        network_relative: largest difference of a network's output, relative to its largest value.
        rank_correlation: Spearman's rho of the scores, at least.
    """

    map_abs: float = 1e-4
    score_relative: float = 1e-5
    network_relative: float = 1e-4
    rank_correlation: float = 0.999


@dataclass(frozen=True)
class Gate:
    """One measured value against its limit: from above, but for ``rank_correlation`` from below."""

    name: str
    value: float
    limit: float
    passed: bool


@dataclass(frozen=True)
class Difference:
    """How far one tensor is from the reference's, at worst.

    Attributes:
        max_relative: relative to the largest value of the reference.
    """

    name: str
    max_abs: float
    max_relative: float


@dataclass(frozen=True)
class Parity:
    """Agreement of a candidate with a reference on the same images.

    Attributes:
        map_abs: largest difference of an anomaly map.
        score_relative: largest relative difference of a score.
        rank_correlation: Spearman's rho of the scores; None where they are all alike or there are fewer than two.
        flips: images whose verdict differs; None without a threshold.
        ties: verdicts that differ, too, but both scores lie on the limit within ``Limits.score_relative``: the Good
            image that a threshold was set from sits exactly on it.
        flips_at_most: upper bound of the flip rate at 95 % confidence (Clopper and Pearson, 1934).
        networks: differences by network output, empty where they were not compared.
    """

    reference: str
    candidate: str
    images: int
    map_abs: float
    score_relative: float
    rank_correlation: float | None
    flips: int | None
    ties: int | None
    flips_at_most: float | None
    networks: tuple[Difference, ...]
    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        """Tell whether all gates were passed."""
        return all(gate.passed for gate in self.gates)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = asdict(self)
        return {**values, "networks": list(values["networks"]), "gates": list(values["gates"]), "passed": self.passed}


def certify(bundle: Bundle, artefact: str, images: Images, *, threads: int = 0, limits: Limits | None = None) -> Parity:
    """Hold an artefact, and the networks of its bundle, against the checkpoint, and record the result in the bundle.

    Raises:
        ArtefactError: the artefact or the checkpoint is missing or changed.
    """
    from edgead.cfrg import checkpoint

    cfrg = checkpoint.load(bundle.file("checkpoint"))
    threshold = None if bundle.artefacts[artefact].threshold is None else bundle.threshold(artefact)
    exact = artefact == "fp32" and all(name in bundle.artefacts for name in NETWORKS)
    networks = network_differences(bundle, cfrg, images[:8], threads=threads) if exact else ()
    reference: Runner = Reference(cfrg) if importlib.util.find_spec("scipy") else TorchRunner(cfrg, threads=threads)
    with open_runner(bundle, artefact, threads=threads) as candidate, reference:
        parity = compare(reference, candidate, images, threshold=threshold, networks=networks, limits=limits)
    bundle.set_parity(artefact, "onnxruntime", parity.to_dict())
    return parity


def compare(
    reference: Runner,
    candidate: Runner,
    images: Images,
    *,
    threshold: Threshold | None = None,
    networks: tuple[Difference, ...] = (),
    limits: Limits | None = None,
    batch: int = 1,
) -> Parity:
    """Compare two runners on images.

    Args:
        images: uint8 ``(N, H, W, 3)`` RGB, real ones.
        threshold: the candidate's; without it verdicts are not compared.

    Raises:
        DataError: no images.
    """
    if not len(images):
        raise DataError("no images to compare on; give at least one")
    limits = limits or Limits()
    map_abs, scores = 0.0, []
    with task(f"Parity of {candidate.name}", len(images)) as advance:
        for start in range(0, len(images), batch):
            some = images[start : start + batch]
            wanted, found = reference.infer(some), candidate.infer(some)
            map_abs = max(map_abs, float(np.abs(wanted.anomaly_map - found.anomaly_map).max()))
            scores.append((wanted.pred_score.astype(np.float64), found.pred_score.astype(np.float64)))
            advance(len(some))
    wanted_scores, found_scores = (np.concatenate(column) for column in zip(*scores, strict=True))
    relative = np.abs(wanted_scores - found_scores) / np.maximum(np.abs(wanted_scores), 1e-12)
    rho = rank_correlation(wanted_scores, found_scores)
    flips, ties = (None, None) if threshold is None else _flips(wanted_scores, found_scores, threshold, limits)
    gates = [
        _below("map_abs", map_abs, limits.map_abs),
        _below("score_relative", relative.max(), limits.score_relative),
    ]
    gates += [_below(each.name, each.max_relative, limits.network_relative) for each in networks]
    if rho is not None:
        gates.append(Gate("rank_correlation", rho, limits.rank_correlation, rho >= limits.rank_correlation))
    if flips is not None:
        gates.append(Gate("flips", float(flips), 0.0, flips == 0))
    return Parity(
        reference=reference.name,
        candidate=candidate.name,
        images=len(images),
        map_abs=map_abs,
        score_relative=float(relative.max()),
        rank_correlation=rho,
        flips=flips,
        ties=ties,
        flips_at_most=None if flips is None else binomial_upper(flips, len(images)),
        networks=networks,
        gates=tuple(gates),
    )


def network_differences(bundle: Bundle, cfrg: Cfrg, images: Images, *, threads: int = 0) -> tuple[Difference, ...]:
    """Hold each network's ONNX file against torch, both fed with torch's tensors.

    Returns:
        One difference an output, in the order in which the networks run.
    """
    torch = require("torch", extra="train")
    from edgead.cfrg.parts import parts, tensors

    worst: dict[str, tuple[float, float]] = {}
    for name, part in parts(cfrg).items():
        session = open_session(bundle.file(name), threads=threads or usable_cores())
        for image in images:
            known = tensors(cfrg, torch.from_numpy(image[None]))
            got = session.run(list(part.outputs), {each: known[each].numpy() for each in part.inputs})
            for output, found in zip(part.outputs, got, strict=True):
                wanted = known[output].numpy()
                difference, largest = float(np.abs(found - wanted).max()), float(np.abs(wanted).max())
                before = worst.get(output, (0.0, 0.0))
                worst[output] = (max(before[0], difference), max(before[1], largest))
    return tuple(Difference(name, worst_abs, worst_abs / max(top, 1e-12)) for name, (worst_abs, top) in worst.items())


def rank_correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float | None:
    """Return Spearman's rho, ties ranked by their average; None where one side has no order."""
    ranks = []
    for values in (a, b):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    if min(ranks[0].std(), ranks[1].std()) == 0:
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def binomial_upper(events: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """Return the one-sided upper bound of a rate (Clopper and Pearson, 1934): about 3 / trials after no event."""
    if events >= trials:
        return 1.0

    def at_most(rate: float) -> float:
        """Return P(Binomial(trials, rate) <= events)."""
        logs = [
            math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
            + k * math.log(rate) + (trials - k) * math.log1p(-rate)
            for k in range(events + 1)
        ]  # fmt: skip
        return math.fsum(math.exp(log) for log in logs)

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(middle) > 1 - confidence else (low, middle)
    return high


def _below(name: str, value: float, limit: float) -> Gate:
    return Gate(name, float(value), limit, bool(value < limit))


def _flips(
    wanted: npt.NDArray[np.float64], found: npt.NDArray[np.float64], threshold: Threshold, limits: Limits
) -> tuple[int, int]:
    """Count verdicts that differ: truly, and by scores that both lie on a limit."""
    flips = ties = 0
    for a, b in zip(wanted.tolist(), found.tolist(), strict=True):
        if threshold.verdict(a) != threshold.verdict(b):
            on_limit = (
                max(abs(a - limit), abs(b - limit)) <= limits.score_relative * abs(limit)
                for limit in (threshold.unsure, threshold.ng)
            )
            ties, flips = (ties + 1, flips) if any(on_limit) else (ties, flips + 1)
    return flips, ties
