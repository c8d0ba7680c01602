"""PatchCore: distance to the nearest of a coreset of patch features (Roth et al., CVPR 2022).

Settings of the paper: levels at strides 8 and 16, 3x3 neighbourhoods, 1 % coreset found greedily (algorithm 1) among
features projected at random, b = 9 neighbours in the re-weighting of the score (equation 7; the number is anomalib's,
the paper gives none), Gaussian of sigma 4 on the map.

Departures: Lite0 instead of WideResNet-50, whose 40 and 112 channels are kept whole; the paper brings 512 and 1,024
channels to 1,024 by pooling over channels, twice, which would only repeat these.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers.detector import TOGETHER, Advance, Detector, Good, Taps, concatenated, open_teacher
from edgead.cfrg.backbones import EfficientNet
from edgead.cfrg.inspection import MapFusion


@dataclass(frozen=True)
class PatchCore:
    """Settings of PatchCore.

    Attributes:
        share: of all training patches that the memory bank keeps.
        projected: dimensions in which the coreset is searched.
        neighbours: of the nearest memory, which weigh the score.
    """

    taps: Taps = (4, 10)
    share: float = 0.01
    projected: int = 128
    neighbours: int = 9

    def steps(self, images: int) -> int:
        """Count the images, and as much again for the coreset."""
        return 2 * images

    @torch.no_grad()
    def fit(self, good: Good, *, seed: int, advance: Advance) -> PatchCoreDetector:
        """Fill the memory bank; the seed draws the projection and the coreset's first patch."""
        detector = PatchCoreDetector(open_teacher(self.taps, good.teacher_weights), good.size_hw)
        levels = zip(*(torch.split(level, TOGETHER) for level in good.levels(self.taps, advance)), strict=True)
        patches = torch.cat([detector.patches(list(some)).flatten(0, 1) for some in levels])
        random = torch.Generator().manual_seed(seed)
        projected = patches
        if self.projected < patches.shape[1]:
            projected = patches @ torch.randn(patches.shape[1], self.projected, generator=random)
        count = max(self.neighbours, round(self.share * len(patches)))
        first = int(torch.randint(len(patches), (1,), generator=random))
        chosen = coreset(projected, min(count, len(patches)), first, advance, len(good.train))
        detector.remember(patches[chosen], self.neighbours)
        return detector.eval()


@torch.no_grad()
def coreset(points: Tensor, count: int, first: int, advance: Advance | None = None, total: int = 0) -> Tensor:
    """Choose points greedily, each the farthest from those before it (algorithm 1): the indexes ``(count,)``.

    Args:
        points: ``(N, D)``.
        first: index of the point to begin with.
        total: steps to report in all.
    """
    norm = points.square().sum(1)
    chosen = [first]
    nearest = torch.full_like(norm, torch.inf)  # squared distance of each point to the nearest chosen one
    reported = 0
    while len(chosen) < count:
        last = chosen[-1]
        nearest = torch.minimum(nearest, torch.addmv(norm + norm[last], points, points[last], alpha=-2))
        nearest[last] = -torch.inf  # rounding must not choose a point twice
        chosen.append(int(nearest.argmax()))
        due = len(chosen) * total // count
        if advance is not None and due > reported:
            advance(due - reported, "coreset")
            reported = due
    return torch.tensor(chosen)


class PatchCoreDetector(Detector):
    """The memory bank ``(M, C)`` less its mean, and for each memory the indexes of its nearest ones, itself first.

    Distances come from products, as everywhere where this is fast; features about zero lose fewest digits by it.
    """

    centre: Tensor
    bank: Tensor
    norm: Tensor
    near: Tensor

    def __init__(self, teacher: EfficientNet, size_hw: tuple[int, int]) -> None:
        super().__init__(teacher, size_hw)
        self.fusion = MapFusion(size_hw)

    def remember(self, bank: Tensor, neighbours: int) -> None:
        """Take the memory bank and look up its neighbourhoods."""
        near = [
            torch.cdist(some, bank).topk(min(neighbours, len(bank)), largest=False).indices
            for some in torch.split(bank, 256)
        ]
        self.register_buffer("centre", bank.mean(0))
        self.register_buffer("bank", bank - self.centre)
        self.register_buffer("norm", self.bank.square().sum(1))
        self.register_buffer("near", torch.cat(near))

    def patches(self, levels: list[Tensor]) -> Tensor:
        """Return locally aware patch features ``(N, h * w, C)`` (equation 2): means over 3x3 neighbourhoods."""
        levels = [F.avg_pool2d(level, 3, 1, 1, count_include_pad=False) for level in levels]
        return concatenated(levels).flatten(2).transpose(1, 2)

    def judge(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.patches(self.teacher(pixels)) - self.centre  # (N, P, C)
        nearest = self.squared(patches).amin(2).sqrt()  # (N, P)
        height, width = (side // self.teacher.strides[0] for side in self.size_hw)
        anomaly_map = self.fusion([nearest.reshape(-1, 1, height, width)])
        return anomaly_map, self.score(patches, nearest)

    def score(self, patches: Tensor, nearest: Tensor) -> Tensor:
        """Weigh the largest distance down where its memory's neighbourhood is sparse too (equations 6 and 7)."""
        farthest = nearest.argmax(1)[:, None, None].expand(-1, 1, patches.shape[2])
        squared = self.squared(patches.gather(1, farthest))[:, 0]  # (N, M)
        around = squared.gather(1, self.near[squared.argmin(1)]).sqrt()  # (N, b), the nearest memory first
        return (1 - around.softmax(1)[:, 0]) * nearest.amax(1)

    def squared(self, patches: Tensor) -> Tensor:
        """Return squared distances of centred patches ``(N, P, C)`` to all memories: ``(N, P, M)``."""
        product = torch.matmul(patches, self.bank.T)
        return (patches.square().sum(2, keepdim=True) + self.norm - 2 * product).clamp_min(0)
