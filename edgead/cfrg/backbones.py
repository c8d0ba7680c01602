"""Frozen teachers: ResNets under torchvision's parameter names, EfficientNet-Lite0 under its PyPI package's names.

Only the stages that CFRG taps are built. A weight file of the whole classifier loads: what lies behind the last tap
is left out by name, anything else that does not fit is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


class Backbone(nn.Module):
    """A feature extractor with one tap a level.

    Attributes:
        channels: channels of each level.
        strides: stride of each level against the image, each twice the one before.
        mean, std: of the RGB values 0..255 that ``forward`` expects subtracted and divided.
        unused: prefixes of a whole classifier's parameters that lie behind the last tap.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    unused: tuple[str, ...] = ()

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map ``(N, 3, H, W)`` to one ``(N, channels[i], H/strides[i], W/strides[i])`` a level."""
        raise NotImplementedError


def residual_shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """Project a residual's shortcut where its shape changes; None where it does not."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (ResNet-18)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = residual_shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (carrying the stride), 1x1 with a shortcut (ResNet v1.5)."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = residual_shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + shortcut)


class ResNet(Backbone):
    """Stem and the first three stages of a torchvision ResNet: taps at strides 4, 8 and 16."""

    strides = (4, 8, 16)
    unused = ("layer4.", "fc.")

    def __init__(self, stages: Sequence[nn.Module], channels: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = channels
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1, self.layer2, self.layer3 = stages

    def forward(self, image: Tensor) -> list[Tensor]:
        x = F.relu(self.bn1(self.conv1(image)))  # (N, 64, H/2, W/2)
        x = F.max_pool2d(x, 3, 2, 1)  # (N, 64, H/4, W/4)
        level1 = self.layer1(x)  # (N, C1, H/4, W/4)
        level2 = self.layer2(level1)  # (N, C2, H/8, W/8)
        level3 = self.layer3(level2)  # (N, C3, H/16, W/16)
        return [level1, level2, level3]


def resnet18() -> ResNet:
    """Build ResNet-18 up to stage 3 (torchvision ``resnet18``)."""
    stages, inputs = [], 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2)):
        stages.append(nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs)))
        inputs = outputs
    return ResNet(stages, (64, 128, 256))


def wide_resnet50_2() -> ResNet:
    """Build WideResNet-50-2 up to stage 3 (torchvision ``wide_resnet50_2``)."""
    stages, inputs = [], 64
    for depth, width, outputs, stride in ((3, 128, 256, 1), (4, 256, 512, 2), (6, 512, 1024, 2)):
        first = Bottleneck(inputs, width, outputs, stride)
        stages.append(nn.Sequential(first, *(Bottleneck(outputs, width, outputs) for _ in range(depth - 1))))
        inputs = outputs
    return ResNet(stages, (256, 512, 1024))


class SameConv2d(nn.Conv2d):
    """Depthwise or full convolution with TensorFlow's "same" padding, which is asymmetric at stride 2 (even sides)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        total = kernel - stride if stride > 1 else kernel - 1
        self.same = (total // 2, total - total // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.same))


class SqueezeExcitation(nn.Module):
    """Scale channels by a sigmoid of their own means (EfficientNet)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(F.silu(self.reduce(mean))))


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection, with a shortcut where the shape is kept."""

    def __init__(
        self, inputs: int, outputs: int, expand: int, stride: int, kernel: int, *, excite: bool, drop: float = 0.0
    ) -> None:
        super().__init__()
        width = inputs * expand
        self._expand_conv = nn.Conv2d(inputs, width, 1, bias=False) if expand > 1 else None
        self._bn0 = _batch_norm(width) if expand > 1 else None
        self._depthwise_conv = SameConv2d(width, width, kernel, stride, groups=width)
        self._bn1 = _batch_norm(width)
        self._excitation = SqueezeExcitation(width, max(1, inputs // 4)) if excite else None
        self._project_conv = nn.Conv2d(width, outputs, 1, bias=False)
        self._bn2 = _batch_norm(outputs)
        self.activation = nn.SiLU() if excite else nn.ReLU6()
        self.shortcut = stride == 1 and inputs == outputs
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self._expand_conv is not None and self._bn0 is not None:
            y = self.activation(self._bn0(self._expand_conv(y)))
        y = self.activation(self._bn1(self._depthwise_conv(y)))
        if self._excitation is not None:
            y = self._excitation(y)
        y = self._bn2(self._project_conv(y))
        return x + self._drop_path(y) if self.shortcut else y

    def _drop_path(self, y: Tensor) -> Tensor:
        if not self.training or self.drop == 0.0:
            return y
        kept = torch.rand(y.shape[0], 1, 1, 1, device=y.device) >= self.drop
        return y * kept.to(y.dtype) / (1 - self.drop)


# Expansion, channels, blocks, stride, kernel: EfficientNet-B0, table 1 (Tan and Le, 2019); Lite0 keeps the table.
_STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5))


class EfficientNet(Backbone):
    """EfficientNet-B0 (SiLU, squeeze-excitation) or Lite0 (ReLU6, none), up to the last tapped block.

    Args:
        taps: indexes of the blocks whose outputs are the levels: 2 is stride 4, 4 stride 8, 10 stride 16, 14 stride 32.
        lite: build Lite0.
        drop: largest stochastic depth, growing linearly over the 16 blocks of the whole network.
    """

    unused = ("_blocks.", "_conv_head.", "_bn1.", "_fc.")

    def __init__(self, taps: tuple[int, ...], *, lite: bool, drop: float = 0.0) -> None:
        super().__init__()
        if lite:
            self.mean, self.std = (127.0,) * 3, (128.0,) * 3
        self.taps = taps
        self._conv_stem = SameConv2d(3, 32, 3, 2)
        self._bn0 = _batch_norm(32)
        self.activation = nn.ReLU6() if lite else nn.SiLU()
        blocks: list[nn.Module] = []
        inputs, reach = 32, 2
        shapes: list[tuple[int, int]] = []
        for expand, outputs, depth, stage_stride, kernel in _STAGES:
            for index in range(depth):
                stride = stage_stride if index == 0 else 1
                share = drop * len(blocks) / 16
                blocks.append(InvertedBottleneck(inputs, outputs, expand, stride, kernel, excite=not lite, drop=share))
                inputs, reach = outputs, reach * stride
                shapes.append((outputs, reach))
        self._blocks = nn.ModuleList(blocks[: max(taps) + 1])
        self.channels = tuple(shapes[tap][0] for tap in taps)
        self.strides = tuple(shapes[tap][1] for tap in taps)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.activation(self._bn0(self._conv_stem(image)))  # (N, 32, H/2, W/2)
        levels = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in self.taps:
                levels.append(x)  # (N, channels[i], H/strides[i], W/strides[i])
        return levels


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
