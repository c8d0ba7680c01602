"""List the solar cells of ELPV as a dataset of edgead.

    pip install elpv-dataset
    python -m benchmarks.peers.elpv --category mono --out runs/elpv/mono
    edgead train runs/elpv/mono/train.yaml --seed 0 --out runs/elpv/mono-lite0-0
    edgead train runs/elpv/mono/train.yaml --network cfrg-duo0 --epochs 16 --seed 0 --out runs/elpv/mono-duo0-0
    python -m benchmarks.peers runs/elpv/mono/train.yaml --ours runs/elpv/mono-lite0 runs/elpv/mono-duo0 \\
        --seeds 1 --save FILE

2,624 electroluminescence images of 300x300 pixels, with the probability of a defect: 0 is Good here, 1 defective, and
what lies between is left out. Labels are by image; which cells share a module is not known, so each counts as a part
of its own. Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective Solar Cells in
Electroluminescence Imagery", EU PVSEC 2018; CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from importlib.util import find_spec
from pathlib import Path

from edgead.bundle_file import write_whole
from edgead.errors import ConfigError, DataError, EdgeadError, MissingError, nearest

CATEGORIES = ("mono", "poly")


def package_data() -> Path:
    """Return the folder of labels and images that the package carries.

    Raises:
        MissingError: the package is not installed.
    """
    found = find_spec("elpv_dataset")
    if found is None or found.origin is None:
        raise MissingError("the package elpv-dataset is not installed: pip install elpv-dataset")
    return Path(found.origin).parent / "data"


def write_dataset(source: Path, category: str, out: Path) -> dict[str, int]:
    """Write ``manifest.csv`` and ``train.yaml``; returns the number of Good and of defective cells.

    Args:
        source: folder with ``labels.csv`` and ``images/``.
        category: ``mono`` or ``poly``.

    Raises:
        ConfigError: another category.
        DataError: labels that cannot be read.
        ArtefactError: the folder cannot be written.
    """
    if category not in CATEGORIES:
        raise ConfigError(f"ELPV has no category '{category}'{nearest(category, CATEGORIES)}")
    try:
        lines = (source / "labels.csv").read_text(encoding="utf-8").splitlines()
        cells = [(name, float(share), kind) for name, share, kind in map(str.split, filter(None, lines))]
    except (OSError, ValueError) as error:
        raise DataError(f"{source / 'labels.csv'}: no labels of ELPV ({error}); install elpv-dataset again") from error
    defects = {0.0: "good", 1.0: "defect"}
    sure = [(name, defects[share]) for name, share, kind in cells if kind == category and share in defects]
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("image", "defect", "category"))
    rows.writerows((source.resolve() / name, defect, category) for name, defect in sure)
    _write(out / "manifest.csv", table.getvalue())
    recipe = f"dataset: {{kind: manifest, root: manifest.csv, category: {category}}}\nnetwork: cfrg-lite0\nepochs: 8\n"
    _write(out / "train.yaml", recipe)
    return {defect: sum(each == defect for _, each in sure) for defect in defects.values()}


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda temporary: _put(temporary, text))


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def main() -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.elpv", description=main.__doc__)
    parser.add_argument("--category", default="mono", help="mono or poly (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for manifest.csv and train.yaml")
    options = parser.parse_args()
    try:
        counts = write_dataset(package_data(), options.category, options.out)
    except EdgeadError as error:
        print(f"benchmarks.peers.elpv: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{options.out}: {counts['good']} Good and {counts['defect']} defective cells ({options.category})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
