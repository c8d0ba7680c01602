"""Recovery branches: squeeze the teacher's levels through a bottleneck and decode them as if the part were good.

The bottleneck has no room for what Good images never showed, so recovered and real levels part ways on a defect.
CFRG (3CAD, AAAI 2025), figure 4, fine stage; the reference follows reverse distillation (Deng and Li, CVPR 2022).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgead.cfrg.backbones import BasicBlock, Bottleneck


def _halving(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class UpsamplingBottleneck(nn.Module):
    """1x1, 2x2 transposed convolution of stride 2, 1x1, with a transposed shortcut: doubles the size."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.ConvTranspose2d(width, width, 2, 2, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.upsample = nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.upsample(x))


class ReferenceRecovery(nn.Module):
    """Bottleneck to 2048 channels at stride 32 and mirrored decoder, for teacher levels of 256, 512, 1024 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze1 = nn.Sequential(_halving(256, 512), _halving(512, 1024))
        self.squeeze2 = _halving(512, 1024)
        self.bottleneck = nn.Sequential(
            Bottleneck(3072, 1024, 2048, 2), Bottleneck(2048, 1024, 2048), Bottleneck(2048, 1024, 2048)
        )
        self.decode3 = self._decoder(2048, 512, 1024, 3)
        self.decode2 = self._decoder(1024, 256, 512, 4)
        self.decode1 = self._decoder(512, 128, 256, 6)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, teacher: list[Tensor]) -> list[Tensor]:
        """Map the teacher's three levels to recovered levels of the same shapes."""
        level1, level2, level3 = teacher
        x = torch.cat([self.squeeze1(level1), self.squeeze2(level2), level3], 1)  # (N, 3072, H/16, W/16)
        x = self.bottleneck(x)  # (N, 2048, H/32, W/32)
        recovered3 = self.decode3(x)  # (N, 1024, H/16, W/16)
        recovered2 = self.decode2(recovered3)  # (N, 512, H/8, W/8)
        recovered1 = self.decode1(recovered2)  # (N, 256, H/4, W/4)
        return [recovered1, recovered2, recovered3]

    @staticmethod
    def _decoder(inputs: int, width: int, outputs: int, depth: int) -> nn.Sequential:
        return nn.Sequential(
            UpsamplingBottleneck(inputs, width, outputs),
            *(Bottleneck(outputs, width, outputs) for _ in range(depth - 1)),
        )


class LightRecovery(nn.Module):
    """The same shape of network for any teacher: 1x1 reductions first, plain blocks, nearest upsampling.

    Args:
        channels: of the teacher's levels, finest first.
        widths: inner channels at each level.
        squeezed: channels of the bottleneck, one stride below the deepest level.
    """

    def __init__(self, channels: tuple[int, ...], widths: tuple[int, ...], squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, w, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU(inplace=True))
            for c, w in zip(channels, widths, strict=True)
        )
        following = (*widths[1:], squeezed)
        self.squeeze = nn.ModuleList(_halving(w, n) for w, n in zip(widths, following, strict=True))
        self.bottleneck = BasicBlock(squeezed, squeezed)
        self.expand = nn.ModuleList(
            nn.Sequential(nn.Conv2d(n, w, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU(inplace=True))
            for w, n in zip(widths, following, strict=True)
        )
        self.decode = nn.ModuleList(BasicBlock(w, w) for w in widths)
        self.heads = nn.ModuleList(nn.Conv2d(w, c, 1) for c, w in zip(channels, widths, strict=True))

    def forward(self, teacher: list[Tensor]) -> list[Tensor]:
        """Map the teacher's levels to recovered levels of the same shapes."""
        x = self.squeeze[0](self.reduce[0](teacher[0]))
        for level in range(1, len(teacher)):
            x = self.squeeze[level](x + self.reduce[level](teacher[level]))
        x = self.bottleneck(x)  # (N, squeezed, H/2^k, W/2^k): one stride below the deepest level
        recovered: list[Tensor] = []
        for level in reversed(range(len(teacher))):
            x = F.interpolate(self.expand[level](x), scale_factor=2.0, mode="nearest")
            x = self.decode[level](x)
            recovered.insert(0, self.heads[level](x))
        return recovered
