"""Find and read the files of a dataset: images, masks, tables. Hidden files never count."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgead.errors import DataError
from edgead.images import SUFFIXES

PART_VIEW_LIGHT = r"(?P<part>[^/]+)_V(?P<view>[^/_]+)_L(?P<light>[^/_]+)$"


def folders(parent: Path) -> list[Path]:
    """Return the visible subfolders by name; none if ``parent`` is no folder."""
    return [Path(entry.path) for entry in _visible(parent) if entry.is_dir()]


def images(parent: Path) -> list[Path]:
    """Return the image files directly in a folder by name; none if ``parent`` is no folder."""
    return [Path(entry.path) for entry in _visible(parent) if _is_image(entry.name) and not entry.is_dir()]


def images_below(parent: Path) -> Iterator[Path]:
    """Yield the image files in a folder and in its subfolders."""
    yield from images(parent)
    for folder in folders(parent):
        yield from images_below(folder)


def child(parent: Path, *names: str) -> Path | None:
    """Return the subfolder with one of the names, whatever its case; None if there is none."""
    return next((folder for folder in folders(parent) if folder.name.lower() in names), None)


@dataclass(frozen=True)
class Masks:
    """The mask files below one folder, found by the stem of their image with or without ``_mask``."""

    folder: Path
    by_stem: dict[str, Path]

    @classmethod
    def below(cls, folder: Path) -> Masks:
        """List the masks of a folder; subfolders are part of the stem (``scratch/000``)."""
        return cls(folder, {path.relative_to(folder).with_suffix("").as_posix(): path for path in images_below(folder)})

    def find(self, stem: str) -> Path | None:
        """Return the mask of an image, None if there is none."""
        return self.by_stem.get(f"{stem}_mask") or self.by_stem.get(stem)

    def require(self, stem: str, image: Path) -> Path:
        """Return the mask of a defective image.

        Raises:
            DataError: it is missing; names the path where it was expected.
        """
        if mask := self.find(stem):
            return mask
        raise DataError(
            f"{image}: no mask for this defective image; expected {self.folder / f'{stem}_mask.png'} (or {stem}.png); "
            f"add it, or take the folder {self.folder.name} away to use image labels only"
        )


def identity(pattern: str, path: str, image: Path) -> dict[str, str]:
    """Return the named groups of ``pattern`` in ``path``; groups that took no part are left out.

    Raises:
        DataError: no match; names the path searched and the option that sets the pattern.
    """
    match = re.search(pattern, path)
    if match is None:
        raise DataError(
            f"{image}: '{path}' does not match the pattern {pattern!r}, so its part is unknown; give your own naming, "
            f"for names like P0001_V2_L3: --pattern '{PART_VIEW_LIGHT}'"
        )
    return {name: text for name, text in match.groupdict().items() if text is not None}


def rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and columns of each row of a CSV or JSONL file; what is absent or null is empty.

    Raises:
        DataError: unreadable, no UTF-8, or a line that is no JSON object.
    """
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in {".jsonl", ".ndjson"}:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield number, _object(line, f"{path}, line {number}")
            else:
                reader = csv.DictReader(file, restkey="", strict=True)
                for row in reader:
                    if "" in row:
                        raise DataError(f"{path}, line {reader.line_num}: more values than the header has columns")
                    yield reader.line_num, {name: (value or "").strip() for name, value in row.items()}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a CSV or JSONL file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: no UTF-8 text table ({error}); save it as CSV in UTF-8, or as JSONL") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: unreadable, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a JSON file") from error
    except ValueError as error:
        raise DataError(f"{path}: no valid JSON ({error}); copy it again from its source") from error


def _object(line: str, place: str) -> dict[str, str]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: no valid JSON ({error}); expected one object a line") from error
    if not isinstance(value, dict):
        raise DataError(f"{place}: expected a JSON object, found {type(value).__name__}")
    return {name: _text(item) for name, item in value.items()}


def _text(value: object) -> str:
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value)


def _visible(parent: Path) -> list[os.DirEntry[str]]:
    """List a folder by name, without hidden files and the ``__MACOSX`` left by archives."""
    if not parent.is_dir():
        return []
    try:
        with os.scandir(parent) as entries:
            return sorted((e for e in entries if not e.name.startswith((".", "__"))), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{parent}: cannot be listed ({error.strerror}); allow reading it") from error


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES
