"""What a user may say about a dataset beyond its kind, root and category."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from edgead.errors import ConfigError, nearest

Duplicates = Literal["refuse", "drop"]
GROUPS = ("part", "view", "light", "defect", "split")
COLUMNS = ("image", "part_id", "view", "illumination", "defect", "label", "mask", "split", "category", "attributes")


@dataclass(frozen=True)
class DatasetOptions:
    """Choices that some datasets need; the defaults fit their published layouts.

    Attributes:
        duplicates: what to do with training images that are byte-identical to test images: ``"refuse"`` them with an
            error, or ``"drop"`` their parts from training.
        pattern: regular expression searched in an image's path below its category, written with ``/`` and without
            suffix, such as ``Good/P0001_V2_L3``; its named groups ``part``, ``view`` and ``light`` identify the image.
            In a manifest also ``defect`` and ``split``, for what the manifest has no column for.
        columns: manifest columns under other names: ours to theirs, such as ``{"part_id": "tile_cluster"}``.
        test_share: share of the Good parts that go to test where the dataset has no split of its own.
        split: VisA: name of the CSV in split_csv, ``"1cls"``. Real-IAD: folder of the JSON files, ``"realiad_jsons"``.
        resolution: Real-IAD: which image folder, such as ``"1024"``, where there are several.

    Raises:
        ConfigError: a value is out of its range, or names a column or group that does not exist.
    """

    duplicates: Duplicates = "refuse"
    pattern: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    test_share: float = 0.2
    split: str | None = None
    resolution: str | None = None

    def __post_init__(self) -> None:
        for name in ("duplicates", "pattern", "split", "resolution"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"{name} is {value!r}; expected text: in YAML, in quotes")
        if not isinstance(self.columns, Mapping):
            raise ConfigError(f"columns is {self.columns!r}; expected our names to theirs, such as {{part_id: serial}}")
        if self.duplicates not in get_args(Duplicates):
            raise ConfigError(f"duplicates is '{self.duplicates}'{nearest(self.duplicates, get_args(Duplicates))}")
        check_share("test_share", self.test_share)
        for name in self.columns:
            if name not in COLUMNS:
                raise ConfigError(f"columns: there is no column '{name}' to map{nearest(name, COLUMNS)}")
        if self.pattern is not None:
            _check_pattern(self.pattern)


def check_share(name: str, share: float) -> None:
    """Refuse a share outside ``[0, 1)``."""
    if not isinstance(share, (int, float)) or not 0.0 <= share < 1.0:
        raise ConfigError(f"{name} is {share!r}; expected a share from 0 up to, not including, 1, such as 0.1")


def _check_pattern(pattern: str) -> None:
    try:
        names = re.compile(pattern).groupindex
    except re.error as error:
        raise ConfigError(f"pattern {pattern!r} is no regular expression: {error}") from error
    if not names:
        raise ConfigError(
            f"pattern {pattern!r} has no named group; expected some of {', '.join(GROUPS)}: (?P<part>...)"
        )
    for name in names:
        if name not in GROUPS:
            raise ConfigError(f"pattern {pattern!r} has an unknown group '{name}'{nearest(name, GROUPS)}")
