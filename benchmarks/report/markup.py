"""HTML and SVG in which every text is escaped, because only ``tag`` makes markup.

>>> tag("p", "1 < 2", class_="note")
'<p class="note">1 &lt; 2</p>'
"""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Iterable, Sequence

Value = str | int | float | None

NOTHING = "\N{EN DASH}"

_VOID = {"img", "meta", "br", "hr"}
# Neither HTML nor UTF-8 takes these: control characters, and the halves of surrogates that odd file names are read as.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Markup(str):
    """Text that is markup already; any other string is escaped where it is put in."""

    __slots__ = ()


def text(value: Value) -> Markup:
    """Escape a value; markup stays as it is, None is nothing, floats lose digits that no one sees."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return Markup("")
    return Markup(html.escape(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", _plain(value))))


def tag(name: str, /, *children: Value, **attributes: Value) -> Markup:
    """Make an element; ``class_`` is class, ``stroke_width`` is stroke-width, None leaves an attribute out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Value], between: str = "") -> Markup:
    """Put values one after the other."""
    return Markup(text(between).join(text(child) for child in children))


def table(head: Sequence[Value], rows: Iterable[Sequence[Value]], *, words: int = 1) -> Markup:
    """Make a table whose first ``words`` columns are words, and the others numbers, set to the right."""

    def row(kind: str, cells: Sequence[Value]) -> Markup:
        return tag("tr", *(tag(kind, cell, class_=None if i < words else "n") for i, cell in enumerate(cells)))

    body = tag("tbody", *(row("td", cells) for cells in rows))
    return tag("div", tag("table", tag("thead", row("th", head)) if head else None, body), class_="scroll")


def section(title: str, *children: Value, note: str = "", class_: str | None = None) -> Markup:
    """Make a section with a heading and a line on how to read it."""
    return tag("section", tag("h2", title), tag("p", note, class_="note") if note else None, *children, class_=class_)


def missing(what: str, *command: object) -> Markup:
    """Say what has not been measured, and the command that does."""
    line = shlex.join(["edgead", *map(str, command)])
    return tag("p", what, ": run ", tag("code", line), ".", class_="missing")


def number(value: float | None, digits: int = 3) -> str:
    """Write a metric from 0 to 1; a dash where it is not defined."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(share: float) -> str:
    """Write a share with as many digits as it takes to see it."""
    return f"{100 * share:.3g}\N{NO-BREAK SPACE}%"


def count(n: int, word: str) -> str:
    """Write a number with its noun."""
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def _plain(value: str | int | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
