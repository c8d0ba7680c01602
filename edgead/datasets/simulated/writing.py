"""Write simulated parts in the folder layout of MV-AD2025 (InduDefect)."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgead.datasets.sample import GOOD
from edgead.datasets.simulated.objects import object_spec
from edgead.datasets.simulated.rendering import render
from edgead.errors import DataError
from edgead.images import write_png
from edgead.progress import task

COLUMNS = (
    "part",
    "defect",
    "severity",
    "view",
    "illumination",
    "size",
    "contrast",
    "x",
    "y",
    "visible_images",
    "images",
)


def write_dataset(
    root: str | os.PathLike[str],
    object_name: str,
    *,
    seed: int,
    good_parts: int,
    defect_parts_per_type: int,
    size: int = 256,
) -> Path:
    """Write all views and lights of Good and defective parts of one object; returns the category's folder.

    Layout: ``Image/Good/<stem>.png``, ``Image/NG/<defect>/<stem>.png``, ``Mask/<defect>/<stem>.png`` and
    ``attributes.csv``, one row a part. A stem such as ``P0001_V1_L2`` names part, view and light, counted from 1. An NG
    image that does not show the defect has an empty mask. Size, contrast and place of a defect are those of the image
    that shows it best.

    Raises:
        DataError: an unknown object, a count or size out of range, a target that is not empty or not writable.
    """
    spec = object_spec(object_name)
    if good_parts < 0 or defect_parts_per_type < 0 or good_parts + defect_parts_per_type == 0:
        raise DataError(
            f"{good_parts} Good parts and {defect_parts_per_type} parts a defect type: expected 0 or more, not both 0"
        )
    folder = Path(root) / spec.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is not empty; choose another root, or delete it first")
    plan = list(_parts(spec.defects, good_parts, defect_parts_per_type))
    rows = []
    with task(f"Simulating {object_name}", len(plan)) as advance:
        for part, defect in plan:
            rows.append(_write_part(folder, object_name, seed=seed, part=part, defect=defect, size=size))
            advance()
    _write_table(folder / "attributes.csv", rows)
    return folder


def _parts(defects: tuple[str, ...], good: int, each: int) -> Iterator[tuple[int, str]]:
    yield from ((part, GOOD) for part in range(1, good + 1))
    for index, defect in enumerate(defects):
        yield from ((good + index * each + number, defect) for number in range(1, each + 1))


def _write_part(folder: Path, object_name: str, *, seed: int, part: int, defect: str, size: int) -> dict[str, str]:
    spec = object_spec(object_name)
    row = {"part": f"P{part:04d}", "defect": defect}
    best, visible = -1.0, 0
    for v, view in enumerate(spec.views, 1):
        for n, light in enumerate(spec.illuminations, 1):
            made = render(object_name, seed=seed, part=part, view=view, illumination=light, defect=defect, size=size)
            name = f"P{part:04d}_V{v}_L{n}.png"
            if defect == GOOD:
                write_png(folder / "Image" / "Good" / name, made.image)
            else:
                write_png(folder / "Mask" / defect / name, made.mask.astype(np.uint8) * np.uint8(255))
                write_png(folder / "Image" / "NG" / defect / name, made.image)
            row |= {"severity": made.attributes["severity"]}
            if made.mask.any():
                visible += 1
                shown = float(made.attributes["contrast"]) * float(made.attributes["size"])
                if shown > best:
                    best = shown
                    row |= made.attributes | {"view": view, "illumination": light}
    count = len(spec.views) * len(spec.illuminations)
    return row | {"visible_images": str(visible), "images": str(count)}


def _write_table(path: Path, rows: list[dict[str, str]]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, COLUMNS, restval="")
            table.writeheader()
            table.writerows(rows)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); choose a writable folder") from error
