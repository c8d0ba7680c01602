"""The passport of an engine: what it was built from, with what and for what.

It lies beside the engine as JSON and in the bundle's record. An engine is a plain file that ``trtexec`` opens as well.
On another GPU or library version than it was built for, it fails obscurely, is slow, or answers with zeros. So whoever
opens one holds its passport against the machine first.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgead.errors import ArtefactError
from edgead.runtime.tensorrt_library import NOT_RTX, Library

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


class Attempt(BaseModel):
    """A rung of the ladder that the library could not build: from which file, and its reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rung: str
    made_from: str
    reason: str


class Passport(BaseModel):
    """What an engine is for.

    Attributes:
        target: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        version: of that library; an engine opens with no other.
        precision: that it really has, which may be less than was asked for.
        rung: step of the ladder that built it: ``"int8"``, ``"int8-fewer"`` (fewer quantised nodes), ``"fp16"``,
            ``"fp32"``.
        tried: rungs above it that the library could not build.
        source: name of the artefact that it was made from.
        onnx: file of that artefact within the bundle.
        made_from: sha256 of that file.
        gpu: name of the GPU that it was built on and for; None where it was built for capabilities alone.
        compute_capabilities: that it runs on, such as ``("8.6", "8.9")``.
        driver: CUDA version of the driver at the build; None where no driver took part.
        platform: operating system and processor, such as ``"linux-x86_64"``.
        max_batch: it takes 1 to so many images.
        size_hw: height and width of its images, pixels.
        dla: DLA core that it was built for; None for none.
        flags: what else the builder was told.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    target: Literal["tensorrt", "tensorrt-rtx"]
    version: str
    precision: Precision
    rung: str
    tried: tuple[Attempt, ...] = ()
    source: str
    onnx: str
    made_from: str
    gpu: str | None
    compute_capabilities: tuple[str, ...] = Field(min_length=1)
    driver: str | None
    platform: str
    max_batch: int = Field(ge=1)
    size_hw: tuple[int, int]
    dla: int | None = None
    flags: tuple[str, ...] = ()

    def refuse_unless_fits(self, library: Library, device_capability: str, device_name: str, rebuild: str) -> None:
        """Hold the passport against the machine that the engine should run on.

        Args:
            device_capability: compute capability of its GPU, such as ``"8.6"``.
            rebuild: the command that builds the engine for this machine.

        Raises:
            ArtefactError: another library, version, operating system or GPU.
        """
        again = f"build it here: {rebuild}"
        if self.target != library.target:
            raise ArtefactError(f"the engine is one of {self.target}, not of {library.target}; {again}")
        if self.platform != (here := this_platform()):
            raise ArtefactError(f"the engine was built on {self.platform}, this is {here}; {again}")
        if self.version != library.version:
            raise ArtefactError(f"the engine was built with {self.target} {self.version}, this is {library}; {again}")
        if device_capability not in self.compute_capabilities:
            built = ", ".join(self.compute_capabilities)
            raise ArtefactError(
                f"the engine was built for compute capability {built}, {device_name} has {device_capability}; {again}"
            )
        if self.gpu is not None and self.gpu != device_name:
            raise ArtefactError(f"the engine was built for {self.gpu}, this is {device_name}; {again}")

    def command(self, run: str | os.PathLike[str], *, capability: str | None = None) -> str:
        """Return the command that builds this engine again.

        Args:
            run: folder of the bundle.
            capability: of the GPU that it shall run on as well; full TensorRT is named where RTX does not serve it.
        """
        target = "tensorrt" if capability in NOT_RTX else self.target
        words = ["edgead build", os.fspath(run), "--target", target, "--precision", self.precision]
        words += ["--max-batch", str(self.max_batch)]
        if target == "tensorrt-rtx":
            wanted = {*self.compute_capabilities, *([capability] if capability else [])}
            words += ["--compute-capability", ",".join(sorted(wanted, key=_numbers))]
        if self.dla is not None:
            words += ["--dla", str(self.dla)]
        return " ".join(words)

    def covers(self, wanted: Passport) -> bool:
        """Tell whether an engine with this passport is what ``wanted`` asks for, the rungs above it tried as well."""
        same = self.model_copy(update={"tried": ()}) == wanted.model_copy(update={"tried": ()})
        known = {(each.rung, each.made_from) for each in self.tried}
        return same and known >= {(each.rung, each.made_from) for each in wanted.tried}


def this_platform() -> str:
    """Return the operating system and processor that an engine is bound to."""
    return f"{sys.platform}-{platform.machine().lower()}"


def passport_of(name: str, values: Mapping[str, Any] | None) -> Passport:
    """Return the passport in a bundle's record of an engine.

    Args:
        name: of the artefact: its target and precision, which the passport must agree with.

    Raises:
        ArtefactError: none, not a passport, or one of another engine.
    """
    if values is None:
        raise ArtefactError(f"'{name}' has no passport; build it: edgead build")
    try:
        passport = Passport.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtefactError(f"the passport of '{name}': {where}: {first['msg']}; build it: edgead build") from error
    if (really := f"{passport.target}-{passport.precision}") != name:
        raise ArtefactError(f"'{name}' has the passport of an engine '{really}'; build it: edgead build")
    return passport


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in capability.split("."))
