"""What a dataset is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One labelled image of one part, seen from one view under one illumination.

    Attributes:
        image: path of the image file.
        part: identity of the physical part; all its views and illuminations share it.
        defect: ``"good"``, or the name of the defect type that the image shows.
        mask: path of the pixel mask; None for good images and for datasets without pixel labels.
        view: name of the view (camera), ``"0"`` where there is only one.
        illumination: name of the light, ``"0"`` where there is only one.
        attributes: free labels that the dataset carries (severity, batch, material).
    """

    image: Path
    part: str
    defect: str = GOOD
    mask: Path | None = None
    view: str = "0"
    illumination: str = "0"
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Tell whether the image shows no defect."""
        return self.defect == GOOD


@dataclass(frozen=True)
class Dataset:
    """One category, split by part: no part, and no image content, is in two of the three splits.

    Attributes:
        name: the dataset's kind, such as ``"mvtec"``.
        category: the product.
        train: Good samples that networks are trained on.
        validation: Good samples held out of training, for thresholds and model selection.
        test: Good and defective samples, for evaluation only.
    """

    name: str
    category: str
    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]
