"""STFPM: a student of the teacher's shape that has seen Good images only (Wang et al., BMVC 2021).

Settings of the paper: levels at strides 4, 8 and 16, the loss of equations 1 to 3, SGD with learning rate 0.4, momentum
0.9, weight decay 1e-4, batches of 32, the map as the product over the levels (equation 4), the score its maximum. As in
the authors' program (github.com/gdwang08/STFPM, main.py), the student kept is that of the epoch after which the mean of
the map on held-out Good images was least.

Departures: teacher and student are Lite0 instead of ResNet-18; fewer epochs than the paper's 100, as recorded,
but of more images than its categories have: 20 epochs of 514 images are 320 steps, 100 of 200 are 600.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers.descent import batches, count, descend, mixed, quicken
from benchmarks.peers.detector import PAPER_TAPS, TOGETHER, Advance, Detector, Good, Images, Taps, open_teacher
from edgead.cfrg.backbones import EfficientNet


@dataclass(frozen=True)
class STFPM:
    """Settings of STFPM."""

    taps: Taps = PAPER_TAPS
    epochs: int = 20
    batch: int = 32
    learning_rate: float = 0.4

    def steps(self, images: int) -> int:
        """Count the images, then the steps, and one step more for the held-out images of each epoch."""
        return images + self.epochs * (count(images, self.batch) + 1)

    def fit(self, good: Good, *, seed: int, advance: Advance) -> STFPMDetector:
        """Train the student; the seed draws its first weights and the batches."""
        torch.manual_seed(seed)
        detector = STFPMDetector(open_teacher(self.taps, good.teacher_weights), good.size_hw)
        taught = good.levels(self.taps, advance)
        images = torch.from_numpy(good.train)

        def loss(indexes: Tensor) -> Tensor:
            with mixed():
                learnt = detector.student(detector.normalise(images[indexes]))
            return discrepancy([level[indexes] for level in taught], [level.float() for level in learnt])

        optimiser = torch.optim.SGD(detector.student.parameters(), self.learning_rate, 0.9, weight_decay=1e-4)
        order = batches(len(images), self.batch, self.epochs, seed)
        held_out = good.validation if len(good.validation) else good.train
        least, kept = float("inf"), copy.deepcopy(detector.student.state_dict())
        for epoch in range(self.epochs):
            detector.train()
            descend(islice(order, count(len(images), self.batch)), loss, optimiser, advance)
            found = mean_map(detector.eval(), held_out)
            if found < least:
                least, kept = found, copy.deepcopy(detector.student.state_dict())
            advance(1, f"epoch {epoch + 1}: map of held-out images {found:.3e}, least {least:.3e}")
        detector.student.load_state_dict(kept)
        return detector


@torch.no_grad()
def mean_map(detector: Detector, images: Images) -> float:
    """Return the mean of a detector's map over images ``(N, H, W, 3)``."""
    pieces = torch.split(torch.from_numpy(images), TOGETHER)
    return float(torch.cat([detector(piece)[0].mean((1, 2)) for piece in pieces]).mean())


def difference(teacher: Tensor, student: Tensor) -> Tensor:
    """Return half the squared distance of features of length 1 at each position (equation 1): ``(N, h, w)``."""
    return 0.5 * (F.normalize(teacher) - F.normalize(student)).square().sum(1)


def discrepancy(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """Sum over the levels the mean over positions (equations 2 and 3)."""
    return torch.stack([difference(t, s).mean() for t, s in zip(teacher, student, strict=True)]).sum()


class STFPMDetector(Detector):
    """Teacher and student."""

    def __init__(self, teacher: EfficientNet, size_hw: tuple[int, int]) -> None:
        super().__init__(teacher, size_hw)
        self.student = EfficientNet(teacher.taps, lite=True)
        quicken(self.student)

    def judge(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        anomaly_map: Tensor | None = None
        for teacher, student in zip(self.teacher(pixels), self.student(pixels), strict=True):
            level = difference(teacher, student)[:, None]
            level = F.interpolate(level, size=self.size_hw, mode="bilinear", align_corners=False)[:, 0]
            anomaly_map = level if anomaly_map is None else anomaly_map * level
        assert anomaly_map is not None
        return anomaly_map, anomaly_map.amax((1, 2))
