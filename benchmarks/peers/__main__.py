"""Accuracy and speed of PatchCore, PaDiM, STFPM, RD4AD and EfficientAD beside CFRG, on the same teacher and images.

    python -m benchmarks.peers benchmarks/magnetic_tile.yaml --root DATA --ours runs/lite0 runs/nano0 --seeds 3 \\
        --save benchmarks/results/peers_magnetic_tile.json
    python -m benchmarks.peers benchmarks/magnetic_tile.yaml --root DATA --ours runs/lite0 runs/nano0 --speed \\
        --save benchmarks/results/peers_speed.json

The first fits and measures every method and seed that the file does not hold yet, so a run that was killed goes on
where it was. Each method's first seed is kept as a bundle; ``edgead quantize`` makes its INT8. Ours are runs of
``edgead train --seed SEED --out PREFIX-SEED`` on the same images, each at its own size, which is named where it is not
the network's usual one: cfrg-nano0-128. The second measures the speed of what was kept, and of our first seeds, in
turns: on a quiet machine. Names of methods that end in ``-deep`` tap the teacher at strides 8, 16 and 32, as
cfrg-lite0 does, instead of 4, 8 and 16, as the papers do; padim-coarse besides has one Gaussian every 16 pixels.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import results
from benchmarks.accuracy import train_minutes
from benchmarks.peers import measuring
from benchmarks.peers.detector import DetectorRunner, Good
from benchmarks.peers.keeping import keep
from benchmarks.peers.measuring import METHODS, VARIANTS
from benchmarks.peers.record import Record
from benchmarks.peers.speed import bundles, measure_speed, title
from edgead.bundle import Bundle, BundleInfo
from edgead.cfrg.train import keep_freed_memory
from edgead.config import TrainConfig, load_train
from edgead.datasets import Dataset
from edgead.errors import ConfigError, EdgeadError, nearest
from edgead.progress import task
from edgead.runtime.open import open_runner
from edgead.yaml_file import check

_SPEED_IMAGES = 32


def main() -> int:
    """Run the benchmark from the command line; returns the exit code."""
    options = _parser().parse_args()
    try:
        config, names = _config(options), _names(options.methods)
        for name in ("seeds", "threads", "epochs"):
            if (value := getattr(options, name)) is not None and value < 1:
                raise ConfigError(f"--{name} is {value}; expected 1 or more")
        if not options.seconds > 0:
            raise ConfigError(f"--seconds is {options.seconds}; expected more than 0")
        torch.set_num_threads(options.threads)
        keep_freed_memory()
        folder = options.keep or Path("runs/peers") / (config.dataset.category or config.dataset.kind)
        if options.speed:
            rows = _speed(options, config, folder)
            columns = ["method", "artefact", "backend", "fps", "p50_ms", "iqr_ms", "times_ours", "MiB"]
        else:
            rows = _accuracy(options, config, names, folder)
            columns = ["method", "seeds", "image_AUROC", "image_AUROC_range", "pixel_AUPRO", "pixel_AUPRO_range"]
        for line in [columns, *([str(row[name]) for name in columns] for row in rows)]:
            print("  ".join(f"{word:<16}" for word in line).rstrip())
    except EdgeadError as error:
        print(f"benchmarks.peers: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, metavar="RUN|FILE", help="a run of edgead, or a train.yaml")
    parser.add_argument("--root", type=Path, help="the dataset's folder, instead of the file's")
    parser.add_argument(
        "--methods", default=",".join(METHODS), help=f"of {', '.join((*METHODS, *VARIANTS))}; none to measure ours"
    )
    parser.add_argument("--ours", type=Path, nargs="+", default=[], metavar="PREFIX", help="runs PREFIX-SEED, trained")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="0 to N-1 (%(default)s)")
    parser.add_argument("--epochs", type=int, metavar="N", help="of methods that learn, instead of their own")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch and runners (%(default)s)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="bundles of the peers (runs/peers/CATEGORY)")
    parser.add_argument("--speed", action="store_true", help="measure the speed of the kept bundles and of RUN")
    parser.add_argument("--seconds", type=float, default=120, metavar="S", help="with --speed (%(default)s)")
    parser.add_argument("--save", type=Path, required=True, metavar="FILE", help="results, as JSON")
    return parser


def _config(options: argparse.Namespace) -> TrainConfig:
    source = options.config / "train.yaml" if options.config.is_dir() else options.config
    config = load_train(source)
    values = config.model_dump()
    if options.root is not None:
        values["dataset"]["root"] = options.root
    return check(TrainConfig, values, name="flags")


def _names(words: str) -> list[str]:
    known = (*METHODS, *VARIANTS)
    names = [word.strip() for word in words.split(",") if word.strip()]
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no method '{name}'{nearest(name, known)}")
    return list(dict.fromkeys(names))


def _command(options: argparse.Namespace, *more: str) -> str:
    words = ["python", "-m", "benchmarks.peers", str(options.config), *(["--root", "DATA"] if options.root else [])]
    words += ["--ours", *map(str, options.ours)] if options.ours else []
    words += ["--epochs", str(options.epochs)] if options.epochs else []
    words += ["--threads", str(options.threads)] if options.threads > 1 else []
    return shlex.join([*words, *more, "--save", str(options.save)])


def _accuracy(options: argparse.Namespace, config: TrainConfig, names: list[str], folder: Path) -> list[dict[str, Any]]:
    dataset = config.dataset.open()
    conditions = {
        "dataset": config.dataset.model_dump(mode="json", exclude={"root"}),
        "size": config.size,
        "teacher": "EfficientNet-Lite0, ImageNet",
        "images": {name: len(getattr(dataset, name)) for name in ("train", "validation", "test")},
    }

    def command(measured: list[str], seeds: int) -> str:
        """Return one command for all that the file holds, however many steps it took."""
        methods = [name for name in measured if name in (*METHODS, *VARIANTS)]
        return _command(options, "--methods", ",".join(methods), "--seeds", str(seeds))

    record = Record(options.save, command, conditions)
    ours = {name: runs for prefix in options.ours for name, runs in [_runs(prefix, config, options.seeds)]}
    chosen = {name: measuring.settings(measuring.method(name, epochs=options.epochs)) for name in names}
    chosen |= {name: _recipe(runs[0]) for name, runs in ours.items()}
    every = [(seed, name) for seed in range(options.seeds) for name in chosen]
    if not every:
        raise ConfigError(f"--methods names none, and --ours is not given{nearest('', (*METHODS, *VARIANTS))}")
    due = [(seed, name) for seed, name in every if not record.has(name, seed, chosen[name])]
    if len(due) < len(every):
        print(f"{options.save}: {len(every) - len(due)} of {len(every)} measured before", file=sys.stderr)
    good: Good | None = None
    for seed, name in due:
        if name in ours:
            row = _our(ours[name][seed], dataset, options.threads)
        else:
            good = good or _good(config, dataset)
            row = _peer(name, config, dataset, good, seed, options, folder)
        record.add({"method": name, "seed": seed, **row}, chosen[name])
        print(f"{name} seed {seed}: {row['image_AUROC']} {row['pixel_AUPRO']}", file=sys.stderr)
    return record.summaries()


def _good(config: TrainConfig, dataset: Dataset) -> Good:
    train, validation = (
        measuring.read_images(samples, (config.size, config.size)) for samples in (dataset.train, dataset.validation)
    )
    return Good(train, validation, config.teacher_weights)


def _runs(prefix: Path, config: TrainConfig, seeds: int) -> tuple[str, list[Path]]:
    """Return the title of our runs and their folders, by seed.

    Raises:
        ConfigError: a run of other images, another seed or another recipe than the first.
        ArtefactError: no run there.
    """
    runs = [prefix.with_name(f"{prefix.name}-{seed}") for seed in range(seeds)]
    for seed, run in enumerate(runs):
        Bundle.open(run)
        trained = load_train(run / "train.yaml")
        images, wanted = (each.dataset.model_dump(exclude={"root"}) for each in (trained, config))
        wrong = {
            f"on other images, {trained.dataset.kind} {trained.dataset.category}": images != wanted,
            f"with seed {trained.seed}, not {seed}": trained.seed != seed,
            f"by another recipe than {runs[0]}": _recipe(run) != _recipe(runs[0]),
        }
        if any(wrong.values()):
            how = " and ".join(words for words, is_wrong in wrong.items() if is_wrong)
            raise ConfigError(f"{run}: was trained {how}; train it: edgead train CONFIG --seed {seed} --out {run}")
    return title(Bundle.open(runs[0]).info), runs


def _recipe(run: Path) -> dict[str, Any]:
    recipe = load_train(run / "train.yaml")
    return recipe.model_dump(mode="json", exclude={"dataset", "seed", "teacher_weights"})


def _peer(
    name: str,
    config: TrainConfig,
    dataset: Dataset,
    good: Good,
    seed: int,
    options: argparse.Namespace,
    folder: Path,
) -> dict[str, Any]:
    """Fit one peer, keep the first seed's, and measure it."""
    method = measuring.method(name, epochs=options.epochs)
    begin = time.monotonic()
    with task(f"{name} seed {seed}", method.steps(len(good.train))) as advance:
        detector = method.fit(good, seed=seed, advance=advance)
    minutes = round((time.monotonic() - begin) / 60, 1)
    if seed == 0:
        info = BundleInfo(
            network=name, category=dataset.category, size_hw=(config.size, config.size), dataset=config.dataset
        )
        # Held-out images where there are enough: of its own images, PatchCore's distances are mostly rounding.
        keep(detector, folder / name, info, (good.validation if len(good.validation) >= 3 else good.train)[:3])
    with DetectorRunner(detector, threads=options.threads) as runner:
        return {**measuring.measure(runner, dataset.test, seed=seed), "fit_minutes": minutes}


def _our(run: Path, dataset: Dataset, threads: int) -> dict[str, Any]:
    """Measure a run of ours in the same way."""
    bundle, seed = Bundle.open(run), load_train(run / "train.yaml").seed
    with open_runner(bundle, "fp32" if "fp32" in bundle.artefacts else "checkpoint", threads=threads) as runner:
        figures = measuring.measure(runner, dataset.test, seed=seed)
    return {**figures, "fit_minutes": train_minutes(run)}


def _speed(options: argparse.Namespace, config: TrainConfig, folder: Path) -> list[dict[str, Any]]:
    ours = [prefix.with_name(f"{prefix.name}-0") for prefix in options.ours]
    test = config.dataset.open().test
    images = measuring.read_images(test[:: max(1, len(test) // _SPEED_IMAGES)], (config.size, config.size))
    rows = measure_speed(bundles(folder, *ours), images, threads=options.threads, seconds=options.seconds)
    conditions = {"size": config.size, "batch": 1, "threads": options.threads, "images": len(images)}
    command = _command(options, "--speed", "--seconds", f"{options.seconds:g}")
    results.save(options.save, command=command, conditions=conditions, rows=rows)
    return rows


if __name__ == "__main__":
    sys.exit(main())
