"""The three losses of CFRG (3CAD, AAAI 2025), summed with weight 1, and another one for the segmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edgead.cfrg.model import Output
from edgead.config import SegmentationLoss


class Losses(NamedTuple):
    """One value each, all differentiable."""

    distillation: Tensor
    recovery: Tensor
    segmentation: Tensor

    @property
    def total(self) -> Tensor:
        """Sum the three."""
        return self.distillation + self.recovery + self.segmentation


def losses(
    output: Output, clean_teacher: list[Tensor], mask: Tensor, *, segmentation: SegmentationLoss = "cross-entropy"
) -> Losses:
    """Compute the losses of a corrupted batch.

    Args:
        output: of the corrupted images.
        clean_teacher: teacher levels of the same images before corruption.
        mask: ``(N, 1, H, W)`` in {0, 1}, 1 where corrupted.
        segmentation: ``"cross-entropy"`` is the paper's; ``"focal-dice"`` weighs rare and doubtful pixels more.
    """
    of_logits: Callable[[Tensor, Tensor], Tensor] = (
        segmentation_loss if segmentation == "cross-entropy" else focal_dice_loss
    )
    return Losses(
        distillation_loss(output.disagreement.student, mask),
        recovery_loss(output.recovery, clean_teacher),
        of_logits(output.logits, mask),
    )


def distillation_loss(disagreement: list[Tensor], mask: Tensor) -> Tensor:
    """Pull the student to the teacher on clean pixels and push it away on corrupted ones, mean over levels."""
    size = mask.shape[2:]
    levels = []
    for distance in disagreement:
        d = F.interpolate(distance, size, mode="bilinear", align_corners=False)
        levels.append((mask * (1 - d) + (1 - mask) * d).mean())
    return torch.stack(levels).mean()


def recovery_loss(recovery: list[Tensor], clean_teacher: list[Tensor]) -> Tensor:
    """Pull the recovered levels to the clean ones: one cosine a sample and level, summed over levels."""
    levels = [
        1 - F.cosine_similarity(clean.flatten(1).float(), recovered.flatten(1).float())
        for clean, recovered in zip(clean_teacher, recovery, strict=True)
    ]
    return torch.stack(levels).sum(0).mean()


def segmentation_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Take the binary cross entropy; the target of a logit is the share of its area that the mask covers."""
    target = mask if logits.shape == mask.shape else F.adaptive_avg_pool2d(mask, (logits.shape[2], logits.shape[3]))
    return F.binary_cross_entropy_with_logits(logits.float(), target)


def focal_dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Sum the focal loss (Lin et al., ICCV 2017; gamma 1, times 4) and the dice loss (Milletari et al., 3DV 2016).

    A logit's target is the mean of the mask's share of its area and of its maximum there, so that a line finer than the
    area counts.
    """
    logits, size = logits.float(), (logits.shape[2], logits.shape[3])
    target = (F.adaptive_max_pool2d(mask, size) + F.adaptive_avg_pool2d(mask, size)) / 2
    found = logits.sigmoid()
    focal = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * (found - target).abs()
    dice = 1 - (2 * (found * target).sum() + 1) / (found.sum() + target.sum() + 1)
    return 4 * focal.mean() + dice
