"""The certificate of a parity: what was held against what, on which images, with which libraries, and how it went.

It is one JSON file. The bundle keeps all of it but the score of each image, which ``edgead parity diff`` reads.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from benchmarks.parity.gates import Gate, Limits
from edgead.bundle import Bundle
from edgead.bundle_file import write_json
from edgead.errors import DataError

SCHEMA: Literal["edgead.parity/1"] = "edgead.parity/1"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SpreadRecord(_Strict):
    """Absolute differences: the largest, their mean, and what 99 % of them stay below."""

    max: float
    mean: float
    p99: float


class ChangeRecord(_Strict):
    """A metric of reference and candidate; low and high bound its change at 95 %, where they were computed."""

    reference: float | None
    candidate: float | None
    change: float | None
    low: float | None
    high: float | None


class NetworkRecord(_Strict):
    """How far one output of a network is from torch's."""

    network: str
    output: str
    max_abs: float
    max_relative: float
    mean_abs: float
    cosine: float | None
    snr_db: float | None


class DatasetRecord(_Strict):
    """The images.

    Attributes:
        available: test images that there were to choose from.
        sha256: over the bytes, label and mask of every image, in their order.
    """

    kind: str
    category: str
    available: int
    good: int
    defective: int
    masked: int
    sha256: str


class ThresholdRecord(_Strict):
    """The limits at which verdicts were compared, and the artefact that they belong to."""

    artefact: str
    unsure: float
    ng: float
    unit: str


class Scores(_Strict):
    """Score by image, as columns."""

    image: tuple[str, ...]
    defect: tuple[str, ...]
    reference: tuple[float, ...]
    candidate: tuple[float, ...]


class Certificate(_Strict):
    """Agreement of an artefact on a backend with the checkpoint that it was made from.

    Attributes:
        candidate, reference: names of the runners.
        sha256, checkpoint_sha256: of the artefact and of the checkpoint.
        threads: CPU threads of an inference.
        images: how many.
        flips, ties, flips_at_most: verdicts that differ, those that only lie on a limit, and the bound of the flip
            rate at 95 % confidence; None without a threshold.
        map_abs: largest difference of a map, as in ``maps.max``.
        networks_note: why there are no networks; empty where there are.
        changed_limits: gates whose limit is not the precision's own.
        scores: by image; None in the copy that the bundle keeps.
    """

    format: Literal["edgead.parity/1"] = SCHEMA
    made: datetime
    edgead: str
    artefact: str
    backend: str
    precision: str
    candidate: str
    reference: str
    sha256: str
    checkpoint_sha256: str
    threads: int
    machine: dict[str, JsonValue]
    dataset: DatasetRecord
    images: int
    threshold: ThresholdRecord | None
    passed: bool
    gates: tuple[Gate, ...]
    limits: Limits
    changed_limits: tuple[str, ...]
    flips: int | None
    ties: int | None
    flips_at_most: float | None
    map_abs: float
    maps: SpreadRecord
    score: SpreadRecord
    score_relative: float
    rank_correlation: float | None
    metrics: dict[str, ChangeRecord]
    networks: tuple[NetworkRecord, ...]
    networks_note: str
    scores: Scores | None = None

    @property
    def missed(self) -> Gate | None:
        """The first gate that was not passed; a failed one before one that was not measured."""
        return next(
            (gate for status in ("failed", "not measured") for gate in self.gates if gate.status == status), None
        )

    @property
    def libraries(self) -> dict[str, str]:
        """Versions by name, edgead's and Python's among them."""
        found = self.machine.get("libraries")
        versions = {name: str(version) for name, version in found.items()} if isinstance(found, dict) else {}
        return {**versions, "edgead": self.edgead, "python": str(self.machine.get("python", ""))}

    def summary(self) -> dict[str, Any]:
        """Return plain JSON values without the scores by image."""
        return self.model_dump(mode="json", exclude={"scores"})


def certificate_path(bundle: Bundle, artefact: str, backend: str) -> Path:
    """Return where the certificate of an artefact on a backend lies; its page lies beside it, as ``.html``."""
    return bundle.path / "parity" / f"{artefact}-{backend}.json"


def write_certificate(path: Path, certificate: Certificate) -> None:
    """Write a certificate whole.

    Raises:
        ArtefactError: the folder cannot be written.
    """
    write_json(path, certificate.model_dump(mode="json"))


def read_certificate(path: Path) -> Certificate:
    """Read a certificate.

    Raises:
        DataError: missing, damaged, or no certificate.
    """
    again = "measure again: edgead parity RUN"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); expected a certificate: RUN/parity/*.json"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: truncated, or no JSON ({error}); {again}") from error
    if not isinstance(fields, dict) or fields.get("format") != SCHEMA:
        raise DataError(f"{path}: no certificate of parity ('format' is not '{SCHEMA}'); expected RUN/parity/*.json")
    try:
        return Certificate.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise DataError(f"{path}: damaged at '{where}' ({first['msg']}); {again}") from error
