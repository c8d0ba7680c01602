"""What every backend asks of a model file: that it is there, and that it is an inspection.

An inspection takes ``image`` uint8 ``(batch, H, W, 3)`` and gives ``anomaly_map`` float32 ``(batch, H, W)`` and
``pred_score`` float32 ``(batch)``. Every backend names these tensors in its own way; ``Port`` is the common one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgead.errors import ArtefactError

REBUILD = "make it again: edgead export"

_TYPES = {"image": ("uint8", 4), "anomaly_map": ("float32", 3), "pred_score": ("float32", 1)}
_EXPECTED = "expected image uint8 (batch, H, W, 3) -> anomaly_map float32 (batch, H, W), pred_score float32 (batch)"


class Port(NamedTuple):
    """An input or output tensor; a dimension is a number where it is fixed, else its name or ``?``."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))})"


def refuse_unreadable(path: Path) -> None:
    """Refuse a file that no library needs to look at.

    Raises:
        ArtefactError: missing, a folder, without permission, or empty.
    """
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be read ({error.strerror}); {REBUILD}") from error
    if empty:
        raise ArtefactError(f"{path}: the file is empty; {REBUILD}")


def size_of(inputs: Sequence[Port], outputs: Sequence[Port], path: Path) -> tuple[int, int]:
    """Return height and width of a model's images after holding its inputs and outputs against an inspection's.

    Raises:
        ArtefactError: other names, types or shapes, a fixed batch, or images of no fixed size.
    """
    found = "; ".join(map(str, [*inputs, *outputs]))
    types = {port.name: (port.dtype, len(port.shape)) for port in [*inputs, *outputs]}
    if [port.name for port in inputs] != ["image"] or types != _TYPES:
        raise ArtefactError(f"{path}: not an inspection model, it has {found}; {_EXPECTED}; {REBUILD}")
    batch, height, width, channels = inputs[0].shape
    if isinstance(batch, int):
        raise ArtefactError(f"{path}: takes batches of {batch} only, expected any batch; {REBUILD}")
    if not isinstance(height, int) or not isinstance(width, int) or channels != 3:
        raise ArtefactError(f"{path}: {inputs[0]} is no image of a fixed size; {_EXPECTED}; {REBUILD}")
    return height, width


def reason(error: Exception) -> str:
    """Return the line of a library's message that says something, for a parenthesis in ours.

    OpenVINO puts the places in its own sources first, each on a line of its own.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from ", "FrontEnd API failed", "Check '"))]
    return (telling or lines or [type(error).__name__])[0][:200]
