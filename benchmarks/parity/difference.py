"""What changed between two certificates: after an update of a library or of JetPack, are the verdicts the same?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.parity.certificate import Certificate, Scores, ThresholdRecord
from benchmarks.parity.statistics import binomial_upper, bound_sentence
from edgead.errors import DataError

_NUMBERS = ("map_abs", "score_relative", "rank_correlation", "flips")
_MACHINE = ("cpu", "cores", "system", "gpu", "cuda_driver", "jetpack")
Pair = tuple[Any, Any]


@dataclass(frozen=True)
class Flip:
    """An image that the two artefacts judge differently."""

    image: str
    defect: str
    old_score: float
    new_score: float
    verdicts: tuple[str, str]


@dataclass(frozen=True)
class Difference:
    """A new certificate against an old one of the same images.

    Attributes:
        identity: what the artefact is and where it ran, where that changed: old and new by name.
        versions: libraries whose version changed, and what is in one of them only.
        numbers: every number of both, by name.
        flips: images judged differently, each artefact at the threshold of its own certificate; None where one of
            them has none.
        flips_at_most: upper bound of their rate at 95 % confidence.
        max_flips: how many may be.
        lost: gates that the old one passed and the new one does not.
    """

    images: int
    identity: Mapping[str, Pair]
    versions: Mapping[str, Pair]
    numbers: Mapping[str, Pair]
    flips: tuple[Flip, ...] | None
    flips_at_most: float | None
    max_flips: int
    lost: tuple[str, ...]

    @property
    def missed(self) -> str | None:
        """What speaks against the new one, in words; None where nothing does."""
        if self.lost:
            return f"gates that were passed are not any more: {', '.join(self.lost)}"
        if self.flips is None:
            return "verdicts were not compared, for want of a threshold; find one: edgead threshold"
        if len(self.flips) > self.max_flips:
            return f"{len(self.flips)} verdicts of {self.images} changed, the limit is {self.max_flips}"
        return None

    @property
    def sentence(self) -> str:
        """Say how many verdicts changed, and what that promises."""
        if self.flips is None or self.flips_at_most is None:
            return "verdicts were not compared, for want of a threshold"
        return bound_sentence(len(self.flips), self.images, self.flips_at_most)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "passed": self.missed is None, "missed": self.missed}


def difference(old: Certificate, new: Certificate, *, max_flips: int | None = None) -> Difference:
    """Compare two certificates.

    Args:
        max_flips: verdicts that may change; None takes the new certificate's own limit, or 0.

    Raises:
        DataError: they are of other images, or hold no scores.
    """
    if old.dataset.sha256 != new.dataset.sha256:
        raise DataError(
            f"the certificates are of other images: {_told(old)} and {_told(new)}; "
            "certify both on the same ones, with the same --n"
        )
    if old.scores is None or new.scores is None:
        raise DataError("a certificate holds no scores by image; expected the files RUN/parity/*.json")
    flips = _flips(old.scores, new.scores, old.threshold, new.threshold)
    before = {gate.name for gate in old.gates if gate.passed}
    limit = new.limits.flips or 0 if max_flips is None else max_flips
    return Difference(
        images=new.images,
        identity=_changed(_identity(old), _identity(new)),
        versions=_changed(old.libraries, new.libraries),
        numbers={name: (before, after) for name, before, after in _numbers(old, new)},
        flips=flips,
        flips_at_most=None if flips is None else binomial_upper(len(flips), new.images),
        max_flips=limit,
        lost=tuple(gate.name for gate in new.gates if gate.name in before and not gate.passed),
    )


def _told(certificate: Certificate) -> str:
    dataset = certificate.dataset
    return f"{certificate.images} of {dataset.kind} {dataset.category} ({dataset.sha256[:12]})"


def _identity(certificate: Certificate) -> dict[str, str]:
    at = certificate.threshold
    return {
        "artefact": certificate.artefact,
        "backend": certificate.backend,
        "sha256": certificate.sha256[:12],
        "checkpoint": certificate.checkpoint_sha256[:12],
        "threads": str(certificate.threads),
        "threshold": "none" if at is None else f"{at.unsure:.6g} and {at.ng:.6g}, of {at.artefact}",
        **{key: str(value) for key, value in certificate.machine.items() if key in _MACHINE},
    }


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, Pair]:
    names = sorted({*old, *new})
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _numbers(old: Certificate, new: Certificate) -> list[tuple[str, Any, Any]]:
    rows = [(name, getattr(old, name), getattr(new, name)) for name in _NUMBERS]
    for name, after in new.metrics.items():
        before = old.metrics.get(name)
        rows.append((name, before and before.candidate, after.candidate))
    worst = {each.output: each.max_relative for each in old.networks}
    rows += [(f"{each.output} relative", worst.get(each.output), each.max_relative) for each in new.networks]
    return rows


def _flips(
    old: Scores, new: Scores, before: ThresholdRecord | None, after: ThresholdRecord | None
) -> tuple[Flip, ...] | None:
    """Compare the verdicts of the two candidates, as the line would give them: each at its own threshold."""
    if before is None or after is None:
        return None
    found = []
    for image, defect, first, second in zip(new.image, new.defect, old.candidate, new.candidate, strict=True):
        verdicts = _verdict(before, first), _verdict(after, second)
        if verdicts[0] != verdicts[1]:
            found.append(Flip(image, defect, first, second, verdicts))
    return tuple(found)


def _verdict(threshold: ThresholdRecord, score: float) -> str:
    return "NG" if score > threshold.ng else "UNSURE" if score > threshold.unsure else "OK"
