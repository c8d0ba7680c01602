"""The dataset flags, and the images that they lead to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgead.errors import ConfigError, DataError

if TYPE_CHECKING:
    from edgead.bundle import Bundle
    from edgead.cli.parser import Parser
    from edgead.config import DatasetConfig
    from edgead.datasets import Dataset, Sample
    from edgead.images import Image

KINDS = ("mvtec", "3cad", "visa", "real-iad", "indu-defect", "manifest", "sim")  # of edgead.datasets, which is heavy
_OPTIONS = ("duplicates", "pattern", "columns", "test_share", "split", "resolution")
# A bundle's split, once trained on, must stay: with another one it would be judged by images that it was trained on.
_SPLITTING = ("validation", "duplicates", "pattern", "columns", "test_share", "split")


def add_dataset_flags(parser: Parser, *, recorded: bool = True) -> None:
    """Add the flags that say which images.

    Args:
        recorded: a bundle says it already; the flags are for a dataset that has moved, or for another one.
    """
    told = "by default the dataset that the bundle was trained on; --root says where it is now" if recorded else None
    group = parser.add_argument_group("dataset", told)
    group.add_argument(
        "--dataset", metavar="KIND", help=f"layout: {', '.join(KINDS)}; your own images: mvtec, manifest"
    )
    group.add_argument("--root", type=Path, metavar="FOLDER", help="folder that holds the categories")
    group.add_argument("--category", metavar="NAME", help="the product; may be left out where there is only one")
    group.add_argument("--validation", type=float, metavar="SHARE", help="Good training parts held out (0.1)")
    group.add_argument("--duplicates", choices=("refuse", "drop"), help="training images that are in test too (refuse)")
    group.add_argument(
        "--pattern", metavar="REGEX", help="part, view, light from the path, by named groups (?P<part>...)"
    )
    group.add_argument(
        "--column", action="append", type=_pair, metavar="OURS=THEIRS", help="manifest: a column's name; repeatable"
    )
    group.add_argument("--resolution", metavar="NAME", help="Real-IAD: which image folder, such as 1024")
    group.add_argument(
        "--test-share", type=float, metavar="SHARE", help="Good parts for test, where the dataset does not say (0.2)"
    )
    group.add_argument("--split", metavar="NAME", help="VisA: CSV in split_csv; Real-IAD: folder of JSON files")


def given(wanted: argparse.Namespace) -> dict[str, Any]:
    """Return the keys of ``DatasetConfig`` that flags were given for; its options are flat among them."""
    values = {
        "kind": wanted.dataset,
        "root": wanted.root,
        "category": wanted.category,
        "validation": wanted.validation,
        "duplicates": wanted.duplicates,
        "pattern": wanted.pattern,
        "columns": dict(wanted.column) if wanted.column else None,
        "test_share": wanted.test_share,
        "split": wanted.split,
        "resolution": wanted.resolution,
    }
    return {name: value for name, value in values.items() if value is not None}


def merged(base: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a ``DatasetConfig`` with flags over them."""
    options = {name: value for name, value in flags.items() if name in _OPTIONS}
    rest = {name: value for name, value in flags.items() if name not in _OPTIONS}
    return {**base, **rest, "options": {**base.get("options", {}), **options}}


def settle(config: DatasetConfig) -> DatasetConfig:
    """Return a dataset with an absolute root and a category: the only one, where none was named.

    Raises:
        ConfigError: there are several categories.
    """
    from edgead.datasets import DatasetOptions, categories

    category = config.category
    if not category:
        # What no dataset has among the options is refused when it is opened.
        known = DatasetOptions(**{name: value for name, value in config.options.items() if name in _OPTIONS})
        names = categories(config.kind, config.root, options=known)
        if len(names) > 1:
            raise ConfigError(f"{config.root} has {len(names)} categories; say which: --category {' | '.join(names)}")
        category = names[0]
    return config.model_copy(update={"root": config.root.resolve(), "category": category})


def of_bundle(bundle: Bundle, wanted: argparse.Namespace) -> tuple[DatasetConfig, Dataset]:
    """Open the dataset that a bundle was trained on, or the one that the flags name.

    Raises:
        ConfigError: the bundle records none and the flags name none, or they would change the split trained on.
        DataError: the dataset is not where it was.
    """
    from dataclasses import asdict

    from edgead.config import DatasetConfig
    from edgead.datasets import DatasetOptions
    from edgead.yaml_file import check

    flags, recorded = given(wanted), bundle.info.dataset
    if "kind" in flags:
        config = settle(check(DatasetConfig, merged({}, flags), name="flags"))
        return config, config.open()
    if recorded is None:
        raise ConfigError(
            f"{bundle.path}: the bundle does not say what it was trained on; say which images: "
            "--dataset KIND --root FOLDER --category NAME"
        )
    base = recorded.model_dump()
    known = {"validation": recorded.validation, **asdict(DatasetOptions()), **recorded.options}
    for name in _SPLITTING:
        if name in flags and flags[name] != known.get(name):
            raise ConfigError(
                f"--{name.replace('_', '-')} would divide the images otherwise than in training, and so judge by "
                "images trained on; leave it out, or name another dataset: --dataset"
            )
    config = check(DatasetConfig, merged(base, flags), name="flags")
    if not config.root.exists():
        raise DataError(f"{config.root}: the images of {bundle.path} are not there; say where they are: --root FOLDER")
    config = settle(config)
    return config, config.open()


def pictures(samples: Sequence[Sample], size_hw: tuple[int, int], count: int) -> Image:
    """Decode and resize samples, evenly spaced among all; uint8 ``(N, H, W, 3)`` with N at most ``count``.

    Raises:
        DataError: no samples, or an image that cannot be read.
    """
    import numpy as np

    from edgead.images import read_image, resize

    if not samples:
        raise DataError("the dataset has no images for this; expected at least one")
    if count < 1:
        raise ConfigError(f"--n is {count}; expected 1 or more")
    places = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int))
    return np.stack([resize(read_image(samples[place].image), size_hw) for place in places])


def _pair(text: str) -> tuple[str, str]:
    ours, mark, theirs = text.partition("=")
    if not mark or not ours or not theirs:
        raise argparse.ArgumentTypeError(f"'{text}' is no pair; expected OURS=THEIRS, such as image=path")
    return ours, theirs
