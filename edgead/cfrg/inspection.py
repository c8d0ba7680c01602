"""The whole inspection as one module: pixels in, anomaly map and score out. What is exported, and what torch runs."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgead.cfrg.model import Cfrg, Output

SIGMA = 4.0
TRUNCATE = 4.0
SHARE = 0.2  # of CFRG's own parts beside position statistics


class Inspection(nn.Module):
    """Pre-processing, the networks, map fusion, Gaussian and maximum of a CFRG (cfrg.forward needs no change).

    The anomaly map is ``sum_i w_i up(1 - cos(R_i, T_i)) + w_s up(sigmoid(logits)) + sum_i v_i up(D_i)``, smoothed by a
    Gaussian of sigma 4, with D the position statistics where the network has them; the score is its maximum. Neither is
    clamped or normalised. The weights are 1 in the paper.
    """

    def __init__(self, cfrg: Cfrg) -> None:
        super().__init__()
        self.cfrg = cfrg
        self.fusion = MapFusion(cfrg.size_hw)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 ``(N, H, W, 3)`` RGB to float32 ``(N, H, W)`` and ``(N,)``."""
        return self.judge(self.cfrg(self.cfrg.normalise(image)))

    def judge(self, output: Output) -> tuple[Tensor, Tensor]:
        """Bring what the networks give to the anomaly map ``(N, H, W)`` and the score ``(N,)``."""
        parts = [part * weight for part, weight in zip(map_parts(output), self.cfrg.fusion, strict=True)]
        anomaly_map = self.fusion(parts)
        return anomaly_map, anomaly_map.amax((1, 2))


def map_parts(output: Output) -> list[Tensor]:
    """List the maps ``(N, 1, h_i, w_i)`` whose weighted and upsampled sum is the raw anomaly map."""
    return [*output.disagreement.recovery, output.logits.float().sigmoid(), *output.statistics]


@torch.no_grad()
def balance(cfrg: Cfrg, batches: Iterable[Tensor]) -> None:
    """Weight the parts of the anomaly map so that each varies alike over Good images; the weights' mean is 1.

    A level that is restless on Good parts would otherwise drown one that is quiet. EfficientAD (Batzner et al., 2024)
    scales its two maps by their quantiles on Good images to the same end. Where there are position statistics, the
    parts of CFRG and those of the statistics are each balanced so, then the two sums, of which CFRG's counts SHARE.

    Args:
        batches: uint8 ``(N, H, W, 3)`` RGB of Good images that were not trained on.
    """
    fusion = MapFusion(cfrg.size_hw)
    smoothed = [[fusion([part]) for part in map_parts(cfrg(cfrg.normalise(images)))] for images in batches]
    parts = [torch.cat(maps) for maps in zip(*smoothed, strict=True)]
    weights = torch.stack([1 / part.std().clamp_min(1e-6) for part in parts])
    own = len(cfrg.teacher.channels) + 1
    for group, share in ((slice(own), SHARE), (slice(own, None), 1 - SHARE)):
        if parts[group] and len(parts) > own:
            total = sum(weight * part for weight, part in zip(weights[group], parts[group], strict=True))
            weights[group] *= share / torch.as_tensor(total).std().clamp_min(1e-6)
    cfrg.fusion.copy_(weights / weights.mean())


class MapFusion(nn.Module):
    """Upsample maps to the image, add them and smooth the sum, all of it as two matrix products a size.

    Upsampling and Gaussian are linear and separable, so ``A = sum_i M_i P_i M_i^T`` is exact, border included, where a
    padded convolution is not. The sum is one product, ``[M_1 P_1, M_2 P_2, ...] [M_1, M_2, ...]^T``: the large map is
    only ever written once.
    """

    def __init__(self, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.size_hw = size_hw
        # Built here for every size that a level can have, so that a graph exporter sees constants.
        self._matrices: dict[tuple[int, int], str] = {}
        for side in set(size_hw):
            reach = 1
            while side % reach == 0 and side // reach >= 2:
                name = f"spread_{side}_{side // reach}"
                matrix = gaussian_matrix(side) @ upsampling_matrix(side, side // reach)
                self.register_buffer(name, torch.from_numpy(matrix.astype(np.float32)), persistent=False)
                self._matrices[side, side // reach] = name
                reach *= 2

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Map ``(N, 1, h_i, w_i)`` parts to ``(N, H, W)``; parts of one size are added before they are spread."""
        by_size: dict[tuple[int, int], Tensor] = {}
        for part in parts:
            size = (int(part.shape[2]), int(part.shape[3]))
            by_size[size] = part if size not in by_size else by_size[size] + part
        rows = [torch.matmul(self._matrix(0, h), part[:, 0]) for (h, _), part in by_size.items()]  # (N, H, w_i)
        columns = [self._matrix(1, w) for _, w in by_size]  # (W, w_i)
        return torch.matmul(torch.cat(rows, 2), torch.cat(columns, 1).T)

    def _matrix(self, axis: int, side: int) -> Tensor:
        matrix = getattr(self, self._matrices[self.size_hw[axis], side])
        assert isinstance(matrix, Tensor)
        return matrix


def upsampling_matrix(size: int, small: int) -> npt.NDArray[np.float64]:
    """Build the ``(size, small)`` matrix of linear interpolation with aligned corners."""
    position = np.arange(size) * ((small - 1) / (size - 1))
    low = np.minimum(position.astype(int), small - 2) if small > 1 else np.zeros(size, int)
    matrix = np.zeros((size, small))
    matrix[np.arange(size), low] = 1 - (position - low)
    matrix[np.arange(size), low + 1] += position - low
    return matrix


def gaussian_matrix(size: int, sigma: float = SIGMA) -> npt.NDArray[np.float64]:
    """Build the ``(size, size)`` matrix of a Gaussian whose border repeats the image mirrored, edge pixel included."""
    radius = int(TRUNCATE * sigma + 0.5)
    taps = np.array([math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)])
    taps /= taps.sum()
    rows = np.repeat(np.arange(size), 2 * radius + 1)
    folded = (rows + np.tile(np.arange(-radius, radius + 1), size)) % (2 * size)
    columns = np.where(folded < size, folded, 2 * size - 1 - folded)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (rows, columns), np.tile(taps, size))
    return matrix
