"""Build engines from a bundle's ONNX models: TensorRT for the GPU that is here, TensorRT-RTX for any.

An engine is kept with its passport. The same request again finds the engine there and builds nothing; a replaced ONNX
model, another library, driver or GPU, or other flags build it anew.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import edgead
from edgead.bundle import Bundle
from edgead.bundle_file import write_whole
from edgead.engine_passport import PRECISIONS, Attempt, Passport, Precision, this_platform
from edgead.errors import ArtefactError, ConfigError, MissingError, nearest
from edgead.runtime.tensorrt_library import NOT_RTX, TARGETS, Library, gpu, load
from export import turing
from export.compile_engine import Compiled, Options, compile_engine
from export.engine_ladder import Rung, climb, rungs

if TYPE_CHECKING:
    import onnx

_LEVELS = range(6)


@dataclass(frozen=True)
class Built:
    """An engine in its bundle.

    Attributes:
        rung: of the ladder that it was built on.
        artefact: its name in the bundle.
        path: its file.
        passport: what it is for.
        seconds: that the build took; 0 where it was there already.
        cached: it was there already.
        tried: rungs above that could not be built, and why.
        layers: of the network, and how many of them the DLA can run; None where it was there already.
    """

    rung: str
    artefact: str
    path: Path
    passport: Passport
    seconds: float
    cached: bool
    tried: Mapping[str, str]
    layers: tuple[int, int] | None


def build(
    bundle: Bundle,
    *,
    target: str,
    precision: str,
    max_batch: int = 8,
    compute_capabilities: Sequence[str] = (),
    dla: int | None = None,
    optimisation_level: int | None = None,
    timing_cache: Path | None = None,
    ladder: bool = True,
    again: bool = False,
    library: Library | None = None,
) -> Built:
    """Build the engine of a precision, or find that the bundle has it.

    Args:
        target: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        compute_capabilities: such as ``("8.6", "8.9")``, for TensorRT-RTX; empty takes the GPU that is here.
        dla: core that takes the layers it can (full TensorRT on Jetson); batches of one, not in fp32.
        ladder: where the precision cannot be built, try fewer quantised layers, then lower rungs.
        again: build even if the same engine is there.
        library: a loaded one; None loads the target's.

    Returns:
        The engine with its real precision, which is a lower rung's where the one asked for cannot be built.

    Raises:
        ArtefactError: the ONNX model is missing, damaged or stale, or no rung can be built.
        ConfigError: a value that the target does not take.
        MissingError: the library, the driver or onnx is not installed.
        KeyboardInterrupt: Ctrl-C; the bundle is as it was.
    """
    wanted = _checked(target, precision, max_batch, dla, optimisation_level, timing_cache)
    library = library or load(target)
    capabilities = _capabilities(library, compute_capabilities)
    options = Options(max_batch, capabilities if library.is_rtx else (), dla, optimisation_level, timing_cache)
    steps = rungs(bundle, wanted, is_typed=library.is_typed)
    steps = tuple(step for step in steps if dla is None or step.precision != "fp32")[: None if ladder else 1]
    passports = {step.name: _passport(bundle, library, step, capabilities, options) for step in steps}
    if not again and (there := _there(bundle, steps, passports)) is not None:
        return there
    return _build(bundle, library, steps, passports, options, again=again)


def name_of(passport: Passport) -> str:
    """Return the name of an engine in its bundle, by its real precision."""
    return f"{passport.target}-{passport.precision}"


def _checked(
    target: str,
    precision: str,
    max_batch: int,
    dla: int | None,
    optimisation_level: int | None,
    timing_cache: Path | None,
) -> Precision:
    """Refuse what needs no library to be refused."""
    if target not in TARGETS:
        raise ConfigError(f"there is no target '{target}'{nearest(target, TARGETS)}")
    wanted = next((known for known in PRECISIONS if known == precision), None)
    if wanted is None:
        raise ConfigError(f"there is no precision '{precision}'{nearest(precision, PRECISIONS)}")
    if max_batch < 1:
        raise ConfigError(f"max batch {max_batch} does not work; expected 1 or more")
    if optimisation_level is not None and optimisation_level not in _LEVELS:
        raise ConfigError(f"optimisation level {optimisation_level} does not work; expected 0 to {_LEVELS[-1]}")
    if target == "tensorrt-rtx":
        chosen = {"dla": dla, "optimisation-level": optimisation_level, "timing-cache": timing_cache}
        for flag, value in chosen.items():
            if value is not None:
                why = "runs on no DLA" if flag == "dla" else "chooses kernels on the GPU that runs them, not here"
                raise ConfigError(f"TensorRT-RTX {why}; leave --{flag} out, or take --target tensorrt")
    if dla is not None:
        if dla < 0:
            raise ConfigError(f"DLA core {dla} does not work; expected 0 or 1")
        if wanted == "fp32":
            raise ConfigError("the DLA does not compute in fp32; take --precision fp16 or int8, or leave --dla out")
        if max_batch != 1:
            raise ConfigError(f"the DLA takes batches of one size, not 1 to {max_batch}; add --max-batch 1")
    return wanted


def _capabilities(library: Library, given: Sequence[str]) -> tuple[str, ...]:
    """Return the compute capabilities to build for, in their order."""
    if not library.is_rtx:
        here = gpu()
        if any(each != here.capability for each in given):
            raise ConfigError(
                f"full TensorRT builds for the GPU that is here only ({here.name}, {here.capability}), not for "
                f"{', '.join(given)}; leave --compute-capability out, or build on the other machine"
            )
        return (here.capability,)
    if not given:
        try:
            given = (gpu().capability,)
        except MissingError as error:
            raise ConfigError(
                "no GPU here to build for; say which the engine is for, such as --compute-capability 8.6 "
                f"(of {', '.join(library.capabilities)}; nvidia-smi --query-gpu=compute_cap shows it)"
            ) from error
    for capability in given:
        if capability in library.capabilities:
            continue
        if capability in NOT_RTX:
            raise ConfigError(
                f"TensorRT-RTX is not for Jetson and data-centre GPUs ({capability} is {NOT_RTX[capability]}); "
                "build on that machine: edgead build RUN --target tensorrt"
            )
        raise ConfigError(
            f"{library} builds for no compute capability '{capability}'{nearest(capability, library.capabilities)}"
        )
    return tuple(each for each in library.capabilities if each in given)


def _passport(
    bundle: Bundle, library: Library, step: Rung, capabilities: tuple[str, ...], options: Options
) -> Passport:
    """Return the passport that an engine of this rung would have: the key of the cache."""
    device = None if library.is_rtx else gpu()
    source = bundle.artefacts[step.source]
    flags = ["strongly-typed" if library.is_typed else "weakly-typed", "no-tf32"]
    if options.optimisation_level is not None:
        flags.append(f"optimisation-level={options.optimisation_level}")
    if options.turing:
        flags.append(turing.FLAG)
    return Passport(
        target="tensorrt-rtx" if library.is_rtx else "tensorrt",
        version=library.version,
        precision=step.precision,
        rung=step.name,
        source=step.source,
        onnx=source.file,
        made_from=source.sha256,
        gpu=device and device.name,
        compute_capabilities=capabilities,
        driver=device and device.driver,
        platform=this_platform(),
        max_batch=options.max_batch,
        size_hw=bundle.info.size_hw,
        dla=options.dla,
        flags=tuple(flags),
    )


def _build(
    bundle: Bundle,
    library: Library,
    steps: Sequence[Rung],
    passports: Mapping[str, Passport],
    options: Options,
    *,
    again: bool,
) -> Built:
    """Climb the ladder and keep the engine of the rung that can be built."""
    begin = time.monotonic()

    def make(step: Rung, model: onnx.ModelProto) -> Compiled | Built:
        there = None if again or step is steps[0] else _there(bundle, (step,), passports)
        title = f"Building {passports[step.name].target}-{step.name}"
        return there or compile_engine(library, model, step.precision, options, title=title)

    climbed = climb(steps, make)
    step, made = climbed.rung, climbed.made
    if isinstance(made, Built):  # a lower rung that the bundle has from an earlier request
        return replace(made, tried=climbed.tried)
    attempts = tuple(
        Attempt(rung=name, made_from=passports[name].made_from, reason=reason) for name, reason in climbed.tried.items()
    )
    passport = passports[step.name].model_copy(update={"tried": attempts})
    path = _keep(bundle, passport, made)
    if options.timing_cache is not None and made.timing_cache is not None:
        measured = made.timing_cache
        write_whole(options.timing_cache, lambda path: _write(path, measured))
    seconds, layers = time.monotonic() - begin, (made.layers, made.on_dla)
    return Built(step.name, name_of(passport), path, passport, seconds, False, climbed.tried, layers)


def _there(bundle: Bundle, steps: Sequence[Rung], passports: Mapping[str, Passport]) -> Built | None:
    """Return the engine that a build would give, if the bundle has it whole and knows that the rungs above fail."""
    above: list[Attempt] = []
    for step in steps:
        wanted = passports[step.name].model_copy(update={"tried": tuple(above)})
        above.append(Attempt(rung=step.name, made_from=wanted.made_from, reason=""))
        record = bundle.artefacts.get(name_of(wanted))
        if record is None or record.passport is None:
            continue
        try:
            found = Passport.model_validate(record.passport)
            if not found.covers(wanted):
                continue
            path = bundle.file(name_of(wanted))
        except (ValueError, ArtefactError):  # damaged, missing, or written by another edgead: build it anew
            continue
        tried = {each.rung: each.reason for each in found.tried if each.rung in passports}
        return Built(step.name, name_of(wanted), path, found, 0.0, True, tried, None)
    return None


def _keep(bundle: Bundle, passport: Passport, compiled: Compiled) -> Path:
    return bundle.add(
        name_of(passport),
        lambda path: _write(path, compiled.data),
        kind="engine",
        precision=passport.precision,
        made_from=passport.source,
        tools={"edgead": edgead.__version__, passport.target: passport.version},
        device=passport.gpu or f"compute capability {', '.join(passport.compute_capabilities)}",
        passport=passport.model_dump(mode="json"),
    )


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
