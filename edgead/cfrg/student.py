"""Students: networks that see the image and imitate the teacher's levels on clean pixels.

CFRG (3CAD, AAAI 2025), figure 4, coarse stage.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgead.cfrg.backbones import BasicBlock, EfficientNet


class Adapter(nn.Sequential):
    """Widen a student level to its teacher's channels, keeping the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
            nn.Conv2d(inputs, inputs, 1, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, inputs, 3, padding=1, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class ReferenceStudent(nn.Module):
    """EfficientNet-B0 from random weights, tapped at strides 4, 8 and 16, with one adapter a level."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = EfficientNet((2, 4, 10), lite=False, drop=0.2)
        self.adapters = nn.ModuleList(Adapter(c, t) for c, t in zip(self.backbone.channels, channels, strict=True))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map ``(N, 3, H, W)`` to one ``(N, channels[i], H/2^(i+2), W/2^(i+2))`` a level."""
        return [adapt(level) for adapt, level in zip(self.adapters, self.backbone(image), strict=True)]


class LightStudent(nn.Module):
    """Plain residual convolutions, halving the size up to each teacher level: dense work that runs near the peak.

    Args:
        channels, strides: of the teacher's levels.
        width: channels at the first level; doubled at each level after it.
    """

    def __init__(self, channels: tuple[int, ...], strides: tuple[int, ...], width: int) -> None:
        super().__init__()
        stem: list[nn.Module] = []
        inputs, reach = 3, 1
        while reach * 2 < strides[0]:
            stem += [nn.Conv2d(inputs, width // 2, 3, 2, 1, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU()]
            inputs, reach = width // 2, reach * 2
        self.stem = nn.Sequential(*stem)
        stages, heads = [], []
        for level, outputs in enumerate(channels):
            stages.append(BasicBlock(inputs, width << level, 2))
            heads.append(nn.Conv2d(width << level, outputs, 1))
            inputs = width << level
        self.stages, self.heads = nn.ModuleList(stages), nn.ModuleList(heads)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map ``(N, 3, H, W)`` to one ``(N, channels[i], H/strides[i], W/strides[i])`` a level."""
        x = self.stem(image)
        levels = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            levels.append(head(x))
        return levels


class TunedStudent(EfficientNet):
    """A second EfficientNet-Lite0 that begins with the teacher's weights; its batch norms stay as they are.

    Args:
        taps: indexes of its blocks, those of the teacher.
    """

    def __init__(self, taps: tuple[int, ...]) -> None:
        super().__init__(taps, lite=True)

    def train(self, mode: bool = True) -> TunedStudent:
        """Set the training mode of all but the batch norms: a few hundred steps are too few for their statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self
