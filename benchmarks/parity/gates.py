"""What counts as agreement, by precision, and the judgement of a comparison by it.

A gate that could not be measured is not passed: an artefact that was not tried on defects has not been proven on them.
Whoever wants it deployed all the same takes the gate off by name, and the certificate says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from benchmarks.parity.comparison import Change, Comparison
from benchmarks.parity.networks import Difference
from benchmarks.parity.statistics import binomial_upper, bound_sentence
from edgead import yaml_file
from edgead.bundle import NETWORKS
from edgead.errors import ConfigError

Status = Literal["passed", "failed", "not measured"]
Measured = tuple[float | None, str]

_ROUNDING = 1e-12  # of a change of 0.001 computed from two numbers near 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Strict):
    """Limits of an artefact; None takes a gate off.

    Attributes:
        map_abs: largest difference of an anomaly map.
        score_relative: largest difference of a score, relative to it.
        network_relative: largest difference of a network's output, relative to its largest value.
        rank_correlation: Spearman's rho of the scores, at least.
        flips: verdicts that may differ.
        image_AUROC_drop: loss of image AUROC; a gain is none.
        pixel_AUPRO_drop: loss of AUPRO; a gain is none.
    """

    map_abs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    score_relative: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    network_relative: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    rank_correlation: float | None = Field(default=None, ge=-1, le=1)
    flips: int | None = Field(default=None, ge=0)
    image_AUROC_drop: float | None = Field(default=None, ge=0, le=1)
    pixel_AUPRO_drop: float | None = Field(default=None, ge=0, le=1)


class _GatesFile(_Strict):
    gates: Limits


class Gate(_Strict):
    """One measured value against its limit.

    Attributes:
        value: None where it was not measured.
        at_least: the value must not be below the limit; otherwise not above it.
        proven: the 95 % bound keeps the limit, too; None where there is no bound.
        note: why it was not measured, or what the images can prove.
    """

    name: str
    value: float | None
    limit: float
    passed: bool
    status: Status
    at_least: bool = False
    proven: bool | None = None
    note: str = ""

    @property
    def sentence(self) -> str:
        """Say in one line how it went."""
        if self.value is None:
            return f"{self.name} was not measured: {self.note}"
        return f"{self.name} is {self.value:.3g}, the limit is {self.limit:g}"


def limits_for(precision: str, changed: Mapping[str, Any] | None = None) -> Limits:
    """Return the limits of a precision, with changes over them.

    Where no loss of image AUROC is held against a limit, verdicts must not flip.

    Raises:
        ConfigError: an unknown gate, or a limit that makes no sense.
    """
    if "int8" in precision:
        defaults = Limits(image_AUROC_drop=0.005, pixel_AUPRO_drop=0.01)
    elif "16" in precision:
        defaults = Limits(image_AUROC_drop=0.001)
    else:
        defaults = Limits(map_abs=1e-4, score_relative=1e-5, network_relative=1e-4, rank_correlation=0.999, flips=0)
    chosen = yaml_file.check(Limits, {**defaults.model_dump(), **(changed or {})}, name="gates")
    if chosen.image_AUROC_drop is None and chosen.flips is None:
        return chosen.model_copy(update={"flips": 0})
    return chosen


def read_limits(path: Path) -> dict[str, Any]:
    """Read the limits that a YAML file sets, below its key ``gates``.

    Raises:
        ConfigError: the file, a gate or a limit is wrong.
    """
    return yaml_file.load(_GatesFile, path).gates.model_dump(exclude_unset=True)


def gate_names(limits: Limits, *, networks: bool) -> tuple[str, ...]:
    """Return the gates that an artefact will be held against, in their order.

    Args:
        networks: its networks can be held against torch one by one.
    """
    names = [name for name, limit in limits.model_dump().items() if limit is not None and name != "network_relative"]
    if limits.network_relative is not None and networks:
        names += NETWORKS
    return tuple(names)


def judge(limits: Limits, found: Comparison, networks: Sequence[Difference], *, isolated: bool) -> tuple[Gate, ...]:
    """Hold a comparison against limits.

    Args:
        networks: differences of the networks' outputs.
        isolated: the networks were to be compared one by one; those missing are not measured.
    """
    values = {**_measured(found), **_by_network(networks)}
    flips, n = found.flips, len(found.samples)
    gates = []
    for name in gate_names(limits, networks=isolated):
        value, missing = values[name]
        limit = limits.network_relative if name in NETWORKS else getattr(limits, name)
        if limit is None:
            raise ConfigError(f"the gate '{name}' has no limit; set one")
        gate = _gate(name, value, float(limit), missing)
        if name == "flips" and flips is not None:
            gate = gate.model_copy(update={"note": bound_sentence(flips.count, n, flips.at_most)})
        elif name in ("image_AUROC_drop", "pixel_AUPRO_drop") and value is not None:
            gate = _with_proof(gate, found.change(name.removesuffix("_drop")), found)
        gates.append(gate)
    return tuple(gates)


def _measured(found: Comparison) -> dict[str, Measured]:
    auroc, aupro = found.change("image_AUROC").change, found.change("pixel_AUPRO").change
    counts = found.counts
    lacking = "defective" if counts.good else "Good"
    no_mask = f"the images have no {lacking} ones" if not (counts.good and counts.defective) else "they have no masks"
    return {
        "map_abs": (found.maps.max, ""),
        "score_relative": (found.score_relative, ""),
        "rank_correlation": (found.rank_correlation, "the scores are all alike, or there is only one"),
        "flips": (
            None if found.flips is None else float(found.flips.count),
            "there is no threshold; find one: edgead threshold",
        ),
        "image_AUROC_drop": (None if auroc is None else 0.0 - auroc, f"the images have no {lacking} ones; add some"),
        "pixel_AUPRO_drop": (None if aupro is None else 0.0 - aupro, f"{no_mask}; add some"),
    }


def _by_network(networks: Sequence[Difference]) -> dict[str, Measured]:
    worst: dict[str, Measured] = dict.fromkeys(NETWORKS, (None, "its tensors could not be reached"))
    for each in networks:
        before = worst[each.network][0] or 0.0
        worst[each.network] = (max(before, each.max_relative), "")
    return worst


def _gate(name: str, value: float | None, limit: float, missing: str) -> Gate:
    at_least = name == "rank_correlation"
    if value is None:
        return Gate(
            name=name, value=None, limit=limit, passed=False, status="not measured", at_least=at_least, note=missing
        )
    passed = value >= limit if at_least else value <= limit + _ROUNDING
    status: Status = "passed" if passed else "failed"
    return Gate(name=name, value=value, limit=limit, passed=passed, status=status, at_least=at_least)


def _with_proof(gate: Gate, change: Change, found: Comparison) -> Gate:
    """Say whether there are images enough to prove what the point estimate shows."""
    counts = found.counts
    if change.low is None or change.high is None:
        return gate
    loss, how = max(0.0, -change.low), "the 95 % interval reaches a loss of"
    if change.low == change.high:
        # No draw differs: the bootstrap cannot see what none of the images shows. A share of defects that no image
        # of n stands for is below this at 95 %, and losing it would cost as much.
        few = min(counts.good, counts.masked if gate.name == "pixel_AUPRO_drop" else counts.defective)
        loss, how = binomial_upper(0, few), f"no image changed its rank, but {few} of a kind could hide a loss of"
    proven = loss <= gate.limit + _ROUNDING
    told = f"{how} {loss:.2g}" + ("" if proven or not gate.passed else ": too few images to prove the gate")
    pair = 1 / (counts.good * counts.defective)
    if gate.name == "image_AUROC_drop" and pair > gate.limit:
        told += f"; so few images that one pair that changes places costs {pair:.2g}"
    return gate.model_copy(update={"proven": proven, "note": told})
