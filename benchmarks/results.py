"""Committed measurements, one JSON file a condition, and the README's tables made from them.

    python -m benchmarks.results --table NAME          print a table
    python -m benchmarks.results --readme README.md    write all tables of a README anew

In the README a table stands between ``<!-- results:NAME -->`` and ``<!-- /results -->``. Names of columns after the
name choose and order them, and a column ``old=new`` is renamed: ``<!-- results:speed runner p50_ms=p50,ms -->``; a
comma stands for a space. So no figure is ever typed by hand.

``NAME+OTHER`` sets the rows of a second file beside those of the first that have the same first column; what else
names a row of the second in words comes before its columns: ``<!-- results:all+speed method int8@openvino.fps -->``.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from benchmarks.speed import machine
from edgead.bundle_file import write_whole
from edgead.errors import DataError, EdgeadError, nearest

FOLDER = Path(__file__).parent / "results"

_BEGIN = re.compile(r"<!--\s*results:\s*(?P<words>[^>]*?)\s*-->")
_NOT_YET = "*Not measured yet: there is no `benchmarks/results/{}.json`.*"
_END = re.compile(r"<!--\s*/results\s*-->")


class Results(BaseModel):
    """One file of measurements.

    Attributes:
        command: what measured it, to be run again.
        machine: ``benchmarks.speed.machine()``.
        date: day and time, ISO 8601 in UTC.
        conditions: what all rows have in common: dataset, seeds, threads.
        rows: measurements; the table's columns are their keys, nested ones joined by dots.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: str
    machine: dict[str, JsonValue]
    date: datetime
    conditions: dict[str, JsonValue]
    rows: tuple[dict[str, JsonValue], ...]


def save(path: Path, *, command: str, conditions: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Results:
    """Write measurements of this machine, made now.

    Raises:
        DataError: a value that JSON cannot hold, such as NaN.
        ArtefactError: the file cannot be written.
    """
    try:
        fields = {"conditions": dict(conditions), "rows": list(rows)}
        fields = json.loads(json.dumps(fields, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: a measurement cannot be written as JSON ({error}); measure it again") from error
    date = datetime.now(timezone.utc).replace(microsecond=0)
    results = Results(command=command, machine=machine(), date=date, **fields)
    text = json.dumps(results.model_dump(mode="json"), indent=2) + "\n"
    write_whole(path, lambda temporary: _write(temporary, text))
    return results


def read(path: Path) -> Results:
    """Read measurements.

    Raises:
        DataError: missing, or no such file.
    """
    try:
        return Results.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a file of measurements") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise DataError(f"{path}: {where}: {first['msg']}; measure it again") from error


def find(name: str, folder: Path = FOLDER) -> Results:
    """Read the committed measurements of a name.

    Raises:
        DataError: there are none of this name.
    """
    names = sorted(path.stem for path in folder.glob("*.json"))
    if name not in names:
        known = nearest(name, names) if names else f": {folder} holds none"
        raise DataError(f"there are no results '{name}'{known}")
    return read(folder / f"{name}.json")


def beside(left: Results, right: Results) -> Results:
    """Return the rows of one file with those of another beside them, by the first column of both.

    A value of the right rows is found as ``words.column``, where the words are the row's other texts joined by ``@``.

    Raises:
        DataError: their first columns differ, or two right rows have the same name.
    """
    keys = {next(iter(row)) for results in (left, right) for row in results.rows}
    if len(keys) != 1:
        raise DataError(f"rows that begin with {', '.join(sorted(keys))} cannot be set beside each other")
    (key,) = keys
    found: dict[Any, dict[str, JsonValue]] = {}
    for row in right.rows:
        words = "@".join(value for name, value in row.items() if name != key and isinstance(value, str))
        values = {name: value for name, value in row.items() if name != key and not isinstance(value, str)}
        of_key = found.setdefault(row[key], {})
        if words in of_key:
            raise DataError(f"two rows of {row[key]} are both named '{words}'")
        of_key[words] = dict(values)
    rows = [{**row, **found.get(row[key], {})} for row in left.rows]
    command = " && ".join(dict.fromkeys((left.command, right.command)))
    return left.model_copy(update={"rows": tuple(rows), "command": command, "date": max(left.date, right.date)})


def markdown(results: Results, columns: Sequence[str] = ()) -> str:
    """Return a markdown table, and a line on where and how it was measured.

    Args:
        columns: which to show, in this order, as ``"key"`` or ``"key=heading"``; all of them where empty.

    Raises:
        DataError: a column that no row has.
    """
    rows = [_flat(row) for row in results.rows]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    chosen = {key: heading or key for key, _, heading in (column.partition("=") for column in columns or keys)}
    for key in chosen:
        if key not in keys:
            raise DataError(f"results have no column '{key}'{nearest(key, keys)}")
    numbers = {key for key in chosen if all(_is_number(row.get(key)) for row in rows)}
    lines = [[heading.replace(",", " ") for heading in chosen.values()]]
    lines += [["---:" if key in numbers else "---" for key in chosen]]
    lines += [[_cell(row.get(key)) for key in chosen] for row in rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    place = f"{results.machine.get('cpu', 'unknown processor')}, {results.machine.get('cores', '?')} cores"
    return f"{table}\n\n<sub>{_cell(place)}, {results.date:%Y-%m-%d}: `{results.command}`</sub>"


def fill(text: str, folder: Path = FOLDER) -> str:
    """Return a README with every table between its markers made anew; all else stays as it is.

    Where a file of results does not exist yet, the table's place says so.

    Raises:
        DataError: a marker without its end, or a column that does not exist.
    """
    pieces, at = [], 0
    for begin in _BEGIN.finditer(text):
        line = text.count("\n", 0, begin.start()) + 1
        name, *columns = begin["words"].split() or [""]
        end = _END.search(text, begin.end())
        following = _BEGIN.search(text, begin.end())
        if end is None or (following and following.start() < end.start()):
            raise DataError(f"line {line}: results:{name} has no end; write <!-- /results --> below it")
        try:
            table = _table(name, columns, folder)
        except DataError as error:
            raise DataError(f"line {line}: {error}") from error
        pieces += [text[at : begin.end()], "\n", table, "\n"]
        at = end.start()
    return "".join([*pieces, text[at:]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of committed results, or write those of a README anew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description=main.__doc__)
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--table", metavar="NAME")
    wanted.add_argument("--readme", type=Path, metavar="FILE")
    parser.add_argument("--columns", nargs="*", default=[], help="KEY or KEY=HEADING, with --table")
    given = parser.parse_args(arguments)
    try:
        if given.table is not None:
            print(markdown(find(given.table), given.columns))
        else:
            _rewrite(given.readme)
    except EdgeadError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _table(name: str, columns: Sequence[str], folder: Path) -> str:
    names = name.split("+")
    for each in names:
        if not re.fullmatch(r"[\w.-]+", each):
            raise DataError(f"'{each}' is no name of results; expected letters, digits, '_', '-' or '.'")
        if not (folder / f"{each}.json").is_file():
            return _NOT_YET.format(each)
    return markdown(functools.reduce(beside, (find(each, folder) for each in names)), columns)


def _rewrite(readme: Path) -> None:
    try:
        text = readme.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{readme}: cannot be read ({error}); expected a text file") from error
    filled = fill(text)
    if filled != text:
        write_whole(readme, lambda temporary: _write(temporary, filled))


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8"))  # bytes, so that line ends stay as they are


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    """Write a value: four digits of a float, yes or no, a dash for nothing; nothing that breaks a table."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    words = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return words.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main())
