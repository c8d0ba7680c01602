"""PaDiM: Mahalanobis distance to a Gaussian of patch features at each position (Defard et al., ICPR 2021).

Settings of the paper: levels at strides 4, 8 and 16, 100 channels drawn at random (its ResNet-18), epsilon 0.01 on the
covariance (equation 1), distance of equation 2, Gaussian of sigma 4, the score is the map's maximum.

Departures: Lite0 instead of ResNet-18 or WideResNet-50. The variants at cfrg-lite0's taps keep all 344 channels; one
of them brings all levels to stride 16, finer ones by means: fewer Gaussians, each of steadier features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers.detector import PAPER_TAPS, TOGETHER, Advance, Detector, Good, Taps, concatenated, open_teacher
from edgead.cfrg.backbones import EfficientNet
from edgead.cfrg.inspection import MapFusion

_POSITIONS = 64  # whose covariances are worked out at once


@dataclass(frozen=True)
class PaDiM:
    """Settings of PaDiM.

    Attributes:
        stride: of the Gaussians; None is that of the finest level.
        channels: drawn at random; None keeps all.
        epsilon: added to the diagonal of each covariance.
    """

    taps: Taps = PAPER_TAPS
    stride: int | None = None
    channels: int | None = 100
    epsilon: float = 0.01

    def steps(self, images: int) -> int:
        """Count the images."""
        return images

    @torch.no_grad()
    def fit(self, good: Good, *, seed: int, advance: Advance) -> PaDiMDetector:
        """Estimate the Gaussians; the seed draws the channels."""
        teacher = open_teacher(self.taps, good.teacher_weights)
        every = torch.randperm(sum(teacher.channels), generator=torch.Generator().manual_seed(seed))
        stride = self.stride or teacher.strides[0]
        detector = PaDiMDetector(teacher, good.size_hw, every[: self.channels].sort().values, stride)
        levels = zip(*(torch.split(level, TOGETHER) for level in good.levels(self.taps, advance)), strict=True)
        kept = torch.cat([detector.patches(list(some)) for some in levels], 1)  # (P, N, d): 0.4 to 1.6 MB an image
        fitted = [gaussians(some, self.epsilon) for some in torch.split(kept, _POSITIONS)]
        detector.believe(torch.cat([mean for mean, _ in fitted]), torch.cat([whiten for _, whiten in fitted]))
        return detector.eval()


def gaussians(patches: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Fit a Gaussian at each position.

    Args:
        patches: ``(P, N, d)``.

    Returns:
        Means ``(P, 1, d)`` and matrices ``W`` ``(P, d, d)`` with ``|(x - mean) W|`` the Mahalanobis distance.
    """
    values = patches.double()
    mean = values.mean(1, keepdim=True)
    centred = values - mean
    covariance = centred.mT @ centred / (values.shape[1] - 1)
    identity = torch.eye(values.shape[2], dtype=torch.float64)
    root = torch.linalg.cholesky(covariance + epsilon * identity)
    inverse = torch.linalg.solve_triangular(root, identity.expand_as(root), upper=False)
    return mean.float(), inverse.mT.float().contiguous()


class PaDiMDetector(Detector):
    """A mean and a whitening matrix at each position."""

    positions: Tensor
    whiten: Tensor
    chosen: Tensor

    def __init__(self, teacher: EfficientNet, size_hw: tuple[int, int], chosen: Tensor, stride: int) -> None:
        super().__init__(teacher, size_hw)
        self._factors = [stride // own for own in teacher.strides]  # 0 where a level is coarser
        self._grid = [side // stride for side in size_hw]
        self.fusion = MapFusion(size_hw)
        self.register_buffer("chosen", chosen)

    def believe(self, mean: Tensor, whiten: Tensor) -> None:
        """Take the Gaussians: ``(P, 1, d)`` and ``(P, d, d)``."""
        self.register_buffer("positions", mean)
        self.register_buffer("whiten", whiten)

    def patches(self, levels: list[Tensor]) -> Tensor:
        """Return the chosen channels at each position, ``(P, N, d)``."""
        halved = [F.avg_pool2d(x, by) if by > 1 else x for x, by in zip(levels, self._factors, strict=True)]
        return concatenated(halved)[:, self.chosen].flatten(2).permute(2, 0, 1)

    def judge(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        centred = self.patches(self.teacher(pixels)) - self.positions
        distance = torch.matmul(centred, self.whiten).square().sum(2).sqrt()  # (P, N)
        anomaly_map = self.fusion([distance.T.reshape(-1, 1, *self._grid)])
        return anomaly_map, anomaly_map.amax((1, 2))
