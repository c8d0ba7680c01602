from __future__ import annotations

import random

import numpy as np
import pytest

from edgead.runtime.fusion import Largest
from edgead.runtime.parts import Evidence, Outcome, Parts, Slot
from edgead.thresholds import Threshold

THRESHOLD = Threshold(
    unsure=0.5,
    ng=0.75,
    unit="part",
    false_reject_ppm=2000,
    confidence=0.95,
    n_good=3000,
    guaranteed_ppm=1000,
    needed_good=1500,
    source="by hand",
)
LEFT = (Slot("left", "ring"), Slot("left", "dome"))
RIGHT = (Slot("right", "ring"),)
SLOTS = {"a": LEFT, "b": RIGHT}


def ledger(capacity: int = 9) -> Parts:
    return Parts(SLOTS, Largest(THRESHOLD), capacity=capacity)


def feed(parts: Parts, trigger: int, scores: dict[Slot, float], now_s: float = 1.0) -> None:
    for slot in scores:
        assert parts.claim(trigger, slot, f"P{trigger}")
    for slot, score in scores.items():
        parts.judge(trigger, slot, score, now_s)


@pytest.mark.parametrize(
    ("scores", "outcome", "worst"),
    [
        ((0.1, 0.5, 0.2), Outcome.OK, LEFT[1]),
        ((0.1, 0.2, 0.51), Outcome.UNSURE, RIGHT[0]),
        ((0.75, 0.1, 0.1), Outcome.UNSURE, LEFT[0]),
        ((0.76, 0.1, 0.6), Outcome.NG, LEFT[0]),
    ],
)
def test_a_part_is_judged_by_its_largest_score(
    scores: tuple[float, float, float], outcome: Outcome, worst: Slot
) -> None:
    parts = ledger()
    assert parts.trigger(0.0)
    feed(parts, 0, dict(zip([*LEFT, *RIGHT], scores, strict=True)), now_s=2.0)
    (verdict,) = parts.take_decided()
    assert (verdict.outcome, verdict.score, verdict.worst, verdict.part) == (outcome, max(scores), worst, "P0")
    assert (verdict.frames, verdict.missing, verdict.triggered_s, verdict.decided_s) == (3, (), 0.0, 2.0)
    assert parts.take_decided() == []
    parts.check()


def test_nothing_is_decided_before_the_last_frame_is_judged() -> None:
    parts = ledger()
    parts.trigger(0.0)
    feed(parts, 0, {LEFT[0]: 0.9, LEFT[1]: 0.9})
    assert not parts.decided
    assert parts.claim(0, RIGHT[0], "P0")
    assert not parts.decided
    parts.judge(0, RIGHT[0], 0.1, 1.0)
    assert parts.take_decided()[0].outcome is Outcome.NG


def test_missing_frames_time_out_as_incomplete_and_none_at_all_as_missed() -> None:
    parts = ledger()
    parts.trigger(10.0)
    parts.trigger(11.0)
    feed(parts, 0, {LEFT[0]: 0.9})
    parts.expire(before_s=9.9, now_s=12.0)
    assert not parts.decided
    parts.expire(before_s=10.0, now_s=12.0)
    (verdict,) = parts.take_decided()
    assert (verdict.outcome, verdict.missing, verdict.score) == (Outcome.INCOMPLETE, (LEFT[1], RIGHT[0]), 0.9)
    parts.expire(before_s=11.0, now_s=13.0)
    (verdict,) = parts.take_decided()
    assert (verdict.outcome, verdict.score, verdict.part, verdict.frames) == (Outcome.MISSED, None, None, 0)
    parts.check()


def test_a_part_that_expires_waits_for_the_frames_that_are_being_judged() -> None:
    parts = ledger()
    parts.trigger(0.0)
    parts.claim(0, LEFT[0], "P0")
    parts.expire(before_s=5.0, now_s=6.0)
    assert not parts.decided
    parts.judge(0, LEFT[0], 0.3, 7.0)
    assert parts.take_decided()[0].outcome is Outcome.INCOMPLETE


def test_late_doubled_and_foreign_frames_are_counted_and_left_out() -> None:
    parts = ledger()
    parts.trigger(0.0)
    feed(parts, 0, dict.fromkeys([*LEFT, *RIGHT], 0.1))
    assert not parts.claim(0, LEFT[0], "P0")  # late: the part is decided
    parts.trigger(1.0)
    assert parts.claim(1, LEFT[0], "P1")
    assert not parts.claim(1, LEFT[0], "P1")  # doubled
    assert not parts.claim(1, Slot("top", "ring"), "P1")  # of no camera of the station
    assert parts.unused_frames == 3


