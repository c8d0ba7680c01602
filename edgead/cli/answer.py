"""What a verb has to say: tables for people, or one JSON document for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_WIDE = 160  # columns where stdout is no terminal: a table in a log should not be folded


@dataclass(frozen=True)
class Answer:
    """The result of a verb.

    Attributes:
        document: plain JSON values.
        body: tables and lines, the same content for people.
        missed: the gate that was missed, in words; None when all is well.
    """

    document: Mapping[str, Any]
    body: Sequence[Table | str]
    missed: str | None = None


def show(answer: Answer, *, as_json: bool) -> None:
    """Print an answer on stdout."""
    if as_json:
        print(json.dumps(answer.document, indent=2, allow_nan=False))
        return
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    for number, piece in enumerate(answer.body):
        if isinstance(piece, str):
            console.print(piece, markup=False, soft_wrap=True)
            continue
        # Printed apart, for a table folds its title to its own width.
        title, piece.title = piece.title, None
        console.print("\n" * (number > 0) + str(title), style="bold", markup=False, soft_wrap=True)
        console.print(piece)


def table(title: str, columns: Iterable[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table; a column whose name begins with ``>`` is set flush right; without names no header."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    names = list(columns)
    made = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, show_edge=False)
    made.show_header = any(name.strip(">") for name in names)
    for name in names:
        made.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell(value)) for value in row))
    return made


def cell(value: object) -> str:
    """Return a value as a table shows it; ``-`` for None."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(value: float | None) -> str:
    """Return a share of 1 in percent."""
    return "-" if value is None else f"{100 * value:.2f}"


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name, then rename it.

    Raises:
        ArtefactError: the folder cannot be written.
    """
    from edgead.bundle_file import write_whole

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_whole(path, write)
