"""Train CFRG on Good images: one joint loop over the three losses (3CAD, AAAI 2025), on CPU, one GPU or several.

Every epoch is a function of the configuration and the state before it: shuffling, corruption and stochastic depth are
drawn from (seed, epoch), so a training that was killed and resumed ends with the weights of an unbroken one.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from edgead.cfrg import checkpoint
from edgead.cfrg.data import Batch, EpochBatches, TrainingImages
from edgead.cfrg.inspection import balance
from edgead.cfrg.journal import Journal
from edgead.cfrg.losses import Losses, losses
from edgead.cfrg.model import Cfrg, build
from edgead.cfrg.student import TunedStudent
from edgead.cfrg.synthesis import textures
from edgead.config import SegmentationLoss, TrainConfig
from edgead.datasets import Dataset
from edgead.errors import ConfigError, TrainingError
from edgead.progress import task

_TUNED = 0.15  # of the learning rate, for weights that ImageNet taught
_VALIDATED = 64  # images at most: enough for a curve
_VALIDATIONS = 10  # a training
_FITTED = 32  # images whose covariance is added up at once
_TOGETHER = 4  # images that stay in the caches of a CPU: 3 to 5 times faster than 16


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        cfrg: the networks, in eval mode on the CPU.
        dataset: what it was trained on.
        history: one record an epoch, as in metrics.jsonl.
        seconds: wall time of this process's share.
        precision: what the arithmetic was, such as ``"bf16-mixed"``.
        teacher: where the teacher's weights came from.
        is_main: False on all but one process of a parallel training; only the main one has something to save.
    """

    cfrg: Cfrg
    dataset: Dataset
    history: list[dict[str, Any]]
    seconds: float
    precision: str
    teacher: str
    is_main: bool


def train(
    config: TrainConfig, folder: Path, *, resume: bool = False, networks: Callable[[int], Cfrg] | None = None
) -> Trained:
    """Train, leaving ``training/{state.pt, metrics.jsonl, tensorboard/}`` in ``folder``.

    Args:
        resume: go on from the last whole epoch of the same configuration.
        networks: builds networks for the size of image given, instead of those that the configuration names.

    Raises:
        ConfigError: ``resume`` with another configuration, or nothing to resume.
        TrainingError: a loss that is not finite.
    """
    begin = time.monotonic()
    dataset = config.dataset.open()
    fabric = _fabric(config)
    keep_freed_memory()
    torch.manual_seed(config.seed)
    cfrg = _networks(config, networks)
    teacher = checkpoint.load_teacher(cfrg, config.teacher_weights)
    learner = _Learner(cfrg, config.segmentation_loss)
    optimizer = _optimizer(config, cfrg)
    train_set, validation_set = (_images(config, dataset, split) for split in ("train", "validation"))
    batches = EpochBatches(len(train_set), config.batch, config.seed, rank=fabric.global_rank, ranks=fabric.world_size)

    # Only now, with all images read: an earlier training in this folder is not lost to a bad image.
    journal = Journal(folder / "training", config, is_main=fabric.is_global_zero)
    # After the set-up: an optimizer takes its state to where its parameters are when the state is loaded.
    module, wrapped = fabric.setup(learner, optimizer)
    first = journal.restore(cfrg, optimizer) if resume else journal.begin()
    loader = _loader(fabric, train_set, batches, config.workers)
    total_steps = config.epochs * len(batches)
    with task("Training", (config.epochs - first) * len(batches)) as advance:
        for epoch in range(first, config.epochs):
            torch.manual_seed(config.seed * 1_000_003 + epoch * fabric.world_size + fabric.global_rank)
            batches.epoch = epoch
            started = time.monotonic()
            rate = _rates(config, epoch * len(batches), total_steps)
            sums = _epoch(fabric, module, wrapped, loader, rate, advance)
            record: dict[str, Any] = {"epoch": epoch, **sums, "seconds": round(time.monotonic() - started, 2)}
            if _is_validated(epoch, config.epochs):
                record |= _validate(fabric, learner, validation_set)
            journal.write(record, cfrg, optimizer, epoch + 1)
    _fit(config, learner.cpu().eval(), train_set, validation_set)
    return Trained(
        cfrg=cfrg,
        dataset=dataset,
        history=journal.history,
        seconds=time.monotonic() - begin,
        precision=_precision(config, fabric.device.type),
        teacher=teacher,
        is_main=fabric.is_global_zero,
    )


def _networks(config: TrainConfig, networks: Callable[[int], Cfrg] | None) -> Cfrg:
    cfrg = build(config.network, config.size) if networks is None else networks(config.size)
    if config.statistics == "positions":
        cfrg.add_statistics()
    return cfrg


class _Learner(nn.Module):
    """What a parallel training wraps: a batch in, losses out."""

    def __init__(self, cfrg: Cfrg, segmentation_loss: SegmentationLoss) -> None:
        super().__init__()
        self.cfrg, self.segmentation_loss = cfrg, segmentation_loss
        cfrg.teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, batch: Batch) -> Losses:
        clean, corrupted = self.cfrg.normalise(batch.clean), self.cfrg.normalise(batch.corrupted)
        output = self.cfrg(corrupted, self.teach(corrupted))
        return losses(output, self.teach(clean), batch.mask, segmentation=self.segmentation_loss)

    @torch.no_grad()
    def teach(self, image: Tensor) -> list[Tensor]:
        """Return the teacher's levels of a normalised image."""
        together = _TOGETHER if image.device.type == "cpu" else len(image)
        pieces = torch.split(image.to(memory_format=torch.channels_last), together)
        levels = zip(*(self.cfrg.teacher(piece) for piece in pieces), strict=True)
        return [torch.cat(level).contiguous() for level in levels]


