"""MV-AD2025 (InduDefect): small parts under several views and lights; also what the simulator writes.

Layout: ``<category>/Image/Good/...`` and ``<category>/Image/NG/<defect>/...`` in any case and depth, masks at the same
path below ``<category>/Mask`` or there by stem, with or without ``_mask``; without a mask an image has its label only.
File naming is not documented, so a pattern takes part, view and light from the path; ``P0001_V2_L3`` by default. An
``attributes.csv`` in the category's folder gives attributes by its column ``image`` (path below the category).
There is no published split: Good parts are divided by the hash of their identity, never by image; defective ones test.

Source: https://github.com/XMVLab/MV-AD2025.
Licence: CC BY-NC-SA 4.0, use in products forbidden. edgead ships none of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgead.datasets import files
from edgead.datasets.options import DatasetOptions
from edgead.datasets.sample import GOOD, Sample
from edgead.datasets.split import Entry
from edgead.errors import ConfigError, DataError, nearest

EXPECTED = "<category>/Image/Good/*.png and <category>/Image/NG/<defect>/*.png, masks in <category>/Mask"

_DEFECT = "defect"  # an image directly in NG: its type is not told


def categories(root: Path, options: DatasetOptions) -> list[str]:  # noqa: ARG001 - one signature for all layouts
    """Return the folders that hold an Image folder, or Good and NG themselves."""
    return [folder.name for folder in files.folders(root) if files.child(folder, "image", "images", GOOD, "ng")]


def entries(root: Path, category: str, options: DatasetOptions) -> Iterator[Entry]:
    """Yield every image below Good and NG, without a split.

    Raises:
        DataError: a name that the pattern does not match, or two images for one part, view and light.
    """
    home = root / category
    pattern = options.pattern or files.PART_VIEW_LIGHT
    if "part" not in re.compile(pattern).groupindex:
        raise ConfigError(
            f"pattern {pattern!r} has no group 'part', which keeps a part on one side of the split: add it"
        )
    pictures = files.child(home, "image", "images") or home
    masks = _masks(home)
    attributes = _attributes(home / "attributes.csv")
    seen: dict[tuple[str, str, str], Path] = {}
    for label, ng in ((GOOD, False), ("ng", True)):
        folder = files.child(pictures, label)
        for image in files.images_below(folder) if folder else ():
            path = image.relative_to(pictures).with_suffix("")
            found = files.identity(pattern, path.as_posix(), image)
            shot = (found["part"], found.get("view", "0"), found.get("light", "0"))
            if shot in seen:
                raise DataError(_clash(shot, seen[shot], image))
            seen[shot] = image
            types = path.parts[1:-1]
            sample = Sample(
                image=image,
                part=shot[0],
                defect=found.get("defect") or (types[0] if types else _DEFECT) if ng else GOOD,
                mask=_mask(masks, path) if ng else None,
                view=shot[1],
                illumination=shot[2],
                attributes=attributes.get(image.relative_to(home).as_posix(), {}),
            )
            yield sample, None


def _masks(home: Path) -> files.Masks | None:
    folder = files.child(home, "mask", "masks")
    if folder is None:
        return None
    masks = files.Masks.below(folder)
    return files.Masks(folder, {_below_label(stem): path for stem, path in masks.by_stem.items()})


def _mask(masks: files.Masks | None, path: Path) -> Path | None:
    if masks is None:
        return None
    return masks.find(_below_label(path.as_posix())) or masks.find(path.name)


def _below_label(path: str) -> str:
    """Return a path without the NG before it: masks lie in Mask/NG/<defect>, Mask/<defect> or Mask."""
    first, slash, rest = path.partition("/")
    return rest if slash and first.lower() == "ng" else path


def _attributes(table: Path) -> Mapping[str, Mapping[str, str]]:
    if not table.is_file():
        return {}
    found: dict[str, Mapping[str, str]] = {}
    for number, row in files.rows(table):
        if "image" not in row:
            raise DataError(f"{table}, line {number}: no column 'image'{nearest('image', row)}")
        found[row.pop("image")] = row
    return found


def _clash(shot: tuple[str, str, str], first: Path, second: Path) -> str:
    part, view, light = shot
    return (
        f"{second}: part {part}, view {view}, light {light} is already {first}; where numbers begin anew "
        f"in each folder, take the folder into the part: --pattern '{files.PART_VIEW_LIGHT.replace('[^/]+', '.+', 1)}'"
    )
