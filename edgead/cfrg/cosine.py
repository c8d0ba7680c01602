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
        return F.normalize(x.float(), dim=1, eps=self.eps)

    @staticmethod
    def _distance(a: Tensor, b: Tensor) -> Tensor:
        return 0.5 * (a - b).square().sum(1, keepdim=True)
