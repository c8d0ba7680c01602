"""Datasets: one way to open each published layout, your own images, and simulated parts.

>>> dataset = open_dataset("mvtec", Path("data"), "bottle")
>>> dataset.train, dataset.validation, dataset.test
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from edgead.datasets import indu_defect, manifest, mvtec, real_iad, three_cad, visa
from edgead.datasets.options import DatasetOptions, check_share
from edgead.datasets.sample import GOOD, Dataset, Sample
from edgead.datasets.split import Entry, divide
from edgead.errors import DataError, nearest

__all__ = ["GOOD", "KINDS", "Dataset", "DatasetOptions", "Sample", "categories", "open_dataset"]

KINDS = ("mvtec", "3cad", "visa", "real-iad", "indu-defect", "manifest", "sim")


class _Layout(Protocol):
    """What a layout's module holds."""

    EXPECTED: str

    def categories(self, root: Path, options: DatasetOptions) -> list[str]: ...

    def entries(self, root: Path, category: str, options: DatasetOptions) -> Iterator[Entry]: ...


def open_dataset(
    kind: str, root: Path, category: str, *, validation: float = 0.1, options: DatasetOptions | None = None
) -> Dataset:
    """Open one category of a dataset, split by part into train, validation and test.

    Args:
        kind: one of ``KINDS``.
        root: folder that holds the categories (for ``manifest`` also the file itself).
        validation: share of the Good training parts to hold out, where the dataset names none; never from test.

    Raises:
        DataError: an unknown kind or category, or files that are missing, empty or leak between the splits.
        ConfigError: an option is wrong.
    """
    options = options or DatasetOptions()
    check_share("validation", validation)
    layout = _layout(kind)
    names = categories(kind, root, options=options)
    if category not in names:
        if (root / category).is_dir():
            raise DataError(f"{root / category}: no images in the layout of '{kind}'; expected {layout.EXPECTED}")
        raise DataError(f"{root} has no category '{category}'{nearest(category, names)}")
    entries = layout.entries(root, category, options)
    return divide(kind, category, entries, validation=validation, options=options, expected=layout.EXPECTED)


def categories(kind: str, root: Path, *, options: DatasetOptions | None = None) -> list[str]:
    """Return the categories that a dataset holds, by name.

    Raises:
        DataError: an unknown kind, a missing root, or a root without a category.
    """
    options = options or DatasetOptions()
    layout = _layout(kind)
    if not root.exists():
        raise DataError(f"{root}: no such file or folder; expected the root of a '{kind}' dataset: {layout.EXPECTED}")
    names = layout.categories(root, options)
    if names:
        return names
    above = root.resolve().parent
    is_category = kind != "manifest" and root.resolve().name in layout.categories(above, options)
    hint = f"; it is a category itself, give the folder above it: {above}" if is_category else ""
    raise DataError(f"{root}: no category of a '{kind}' dataset found; expected {layout.EXPECTED}{hint}")


def _layout(kind: str) -> _Layout:
    match kind:
        case "mvtec":
            return mvtec
        case "3cad":
            return three_cad
        case "visa":
            return visa
        case "real-iad":
            return real_iad
        case "indu-defect" | "sim":  # the simulator writes the layout of MV-AD2025
            return indu_defect
        case "manifest":
            return manifest
        case _:
            raise DataError(f"there is no dataset kind '{kind}'{nearest(kind, KINDS)}")
