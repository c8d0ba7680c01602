"""The bundle: a folder of artefacts, with ``bundle.json`` saying what each one is and where it came from.

Steps meet here on disk, and only this module knows the file names. An artefact is verified by its sha256 whenever it is
asked for, and refused when what it was made from has been replaced since. Everything is written under a temporary name
first, so a half-written artefact never exists. One process at a time may write to a bundle; any number may read it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import edgead
from edgead import bundle_file
from edgead.bundle_file import Artefact, BundleInfo, Content, Kind, Source
from edgead.errors import ArtefactError, nearest
from edgead.good_parts import GoodParts
from edgead.thresholds import Threshold

__all__ = ["NETWORKS", "Artefact", "Bundle", "BundleInfo", "Kind", "Source"]

NETWORKS = ("teacher", "student", "recovery", "segmentation")

_JSON = "bundle.json"
_FILES: Mapping[str, str] = {
    "checkpoint": "checkpoint.pt",
    "fp32": "model.fp32.onnx",
    "fp16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
    "int8-fp16": "model.int8-fp16.onnx",
    **{name: f"networks/{name}.onnx" for name in NETWORKS},
}


class Bundle:
    """A bundle on disk; ``Bundle.create`` and ``Bundle.open`` make one.

    Attributes:
        path: its folder.
    """

    def __init__(self, path: Path, content: Content) -> None:
        self.path = path
        self._content = content

    @classmethod
    def create(cls, path: str | os.PathLike[str], info: BundleInfo) -> Bundle:
        """Make an empty bundle, or open the one that is there if its info is the same.

        Raises:
            ArtefactError: a bundle of something else is there, or the folder cannot be written.
        """
        folder = Path(path)
        if (folder / _JSON).exists():
            bundle = cls.open(folder)
            if bundle.info != info:
                raise ArtefactError(
                    f"{folder}: holds {bundle.info}, not {info}; choose another folder or delete this one"
                )
            return bundle
        bundle = cls(folder, Content(format=bundle_file.FORMAT, edgead=edgead.__version__, info=info, artefacts={}))
        bundle._save({})
        return bundle

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Open a bundle.

        Raises:
            ArtefactError: no bundle there, a truncated or edited ``bundle.json``, or one of a newer format.
        """
        folder = Path(path)
        return cls(folder, bundle_file.read(folder / _JSON))

    @property
    def info(self) -> BundleInfo:
        """What its artefacts have in common."""
        return self._content.info

    @property
    def artefacts(self) -> Mapping[str, Artefact]:
        """Records by artefact name."""
        return MappingProxyType(self._content.artefacts)

    def add(
        self,
        name: str,
        write: Callable[[Path], None],
        *,
        kind: Kind,
        precision: str,
        made_from: str | None,
        tools: Mapping[str, str],
        device: str | None = None,
        calibration: Mapping[str, Any] | None = None,
        passport: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write an artefact and record it; an older one of this name goes, with its threshold and parity.

        Args:
            write: writes the file at the path that it is given; if it raises, the bundle stays as it was.
            made_from: name of the artefact of this bundle that it was made from.
            passport: what an engine is for; written beside it as well, for whoever copies the engine alone.

        Raises:
            ArtefactError: a name that a bundle has no file for, or a disk that cannot be written.
        """
        target = self.path / _file(name, kind)
        source = None if made_from is None else Source(name=made_from, sha256=self._record(made_from).sha256)
        bundle_file.write_whole(target, write)
        record = Artefact(
            file=_file(name, kind),
            kind=kind,
            precision=precision,
            sha256=bundle_file.sha256(target),
            size=target.stat().st_size,
            made_from=source,
            tools=dict(tools),
            device=device,
            calibration=None if calibration is None else dict(calibration),
            passport=None if passport is None else dict(passport),
        )
        if passport is not None:
            bundle_file.write_json(bundle_file.passport_path(target), passport)
        self._save({**self._content.artefacts, name: record})
        return target

    def file(self, name: str) -> Path:
        """Return the path of an artefact, its bytes verified.

        Raises:
            ArtefactError: unknown, missing, changed, or made from a source that has been replaced since.
        """
        record = self._record(name)
        path = self.path / record.file
        rebuild = f"rebuild it: {self._command(name)}"
        if not path.is_file():
            raise ArtefactError(f"{path}: the file is missing; {rebuild}")
        if (size := path.stat().st_size) != record.size:
            raise ArtefactError(f"{path}: has {size} bytes, expected {record.size}; copy it again, or {rebuild}")
        if bundle_file.sha256(path) != record.sha256:
            raise ArtefactError(f"{path}: its bytes have changed (sha256 differs); copy it again, or {rebuild}")
        self._refuse_stale(name)
        return path

    def set_threshold(self, name: str, threshold: Threshold, good_parts: GoodParts | None = None) -> None:
        """Record the threshold of an artefact, with the scores of Good parts for conformal fusion or without."""
        scored = None if good_parts is None else good_parts.to_dict()
        self._change(name, threshold=threshold.to_dict(), good_parts=scored)

    def threshold(self, name: str) -> Threshold:
        """Return the threshold of an artefact.

        Raises:
            ArtefactError: it has none.
        """
        stored = self._record(name).threshold
        if stored is None:
            raise ArtefactError(f"{self.path}: '{name}' has no threshold; find one: edgead threshold {self.path}")
        return Threshold.from_dict(stored)

    def good_parts(self, name: str) -> GoodParts:
        """Return the scores of Good parts that conformal fusion is calibrated with.

        Raises:
            ArtefactError: it has none.
        """
        stored = self._record(name).good_parts
        if stored is None:
            raise ArtefactError(
                f"{self.path}: '{name}' has no scores of Good parts for conformal fusion; score them: "
                f"edgead threshold {self.path} --artefact {name} --fusion conformal"
            )
        return GoodParts.from_dict(stored)

    def set_parity(self, name: str, backend: str, certificate: Mapping[str, Any]) -> None:
        """Record the parity certificate of an artefact on a backend, such as ``onnxruntime``."""
        self._change(name, parity={**self._record(name).parity, backend: dict(certificate)})

    def deployable(self, name: str, backend: str) -> bool:
        """Tell whether an artefact has passed its parity gates on a backend."""
        return self._record(name).parity.get(backend, {}).get("passed") is True

    def _record(self, name: str) -> Artefact:
        if name in self._content.artefacts:
            return self._content.artefacts[name]
        hint = (
            f"; make it: {self._command(name)}" if name in _FILES else nearest(name, self._content.artefacts or _FILES)
        )
        raise ArtefactError(f"{self.path}: the bundle has no artefact '{name}'{hint}")

    def _refuse_stale(self, name: str) -> None:
        """Follow an artefact back to its sources; refuse it where one of them is another file by now."""
        made, source = name, self._record(name).made_from
        for _ in self._content.artefacts:  # bounded: the sources could go round in a circle in a file made by hand
            if source is None:
                return
            current = self._content.artefacts.get(source.name)
            if current is not None and current.sha256 != source.sha256:
                raise ArtefactError(
                    f"{self.path}: '{made}' was made from another '{source.name}' than the bundle holds now; "
                    f"rebuild it: {self._command(made)}"
                )
            made, source = source.name, None if current is None else current.made_from

    def _command(self, name: str) -> str:
        """Return the command that makes an artefact."""
        match name:
            case "checkpoint":
                return "edgead train"
            case "fp16" | "int8" | "int8-fp16":
                return f"edgead quantize {self.path}"
            case _:
                return f"edgead {'export' if name in _FILES else 'build'} {self.path}"

    def _change(self, name: str, **changes: Any) -> None:
        record = Artefact.model_validate({**self._record(name).model_dump(), **changes})
        self._save({**self._content.artefacts, name: record})

    def _save(self, artefacts: Mapping[str, Artefact]) -> None:
        content = self._content.model_copy(update={"artefacts": dict(artefacts), "edgead": edgead.__version__})
        bundle_file.write(self.path / _JSON, content)
        self._content = content


def _file(name: str, kind: Kind) -> str:
    """Return where in a bundle an artefact lives."""
    if kind == "engine" and name not in _FILES and re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        return f"engines/{name}.engine"
    if kind == "engine" or name not in _FILES or (kind == "checkpoint") != (name == "checkpoint"):
        raise ArtefactError(f"'{name}' is no name for an artefact of kind {kind}; valid: {', '.join(_FILES)}")
    return _FILES[name]
