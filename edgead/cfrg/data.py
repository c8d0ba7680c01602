"""Training images: Good samples in memory, corrupted afresh at every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from edgead import images
from edgead.cfrg import defects
from edgead.cfrg.synthesis import Textures, corrupt
from edgead.config import Synthesis
from edgead.datasets.sample import Sample
from edgead.errors import ConfigError

Key = tuple[int, int]  # epoch, index


class Batch(NamedTuple):
    """What one step sees: uint8 ``(N, H, W, 3)`` twice, and the mask ``(N, 1, H, W)`` float in {0, 1}."""

    clean: Tensor
    corrupted: Tensor
    mask: Tensor


class TrainingImages(Dataset[Batch]):
    """Good images, decoded and resized once; item ``(epoch, index)`` is one of them corrupted.

    All randomness comes from (seed, epoch, index): the same whoever computes it, in whatever order.

    Args:
        size_hw: height and width of the network's images.
        clean_share: share of the images left as they are, 0..1.
        synthesis: kinds of corruption; ``"wide"`` also varies the images as the next Good part may vary.
        jitter: largest relative change of gain and gamma applied to clean and corrupted image alike, 0..1.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size_hw: tuple[int, int],
        textures: Textures,
        *,
        seed: int,
        clean_share: float,
        synthesis: Synthesis,
        jitter: float,
    ) -> None:
        self._textures, self._seed = textures, seed
        self._clean_share, self._synthesis, self._jitter = clean_share, synthesis, jitter
        with ThreadPoolExecutor(4) as pool:
            self._images = list(pool.map(lambda s: images.resize(images.read_image(s.image), size_hw), samples))

    def __len__(self) -> int:
        return len(self._images)

    def clean(self, batch: int) -> Iterator[Tensor]:
        """Yield the images as they are, uint8 ``(N, H, W, 3)`` with N up to ``batch``."""
        for first in range(0, len(self._images), batch):
            yield torch.from_numpy(np.stack(self._images[first : first + batch]))

    def __getitem__(self, key: Key) -> Batch:
        rng = np.random.default_rng((self._seed, *key))
        clean = self._images[key[1]]
        donor: images.Image | None = None
        if self._synthesis == "wide":
            clean, donor = (defects.vary(image, rng) for image in (clean, self._images[rng.integers(len(self))]))
        if self._jitter:
            clean = defects.expose(clean, rng, self._jitter)
        if rng.random() < self._clean_share:
            corrupted, mask = clean, np.zeros(clean.shape[:2], bool)
        else:
            corrupted, mask = corrupt(clean, rng, self._textures, synthesis=self._synthesis, donor=donor)
        return Batch(
            torch.from_numpy(clean), torch.from_numpy(corrupted), torch.from_numpy(mask.astype(np.float32))[None]
        )


class EpochBatches(Sampler[list[Key]]):
    """Batches of (epoch, index) keys, shuffled by (seed, epoch) and dealt to the processes of a parallel training.

    The batches of an epoch depend on nothing that happened before it, so a resumed training draws what an unbroken one
    would have drawn. A last batch that is not full is left out (the statistics of two images mislead), unless it is the
    only one.

    Args:
        batch: images a step and process.
        rank, ranks: which process this is, of how many.

    Raises:
        ConfigError: too few images for every process to have two.
    """

    def __init__(self, length: int, batch: int, seed: int, *, rank: int = 0, ranks: int = 1) -> None:
        if length < 2 * ranks:
            raise ConfigError(f"{length} training images for {ranks} processes; expected at least {2 * ranks}")
        self._length, self._seed, self._rank, self._ranks = length, seed, rank, ranks
        self._together = batch * ranks
        self.epoch = 0

    def __len__(self) -> int:
        return max(1, self._length // self._together)

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng((self._seed, self.epoch)).permutation(self._length)
        for step in range(len(self)):
            dealt = order[step * self._together : (step + 1) * self._together][self._rank :: self._ranks]
            yield [(self.epoch, int(index)) for index in dealt]
