"""The verb tradeoff: frames a second against accuracy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgead.cli.answer import Answer, percent, table
from edgead.cli.dataset import add_dataset_flags, of_bundle, pictures
from edgead.errors import ConfigError, DataError, nearest, require

if TYPE_CHECKING:
    from rich.table import Table

    from benchmarks.tradeoff import Candidate, Point
    from edgead.bundle import Bundle
    from edgead.cli.parser import Verbs

_LARGEST = 1024
_SHOWN = 32  # images that the timed calls walk through


def add_verbs(verbs: Verbs) -> None:
    """Add tradeoff."""
    parser = verbs.add(
        "tradeoff",
        tradeoff,
        summary="weigh frames a second against accuracy: all artefacts of runs, side by side",
        example="edgead tradeoff runs/my_part runs/smaller --threads 2 --boards all",
        more="Writes results.csv, results.json and tradeoff.png. Speeds here are measured, in turns; those of --boards "
        "are projections from data sheets, and marked as such.",
    )
    parser.add_argument("bundle", nargs="+", type=Path, metavar="RUN", help="folders of runs on the same test images")
    parser.add_argument(
        "--artefacts",
        metavar="A,B",
        help="each as NAME or NAME@BACKEND (all models, on all CPU runtimes that are installed)",
    )
    parser.add_argument("--batch", default="1", metavar="N,M", help="images a call (%(default)s)")
    parser.add_argument("--threads", default="0", metavar="N,M", help="CPU threads; 0: all cores (%(default)s)")
    parser.add_argument("--n", type=int, metavar="N", help="calls to time of each (as many as fit in 10 s)")
    parser.add_argument("--boards", metavar="A,B", help="boards to project for; 'all' takes all that are known")
    parser.add_argument("--out", type=Path, default=Path("tradeoff"), metavar="FOLDER", help="(%(default)s)")
    add_dataset_flags(parser)


def tradeoff(wanted: argparse.Namespace) -> Answer:
    """Measure accuracy and speed of all artefacts."""
    require("matplotlib", extra="train")
    from benchmarks import tradeoff as trade
    from benchmarks.tradeoff.roofline import BOARDS, EFFICIENCY, LAUNCH_S
    from edgead.doctor import cpu_model

    batches, threads = _numbers("--batch", wanted.batch, 1), _numbers("--threads", wanted.threads, 0)
    boards = (
        list(BOARDS) if wanted.boards == "all" else [name.strip() for name in (wanted.boards or "").split(",") if name]
    )
    for name in boards:
        if name not in BOARDS:
            raise ConfigError(f"--boards: no data sheet of '{name}'{nearest(name, BOARDS)}")
    if wanted.n is not None and not 1 <= wanted.n <= 1_000_000:
        raise ConfigError(f"--n {wanted.n}; expected 1 or more")
    candidates = _candidates(wanted)
    samples, images, told = {}, {}, {}
    for one in candidates:
        if one.run in samples:
            continue
        config, dataset = of_bundle(one.bundle, wanted)
        if not dataset.test:
            raise DataError(f"{config.root}: '{dataset.category}' has no test images; accuracy needs some")
        samples[one.run] = dataset.test
        told[one.run] = f"{dataset.name} {dataset.category}"
        images[one.bundle.info.size_hw] = pictures(dataset.test, one.bundle.info.size_hw, _SHOWN)
    if len(set(told.values())) > 1:
        raise ConfigError(
            f"these runs are of different parts ({', '.join(sorted(set(told.values())))}); compare runs of one"
        )
    accurate = trade.accuracies(candidates, samples, threads[0])
    points = trade.measured(
        candidates, accurate, images, where=cpu_model(), batches=batches, threads=threads, n=wanted.n
    )
    points = trade.with_fronts(points + trade.projections(candidates, accurate, boards))
    conditions = {
        "dataset": next(iter(told.values())),
        "projection": {
            "formula": "t = sum over nodes of max(2 MAC / (e peak), bytes / (e bandwidth), launch)",
            "efficiency": EFFICIENCY,
            "launch_s": LAUNCH_S,
            "boards": {name: BOARDS[name]._asdict() for name in boards},
        },
    }
    files = trade.write(wanted.out, points, command=_command(wanted), conditions=conditions)
    document = {"points": [vars(point) for point in points], "files": [str(path) for path in files]}
    return Answer(document, [_shown(points), *map(str, files)])


def _shown(points: Sequence[Point]) -> Table:
    columns = ("run", "artefact", "backend", "where", ">batch", ">threads", ">FPS", ">AUROC %", ">AUPRO %", "front")
    rows = [
        (
            point.run,
            point.artefact,
            point.backend,
            f"{point.where} (projected)" if point.projected else point.where,
            point.batch or "",
            point.threads or "",
            f"{point.fps:.1f}",
            percent(point.image_AUROC),
            percent(point.pixel_AUPRO),
            " ".join(name for name, leads in (("AUROC", point.front_AUROC), ("AUPRO", point.front_AUPRO)) if leads),
        )
        for point in sorted(points, key=lambda point: (point.projected, -point.fps))
    ]
    return table("Frames a second against accuracy", columns, rows)


def _candidates(wanted: argparse.Namespace) -> list[Candidate]:
    from benchmarks.tradeoff import Candidate
    from edgead.bundle import Bundle
    from edgead.cli.proving import choice

    found = []
    bundles = {path.resolve(): Bundle.open(path) for path in wanted.bundle}
    names = [path.name for path in bundles]
    for path, bundle in bundles.items():
        run = path.name if names.count(path.name) == 1 else str(path)
        words = (
            [word.strip() for word in wanted.artefacts.split(",") if word.strip()] if wanted.artefacts else _all(bundle)
        )
        if not words:
            raise ConfigError(f"--artefacts is '{wanted.artefacts}'; expected names such as fp32,int8@openvino")
        for word in words:
            artefact, backend = choice(bundle, word, None)
            bundle.file(artefact)
            found.append(Candidate(run, bundle, artefact, backend))
    return list(dict.fromkeys(found))


def _all(bundle: Bundle) -> list[str]:
    """Return every model on every runtime of this machine's processor, and the engines."""
    import importlib.util

    words = []
    for name, artefact in bundle.artefacts.items():
        if artefact.kind == "engine":
            words.append(name)
        elif name in ("fp32", "fp16", "int8", "int8-fp16"):
            backends = (
                ("onnxruntime",) if name == "int8-fp16" else ("onnxruntime", "openvino")
            )  # that one is TensorRT's
            words += [f"{name}@{backend}" for backend in backends if importlib.util.find_spec(backend)]
    return words


def _numbers(flag: str, text: str, smallest: int) -> list[int]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and smallest <= int(word) <= _LARGEST for word in words):
        raise ConfigError(f"{flag} is '{text}'; expected numbers from {smallest} to {_LARGEST}, such as 1,8")
    return list(dict.fromkeys(int(word) for word in words))


def _command(wanted: argparse.Namespace) -> str:
    words = ["edgead tradeoff", *map(str, wanted.bundle), f"--batch {wanted.batch} --threads {wanted.threads}"]
    for flag in ("artefacts", "boards", "n"):
        value = getattr(wanted, flag)
        words += [f"--{flag} '{value}'" if " " in str(value) else f"--{flag} {value}"] if value else []
    return " ".join([*words, f"--out {wanted.out}"])
