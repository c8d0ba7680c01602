"""Segmentation networks: teacher features, gated by where student and recovery disagree with them, to logits.

CFRG (3CAD, AAAI 2025), figure 4: ``G_i = m_i^R * m_i^S * T_i`` with ``m = 1 - cos``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgead.cfrg.cosine import Disagreement


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]


class _Up(nn.Module):
    """4x4 transposed convolution that doubles the size, an optional skip, two 3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int, skip: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
        self.convolutions = nn.Sequential(*_convolution(outputs + skip, outputs), *_convolution(outputs, outputs))

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        x = self.up(x)
        return self.convolutions(x if skip is None else torch.cat([x, skip], 1))  # type: ignore[no-any-return]


class ReferenceSegmentation(nn.Module):
    """U-Net-like decoder of gated levels (256, 512, 1024 channels) up to full resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.up1, self.up2 = _Up(1024, 512, 512), _Up(512, 256, 256)
        self.up3, self.up4 = _Up(256, 128, 0), _Up(128, 64, 0)
        self.final = nn.Conv2d(64, 1, 3, padding=1)

    def forward(self, teacher: list[Tensor], _student: list[Tensor], disagreement: Disagreement) -> Tensor:
        """Map teacher levels and their disagreements ``(N, 1, h_i, w_i)`` to logits ``(N, 1, H, W)``."""
        gated1, gated2, gated3 = (
            level * (recovered * imitated)  # the gate first: it has one channel
            for level, recovered, imitated in zip(teacher, disagreement.recovery, disagreement.student, strict=True)
        )
        x = self.up1(gated3, gated2)  # (N, 512, H/8, W/8)
        x = self.up2(x, gated1)  # (N, 256, H/4, W/4)
        x = self.up4(self.up3(x))  # (N, 64, H, W)
        return self.final(x)  # type: ignore[no-any-return]


class LightSegmentation(nn.Module):
    """Reduce by 1x1 first, then gate (the same algebra, far less traffic), and decode at the finest level's stride.

    Beside the gated features it sees the two disagreements themselves, so a defect that one branch misses is not lost
    in the product.

    Args:
        channels: of the teacher's levels, finest first.
        width: inner channels at every level.
        student: let it see the student's levels too, for a student that has learned what defects are.
    """

    def __init__(self, channels: tuple[int, ...], width: int, *, student: bool = False) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.own = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels if student)
        inputs = width * (2 if student else 1) + 2
        self.merge = nn.ModuleList(nn.Sequential(*_convolution(inputs, width)) for _ in channels)
        self.final = nn.Sequential(*_convolution(width, width), nn.Conv2d(width, 1, 1))

    def forward(self, teacher: list[Tensor], student: list[Tensor], disagreement: Disagreement) -> Tensor:
        """Map teacher levels and their disagreements ``(N, 1, h_i, w_i)`` to logits ``(N, 1, h_0, w_0)``."""
        x: Tensor | None = None
        for level in reversed(range(len(teacher))):
            recovered, imitated = disagreement.recovery[level], disagreement.student[level]
            gated = self.reduce[level](teacher[level]) * (recovered * imitated)
            own = [self.own[level](student[level])] if len(self.own) else []
            y = self.merge[level](torch.cat([gated, recovered, imitated, *own], 1))
            x = y if x is None else y + F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.final(x)  # type: ignore[no-any-return]
