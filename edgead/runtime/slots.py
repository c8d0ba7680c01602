"""The memory that frames pass through: cameras write into it, the engine reads batches from it, nothing is copied."""

from __future__ import annotations

from typing import Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt

Owner = TypeVar("Owner")


class Ring(Generic[Owner]):
    """Preallocated images in a ring, filled in any order and emptied in the order of their claims.

    Its owner serialises all calls, and claims no more than ``capacity`` places at a time; only the pixels of a claimed
    place may be written without it.
    """

    def __init__(self, capacity: int, size_hw: tuple[int, int]) -> None:
        self.images: npt.NDArray[np.uint8] = np.zeros((capacity, *size_hw, 3), np.uint8)
        self._claimed: list[Owner | None] = [None] * capacity  # None: never claimed yet
        self._filled_s = [0.0] * capacity  # monotonic; 0 while the camera still writes
        self._first = 0
        self._count = 0

    @property
    def is_empty(self) -> bool:
        """Tell whether no place is claimed."""
        return not self._count

    def claim(self, owner: Owner) -> int:
        """Take the next place for a frame; its camera then writes ``images[place]``."""
        capacity = len(self._claimed)
        if self._count == capacity:
            raise AssertionError(f"all {capacity} places are claimed: a frame came that no part was admitted for")
        place = (self._first + self._count) % capacity
        self._claimed[place] = owner
        self._filled_s[place] = 0.0
        self._count += 1
        return place

    def fill(self, place: int, now_s: float) -> bool:
        """Mark a claimed place as written; True when it is the one that the engine waits for."""
        self._filled_s[place] = now_s
        return place == self._first

    def owner(self, place: int) -> Owner:
        """Return whose image stands in a claimed place."""
        owner = self._claimed[place]
        assert owner is not None
        return owner

    def batch(self, largest: int) -> tuple[int, list[Owner], list[float]]:
        """Return the first place, the owners and the fill times of the written images that lie next in one piece."""
        first, filled = self._first, self._filled_s
        last = min(first + min(largest, self._count), len(filled))
        end = first
        while end < last and filled[end]:
            end += 1
        return first, cast("list[Owner]", self._claimed[first:end]), filled[first:end]

    def release(self, count: int) -> None:
        """Give back the first ``count`` places."""
        self._first = (self._first + count) % len(self._claimed)
        self._count -= count
