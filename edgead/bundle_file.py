"""``bundle.json``: its fields, and how it is read and written without ever being half there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, field_validator

import edgead
from edgead.config import DatasetConfig
from edgead.errors import ArtefactError

FORMAT = 3  # 3 knows good_parts, 2 certificates by backend
Kind = Literal["checkpoint", "onnx", "engine"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BundleInfo(_Strict):
    """What the artefacts of a bundle have in common.

    Attributes:
        network: configuration, such as ``"cfrg-lite0"``.
        category: the product that it inspects.
        size_hw: height and width of its images, pixels.
        dataset: what it was trained on, the root as it was then; None where that is not known.
    """

    network: str
    category: str
    size_hw: tuple[int, int]
    dataset: DatasetConfig | None = None

    def __str__(self) -> str:
        name = f"{self.network} for {self.category} at {self.size_hw[1]}x{self.size_hw[0]}"
        if self.dataset is None:
            return name
        dataset = self.dataset
        options = "".join(f", {key} {value}" for key, value in dataset.options.items())
        return f"{name} from {dataset.kind} {dataset.root} (validation {dataset.validation:g}{options})"


class Source(_Strict):
    """The artefact that another one was made from, as it was then."""

    name: str
    sha256: str


class Artefact(_Strict):
    """The record of one file.

    Attributes:
        file: path inside the bundle, with forward slashes.
        size: bytes.
        tools: versions of the tools that made it, by name.
        device: GPU that an engine was built for; None where any machine will do.
        calibration: INT8 calibration card.
        threshold: ``Threshold.to_dict()``, found with these very bytes.
        good_parts: ``GoodParts.to_dict()``, scored with these very bytes; what conformal fusion is calibrated with.
        parity: certificates by backend, measured with these very bytes.
        passport: what an engine is for.
    """

    file: str
    kind: Kind
    precision: str
    sha256: str
    size: int
    made_from: Source | None
    tools: dict[str, str]
    device: str | None = None
    calibration: dict[str, JsonValue] | None = None
    threshold: dict[str, JsonValue] | None = None
    good_parts: dict[str, JsonValue] | None = None
    parity: dict[str, dict[str, JsonValue]] = {}
    passport: dict[str, JsonValue] | None = None

    @field_validator("file")
    @classmethod
    def _inside(cls, file: str) -> str:
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file:
            raise ValueError(f"'{file}' lies outside the bundle")
        return file


class Content(_Strict):
    """All that ``bundle.json`` says, but for its own digest."""

    format: int
    edgead: str
    info: BundleInfo
    artefacts: dict[str, Artefact]


def read(path: Path) -> Content:
    """Read ``bundle.json``.

    Raises:
        ArtefactError: missing, truncated, edited by hand, or of a newer format.
    """
    again = "copy the whole folder again, or make a bundle anew: edgead train"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtefactError(f"{path}: no bundle here ({error.strerror}); make one: edgead train") from error
    except ValueError as error:
        raise ArtefactError(f"{path}: truncated or no JSON ({error}); {again}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("format"), int):
        raise ArtefactError(f"{path}: not a bundle.json, it has no 'format' number; {again}")
    if fields["format"] > FORMAT:
        raise ArtefactError(
            f"{path}: format {fields['format']} is newer than edgead {edgead.__version__} reads ({FORMAT}); "
            "upgrade: pip install -U edgead"
        )
    if fields.pop("digest", None) != _digest(fields):
        raise ArtefactError(f"{path}: edited since edgead wrote it (its digest differs); {again}")
    if fields["format"] == 1:
        _carry_over(fields)
    fields["format"] = FORMAT
    try:
        return Content.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtefactError(f"{path}: {where}: {first['msg']}; {again}") from error


def _carry_over(fields: dict[str, Any]) -> None:
    """Give the one certificate that an artefact had in format 1 to the backend that it was for."""
    for record in fields.get("artefacts", {}).values():
        certificate = record.pop("parity", None)
        record["parity"] = {} if certificate is None else {"onnxruntime": certificate}


def write(path: Path, content: Content) -> None:
    """Write ``bundle.json`` with a digest of its fields."""
    fields = content.model_dump(mode="json")
    write_json(path, {**fields, "digest": _digest(fields)})


def passport_path(engine: Path) -> Path:
    """Return where the passport of an engine lies."""
    return engine.with_name(f"{engine.name}.json")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain JSON values whole.

    Raises:
        ArtefactError: a number is infinite or NaN, or the folder cannot be written.
    """
    try:
        text = json.dumps(dict(values), indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise ArtefactError(f"{path}: a number to record is infinite or NaN; measure it again") from error
    write_whole(path, lambda temporary: _write_text(temporary, text))


def write_whole(target: Path, write: Callable[[Path], None]) -> None:
    """Write a file under a temporary name of the same suffix, then rename it; if ``write`` raises, nothing is left.

    Raises:
        ArtefactError: the folder cannot be written.
    """
    temporary = target.with_name(f".{target.stem}.tmp{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        reason = error.strerror or error
        raise ArtefactError(f"{target}: cannot be written ({reason}); choose a writable folder with space") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
