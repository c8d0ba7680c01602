"""Cosines and map fusion as the paper writes them: what the exported graph is held against, step by step.

3CAD's code: ``1 - cos`` by the norms of both vectors, anew wherever it is wanted; maps upsampled to the image's size
one by one, added, and smoothed by a Gaussian there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgead.cfrg.cosine import Disagreement
from edgead.cfrg.inspection import SIGMA, TRUNCATE


class PaperCosine(nn.Module):
    """``1 - cos`` over channels of each pair of levels, the norms of both computed each time."""

    def forward(self, teacher: list[Tensor], student: list[Tensor], recovery: list[Tensor]) -> Disagreement:
        """Compare each level's ``(N, C_i, h_i, w_i)`` tensors."""
        pairs = [[(a, b) for a, b in zip(teacher, other, strict=True)] for other in (student, recovery)]
        first, second = ([1 - F.cosine_similarity(a, b).unsqueeze(1) for a, b in each] for each in pairs)
        return Disagreement(first, second)


class PaperFusion(nn.Module):
    """Upsample every map to the image, add them, and convolve the sum with a separable Gaussian of 33 taps."""

    def __init__(self, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.size_hw = size_hw
        self.radius = int(TRUNCATE * SIGMA + 0.5)
        offsets = torch.arange(-self.radius, self.radius + 1, dtype=torch.float64)
        taps = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
        self.register_buffer("taps", (taps / taps.sum()).float().reshape(1, 1, 1, -1), persistent=False)
        self.taps: Tensor

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Map ``(N, 1, h_i, w_i)`` parts to ``(N, H, W)``."""
        total = torch.zeros(())
        for part in parts:
            total = total + F.interpolate(part, size=self.size_hw, mode="bilinear", align_corners=True)
        across = F.conv2d(self._mirrored(total), self.taps)
        down = F.conv2d(self._mirrored(across.transpose(2, 3)), self.taps)
        return down.transpose(2, 3)[:, 0]

    def _mirrored(self, x: Tensor) -> Tensor:
        """Continue rows at both ends by themselves mirrored, edge pixel included."""
        r = self.radius
        return torch.cat([x[..., :r].flip(3), x, x[..., -r:].flip(3)], 3)
