"""What a running station shows: the counts so far and the last NG parts, as its verdict file has them."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgead.progress import task

if TYPE_CHECKING:
    from rich.table import Table

_NG_SHOWN = 5
_PER_SECOND = 8


class Tail:
    """Counts the verdicts that are appended to a file from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0
        self.counts: Counter[str] = Counter()
        self.last_ng: deque[dict[str, Any]] = deque(maxlen=_NG_SHOWN)

    def read(self) -> None:
        """Take in the whole lines that have come."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._at:  # the station has begun a new file
                    self._at = 0
                file.seek(self._at)
                new = file.read()
        except OSError:  # the station itself says so; what is shown just stays as it was
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            verdict = json.loads(line)
            self.counts[verdict["verdict"]] += 1
            if verdict["verdict"] == "NG":
                self.last_ng.append(verdict)


def live(paths: Sequence[Path]) -> Callable[[str, int], AbstractContextManager[Callable[..., None]]]:
    """Return what ``run_stations`` takes as progress: a live table on a terminal, else plain lines.

    Args:
        paths: the verdict files of the stations.
    """
    return (lambda title, total: _shown(title, total, paths)) if sys.stderr.isatty() else task


@contextmanager
def _shown(title: str, total: int, paths: Sequence[Path]) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.live import Live

    tails, done = [Tail(path) for path in paths], 0

    def draw() -> Table:
        for tail in tails:
            tail.read()
        return _table(f"{title}: {done}/{total or '?'} parts", tails)

    with Live(get_renderable=draw, console=Console(stderr=True), refresh_per_second=_PER_SECOND, transient=True):

        def advance(steps: int = 1) -> None:
            nonlocal done
            done += steps

        yield advance


def _table(title: str, tails: Sequence[Tail]) -> Table:
    from edgead.cli.answer import table

    counts = sum((tail.counts for tail in tails), Counter[str]())
    rows: list[tuple[object, ...]] = [(name, count, "", "") for name, count in sorted(counts.items())]
    last_ng = sorted((ng for tail in tails for ng in tail.last_ng), key=lambda ng: str(ng["time"]))[-_NG_SHOWN:]
    rows += [(ng["part"] or "?", "", f"{ng['score']:.4g}", ng["worst"]) for ng in last_ng]
    return table(title, ("verdict or NG part", ">parts", ">score", "worst frame"), rows)
