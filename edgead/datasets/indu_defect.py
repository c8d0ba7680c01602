"""MV-AD2025 (InduDefect): small parts under several views and lights; also what the simulator writes.

Layout: ``<category>/Image/Good/...`` and ``<category>/Image/NG/<defect>/...`` in any case and depth, masks at the same
path below ``<category>/Mask`` or there by stem, with or without ``_mask``; without a mask an image has its label only.
File naming is not documented, so a pattern takes part, view and light from the path; ``P0001_V2_L3`` by default.
There is no published split: Good parts are divided by the hash of their identity, never by image; defective ones test.

An ``attributes.csv`` in the category's folder gives attributes to each part by its column ``part``. Where it says that
a defect shows in fewer images than the part has (``visible_images``, ``images``), those with an empty mask are good.

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
from edgead.errors import ConfigError, DataError
from edgead.images import read_mask

EXPECTED = "<category>/Image/Good/*.png and <category>/Image/NG/<defect>/*.png, masks in <category>/Mask"

_DEFECT = "defect"  # an image directly in NG: its type is not told


def categories(root: Path, options: DatasetOptions) -> list[str]:  # noqa: ARG001 - one signature for all layouts
    """Return the folders that hold an Image folder, or Good and NG themselves."""
    return [folder.name for folder in files.folders(root) if files.child(folder, "image", "images", GOOD, "ng")]


def entries(root: Path, category: str, options: DatasetOptions) -> Iterator[Entry]:
    """Yield every image below Good, without a split, and below NG, for test.

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
    masks = _Masks.below(home)
    attributes = _attributes(home / "attributes.csv")
    seen: dict[tuple[str, str, str], Path] = {}
    for label, ng in ((GOOD, False), ("ng", True)):
        folder = files.child(pictures, label)
        for image in files.images_below(folder) if folder else ():
            path = image.relative_to(pictures).with_suffix("").as_posix()
            found = files.identity(pattern, path, image)
            shot = (found["part"], found.get("view", "0"), found.get("light", "0"))
            if shot in seen:
                raise DataError(_clash(shot, seen[shot], image))
            seen[shot] = image
            known = attributes.get(shot[0], {})
            mask = masks.find(path) if masks and ng else None
            shows = ng and not (mask and _hides(known) and not read_mask(mask).any())
            sample = Sample(
                image=image,
                part=shot[0],
                defect=found.get("defect") or _type(path) if shows else GOOD,
                mask=mask if shows else None,
                view=shot[1],
                illumination=shot[2],
                attributes=known,
            )
            yield sample, "test" if ng else None


class _Masks:
    """The masks of a category: Mask/NG/<defect>, Mask/<defect> and Mask itself are searched."""

    def __init__(self, folder: Path) -> None:
        masks = files.Masks.below(folder)
        self._masks = files.Masks(folder, {_below_label(stem): path for stem, path in masks.by_stem.items()})

    @classmethod
    def below(cls, home: Path) -> _Masks | None:
        folder = files.child(home, "mask", "masks")
        return cls(folder) if folder else None

    def find(self, path: str) -> Path | None:
        return self._masks.find(_below_label(path)) or self._masks.find(path.rsplit("/", 1)[-1])


def _below_label(path: str) -> str:
    first, _, rest = path.partition("/")
    return rest if rest and first.lower() == "ng" else path


def _type(path: str) -> str:
    folders = path.split("/")[1:-1]
    return folders[0] if folders else _DEFECT


def _attributes(table: Path) -> Mapping[str, Mapping[str, str]]:
    if not table.is_file():
        return {}
    found: dict[str, Mapping[str, str]] = {}
    for number, row in files.rows(table):
        if not row.get("part"):
            raise DataError(f"{table}, line {number}: no part; expected a column 'part' that names one")
        found[row["part"]] = {name: value for name, value in row.items() if name not in ("part", "defect") and value}
    return found


def _hides(attributes: Mapping[str, str]) -> bool:
    """Tell whether some images of a defective part do not show its defect."""
    return attributes.get("visible_images", "") != attributes.get("images", "")


def _clash(shot: tuple[str, str, str], first: Path, second: Path) -> str:
    part, view, light = shot
    return (
        f"{second}: part {part}, view {view}, light {light} is already {first}; where numbers begin anew "
        f"in each folder, take the folder into the part: --pattern '{files.PART_VIEW_LIGHT.replace('[^/]+', '.+', 1)}'"
    )
