"""PaDiM: Mahalanobis distance to a Gaussian of patch features at each position (Defard et al., ICPR 2021).

Settings of the paper: levels at strides 4, 8 and 16, 100 channels drawn at random (its ResNet-18), epsilon 0.01 on the
covariance (equation 1), distance of equation 2, Gaussian of sigma 4, the score is the map's maximum.

Departures: Lite0 instead of ResNet-18 or WideResNet-50. The variant at cfrg-lite0's taps keeps all 344 channels, which
the paper finds a little better than any choice of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.peers.detector import PAPER_TAPS, TOGETHER, Advance, Detector, Good, Taps, concatenated, open_teacher
from edgead.cfrg.backbones import EfficientNet
from edgead.cfrg.inspection import MapFusion

_POSITIONS = 64  # whose covariances are worked out at once


@dataclass(frozen=True)
class PaDiM:
    """Settings of PaDiM.

    Attributes:
        channels: drawn at random; None keeps all.
        epsilon: added to the diagonal of each covariance.
    """

    taps: Taps = PAPER_TAPS
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
        detector = PaDiMDetector(teacher, good.size_hw, every[: self.channels].sort().values)
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

    def __init__(self, teacher: EfficientNet, size_hw: tuple[int, int], chosen: Tensor) -> None:
        super().__init__(teacher, size_hw)
        self.fusion = MapFusion(size_hw)
        self.register_buffer("chosen", chosen)

    def believe(self, mean: Tensor, whiten: Tensor) -> None:
        """Take the Gaussians: ``(P, 1, d)`` and ``(P, d, d)``."""
        self.register_buffer("positions", mean)
        self.register_buffer("whiten", whiten)

    def patches(self, levels: list[Tensor]) -> Tensor:
        """Return the chosen channels at each position, ``(P, N, d)``."""
        return concatenated(levels)[:, self.chosen].flatten(2).permute(2, 0, 1)

    def judge(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        distance = (
            torch.matmul(self.patches(self.teacher(pixels)) - self.positions, self.whiten).square().sum(2).sqrt()
        )  # (P, N)
        height, width = (side // self.teacher.strides[0] for side in self.size_hw)
        anomaly_map = self.fusion([distance.T.reshape(-1, 1, height, width)])
        return anomaly_map, anomaly_map.amax((1, 2))
