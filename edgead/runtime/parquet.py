"""Verdicts as Parquet, for those who count: ``python -m edgead.runtime.parquet [--rolled [--remove]] OUTPUT_FOLDER``.

Without options all verdicts become ``verdicts.parquet``. With ``--rolled`` each file that was rolled becomes one of its
own, once; with ``--remove`` its NDJSON goes then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from edgead.errors import ConfigError, DataError, EdgeadError, require
from edgead.runtime.events import SCHEMA
from edgead.runtime.sinks import LOG_NAME, rolled

NAME = "verdicts.parquet"
_ROWS = 50_000
_TEXT = ("schema", "event_id", "time", "part", "verdict", "worst", "station", "artefact", "reason")
_WHOLE = ("trigger", "frames")
_REAL = ("score", "latency_ms", "unsure", "ng")


def to_parquet(folder: Path) -> tuple[Path, int, int]:
    """Write all verdicts of an output folder to ``verdicts.parquet`` in it; the NDJSON files stay.

    The station may go on writing, rolling and removing files meanwhile.

    Returns:
        The file, its rows, and lines that hold no verdict.

    Raises:
        MissingError: pyarrow is not installed.
        DataError: there are no verdicts, or they cannot be read.
        ConfigError: the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        logs = _open_all(folder, stack)
        if not logs:
            raise DataError(f"{folder}: holds no {LOG_NAME}; expected the output folder of a station")
        return folder / NAME, *_write(folder / NAME, logs)


def rolled_to_parquet(folder: Path, *, remove: bool) -> list[tuple[Path, int, int]]:
    """Write each rolled file, ``verdicts-000001.ndjson``, to ``verdicts-000001.parquet``, unless that is there.

    Args:
        remove: the NDJSON file goes when its Parquet file is on the disk, if every line of it is a verdict.

    Returns:
        What ``to_parquet`` does, for each file that was written.

    Raises:
        MissingError, DataError, ConfigError: as ``to_parquet``; what is written by then stays.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: is no folder; expected the output folder of a station")
    done = []
    for log in rolled(folder):
        path = log.with_suffix(".parquet")
        with contextlib.suppress(FileNotFoundError), log.open("rb") as lines:  # gone meanwhile, by its budget
            bad = 0
            if not path.exists():
                rows, bad = _write(path, [lines])
                done.append((path, rows, bad))
            if remove and not bad:
                log.unlink()
    return done


def _open_all(folder: Path, stack: contextlib.ExitStack) -> list[BinaryIO]:
    """Open the logs, the newest first of all: should it be rolled meanwhile, it is still read, and read once."""
    newest: list[BinaryIO] = []
    others: dict[int, BinaryIO] = {}
    with contextlib.suppress(FileNotFoundError):
        newest.append(stack.enter_context((folder / LOG_NAME).open("rb")))
    for path in rolled(folder):
        with contextlib.suppress(FileNotFoundError):
            file = stack.enter_context(path.open("rb"))
            others[os.fstat(file.fileno()).st_ino] = file
    for log in newest:
        others.pop(os.fstat(log.fileno()).st_ino, None)
    return [*others.values(), *newest]


def _write(path: Path, logs: Iterable[BinaryIO]) -> tuple[int, int]:
    pa, parquet = require("pyarrow", extra="parquet"), require("pyarrow.parquet", extra="parquet")
    fields = [(name, pa.string()) for name in _TEXT] + [(name, pa.int64()) for name in _WHOLE]
    fields += [(name, pa.float64()) for name in _REAL] + [("missing", pa.list_(pa.string()))]
    schema = pa.schema(fields)
    half = path.with_name(f".{path.name}.tmp")
    rows = bad = 0
    try:
        with half.open("wb") as sink:
            with parquet.ParquetWriter(sink, schema, compression="zstd") as file:
                for chunk in _chunks(logs):
                    good = [event for event in chunk if event is not None]
                    bad += len(chunk) - len(good)
                    rows += len(good)
                    file.write_table(pa.Table.from_pylist(good, schema=schema))
            sink.flush()
            os.fsync(sink.fileno())
        os.replace(half, path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path.parent}: a verdict does not fit docs/verdict.schema.json ({error})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose a writable folder") from error
    finally:
        half.unlink(missing_ok=True)
    return rows, bad


def _chunks(logs: Iterable[BinaryIO]) -> Iterator[list[dict[str, Any] | None]]:
    chunk: list[dict[str, Any] | None] = []
    for log in logs:
        for line in log:
            chunk.append(_event(line))
            if len(chunk) >= _ROWS:
                yield chunk
                chunk = []
    yield chunk


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):  # a line may be cut by a full disk
        return None
    if not isinstance(event, dict) or event.get("schema") != SCHEMA:
        return None
    if b"\\ud" in line:  # perhaps half of a character, as a broken file name has it
        return {name: _whole(value) for name, value in event.items()}
    return event


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m edgead.runtime.parquet", description="Verdicts as Parquet.")
    parser.add_argument("--rolled", action="store_true", help="each rolled file becomes a Parquet file of its own")
    parser.add_argument("--remove", action="store_true", help="with --rolled: remove the NDJSON that was written so")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(), help="output folder of a station")
    options = parser.parse_args(words)
    if options.remove and not options.rolled:
        parser.error("--remove goes with --rolled only: verdicts.ndjson is the station's")
    try:
        if options.rolled:
            written = rolled_to_parquet(options.folder, remove=options.remove)
        else:
            written = [to_parquet(options.folder)]
    except EdgeadError as problem:
        print(f"edgead: {problem}", file=sys.stderr)
        return problem.exit_code
    for path, rows, bad in written:
        print(f"{path}: {rows} verdicts; {bad} lines that hold none")
    return 0


if __name__ == "__main__":
    sys.exit(main())
