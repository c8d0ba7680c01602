"""Networks that were tried and are not shipped: each is what ``cfrg-lite0`` has, with one thing done otherwise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgead.cfrg.backbones import BasicBlock, EfficientNet
from edgead.cfrg.cosine import Disagreement
from edgead.cfrg.segmentation import LightSegmentation


class DetachedSegmentation(LightSegmentation):
    """Gates that do not train what they are made of: the segmentation's loss stops at the disagreements."""

    def forward(self, teacher: list[Tensor], student: list[Tensor], disagreement: Disagreement) -> Tensor:
        """Map teacher levels and their disagreements ``(N, 1, h_i, w_i)`` to logits ``(N, 1, h_0, w_0)``."""
        imitated, recovered = ([each.detach() for each in levels] for levels in disagreement)
        return super().forward(teacher, student, Disagreement(imitated, recovered))


class UngatedSegmentation(LightSegmentation):
    """No gate: the reduced teacher features and the two disagreements side by side."""

    def forward(self, teacher: list[Tensor], _student: list[Tensor], disagreement: Disagreement) -> Tensor:
        """Map teacher levels and their disagreements ``(N, 1, h_i, w_i)`` to logits ``(N, 1, h_0, w_0)``."""
        x: Tensor | None = None
        for level in reversed(range(len(teacher))):
            distances = [disagreement.recovery[level], disagreement.student[level]]
            y = self.merge[level](torch.cat([self.reduce[level](teacher[level]), *distances], 1))
            x = y if x is None else y + F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.final(x)  # type: ignore[no-any-return]


class SummedSegmentation(nn.Module):
    """No segmentation network: learned weights of the disagreements and of their products, level by level."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.weigh = nn.ModuleList(nn.Conv2d(3, 1, 1) for _ in range(levels))

    def forward(self, teacher: list[Tensor], _student: list[Tensor], disagreement: Disagreement) -> Tensor:
        """Map the disagreements of teacher levels ``(N, 1, h_i, w_i)`` to logits ``(N, 1, h_0, w_0)``."""
        x: Tensor | None = None
        for level in reversed(range(len(teacher))):
            recovered, imitated = disagreement.recovery[level], disagreement.student[level]
            y = self.weigh[level](torch.cat([recovered, imitated, recovered * imitated], 1))
            x = y if x is None else y + F.interpolate(x, scale_factor=2.0, mode="nearest")
        assert x is not None
        return x


class StemStudent(nn.Module):
    """A student that begins where the frozen teacher's first three blocks end, at stride 4, instead of at the image.

    Args:
        teacher: whose blocks it shares; its taps begin at stride 8.
        width: channels at the first level; doubled at each level after it.
    """

    def __init__(self, teacher: EfficientNet, width: int) -> None:
        super().__init__()
        self.stem = EfficientNet((2,), lite=True)
        self.stem._conv_stem, self.stem._bn0 = teacher._conv_stem, teacher._bn0
        self.stem._blocks = teacher._blocks[:3]
        stages, heads, inputs = [], [], self.stem.channels[0]
        for level, outputs in enumerate(teacher.channels):
            stages.append(BasicBlock(inputs, width << level, 2))
            heads.append(nn.Conv2d(width << level, outputs, 1))
            inputs = width << level
        self.stages, self.heads = nn.ModuleList(stages), nn.ModuleList(heads)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map ``(N, 3, H, W)`` to one ``(N, channels[i], H/strides[i], W/strides[i])`` a level."""
        x = self.stem(image)[0]  # (N, 24, H/4, W/4)
        levels = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            levels.append(head(x))
        return levels


class PaperStudent(nn.Module):
    """The reference's student, EfficientNet-B0 from random weights, tapped where ``cfrg-lite0``'s teacher is."""

    def __init__(self, taps: tuple[int, ...], channels: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = EfficientNet(taps, lite=False, drop=0.2)
        self.heads = nn.ModuleList(
            nn.Conv2d(own, wanted, 1) for own, wanted in zip(self.backbone.channels, channels, strict=True)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map ``(N, 3, H, W)`` to one ``(N, channels[i], H/strides[i], W/strides[i])`` a level."""
        return [head(level) for head, level in zip(self.heads, self.backbone(image), strict=True)]
