"""What each choice in the edge networks costs and gains, one change at a time against ``cfrg-lite0``.

    python -m benchmarks.exploration --tiles DATA                accuracy: trains every variant twice
    python -m benchmarks.exploration --speed                     speed: all of them in turns, on a quiet machine
    python -m benchmarks.exploration --tiles DATA --variants size-192,student-stem

DATA is the folder of the magnetic tiles; the second dataset, simulated chip capacitors, is rendered where it is
missing. The first measures what ``benchmarks/results/exploration.json`` does not hold yet, so a run that was killed
goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import results
from benchmarks.exploration import measuring
from benchmarks.exploration.variants import BASE, VARIANTS
from edgead.config import DatasetConfig, TrainConfig, load_train
from edgead.datasets.simulated import OBJECTS, write_dataset
from edgead.errors import ConfigError, EdgeadError, nearest
from edgead.yaml_file import check

OUT = results.FOLDER / "exploration.json"
TILES, OBJECT = "magnetic_tile", "chip_capacitor"

_COMMAND = "python -m benchmarks.exploration --tiles DATA; python -m benchmarks.exploration --speed"
_RECIPE = Path(__file__).parents[1] / "magnetic_tile.yaml"
_RENDERED = {"seed": 1, "good_parts": 24, "defect_parts_per_type": 2, "size": 256}
_EPOCHS = {TILES: 4, OBJECT: 8}  # half of what the tiles' recipe has: enough to tell one choice from another
_ABOUT = (
    "The test images were looked at: this table says which choices matter, not how good a network is on images that "
    "nobody chose by. Without position statistics, which would hide what the networks do. One seed a row; between "
    "seeds, the image AUROC of cfrg-lite0 on magnetic tiles differs by 0.02."
)


def main() -> int:
    """Run the exploration from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exploration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--tiles", type=Path, metavar="DATA", help="measure accuracy; folder of the magnetic tiles")
    wanted.add_argument("--speed", action="store_true", help="measure speed")
    parser.add_argument("--variants", default=",".join(VARIANTS), metavar="A,B", help="of %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the trainings (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="with --speed (%(default)s)")
    parser.add_argument("--seconds", type=float, default=150, metavar="S", help="with --speed, in all (%(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/exploration"), help="what is rendered and exported")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE", help="the table (%(default)s)")
    options = parser.parse_args()
    try:
        names = _names(options.variants)
        if options.speed:
            _measure_speed(names, options)
        else:
            _measure_accuracy(names, options)
    except EdgeadError as error:
        print(f"benchmarks.exploration: {error}", file=sys.stderr)
        return error.exit_code
    print(options.out)
    return 0


def _names(words: str) -> list[str]:
    names = [word.strip() for word in words.split(",") if word.strip()]
    for name in names:
        if name not in VARIANTS:
            raise ConfigError(f"there is no variant '{name}'{nearest(name, list(VARIANTS))}")
    return names


def _measure_accuracy(names: list[str], options: argparse.Namespace) -> None:
    for name in names:
        for dataset, config in _configs(options).items():
            if dataset in _known(options.out).get(name, {}):
                continue
            with tempfile.TemporaryDirectory() as folder:
                found = measuring.accuracy(VARIANTS[name], config, Path(folder))
            print(name, dataset, found, file=sys.stderr, flush=True)
            _keep(options.out, {name: {dataset: {"seed": options.seed, **found}}})


def _measure_speed(names: list[str], options: argparse.Namespace) -> None:
    names = [BASE, *(each for each in names if VARIANTS[each].graph_differs and each != BASE)]
    bundles = {name: measuring.exported(name, options.work / "models") for name in names}
    found = measuring.speeds(bundles, threads=options.threads, seconds=options.seconds)
    _keep(options.out, {name: {"speed": {"threads": options.threads, **row}} for name, row in found.items()})


def _configs(options: argparse.Namespace) -> dict[str, TrainConfig]:
    """Return the trainings of ``cfrg-lite0`` by dataset, of which the variants differ in one thing."""
    recipe = load_train(_RECIPE).model_dump()
    tiles = {**recipe["dataset"], "root": options.tiles / recipe["dataset"]["root"].name}
    check(DatasetConfig, tiles, name=str(options.tiles)).open()  # before anything is rendered
    data = options.work / "data"
    if not (data / OBJECTS[OBJECT].folder).is_dir():
        write_dataset(data, OBJECT, **_RENDERED)
    simulated = {"kind": "sim", "root": data.resolve(), "category": OBJECTS[OBJECT].folder}
    return {
        name: check(
            TrainConfig,
            {**recipe, "seed": options.seed, "epochs": _EPOCHS[name], "statistics": "none", "dataset": dataset},
            name=name,
        )
        for name, dataset in ((TILES, tiles), (OBJECT, simulated))
    }


def _known(path: Path) -> dict[str, dict[str, Any]]:
    rows = results.read(path).rows if path.is_file() else ()
    return {str(row["variant"]): dict(row) for row in rows}


def _keep(path: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Add what was found to the table."""
    rows = _known(path)
    for name, measured in found.items():
        about = {"variant": name, "changed": VARIANTS[name].changed, "size": VARIANTS[name].size}
        rows[name] = {**rows.get(name, {}), **about, **measuring.arithmetic(VARIANTS[name]), **measured}
    conditions = {
        "about": _ABOUT,
        "recipe": "benchmarks/magnetic_tile.yaml",
        "epochs": _EPOCHS,
        "simulated": {"object": OBJECT, **_RENDERED},
        "speed": "batch 1, random weights, all variants in turns; times: of cfrg-lite0's FPS in the same run",
        "torch_threads": torch.get_num_threads(),
    }
    order = [name for name in VARIANTS if name in rows]
    results.save(path, command=_COMMAND, conditions=conditions, rows=[rows[name] for name in order])


if __name__ == "__main__":
    sys.exit(main())
