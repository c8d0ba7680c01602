"""The variants: what each changes against ``cfrg-lite0``, and the networks that it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from benchmarks.exploration.pieces import (
    DetachedSegmentation,
    PaperStudent,
    StemStudent,
    SummedSegmentation,
    UngatedSegmentation,
)
from edgead.cfrg.backbones import EfficientNet
from edgead.cfrg.model import Cfrg, build
from edgead.cfrg.recovery import LightRecovery
from edgead.cfrg.segmentation import LightSegmentation
from edgead.cfrg.student import LightStudent
from edgead.config import NetworkName

BASE: NetworkName = "cfrg-lite0"
TAPS = (4, 10, 14)


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        changed: what differs from ``cfrg-lite0``, in words.
        networks: builds it for a size of image, pixels.
        size: height and width of its images, pixels.
        training: keys of train.yaml that differ.
        graph_differs: False where it is trained otherwise, but runs alike.
    """

    changed: str
    networks: Callable[[int], Cfrg]
    size: int = 256
    training: Mapping[str, Any] = field(default_factory=dict)
    graph_differs: bool = True


def _lite0(
    *,
    teacher: Callable[[], EfficientNet] = lambda: EfficientNet(TAPS, lite=True),
    student: Callable[[EfficientNet], nn.Module] | None = None,
    recovery: tuple[int, ...] = (32, 64, 128),
    segmentation: Callable[[tuple[int, ...]], nn.Module] = lambda channels: LightSegmentation(channels, 32),
) -> Callable[[int], Cfrg]:
    """Return a builder of ``cfrg-lite0`` with some of its networks replaced."""

    def networks(size: int) -> Cfrg:
        seen = teacher()
        channels = seen.channels
        imitating = student(seen) if student else LightStudent(channels, seen.strides, 24)
        recovering = LightRecovery(channels, recovery, recovery[-1])
        return Cfrg(BASE, seen, imitating, recovering, segmentation(channels), (size, size))

    return networks


def _named(network: str) -> Callable[[int], Cfrg]:
    return lambda size: build(network, size)


def _tapped(*taps: int) -> Callable[[], EfficientNet]:
    return lambda: EfficientNet(taps, lite=True)


VARIANTS: dict[str, Variant] = {
    BASE: Variant("nothing", _named(BASE)),
    "cfrg-nano0": Variant("all beside the teacher half as wide, images of 192x192", _named("cfrg-nano0"), size=192),
    "all-half": Variant("all beside the teacher half as wide: cfrg-nano0 at 256x256", _named("cfrg-nano0")),
    "size-192": Variant("images of 192x192 instead of 256x256", _named(BASE), size=192),
    "levels-8-16": Variant(
        "no level at stride 32: the teacher ends at block 10", _lite0(teacher=_tapped(4, 10), recovery=(32, 64))
    ),
    "levels-16-32": Variant("no level at stride 8", _lite0(teacher=_tapped(10, 14), recovery=(64, 128))),
    "segmentation-thin": Variant(
        "segmentation 16 channels wide instead of 32", _lite0(segmentation=lambda each: LightSegmentation(each, 16))
    ),
    "segmentation-none": Variant(
        "no segmentation network: a learned sum of the disagreements and their products",
        _lite0(segmentation=lambda each: SummedSegmentation(len(each))),
    ),
    "bottleneck-half": Variant("recovery half as wide: 16, 32, 64, bottleneck 64", _lite0(recovery=(16, 32, 64))),
    "student-half": Variant(
        "student half as wide: 12, 24, 48",
        _lite0(student=lambda teacher: LightStudent(teacher.channels, teacher.strides, 12)),
    ),
    "student-paper": Variant(
        "student of MBConv blocks as the paper's (EfficientNet-B0) instead of plain ones",
        _lite0(student=lambda teacher: PaperStudent(teacher.taps, teacher.channels)),
    ),
    "student-stem": Variant(
        "student begins at the teacher's block 2 (stride 4) instead of at the image",
        _lite0(student=lambda teacher: StemStudent(teacher, 24)),
    ),
    "gates-beside": Variant(
        "no gate: features and disagreements side by side instead of multiplied",
        _lite0(segmentation=lambda each: UngatedSegmentation(each, 32)),
    ),
    "gates-detached": Variant(
        "the segmentation's loss does not train student and recovery",
        _lite0(segmentation=lambda each: DetachedSegmentation(each, 32)),
        graph_differs=False,
    ),
    "no-clean-samples": Variant(
        "every training image is corrupted instead of 4 of 5",
        _named(BASE),
        training={"clean_share": 0.0},
        graph_differs=False,
    ),
    "synthesis-paper": Variant(
        "the paper's corruption alone: textures under Perlin masks",
        _named(BASE),
        training={"synthesis": "reference"},
        graph_differs=False,
    ),
    "size-320": Variant("images of 320x320 instead of 256x256", _named(BASE), size=320),
}
