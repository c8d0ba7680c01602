"""Your own images, listed in a CSV or JSONL file.

Root is the file, a folder with ``manifest.csv`` or ``manifest.jsonl``, or a folder of such folders (the categories).
Paths are relative to the file. Columns, all but ``image`` optional: ``part_id`` (default: each image its own part),
``view``, ``illumination``, ``defect`` (``good`` or a type), ``label`` (good or not), ``mask``, ``split`` (train,
validation, test; without it parts are divided by hash), ``category``, ``attributes`` (a JSON object). Any other column,
with or without ``attr_`` before it, is an attribute. Columns under other names: ``options.columns``; values that stand
in the image's path: ``options.pattern``. Labels come from ``defect``, ``label`` or the pattern, never from masks.

Source and licence: those of the images listed. edgead ships none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from edgead.datasets import files
from edgead.datasets.options import COLUMNS, DatasetOptions
from edgead.datasets.sample import GOOD, Sample
from edgead.datasets.split import Entry, Split
from edgead.errors import DataError, nearest
from edgead.images import SUFFIXES

EXPECTED = "a CSV or JSONL file with the columns image, part_id, view, illumination, defect, mask, split"

_NAMES = ("manifest.csv", "manifest.jsonl")
_GOOD_LABELS = frozenset({"good", "ok", "normal", "0", "false"})
_BAD_LABELS = frozenset({"defect", "bad", "ng", "anomaly", "1", "true"})
_SPLITS: Mapping[str, Split] = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_GROUP_COLUMNS = {"part": "part_id", "view": "view", "light": "illumination", "defect": "defect", "split": "split"}

Row = dict[str, str]


def categories(root: Path, options: DatasetOptions) -> list[str]:
    """Return the values of the column ``category``, or the folder of each manifest that has none."""
    return sorted({category for table in _tables(root) for category, _, _ in _rows(table, options)})


def entries(root: Path, category: str, options: DatasetOptions) -> Iterator[Entry]:
    """Yield the rows of a category.

    Raises:
        DataError: a row that says too little or contradicts itself, with file and line.
    """
    listed: dict[Path, str] = {}
    splits: set[bool] = set()
    for table in _tables(root):
        for name, place, row in _rows(table, options):
            if name != category:
                continue
            sample, split = _entry(table.parent, row, place, options)
            if (first := listed.setdefault(sample.image, place)) != place:
                raise DataError(f"{place}: {row['image']} is listed already in {first}; list each image once")
            splits.add(split is None)
            if len(splits) > 1:
                raise DataError(f"{place}: some images have a split and some have none; fill the column, or empty it")
            yield sample, split


def _tables(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    own = [root / name for name in _NAMES if (root / name).is_file()]
    return own[:1] or [path for folder in files.folders(root) for name in _NAMES if (path := folder / name).is_file()]


def _rows(table: Path, options: DatasetOptions) -> Iterator[tuple[str, str, Row]]:
    """Yield category, place for errors and columns under our names of each row."""
    theirs = {name: ours for ours, name in options.columns.items()}
    for number, raw in files.rows(table):
        for ours, name in options.columns.items():
            if name not in raw:
                raise DataError(f"{table}: no column '{name}' to take {ours} from{nearest(name, raw)}")
        row = {theirs.get(name, name): value for name, value in raw.items()}
        if not row.get("image"):
            raise DataError(
                f"{table}, line {number}: no image; expected a column 'image' in {', '.join(raw)}, or its name: "
                "--column image=NAME"
            )
        yield row.get("category") or table.resolve().parent.name, f"{table}, line {number}", row


def _entry(home: Path, row: Row, place: str, options: DatasetOptions) -> Entry:
    image = home / row["image"]
    if image.suffix.lower() not in SUFFIXES:
        raise DataError(f"{place}: '{row['image']}' is no image; expected {', '.join(sorted(SUFFIXES))}")
    own = PurePosixPath(row["image"].replace("\\", "/")).with_suffix("").as_posix()
    if options.pattern:
        found = files.identity(options.pattern, own, image)
        row = row | {column: found[group] for group, column in _GROUP_COLUMNS.items() if found.get(group)}
    defect = _defect(row, place)
    sample = Sample(
        image=image,
        part=row.get("part_id") or own,
        defect=defect,
        mask=home / row["mask"] if row.get("mask") and defect != GOOD else None,
        view=row.get("view") or "0",
        illumination=row.get("illumination") or "0",
        attributes=_attributes(row, place),
    )
    return sample, _split(row.get("split", ""), place)


def _defect(row: Row, place: str) -> str:
    defect, label = row.get("defect", ""), row.get("label", "").lower()
    if not defect and not label:
        raise DataError(
            f"{place}: neither defect nor label says whether the image is good; name the column, --column defect=NAME, "
            "or take it from the path, --pattern '(?P<split>train|test)/(?P<defect>[^/]+)/'"
        )
    if defect.lower() in _GOOD_LABELS:
        defect = GOOD
    if not label:
        return defect
    if label in _GOOD_LABELS:
        if defect in ("", GOOD):
            return GOOD
        raise DataError(f"{place}: label is '{row['label']}' but defect is '{defect}'; make them agree")
    if defect == GOOD:
        raise DataError(f"{place}: label is '{row['label']}' but defect is '{row['defect']}'; make them agree")
    return defect or ("defect" if label in _BAD_LABELS else row["label"])


def _split(text: str, place: str) -> Split | None:
    if not text:
        return None
    if text.lower() not in _SPLITS:
        raise DataError(f"{place}: split is '{text}'{nearest(text.lower(), _SPLITS)}")
    return _SPLITS[text.lower()]


def _attributes(row: Row, place: str) -> Mapping[str, str]:
    try:
        packed = json.loads(row.get("attributes") or "{}")
    except ValueError as error:
        raise DataError(f"{place}: attributes is no JSON ({error}); expected an object such as {{}}") from error
    if not isinstance(packed, dict):
        raise DataError(f'{place}: attributes is no JSON object; expected one such as {{"batch": "7"}}')
    plain = {re.sub(r"^attr_", "", name): value for name, value in row.items() if name not in COLUMNS and value}
    return plain | {str(name): value if isinstance(value, str) else json.dumps(value) for name, value in packed.items()}
