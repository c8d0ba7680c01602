"""Verbs that make something: train, export."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgead.cli import recipe
from edgead.cli.answer import Answer, table
from edgead.cli.dataset import add_dataset_flags, given, merged, of_bundle, pictures, settle
from edgead.errors import ConfigError, require

if TYPE_CHECKING:
    from edgead.cfrg.train import Trained
    from edgead.cli.parser import Verbs
    from edgead.config import TrainConfig

# Flags of edgead train that are keys of train.yaml under the same name: type and help.
_TRAINING: tuple[tuple[str, Any, str], ...] = (
    ("network", str, "cfrg-nano0, cfrg-lite0, cfrg-duo0, cfrg-r18 or cfrg-wrn50 (cfrg-lite0)"),
    ("size", int, "height and width of the images, a multiple of 32 (256; cfrg-nano0 192)"),
    ("epochs", int, "passes over the Good images (50)"),
    ("batch", int, "images a step (16)"),
    ("learning-rate", float, "the largest one (0.002)"),
    ("schedule", str, "one-cycle or steps (one-cycle)"),
    ("weight-decay", float, "pull of the weights to zero (0.0001)"),
    ("seed", int, "of everything random (42)"),
    ("clean-share", float, "share of the images left uncorrupted (0.2)"),
    ("synthesis", str, "kinds of synthetic defects: reference, rich or wide (rich; cfrg-duo0 wide)"),
    ("segmentation-loss", str, "cross-entropy or focal-dice (cross-entropy; cfrg-duo0 focal-dice)"),
    ("fusion", str, "balanced or sum: how the parts of the anomaly map are weighted (balanced)"),
    ("statistics", str, "positions or none: what Good images have at each place, beside CFRG (positions)"),
    ("jitter", float, "change of gain and gamma, for lamps that age (0)"),
    ("textures", Path, "folder of textures such as DTD's images (procedural ones)"),
    ("precision", str, "auto, 32-true, bf16-mixed or 16-mixed (auto)"),
    ("devices", str, "number of GPUs or processes, or auto (auto)"),
    ("workers", int, "processes that prepare images (0)"),
)


def add_verbs(verbs: Verbs) -> None:
    """Add train and export."""
    parser = verbs.add(
        "train",
        train,
        summary="train CFRG on Good images",
        example="edgead train --dataset mvtec --root my_data --category my_part --out runs/my_part",
        more="Say what to do in a train.yaml, by flags, or both; flags win.",
    )
    parser.add_argument("config", nargs="?", type=Path, metavar="train.yaml", help="configuration file")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="folder of the run, such as runs/my_part"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last whole epoch in RUN")
    for name, kind, told in _TRAINING:
        parser.add_argument(f"--{name}", type=kind, metavar="VALUE", help=told)
    parser.add_argument(
        "--teacher",
        dest="teacher_weights",
        metavar="PATH",
        help="ImageNet weights, file or URL (those of the network's standard source)",
    )
    add_dataset_flags(parser, recorded=False)

    parser = verbs.add(
        "export",
        export,
        summary="export the checkpoint of a run to ONNX, and hold every file against torch",
        example="edgead export runs/my_part",
    )
    parser.add_argument("bundle", type=Path, metavar="RUN", help="folder of the run")
    add_dataset_flags(parser)


def train(wanted: argparse.Namespace) -> Answer | None:
    """Train a run and keep its checkpoint in the bundle."""
    config = _train_config(wanted)
    for module in ("torch", "lightning_fabric"):
        require(module, extra="train")
    from edgead.bundle import Bundle, BundleInfo
    from edgead.cfrg import checkpoint
    from edgead.cfrg.train import train as run_training

    config = config.model_copy(update={"dataset": settle(config.dataset)})
    size_hw = (config.size, config.size)
    info = BundleInfo(network=config.network, category=config.dataset.category, size_hw=size_hw, dataset=config.dataset)
    if (wanted.out / "bundle.json").exists():
        Bundle.create(wanted.out, info)  # refuses a run of something else now, not after the training
    with recipe.kept(config, wanted.out):
        trained = run_training(config, wanted.out, resume=wanted.resume)
    if not trained.is_main:
        return None

    def write(path: Path) -> None:
        checkpoint.save(
            trained.cfrg,
            path,
            recipe=config.model_dump_json(),
            teacher=trained.teacher,
            precision=trained.precision,
            epochs=len(trained.history),
        )

    bundle = Bundle.create(wanted.out, info)
    tools = {name: _version(name) for name in ("torch", "lightning-fabric")}
    bundle.add("checkpoint", write, kind="checkpoint", precision="fp32", made_from=None, tools=tools)
    return _trained(trained, config, wanted.out)


def export(wanted: argparse.Namespace) -> Answer:
    """Export a run's checkpoint."""
    for module in ("torch", "onnx", "onnxscript"):
        require(module, extra="export")
    from edgead.bundle import Bundle
    from export.to_onnx import export_networks

    bundle = Bundle.open(wanted.bundle)
    bundle.file("checkpoint")
    _, dataset = of_bundle(bundle, wanted)
    images = pictures(dataset.validation or dataset.train, bundle.info.size_hw, 3)
    names = export_networks(bundle, images)
    records = {name: bundle.artefacts[name] for name in names}
    document = {
        "bundle": str(bundle.path),
        "artefacts": {
            name: {"file": record.file, "size": record.size, "sha256": record.sha256}
            for name, record in records.items()
        },
    }
    rows = [(name, record.file, f"{record.size / 2**20:.2f}") for name, record in records.items()]
    body = [table("Exported, each held against torch", ("artefact", "file", ">MiB"), rows)]
    return Answer(document, [*body, _next(f"edgead threshold {bundle.path}")])


