"""Fusion: the scores of a part's frames become one verdict."""

from __future__ import annotations

import math

import pytest

from edgead.errors import DataError
from edgead.runtime.fusion import Largest
from edgead.runtime.parts import Slot
from edgead.thresholds import Verdict, threshold_from_good

TOP, SIDE = Slot("top", "0"), Slot("side", "0")


def test_the_largest_score_is_the_score_of_the_part() -> None:
    judge = Largest(threshold_from_good([0.1, 0.2, 0.3], unit="part", source="test"))
    judged = judge.judge({TOP: 0.25, SIDE: 0.5})
    assert judged == (0.5, SIDE, Verdict.NG)
    assert judge.judge({SIDE: 0.1, TOP: 0.2}) == (0.2, TOP, Verdict.OK)
    assert judge.unit_threshold.ng == 0.3


@pytest.mark.parametrize("scores", [{}, {TOP: math.nan, SIDE: 0.1}, {TOP: 0.1, SIDE: math.nan}, {TOP: -math.inf}])
def test_broken_scores_are_never_judged(scores: dict[Slot, float]) -> None:
    judge = Largest(threshold_from_good([0.1], unit="part", source="test"))
    with pytest.raises(DataError, match=r"expected"):
        judge.judge(scores)
