"""The ladder: which models are tried, in which order, until a library builds one.

A builder may have no kernel for a quantised layer of some shape on some GPU, and says so only when it has tried. Then
an engine with fewer quantised layers, or in fp16, is worth more than none, as long as nobody takes it for what was
asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from edgead.bundle import Bundle
from edgead.engine_passport import Precision
from edgead.errors import ArtefactError
from edgead.onnx_graph import read_model
from export.fewer import fewer, signed

if TYPE_CHECKING:
    import onnx

T = TypeVar("T")

_TYPED: dict[Precision, str] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-fp16"}
_WEAKLY_TYPED: dict[Precision, str] = {"fp32": "fp32", "fp16": "fp32", "int8": "int8"}


@dataclass(frozen=True)
class Rung:
    """One model to try.

    Attributes:
        name: ``"int8"``, ``"int8-fewer"``, ``"fp16"`` or ``"fp32"``.
        precision: that its engine has.
        source: artefact that it is made from.
        model: gives the model.
    """

    name: str
    precision: Precision
    source: str
    model: Callable[[], onnx.ModelProto]


@dataclass(frozen=True)
class Climbed(Generic[T]):
    """The rung that could be built, what it gave, and why those before it could not."""

    rung: Rung
    made: T
    tried: dict[str, str]


def rungs(bundle: Bundle, precision: Precision, *, is_typed: bool) -> tuple[Rung, ...]:
    """Return what is to be tried for a precision, best first; lower rungs only where the bundle has their file.

    Args:
        is_typed: whether the library takes the precision from the ONNX file.

    Raises:
        ArtefactError: the bundle does not have the file of the first rung, or it is damaged or stale.
    """
    sources = _TYPED if is_typed else _WEAKLY_TYPED
    bundle.file(sources[precision])
    found = [_rung(bundle, precision, sources[precision])]
    if precision == "int8":
        found.append(_fewer(found[0]))
    order: tuple[Precision, ...] = ("int8", "fp16", "fp32")
    for lower in order[order.index(precision) + 1 :]:
        if sources[lower] in bundle.artefacts:
            found.append(_rung(bundle, lower, sources[lower]))
    return tuple(found)


def climb(ladder: Sequence[Rung], make: Callable[[Rung, onnx.ModelProto], T]) -> Climbed[T]:
    """Try the rungs in their order until one can be made.

    Args:
        make: makes something of a rung's model; ArtefactError means that the library cannot.

    Raises:
        ArtefactError: the first rung's model cannot be read, which is not the library's fault; or none can be made,
            and the line has every rung's reason.
    """
    tried: dict[str, str] = {}
    for rung in ladder:
        try:
            model = rung.model()
        except ArtefactError as error:
            if rung is ladder[0]:
                raise
            tried[rung.name] = str(error)
            continue
        try:
            return Climbed(rung, make(rung, model), tried)
        except ArtefactError as error:
            tried[rung.name] = str(error)
    raise ArtefactError("; ".join(f"{name}: {reason}" for name, reason in tried.items()))


def _rung(bundle: Bundle, precision: Precision, source: str) -> Rung:
    return Rung(precision, precision, source, lambda: signed(read_model(bundle.file(source))))


def _fewer(full: Rung) -> Rung:
    return Rung("int8-fewer", "int8", full.source, lambda: fewer(full.model()))
