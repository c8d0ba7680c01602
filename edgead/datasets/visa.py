"""VisA: twelve objects, in the layout of its archive or reorganised by its authors' script.

Archive: ``<object>/Data/Images/{Normal,Anomaly}``, split by ``split_csv/1cls.csv`` (``object,split,label,image,mask``,
paths from the root). Reorganised: ``1cls/<object>`` like MVTec with masks named ``<stem>.png``. Masks hold class ids:
any non-zero pixel is defective.

Source: https://github.com/amazon-science/spot-diff, Zou et al., ECCV 2022.
Licence: CC BY 4.0 (data). edgead ships none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgead.datasets import files, mvtec
from edgead.datasets.options import DatasetOptions
from edgead.datasets.sample import GOOD, Sample
from edgead.datasets.split import Entry, Split
from edgead.errors import DataError

EXPECTED = "split_csv/1cls.csv beside <object>/Data/Images, or the reorganised 1cls/<object>/train/good"

_SPLITS: dict[str, Split] = {"train": "train", "test": "test"}
_COLUMNS = ("object", "split", "label", "image", "mask")


def categories(root: Path, options: DatasetOptions) -> list[str]:
    """Return the objects of the split file, or the folders of the reorganised layout."""
    table = _table(root, options)
    if table is None:
        return mvtec.categories(_reorganised(root), options)
    return sorted({row["object"] for _, row in _rows(table)})


def entries(root: Path, category: str, options: DatasetOptions) -> Iterator[Entry]:
    """Yield the images of an object with the split that the table, or else the folder, names."""
    table = _table(root, options)
    if table is None:
        yield from mvtec.entries(_reorganised(root), category, options)
        return
    for number, row in _rows(table):
        if row["object"] != category:
            continue
        if row["split"] not in _SPLITS or not row["image"]:
            raise DataError(f"{table}, line {number}: expected an image and a split of train or test, found {row}")
        good = row["label"] == "normal"
        mask = root / row["mask"] if row["mask"] and not good else None
        part = Path(row["image"]).with_suffix("").as_posix()
        yield Sample(root / row["image"], part, GOOD if good else row["label"], mask), _SPLITS[row["split"]]


def _table(root: Path, options: DatasetOptions) -> Path | None:
    """Return the split file of the archive's layout; None where the root is reorganised."""
    table = root / "split_csv" / f"{(options.split or '1cls').removesuffix('.csv')}.csv"
    return table if options.split or table.parent.is_dir() else None


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for number, row in files.rows(table):
        if missing := [name for name in _COLUMNS if name not in row]:
            raise DataError(f"{table}: no column '{missing[0]}'; expected {','.join(_COLUMNS)}")
        yield number, row


def _reorganised(root: Path) -> Path:
    places = (root / "1cls", root / "VisA_pytorch" / "1cls")
    return next((place for place in places if place.is_dir()), root)
