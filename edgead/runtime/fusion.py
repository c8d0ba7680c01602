"""From the scores of a part's frames to its verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from edgead.errors import DataError
from edgead.thresholds import Threshold, Verdict

if TYPE_CHECKING:  # parts.py imports this module
    from edgead.runtime.parts import Slot


class Judged(NamedTuple):
    """What is decided about a part.

    Attributes:
        score: of the part, on the scale of its judge's threshold.
        worst: the frame that speaks most against it.
    """

    score: float
    worst: Slot
    verdict: Verdict


class Judge(Protocol):
    """Turns the scores of all frames of a part into a verdict; called under a lock, so it costs microseconds."""

    @property
    def unit_threshold(self) -> Threshold:
        """Threshold of a part's score."""

    def judge(self, scores: Mapping[Slot, float]) -> Judged:
        """Judge a part by the raw ``pred_score`` of each of its frames.

        Raises:
            DataError: no score, or one is NaN or infinite; a broken model must not pass as OK.
        """


class Largest:
    """The score of a part is the largest of its frames."""

    def __init__(self, threshold: Threshold) -> None:
        self._threshold = threshold

    @property
    def unit_threshold(self) -> Threshold:
        """Threshold of a part's score."""
        return self._threshold

    def judge(self, scores: Mapping[Slot, float]) -> Judged:
        """Judge a part by its largest score; see ``Judge.judge``."""
        _refuse_broken(scores)
        worst = max(scores, key=scores.__getitem__)
        score = scores[worst]
        return Judged(score, worst, self._threshold.verdict(score))


def _refuse_broken(scores: Mapping[Slot, float]) -> None:
    if not scores:
        raise DataError("a part without frames has no score; expected at least one")
    if not math.isfinite(sum(scores.values())):
        (view, light), score = next((pair for pair in scores.items() if not math.isfinite(pair[1])), (("?", "?"), 0.0))
        raise DataError(
            f"the score of view '{view}', light '{light}' is {score}; expected a finite number: "
            "the model or its input is broken"
        )
