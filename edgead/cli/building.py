"""The verb that builds engines for NVIDIA GPUs: build."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgead.cli.answer import Answer, table
from edgead.errors import ConfigError, nearest, require

if TYPE_CHECKING:
    from edgead.bundle import Bundle
    from edgead.cli.parser import Verbs
    from export.build_engine import Built

_TARGETS = ("tensorrt", "tensorrt-rtx")
_PRECISIONS = ("fp32", "fp16", "int8")


def add_verbs(verbs: Verbs) -> None:
    """Add build."""
    parser = verbs.add(
        "build",
        build,
        summary="build TensorRT engines from the ONNX files of a run",
        example="edgead build runs/my_part --target tensorrt --precision fp16,int8",
        more=(
            "tensorrt builds for the GPU that is here, on the station itself. tensorrt-rtx builds for RTX GPUs, also\n"
            "where there is none: say for which by --compute-capability. An engine that is there already is not built\n"
            "again. Where a precision cannot be built, the next lower one is, and said so: --no-ladder fails instead."
        ),
    )
    parser.add_argument("bundle", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--target", choices=_TARGETS, required=True, help="which library")
    parser.add_argument(
        "--precision", default="fp16", metavar="LIST", help="of fp32, fp16 and int8, with commas between (%(default)s)"
    )
    parser.add_argument("--max-batch", type=int, default=8, metavar="N", help="images at a time, at most (%(default)s)")
    parser.add_argument(
        "--compute-capability", default="", metavar="LIST", help="GPUs of tensorrt-rtx, such as 8.6,8.9 (the one here)"
    )
    parser.add_argument("--dla", type=int, metavar="CORE", help="let a Jetson's DLA take the layers that it can")
    parser.add_argument("--optimisation-level", type=int, metavar="N", help="0, quick to build, to 5 (TensorRT's own)")
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help="keep measured kernels for the next build")
    parser.add_argument("--no-ladder", action="store_true", help="fail where a precision cannot be built")
    parser.add_argument("--again", action="store_true", help="build even what is there already")


def build(wanted: argparse.Namespace) -> Answer:
    """Build engines, one a precision."""
    precisions = _words(wanted.precision, "precision")
    for precision in precisions:
        if precision not in _PRECISIONS:
            raise ConfigError(f"there is no precision '{precision}'{nearest(precision, _PRECISIONS)}")
    capabilities = _words(wanted.compute_capability, "compute capability") if wanted.compute_capability else []
    from edgead.bundle import Bundle
    from edgead.runtime.tensorrt_library import load
    from export.build_engine import build as build_one

    bundle = Bundle.open(wanted.bundle)
    require("onnx", extra="export")
    library = load(wanted.target)
    built: dict[str, Built] = {}
    for precision in precisions:
        built[precision] = build_one(
            bundle,
            target=wanted.target,
            precision=precision,
            max_batch=wanted.max_batch,
            compute_capabilities=capabilities,
            dla=wanted.dla,
            optimisation_level=wanted.optimisation_level,
            timing_cache=wanted.timing_cache,
            ladder=not wanted.no_ladder,
            again=wanted.again,
            library=library,
        )
        _tell_lower_rung(precision, built[precision], str(library))
    return _answer(bundle, built)


def _words(given: str, what: str) -> list[str]:
    """Split a list with commas; the same word twice counts once."""
    words = [word.strip() for word in given.split(",")]
    if not all(words):
        raise ConfigError(f"--{what.replace(' ', '-')} '{given}' has an empty word; expected words with commas between")
    return list(dict.fromkeys(words))


def _tell_lower_rung(asked: str, built: Built, library: str) -> None:
    """Say aloud, on stderr, that an engine is not what was asked for."""
    if built.rung == asked:
        return
    got = "int8 with fewer quantised layers" if built.rung == "int8-fewer" else built.rung
    reasons = "; ".join(f"{rung}: {reason}" for rung, reason in built.tried.items())
    line = f"edgead build: NOT {asked.upper()}: {built.artefact} is {got}, which {library} can build ({reasons})"
    print(" ".join(line.split()), file=sys.stderr, flush=True)


def _answer(bundle: Bundle, built: dict[str, Built]) -> Answer:
    document = {
        "bundle": str(bundle.path),
        "engines": {
            asked: {
                "artefact": each.artefact,
                "file": str(each.path.relative_to(bundle.path)),
                "size": each.path.stat().st_size,
                "rung": each.rung,
                "cached": each.cached,
                "seconds": round(each.seconds, 3),
                "tried": dict(each.tried),
                "layers": each.layers and each.layers[0],
                "layers_on_dla": each.layers and each.layers[1],
                "passport": each.passport.model_dump(mode="json"),
            }
            for asked, each in built.items()
        },
    }
    rows = [
        (
            asked,
            each.artefact,
            each.rung,
            each.passport.gpu or f"compute capability {', '.join(each.passport.compute_capabilities)}",
            f"{each.path.stat().st_size / 2**20:.1f}",
            "cached" if each.cached else f"{each.seconds:.1f}",
        )
        for asked, each in built.items()
    ]
    columns = ("asked for", "artefact", "built as", "for", ">MiB", ">seconds")
    on_dla = [
        f"{each.artefact}: the DLA can run {each.layers[1]} of {each.layers[0]} layers"
        for each in built.values()
        if each.passport.dla is not None and each.layers is not None
    ]
    last = list(built.values())[-1].artefact
    following = f"next, on its GPU: edgead parity {bundle.path} --artefact {last}"
    return Answer(document, [table("Engines", columns, rows), *on_dla, following])