def _fit(config: TrainConfig, learner: _Learner, good: TrainingImages, held_out: TrainingImages) -> None:
    """Fit what no step learns: the statistics by position, then the weights of the anomaly map's parts."""
    cfrg = learner.cfrg
    if cfrg.statistics is not None:
        cfrg.statistics.fit(learner.teach(cfrg.normalise(clean)) for clean in good.clean(_FITTED))
    if config.fusion == "balanced":
        balance(cfrg, held_out.clean(_TOGETHER))


def _epoch(
    fabric: Fabric,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader[Batch],
    rate: Callable[[int], float],
    advance: Callable[..., None],
) -> dict[str, float]:
    """Run one epoch; returns the mean of each loss."""
    module.train()
    sums = torch.zeros(3)
    for step, batch in enumerate(loader):
        for group in optimizer.param_groups:
            group["lr"] = rate(step) * group["share"]
        parts = module(batch)
        total = parts.total
        if not bool(total.isfinite()):
            raise TrainingError(
                f"the loss became {float(total.detach())} at step {step}; "
                "train again with a lower learning_rate, or precision 32-true"
            )
        optimizer.zero_grad()
        fabric.backward(total)
        optimizer.step()
        sums += torch.tensor([float(part.detach()) for part in parts])
        advance(1, f"loss {float(total.detach()):.3f}")
    return {f"{name}_loss": round(float(x), 5) for name, x in zip(Losses._fields, sums / (step + 1), strict=True)}


@torch.no_grad()
def _validate(fabric: Fabric, learner: _Learner, images: TrainingImages) -> dict[str, float]:
    """Measure the losses on held-out Good images, corrupted the same way every time."""
    learner.eval()
    keys = [[(0, index)] for index in range(min(len(images), _VALIDATED))]
    batches = fabric.setup_dataloaders(DataLoader(images, batch_sampler=keys), use_distributed_sampler=False)
    rows = [[float(part) for part in learner(batch)] for batch in batches]
    means = torch.tensor(rows).mean(0)
    return {f"validation_{name}_loss": round(float(x), 5) for name, x in zip(Losses._fields, means, strict=True)}


def _is_validated(epoch: int, epochs: int) -> bool:
    return (epoch + 1) % max(1, epochs // _VALIDATIONS) == 0 or epoch == epochs - 1


def _rates(config: TrainConfig, before: int, total: int) -> Callable[[int], float]:
    """Return the learning rate of each step of an epoch that ``before`` steps precede."""

    def steps(step: int) -> float:
        done = (before + step) / total
        return config.learning_rate * (1.0 if done < 0.8 else 0.2 if done < 0.9 else 0.04)

    def one_cycle(step: int) -> float:
        done = (before + step) / total
        warm = 0.1
        share = done / warm if done < warm else 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))
        return config.learning_rate * max(share, 0.01)

    return steps if config.schedule == "steps" else one_cycle


def _optimizer(config: TrainConfig, cfrg: Cfrg) -> torch.optim.Optimizer:
    shares: dict[float, list[nn.Parameter]] = {}
    for name, parameter in cfrg.named_parameters():
        if parameter.requires_grad:
            tuned = isinstance(cfrg.student, TunedStudent) and name.startswith("student.")
            shares.setdefault(_TUNED if tuned else 1.0, []).append(parameter)
    groups = [{"params": parameters, "share": share} for share, parameters in shares.items()]
    return torch.optim.AdamW(groups, config.learning_rate, (0.5, 0.999), weight_decay=config.weight_decay)


def _images(config: TrainConfig, dataset: Dataset, split: str) -> TrainingImages:
    return TrainingImages(
        dataset.train if split == "train" else dataset.validation[:_VALIDATED],
        (config.size, config.size),
        textures(config.textures),
        seed=config.seed + (split == "validation"),
        clean_share=config.clean_share,
        synthesis=config.synthesis,
        jitter=config.jitter,
    )


def _loader(fabric: Fabric, images: TrainingImages, batches: EpochBatches, workers: int) -> DataLoader[Batch]:
    loader: DataLoader[Batch] = DataLoader(
        images, batch_sampler=batches, num_workers=workers, pin_memory=fabric.device.type == "cuda"
    )
    return fabric.setup_dataloaders(loader, use_distributed_sampler=False)  # type: ignore[return-value]


def _fabric(config: TrainConfig) -> Fabric:
    """Choose the devices; under torchrun, those that it started."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    devices: int | str = config.devices
    if "LOCAL_WORLD_SIZE" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
    elif devices == "auto" and accelerator == "cpu":
        devices = 1
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=_precision(config, accelerator))
        fabric.launch()
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"devices {config.devices} or precision {config.precision} cannot be had: {error}") from error
    return fabric


def _precision(config: TrainConfig, device: str) -> Any:
    """Resolve ``auto``: bf16 where the hardware multiplies it, else fp32."""
    if config.precision == "16-mixed" and device == "cpu":
        raise ConfigError("precision 16-mixed needs a GPU; on a CPU give --precision auto, bf16-mixed or 32-true")
    if config.precision != "auto":
        return config.precision
    fast = torch.cuda.is_bf16_supported() if device == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return "bf16-mixed" if fast else "32-true"


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory: large tensors handed back and faulted in again cost half of a CPU step."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-8, 1)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX
            mallopt(option, value)
