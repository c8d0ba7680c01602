"""Real-IAD: thirty objects seen from five views, labelled by view, split by JSON files.

Layout: ``realiad_{256,512,1024,raw}/<category>/{OK,NG/<code>}/Sxxxx/<category>_xxxx_..._C{1..5}_<time>.jpg``, masks
beside the images, ``realiad_jsons/realiad_jsons/<category>.json`` with ``meta``, ``train`` and ``test``. A folder
``Sxxxx`` is a part; a view of a defective part may itself be good.

Source: https://realiad4ad.github.io/Real-IAD, Wang et al., CVPR 2024; access on request.
Licence: CC BY-NC-SA 4.0, no commercial use. edgead ships none of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ValidationError

from edgead.datasets import files
from edgead.datasets.options import DatasetOptions
from edgead.datasets.sample import GOOD, Sample
from edgead.datasets.split import Entry, Split
from edgead.errors import DataError

EXPECTED = "realiad_<256|512|1024|raw>/<category>/{OK,NG}/... and realiad_jsons/realiad_jsons/<category>.json"

_IMAGES = "realiad_"
_VIEW = re.compile(r"_C(\d+)_")


class _Meta(BaseModel):
    normal_class: str = "OK"


class _Item(BaseModel):
    anomaly_class: str
    image_path: str
    mask_path: str | None = None


class _Table(BaseModel):
    meta: _Meta
    train: list[_Item]
    test: list[_Item]


def categories(root: Path, options: DatasetOptions) -> list[str]:
    """Return the objects that have a JSON file."""
    return sorted(path.stem for path in _tables(root, options).glob("*.json") if not path.name.startswith("."))


def entries(root: Path, category: str, options: DatasetOptions) -> Iterator[Entry]:
    """Yield each view with the split of the JSON file; the views of a defective part keep their own labels."""
    path = _tables(root, options) / f"{category}.json"
    try:
        table = _Table.model_validate(files.read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise DataError(f"{path}: {place}: {first['msg']}; expected Real-IAD's own file, copy it again") from error
    home = _images(root, options) / category
    splits: tuple[tuple[Split, list[_Item]], ...] = (("train", table.train), ("test", table.test))
    for split, items in splits:
        for item in items:
            good = item.anomaly_class == table.meta.normal_class
            view = _VIEW.search(PurePosixPath(item.image_path).name)
            yield (
                Sample(
                    image=home / item.image_path,
                    part=PurePosixPath(item.image_path).parent.as_posix(),
                    defect=GOOD if good else item.anomaly_class,
                    mask=home / item.mask_path if item.mask_path and not good else None,
                    view=f"C{view[1]}" if view else "0",
                ),
                split,
            )


def _tables(root: Path, options: DatasetOptions) -> Path:
    name = options.split or "realiad_jsons"
    nested = root / "realiad_jsons" / name  # the archive holds a folder of its own name
    return nested if nested.is_dir() else root / name


def _images(root: Path, options: DatasetOptions) -> Path:
    found = [
        folder.name.removeprefix(_IMAGES)
        for folder in files.folders(root)
        if folder.name.startswith(_IMAGES) and "json" not in folder.name
    ]
    wanted = options.resolution or (found[0] if len(found) == 1 else None)
    if wanted in found:
        return root / f"{_IMAGES}{wanted}"
    if not found:
        raise DataError(
            f"{root}: no image folder; expected one of {_IMAGES}256, 512, 1024 or raw beside the JSON files"
        )
    state = f"there is no {_IMAGES}{wanted}" if wanted else "there are several image folders"
    raise DataError(f"{root}: {state}; choose one of {', '.join(found)}: --resolution {found[0]}")
