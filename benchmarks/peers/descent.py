"""Gradient descent for the peers that learn: batches by seed and epoch, a loss that must stay finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.peers.detector import Advance
from edgead.errors import TrainingError


def batches(images: int, size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """Yield shuffled indexes; a last batch that is not full is left out unless it is the only one of its epoch."""
    random = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(images, generator=random)
        for step in range(count(images, size)):
            yield order[step * size : (step + 1) * size]


def count(images: int, size: int) -> int:
    """Return the batches of an epoch."""
    return max(1, images // size)


def precision() -> str:
    """Return what networks are trained in, as for ``cfrg-lite0``: bfloat16 where the processor multiplies it."""
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"


def mixed() -> torch.autocast:
    """Return the context in which the networks of a step run; losses are computed outside of it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision() == "bf16-mixed")


def quicken(module: nn.Module) -> None:
    """Let batch norms follow at 0.1, as those of the papers' ResNets do.

    EfficientNet's 0.01 is for trainings of many thousand steps: after a few hundred, what a network does in eval mode
    is not what it has learnt.
    """
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.momentum = 0.1


def descend(
    order: Iterator[Tensor],
    loss: Callable[[Tensor], Tensor],
    optimiser: torch.optim.Optimizer,
    advance: Advance,
    *,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> float:
    """Take one step a batch of indexes; returns the last loss.

    Raises:
        TrainingError: a loss that is not finite.
    """
    value = 0.0
    for step, indexes in enumerate(order):
        total = loss(indexes)
        value = float(total.detach())
        if not torch.isfinite(total.detach()):
            raise TrainingError(f"the loss became {value} at step {step}; fit it with a lower learning rate")
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if schedule is not None:
            schedule.step()
        advance(1, f"loss {value:.4f}")
    return value
