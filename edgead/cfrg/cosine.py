"""The cosine head: where student and recovery disagree with the teacher."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Disagreement(NamedTuple):
    """Cosine distances a level, each ``(N, 1, h_i, w_i)`` in [0, 2], 0 where the vectors agree."""

    student: list[Tensor]
    recovery: list[Tensor]


class CosineHead(nn.Module):
    """Measure ``1 - cos`` between levels, over channels, in a form that survives fp16.

    ``1 - cos`` loses its digits where vectors agree; ``|a/|a| - b/|b||^2 / 2`` is the same number and does not. The
    epsilon is far above fp16's smallest number, so that an all-zero vector gives 0.5 and never NaN.
    """

    eps = 1e-4

    def forward(self, teacher: list[Tensor], student: list[Tensor], recovery: list[Tensor]) -> Disagreement:
        """Compare each level's ``(N, C_i, h_i, w_i)`` tensors."""
        units = [self._unit(level) for level in teacher]
        return Disagreement(
            [self._distance(a, self._unit(b)) for a, b in zip(units, student, strict=True)],
            [self._distance(a, self._unit(b)) for a, b in zip(units, recovery, strict=True)],
        )

    def _unit(self, x: Tensor) -> Tensor:
        x = x.float()
        return x * self._total(x.square()).clamp_min(self.eps**2).rsqrt()  # clamped first: a zero has a gradient too

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        return 0.5 * self._total((a - b).square())

    def _total(self, x: Tensor) -> Tensor:
        """Add up the channels ``(N, C, h, w)`` to ``(N, 1, h, w)``."""
        if self.training:  # autocast would round the factors of a product
            return x.sum(1, keepdim=True)
        # A convolution by ones takes any memory layout: ONNX Runtime adds along a strided axis 3 to 5 times slower, and
        # OpenVINO reorders every level for a matrix product (1.0 of 7.7 ms of cfrg-lite0 in int8).
        return F.conv2d(x, x.new_ones(1, x.shape[1], 1, 1))
