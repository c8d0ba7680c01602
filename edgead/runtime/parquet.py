"""Verdicts as one Parquet file, for those who count: ``python -m edgead.runtime.parquet OUTPUT_FOLDER``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgead.errors import ConfigError, DataError, EdgeadError, require
from edgead.runtime.events import SCHEMA
from edgead.runtime.sinks import LOG_NAME, rolled

NAME = "verdicts.parquet"
_ROWS = 50_000
_TEXT = ("schema", "event_id", "time", "part", "verdict", "worst", "station", "artefact")
_WHOLE = ("trigger", "frames")
_REAL = ("score", "latency_ms", "unsure", "ng")


def to_parquet(folder: Path) -> tuple[Path, int, int]:
    """Write all verdicts of an output folder to ``verdicts.parquet`` in it; the NDJSON files stay.

    Returns:
        The file, its rows, and lines that hold no verdict.

    Raises:
        MissingError: pyarrow is not installed.
        DataError: there are no verdicts, or they cannot be read.
        ConfigError: the folder cannot be written.
    """
    pa, parquet = require("pyarrow", extra="parquet"), require("pyarrow.parquet", extra="parquet")
    fields = [(name, pa.string()) for name in _TEXT] + [(name, pa.int64()) for name in _WHOLE]
    fields += [(name, pa.float64()) for name in _REAL] + [("missing", pa.list_(pa.string()))]
    schema = pa.schema(fields)
    logs = [path for path in (*rolled(folder), folder / LOG_NAME) if path.exists()]
    if not logs:
        raise DataError(f"{folder}: holds no {LOG_NAME}; expected the output folder of a station")
    path, half = folder / NAME, folder / f".{NAME}.tmp"
    rows = bad = 0
    try:
        with parquet.ParquetWriter(half, schema, compression="zstd") as file:
            for chunk in _chunks(logs):
                good = [event for event in chunk if event is not None]
                bad += len(chunk) - len(good)
                rows += len(good)
                file.write_table(pa.Table.from_pylist(good, schema=schema))
        os.replace(half, path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{folder}: a verdict does not fit docs/verdict.schema.json ({error})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose a writable folder") from error
    finally:
        half.unlink(missing_ok=True)
    return path, rows, bad


def _chunks(logs: list[Path]) -> Iterator[list[dict[str, Any] | None]]:
    chunk: list[dict[str, Any] | None] = []
    for log in logs:
        with log.open("rb") as lines:
            for line in lines:
                chunk.append(_event(line))
                if len(chunk) >= _ROWS:
                    yield chunk
                    chunk = []
    yield chunk


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:  # a line may be cut by a full disk
        return None
    return event if isinstance(event, dict) and event.get("schema") == SCHEMA else None


if __name__ == "__main__":
    try:
        written = to_parquet(Path(sys.argv[1] if len(sys.argv) == 2 else "."))
        print(f"{written[0]}: {written[1]} verdicts; {written[2]} lines that hold none")
    except EdgeadError as problem:
        sys.exit(f"edgead: {problem}")
