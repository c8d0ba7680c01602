"""Position statistics: how far the teacher's features lie from what Good images have at the same place.

PaDiM (Defard et al., ICPR 2020) fits one Gaussian a position; here one a level and position, with few factors and an
isotropic rest (probabilistic PCA, Tipping and Bishop, 1999), so that it is a small product and needs few Good images.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FACTORS = 8
FINEST = 16  # stride of the finest grid: levels above it are averaged down


class PositionStatistics(nn.Module):
    """Mahalanobis distances by position of each teacher level, from constants that are fitted once after training.

    For features x at a position, with mean m, the k largest eigenpairs ``(l_i, v_i)`` of the Good images' covariance
    and s the mean of the others, both raised by the mean eigenvalue (a shrinkage towards the isotropic):
    ``d^2 C = |x - m|^2 / s - sum_i (1/s - 1/l_i) (v_i (x - m))^2``. It is exact for the covariance
    ``sum_i (l_i - s) v_i v_i^T + s I``.

    Args:
        channels, strides: of the teacher's levels.
        size_hw: height and width of the images, pixels.
        factors: most eigenvectors a position.
    """

    def __init__(
        self, channels: tuple[int, ...], strides: tuple[int, ...], size_hw: tuple[int, int], factors: int = FACTORS
    ) -> None:
        super().__init__()
        self.pool = [max(1, FINEST // stride) for stride in strides]
        self.count = len(channels)
        for level, (c, stride, pool) in enumerate(zip(channels, strides, self.pool, strict=True)):
            h, w = (side // (stride * pool) for side in size_hw)
            self.register_buffer(f"mean_{level}", torch.zeros(h * w, 1, c))
            self.register_buffer(f"factors_{level}", torch.zeros(h * w, c, min(factors, c)))
            self.register_buffer(f"scale_{level}", torch.ones(h * w, 1))

    def forward(self, teacher: list[Tensor]) -> list[Tensor]:
        """Map levels ``(N, C_i, h_i, w_i)`` to distances, one ``(N, 1, h, w)`` a level at stride 16 or its own."""
        maps = []
        for level, features in enumerate(teacher):
            pooled = self._pooled(level, features)
            rest = _by_position(pooled) - self.get_buffer(f"mean_{level}")  # (h w, N, C)
            known = torch.bmm(rest, self.get_buffer(f"factors_{level}"))
            squared = rest.square().sum(2) * self.get_buffer(f"scale_{level}") - known.square().sum(2)  # (h w, N)
            distance = (squared / rest.shape[2]).clamp_min(1e-6).sqrt()
            maps.append(distance.T.reshape(-1, 1, *pooled.shape[2:]))
        return maps

    @torch.no_grad()
    def fit(self, batches: Iterable[list[Tensor]]) -> None:
        """Fit to the levels of Good images, batch after batch; memory does not grow with their number."""
        count, sums, squares = 0, [torch.zeros(())] * self.count, [torch.zeros(())] * self.count
        origin: list[Tensor] = []
        for teacher in batches:
            samples = [_by_position(self._pooled(i, x)).double() for i, x in enumerate(teacher)]
            origin = origin or [x.mean(1, keepdim=True) for x in samples]  # near the mean: no digits are lost
            for level, x in enumerate(samples):
                rest = x - origin[level]
                sums[level] = sums[level] + rest.sum(1, keepdim=True)
                squares[level] = squares[level] + rest.mT @ rest
            count += len(teacher[0])
        for level in range(self.count):
            offset = sums[level] / count
            covariance = squares[level] / count - offset.mT @ offset
            self._keep(level, origin[level] + offset, covariance * (count / max(count - 1, 1)))

    def _keep(self, level: int, mean: Tensor, covariance: Tensor) -> None:
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values.flip(1).clamp_min(0), vectors.flip(2)
        kept: Tensor = self.get_buffer(f"factors_{level}")
        factors = kept.shape[2]
        # The same shrinkage everywhere: a position that never varies must not turn every speck into a defect.
        floor = values.mean().clamp_min(1e-6)
        rest = values[:, factors:].mean(1, keepdim=True) if factors < values.shape[1] else values[:, -1:]
        scale = 1 / (rest + floor)
        weights = (scale - 1 / (values[:, :factors] + floor)).clamp_min(0).sqrt()
        self.get_buffer(f"mean_{level}").copy_(mean)
        kept.copy_(vectors[:, :, :factors] * weights[:, None])
        self.get_buffer(f"scale_{level}").copy_(scale)

    def _pooled(self, level: int, features: Tensor) -> Tensor:
        features = features.float()
        return features if self.pool[level] == 1 else F.avg_pool2d(features, self.pool[level])


def _by_position(features: Tensor) -> Tensor:
    return features.flatten(2).permute(2, 0, 1)  # (h w, N, C)
