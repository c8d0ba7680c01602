"""CFRG: coarse-to-fine anomaly detection with recovery guidance (3CAD, AAAI 2025), figure 4.

image --> teacher (frozen) --> levels T ----------------+--> gate --> segmentation --> logits
  |                              |                      |
  |                              +--> recovery --> R ---+
  +--> student --------------------------------> S -----+

Beside the paper: position statistics of T, where the network has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from edgead.cfrg.backbones import Backbone, EfficientNet, resnet18, wide_resnet50_2
from edgead.cfrg.cosine import CosineHead, Disagreement
from edgead.cfrg.recovery import LightRecovery, ReferenceRecovery
from edgead.cfrg.segmentation import LightSegmentation, ReferenceSegmentation
from edgead.cfrg.statistics import PositionStatistics
from edgead.cfrg.student import LightStudent, ReferenceStudent, TunedStudent
from edgead.config import NetworkName
from edgead.errors import ConfigError, nearest

NETWORKS: tuple[NetworkName, ...] = get_args(NetworkName)


class Output(NamedTuple):
    """What one pass gives: levels, disagreements, the segmentation's logits ``(N, 1, h, w)``, distances by position."""

    teacher: list[Tensor]
    student: list[Tensor]
    recovery: list[Tensor]
    disagreement: Disagreement
    logits: Tensor
    statistics: Sequence[Tensor] = ()


class Cfrg(nn.Module):
    """The five networks of CFRG for one category.

    Attributes:
        network: name of the configuration.
        size_hw: height and width of the images, multiples of 32.
        fusion: weights of the recovery's levels, the segmentation and the statistics' levels in the anomaly map; all 1
            in the paper.
        statistics: of the teacher's levels by position; None in the paper.
    """

    fusion: Tensor

    def __init__(
        self,
        network: NetworkName,
        teacher: Backbone,
        student: nn.Module,
        recovery: nn.Module,
        segmentation: nn.Module,
        size_hw: tuple[int, int],
    ) -> None:
        super().__init__()
        self.network = network
        self.size_hw = size_hw
        self.teacher = teacher.requires_grad_(False)
        self.student = student
        self.recovery = recovery
        self.cosine = CosineHead()
        self.segmentation = segmentation
        self.statistics: PositionStatistics | None = None
        self.register_buffer("fusion", torch.ones(len(teacher.channels) + 1))
        self.register_buffer("mean", torch.tensor(teacher.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(teacher.std).reshape(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def normalise(self, image: Tensor) -> Tensor:
        """Bring uint8 RGB ``(N, H, W, 3)`` to the teacher's scale, ``(N, 3, H, W)`` float32."""
        # Cast first: TensorRT refuses to transpose uint8. Contiguous: in channels-last order the CPU backward of the
        # first convolution corrupts the heap (seen with torch 2.13).
        pixels = image.float().permute(0, 3, 1, 2).contiguous()
        return (pixels - self.mean) / self.std

    def forward(self, image: Tensor, teacher: list[Tensor] | None = None) -> Output:
        """Run all networks on a normalised image ``(N, 3, H, W)``; the teacher's levels may be given where known."""
        teacher = self.teacher(image) if teacher is None else teacher
        student = self.student(image)
        recovery = self.recovery(teacher)
        disagreement = self.cosine(teacher, student, recovery)
        logits = self.segmentation(teacher, student, disagreement)
        distances = [] if self.statistics is None or self.training else self.statistics(teacher)
        return Output(teacher, student, recovery, disagreement, logits, distances)

    def add_statistics(self) -> PositionStatistics:
        """Give it position statistics, still to be fitted; the weights of the anomaly map's parts become 1."""
        self.statistics = PositionStatistics(self.teacher.channels, self.teacher.strides, self.size_hw)
        self.fusion = torch.ones(2 * len(self.teacher.channels) + 1)
        return self.statistics

    def train(self, mode: bool = True) -> Cfrg:
        """Set the training mode; the frozen teacher always stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self


def build(network: str, size: int = 256, *, statistics: bool = False) -> Cfrg:
    """Build a configuration with random weights.

    Args:
        network: one of NETWORKS.
        size: height and width of its images, a multiple of 32, pixels.
        statistics: give it position statistics of the teacher's levels, to be fitted after training.

    Raises:
        ConfigError: unknown network, or a size that is not a multiple of 32.
    """
    builders: dict[str, Callable[[tuple[int, int]], Cfrg]] = {
        "cfrg-wrn50": _wrn50,
        "cfrg-r18": _r18,
        "cfrg-duo0": _duo0,
        "cfrg-lite0": _lite0,
        "cfrg-nano0": _nano0,
    }
    if network not in builders:
        raise ConfigError(f"unknown network '{network}'{nearest(network, NETWORKS)}")
    if size < 64 or size % 32:
        raise ConfigError(f"size {size} does not work; expected a multiple of 32 from 64 pixels on, such as 256")
    cfrg = builders[network]((size, size))
    if statistics:
        cfrg.add_statistics()
    return cfrg


def _wrn50(size_hw: tuple[int, int]) -> Cfrg:
    teacher = wide_resnet50_2()
    student = ReferenceStudent(teacher.channels)
    return Cfrg("cfrg-wrn50", teacher, student, ReferenceRecovery(), ReferenceSegmentation(), size_hw)


def _r18(size_hw: tuple[int, int]) -> Cfrg:
    teacher = resnet18()
    student = LightStudent(teacher.channels, teacher.strides, 32)
    recovery = LightRecovery(teacher.channels, (64, 128, 256), 256)
    return Cfrg("cfrg-r18", teacher, student, recovery, LightSegmentation(teacher.channels, 64), size_hw)


def _duo0(size_hw: tuple[int, int]) -> Cfrg:
    # ImageNet's features change with light and place as much as with defects. A student that begins with them, and is
    # taught by defects on Good images that vary, tells the two apart; the segmentation reads it beside the gates.
    teacher = EfficientNet((4, 10, 14), lite=True)
    student = TunedStudent((4, 10, 14))
    recovery = LightRecovery(teacher.channels, (32, 64, 128), 128)
    segmentation = LightSegmentation(teacher.channels, 48, student=True)
    return Cfrg("cfrg-duo0", teacher, student, recovery, segmentation, size_hw)


def _lite0(size_hw: tuple[int, int]) -> Cfrg:
    # Strides 8, 16, 32: on real surfaces the deepest level says most and stride 4 least, at the highest price.
    teacher = EfficientNet((4, 10, 14), lite=True)
    student = LightStudent(teacher.channels, teacher.strides, 24)
    recovery = LightRecovery(teacher.channels, (32, 64, 128), 128)
    return Cfrg("cfrg-lite0", teacher, student, recovery, LightSegmentation(teacher.channels, 32), size_hw)


def _nano0(size_hw: tuple[int, int]) -> Cfrg:
    # The teacher is most of the work, and smaller images save more of it at less loss than anything inside it that was
    # tried: so it stays whole, its images are 192x192 (see TrainConfig), and all beside it is half as wide.
    teacher = EfficientNet((4, 10, 14), lite=True)
    student = LightStudent(teacher.channels, teacher.strides, 12)
    recovery = LightRecovery(teacher.channels, (16, 32, 64), 64)
    return Cfrg("cfrg-nano0", teacher, student, recovery, LightSegmentation(teacher.channels, 16), size_hw)