def _train_config(wanted: argparse.Namespace) -> TrainConfig:
    """Read train.yaml and lay the flags over it; ``--resume`` without either goes on with the run's own."""
    from edgead.config import TrainConfig, load_train
    from edgead.yaml_file import check

    names = [name.replace("-", "_") for name, _, _ in _TRAINING] + ["teacher_weights"]
    flags = {name: value for name in names if (value := getattr(wanted, name)) is not None}
    dataset = given(wanted)
    own = wanted.out / recipe.NAME
    source = wanted.config or (own if wanted.resume and own.exists() and "kind" not in dataset else None)
    if source is None and not {"kind", "root"} <= dataset.keys():
        raise ConfigError("which images? give a train.yaml, or --dataset KIND --root FOLDER --category NAME")
    # What the file leaves out is left to the network, which a flag may name.
    values = load_train(source).model_dump(exclude_unset=True) if source else {}
    if "devices" in flags and str(flags["devices"]).isdecimal():
        flags["devices"] = int(flags["devices"])
    values |= {**flags, "dataset": merged(values.get("dataset", {}), dataset)}
    return check(TrainConfig, values, name="flags")


def _trained(trained: Trained, config: TrainConfig, run: Path) -> Answer:
    dataset, last = trained.dataset, trained.history[-1] if trained.history else {}
    losses = {name: value for name, value in last.items() if name.endswith("_loss")}
    images = {"train": len(dataset.train), "validation": len(dataset.validation), "test": len(dataset.test)}
    document = {
        "bundle": str(run),
        "network": config.network,
        "category": dataset.category,
        "size": config.size,
        "images": images,
        "epochs": len(trained.history),
        "seconds": round(trained.seconds, 3),
        "precision": trained.precision,
        "teacher": trained.teacher,
        "losses": losses,
    }
    rows = [
        ("network", f"{config.network} at {config.size}x{config.size}, {trained.precision}"),
        ("category", dataset.category),
        ("images", ", ".join(f"{count} {split}" for split, count in images.items())),
        ("epochs", len(trained.history)),
        ("seconds", f"{trained.seconds:.1f}"),
        *losses.items(),
    ]
    return Answer(document, [table("Trained", ("", ""), rows), _next(f"edgead export {run}")])


def _next(command: str) -> str:
    return f"next: {command}"


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)
