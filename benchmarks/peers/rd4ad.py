"""Reverse distillation: a decoder recovers the teacher's levels from an embedding too small for defects.

Deng and Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022. Settings of the paper:
levels at strides 4, 8 and 16, cosine loss summed over the levels (equations 1 and 2), Adam with betas 0.5 and 0.999,
learning rate 0.005, batches of 16, the map as the sum over the levels, Gaussian of sigma 4, the score its maximum.

Departures: Lite0 instead of WideResNet-50, so the one-class embedding and the decoder are made of its inverted
bottlenecks, mirrored, and a 2x2 transposed convolution doubles the size before each stage of the decoder instead of
within its first block; fewer epochs than the paper's 200, as recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.descent import batches, count, descend, mixed, quicken
from benchmarks.peers.detector import PAPER_TAPS, Advance, Detector, Good, Taps, open_teacher
from edgead.cfrg.backbones import EfficientNet, InvertedBottleneck
from edgead.cfrg.inspection import MapFusion

_EMBEDDING = 320  # channels, as Lite0's last stage
_EMBEDDING_BLOCKS = 3  # as the fourth stage of a ResNet, which the paper takes


@dataclass(frozen=True)
class RD4AD:
    """Settings of reverse distillation."""

    taps: Taps = PAPER_TAPS
    epochs: int = 30
    batch: int = 16
    learning_rate: float = 0.005

    def steps(self, images: int) -> int:
        """Count the images, then the steps."""
        return images + self.epochs * count(images, self.batch)

    def fit(self, good: Good, *, seed: int, advance: Advance) -> RD4ADDetector:
        """Train embedding and decoder; the seed draws their first weights and the batches."""
        torch.manual_seed(seed)
        detector = RD4ADDetector(open_teacher(self.taps, good.teacher_weights), good.size_hw)
        taught = good.levels(self.taps, advance)

        def loss(indexes: Tensor) -> Tensor:
            some = [level[indexes] for level in taught]
            with mixed():
                recovered = detector.recover(some)
            return distillation(some, [level.float() for level in recovered])

        learnt = [*detector.embedding.parameters(), *detector.decoder.parameters()]
        optimiser = torch.optim.Adam(learnt, self.learning_rate, (0.5, 0.999))
        detector.train()
        descend(batches(len(good.train), self.batch, self.epochs, seed), loss, optimiser, advance)
        return detector.eval()


def distillation(teacher: list[Tensor], recovered: list[Tensor]) -> Tensor:
    """Sum over the levels the mean over positions of ``1 - cos`` (equations 1 and 2)."""
    return torch.stack([disagreement(t, r).mean() for t, r in zip(teacher, recovered, strict=True)]).sum()


def disagreement(teacher: Tensor, recovered: Tensor) -> Tensor:
    """Return ``1 - cos`` over the channels at each position: ``(N, 1, h, w)``."""
    return 1 - (F.normalize(teacher) * F.normalize(recovered)).sum(1, keepdim=True)


class RD4ADDetector(Detector):
    """Teacher, one-class embedding and decoder."""

    def __init__(self, teacher: EfficientNet, size_hw: tuple[int, int]) -> None:
        super().__init__(teacher, size_hw)
        self.embedding = Embedding(teacher.channels)
        self.decoder = Decoder(teacher.channels, teacher.taps)
        quicken(self)
        self.fusion = MapFusion(size_hw)

    def recover(self, levels: list[Tensor]) -> list[Tensor]:
        """Map the teacher's levels to recovered ones of the same shapes."""
        recovered: list[Tensor] = self.decoder(self.embedding(levels))
        return recovered

    def judge(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        levels = self.teacher(pixels)
        recovered = self.recover(levels)
        anomaly_map = self.fusion([disagreement(t, r) for t, r in zip(levels, recovered, strict=True)])
        return anomaly_map, anomaly_map.amax((1, 2))


class Embedding(nn.Module):
    """Multi-scale fusion, then one stage of blocks at half its size (section 3.2)."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        deepest = len(channels) - 1
        self.halve = nn.ModuleList(
            nn.Sequential(*(_convolved(channels[at], channels[at + 1], 3, 2) for at in range(level, deepest)))
            for level in range(deepest)
        )
        self.fuse = _convolved(len(channels) * channels[-1], channels[-1], 1, 1)
        blocks: list[nn.Module] = [_block(channels[-1], _EMBEDDING, stride=2)]
        blocks += [_block(_EMBEDDING, _EMBEDDING) for _ in range(_EMBEDDING_BLOCKS - 1)]
        self.squeeze = nn.Sequential(*blocks)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Map the levels to ``(N, 320, h, w)``, one stride below the deepest."""
        halved = [halve(level) for halve, level in zip(self.halve, levels[:-1], strict=True)]
        embedding: Tensor = self.squeeze(self.fuse(torch.cat([*halved, levels[-1]], 1)))
        return embedding


class Decoder(nn.Module):
    """The teacher's stages in reverse: as many blocks between two levels as the teacher has."""

    def __init__(self, channels: tuple[int, ...], taps: Taps) -> None:
        super().__init__()
        depths = [_EMBEDDING_BLOCKS, *(high - low for high, low in zip(taps[:0:-1], taps[-2::-1], strict=True))]
        stages, inputs = [], _EMBEDDING
        for outputs, depth in zip(reversed(channels), depths, strict=True):
            doubled = [nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU6()]
            stages.append(nn.Sequential(*doubled, *(_block(outputs, outputs) for _ in range(depth))))
            inputs = outputs
        self.stages = nn.ModuleList(stages)

    def forward(self, embedding: Tensor) -> list[Tensor]:
        """Map the embedding to recovered levels, finest first."""
        levels: list[Tensor] = []
        x = embedding
        for stage in self.stages:
            x = stage(x)
            levels.insert(0, x)
        return levels


def _convolved(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _block(inputs: int, outputs: int, stride: int = 1) -> InvertedBottleneck:
    return InvertedBottleneck(inputs, outputs, 6, stride, 3, excite=False)
