"""Progress of long work, on stderr: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOG_EVERY_S = 5.0


@contextmanager
def task(title: str, total: int) -> Iterator[Callable[..., None]]:
    """Show the progress of ``total`` steps; yields ``advance(steps=1, note="")``."""
    with (_bar if sys.stderr.isatty() else _lines)(title, total) as advance:
        yield advance


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        row = progress.add_task(title, total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            progress.advance(row, steps)
            if note:
                progress.update(row, note=note)

        yield advance


@contextmanager
def _lines(title: str, total: int) -> Iterator[Callable[..., None]]:
    begin = last = time.monotonic()
    done = 0

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += steps
        now = time.monotonic()
        if now - last >= _LOG_EVERY_S and done < total:
            last = now
            print(f"{title}: {done}/{total} {note}".rstrip(), file=sys.stderr, flush=True)

    yield advance
    print(f"{title}: {done}/{total} in {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