def test_a_part_is_rejected_whole_when_there_is_no_room_for_all_its_frames() -> None:
    parts = ledger(capacity=8)  # two parts of three frames, and two places to spare
    assert [parts.trigger(0.0) for _ in range(3)] == [True, True, False]
    assert parts.counts[Outcome.REJECTED] == 1
    assert not parts.claim(2, LEFT[0], "P2")
    feed(parts, 0, {LEFT[0]: 0.1})
    assert parts.trigger(1.0)  # two to spare and one judged make three
    parts.check()


def test_a_camera_that_ends_leaves_later_parts_incomplete_at_once() -> None:
    parts = ledger()
    parts.trigger(0.0)
    feed(parts, 0, dict.fromkeys(LEFT, 0.1))
    parts.end("b", 1.0)
    assert parts.take_decided()[0].outcome is Outcome.INCOMPLETE
    parts.trigger(2.0)
    feed(parts, 1, dict.fromkeys(LEFT, 0.1))
    assert parts.take_decided()[0].missing == RIGHT
    parts.end("a", 3.0)
    parts.trigger(4.0)
    assert parts.take_decided()[0].outcome is Outcome.MISSED


def test_a_camera_that_has_moved_on_has_lost_what_it_left_out() -> None:
    parts = ledger()
    parts.reach("a", 1, 0.0)  # before part 0 is even triggered
    parts.trigger(0.0)
    feed(parts, 0, {RIGHT[0]: 0.1})
    (verdict,) = parts.take_decided()
    assert (verdict.outcome, verdict.missing) == (Outcome.INCOMPLETE, LEFT)


def test_stuck_sinks_stop_admission() -> None:
    parts = Parts(SLOTS, Largest(THRESHOLD), capacity=9, backlog=2)
    for number in range(2):
        parts.trigger(0.0)
        feed(parts, number, dict.fromkeys([*LEFT, *RIGHT], 0.1))
    assert not parts.has_room
    parts.take_decided()
    assert parts.has_room


def test_the_worst_evidence_of_an_ng_part_is_kept() -> None:
    parts = Parts({"a": [Slot("v", str(light)) for light in range(6)]}, Largest(THRESHOLD), capacity=6, per_part=2)
    parts.trigger(0.0)
    pixels, anomaly_map = np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.float32)
    for light, score in enumerate((0.8, 0.9, 0.1, 0.95, 0.85, 0.2)):
        slot = Slot("v", str(light))
        parts.claim(0, slot, "P0")
        parts.judge(0, slot, score, 1.0, Evidence(slot, score, pixels, anomaly_map) if score > 0.75 else None)
    assert [seen.score for seen in parts.take_decided()[0].evidence] == [0.95, 0.9]


@pytest.mark.parametrize("seed", range(20))
def test_every_trigger_is_decided_exactly_once_whatever_happens(seed: int) -> None:
    """Random orders, losses, doubles, time-outs and dying cameras; the law is held after every step."""
    draw = random.Random(seed)
    parts = ledger(capacity=draw.choice([3, 7, 12]))
    flying: list[tuple[int, Slot]] = []
    decided = []
    for step in range(400):
        now_s = float(step)
        match draw.choice(["trigger", "claim", "claim", "claim", "judge", "judge", "lose", "expire", "reach", "end"]):
            case "trigger":
                parts.trigger(now_s)
            case "claim":
                trigger, slot = draw.randrange(max(1, parts.triggers)), draw.choice([*LEFT, *RIGHT])
                if parts.claim(trigger, slot, "P"):
                    flying.append((trigger, slot))
            case "judge" if flying:
                parts.judge(*flying.pop(draw.randrange(len(flying))), draw.random(), now_s)
            case "lose" if flying and draw.random() < 0.2:
                parts.lose(*flying.pop(), now_s)
            case "expire" if draw.random() < 0.2:
                parts.expire(now_s - 20, now_s)
            case "reach":
                parts.reach(draw.choice("ab"), max(0, parts.triggers - draw.randrange(6)), now_s)
            case "end" if step > 380:
                parts.end(draw.choice("ab"), now_s)
        parts.check()
        if draw.random() < 0.5:
            decided += parts.take_decided()
    for trigger, slot in flying:
        parts.judge(trigger, slot, 0.0, 400.0)
    parts.end("a", 400.0)
    parts.end("b", 400.0)
    parts.check()
    decided += parts.take_decided()
    assert sorted(verdict.trigger for verdict in decided) == list(range(parts.triggers))
    assert parts.oldest_waiting_s is None
    for verdict in decided:
        if verdict.outcome in (Outcome.OK, Outcome.UNSURE, Outcome.NG):
            assert (verdict.frames, verdict.missing) == (3, ())
        else:
            assert verdict.missing
