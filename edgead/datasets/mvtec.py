"""MVTec AD, and every folder of images laid out like it.

Layout: ``<category>/train/good``, ``<category>/test/<good|defect>`` and
``<category>/ground_truth/<defect>/<stem>_mask.png`` (``<stem>.png`` is taken too). Without a ``ground_truth`` folder a
dataset has image labels only. Each image is its own part, unless a pattern takes part, view and light from the names.

Source: https://www.mvtec.com/company/research/datasets/mvtec-ad, Bergmann et al., CVPR 2019.
Licence: CC BY-NC-SA 4.0, no commercial use. edgead ships none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgead.datasets import files
from edgead.datasets.options import DatasetOptions
from edgead.datasets.sample import GOOD, Sample
from edgead.datasets.split import Entry, Split

EXPECTED = "<category>/train/good/*.png, test/<good|defect>/*.png, ground_truth/<defect>/*_mask.png"


def categories(root: Path, options: DatasetOptions) -> list[str]:  # noqa: ARG001 - one signature for all layouts
    """Return the folders that hold a train or a test folder."""
    return [folder.name for folder in files.folders(root) if (folder / "train").is_dir() or (folder / "test").is_dir()]


def entries(root: Path, category: str, options: DatasetOptions) -> Iterator[Entry]:
    """Yield each image with the split that its folder names."""
    home = root / category
    masks = files.Masks.below(home / "ground_truth") if (home / "ground_truth").is_dir() else None
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        for folder in files.folders(home / split):
            defect = GOOD if folder.name.lower() == GOOD else folder.name
            for image in files.images(folder):
                own = f"{split}/{folder.name}/{image.stem}"
                found = files.identity(options.pattern, own, image) if options.pattern else {}
                yield (
                    Sample(
                        image=image,
                        part=found.get("part", own),
                        defect=defect,
                        mask=masks.require(f"{folder.name}/{image.stem}", image) if masks and defect != GOOD else None,
                        view=found.get("view", "0"),
                        illumination=found.get("light", "0"),
                    ),
                    split,
                )
