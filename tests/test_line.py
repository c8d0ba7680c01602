from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from edgead.runtime.flow import Flow
from edgead.runtime.frames import Frame
from edgead.runtime.fusion import Largest
from edgead.runtime.line import Line, Pacing
from edgead.runtime.parts import Outcome, PartVerdict, Slot
from edgead.thresholds import Threshold

THRESHOLD = Threshold(0.5, 0.75, "part", 2000, 0.95, 3000, 1000, 1500, "by hand")
LEFT, RIGHT = Slot("left", "ring"), Slot("right", "ring")
SLOTS = {"a": [LEFT], "b": [RIGHT]}


def frame(trigger: int, camera: str = "a") -> Frame:
    image = np.zeros((4, 4, 3), np.uint8)
    return Frame(image, camera, SLOTS[camera][0], trigger, f"P{trigger}", time.monotonic())


def opened(pacing: Pacing, *lines: int) -> tuple[Flow, list[Line]]:
    flow = Flow((4, 4))
    made = [flow.line(SLOTS, Largest(THRESHOLD), capacity=capacity, pacing=pacing) for capacity in lines]
    flow.open()
    return flow, made


def judge_all(flow: Flow, score: float = 0.1) -> int:
    """Judge what is there; return the size of the batch."""
    batch = flow.next_batch(16)
    assert batch is not None
    flow.settle(batch, time.monotonic(), [score] * len(batch.owners), [None] * len(batch.owners))
    return len(batch.owners)


def drained(line: Line) -> list[PartVerdict]:
    found: list[PartVerdict] = []
    while (verdicts := line.next_verdicts(0.0)) is not None and verdicts:
        found += verdicts
    return found


def test_live_frames_trigger_their_parts_and_never_wait_for_room() -> None:
    flow, (line,) = opened(Pacing.FREE, 4)
    places = [flow.claim(line, frame(trigger)) for trigger in range(4)]  # two parts of two frames have room
    assert [place is not None for place in places] == [True, True, False, False]
    assert [(one.trigger, one.outcome) for one in drained(line)] == [(2, Outcome.REJECTED), (3, Outcome.REJECTED)]
    assert flow.claim(line, frame(2, "b")) is None  # a rejected part wants none of its frames
    standing = line.standing()
    assert (standing.triggers, standing.open, standing.unused_frames) == (4, 2, 3)


def test_a_live_part_whose_other_view_never_comes_times_out() -> None:
    flow, (line,) = opened(Pacing.FREE, 8)
    clock = threading.Thread(target=line.run_clock, args=(None, 0.05, None), daemon=True)
    clock.start()
    place = flow.claim(line, frame(0))
    assert place is not None
    flow.fill(place)
    judge_all(flow)
    (verdict,) = line.next_verdicts(10.0) or []
    assert (verdict.outcome, verdict.missing) == (Outcome.INCOMPLETE, (RIGHT,))
    flow.end(line)
    clock.join(10)
    assert not clock.is_alive()
    assert line.next_verdicts() is None


def test_recorded_frames_wait_for_room() -> None:
    flow, (line,) = opened(Pacing.HELD, 2)
    first = flow.claim(line, frame(0))
    assert first is not None
    came: list[int | None] = []
    waiting = threading.Thread(target=lambda: came.append(flow.claim(line, frame(1))), daemon=True)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    flow.fill(first)
    other = flow.claim(line, frame(0, "b"))
    assert other is not None
    flow.fill(other)
    assert judge_all(flow) == 2
    waiting.join(10)
    assert came[0] is not None
    assert [one.outcome for one in drained(line)] == [Outcome.OK]


def test_one_batch_takes_the_frames_of_all_lines_and_gives_each_its_own_score() -> None:
    flow, (one, two) = opened(Pacing.HELD, 4, 4)
    for line in (one, two):
        for camera in "ab":
            place = flow.claim(line, frame(0, camera))
            assert place is not None
            flow.fill(place)
    batch = flow.next_batch(16)
    assert batch is not None
    assert [owner.line for owner in batch.owners] == [one, one, two, two]
    flow.settle(batch, time.monotonic(), [0.1, 0.2, 0.9, 0.3], [None] * 4)
    assert [(verdict.outcome, verdict.score) for verdict in drained(one)] == [(Outcome.OK, 0.2)]
    assert [(verdict.outcome, verdict.score) for verdict in drained(two)] == [(Outcome.NG, 0.9)]


def test_the_end_of_one_line_is_not_the_end_of_the_other() -> None:
    flow, (one, two) = opened(Pacing.HELD, 4, 4)
    flow.end(one)
    assert one.next_verdicts() is None
    place = flow.claim(two, frame(0))
    assert place is not None
    flow.fill(place)
    judge_all(flow)
    flow.end(two)
    assert flow.next_batch(4) is None
    assert [verdict.outcome for verdict in two.next_verdicts() or []] == [Outcome.INCOMPLETE]
    assert two.next_verdicts() is None


def test_the_clock_fires_the_cameras_of_each_part_that_it_admits_without_the_lock() -> None:
    flow, (line,) = opened(Pacing.CLOCKED, 4)
    fired: list[tuple[int, int]] = []
    noted: list[int] = []
    line.fire = lambda trigger: fired.append((trigger, line.standing().triggers))  # takes the lock
    line.triggered = noted.append
    clock = threading.Thread(target=line.run_clock, args=(0.005, 60.0, 5), daemon=True)
    clock.start()
    give_up_s = time.monotonic() + 10
    while line.standing().triggers < 5 and time.monotonic() < give_up_s:
        time.sleep(0.01)
    flow.end(line)
    clock.join(10)
    assert noted == [0, 1, 2, 3, 4]
    assert [trigger for trigger, _ in fired] == [0, 1]  # the other three found no room
    assert line.standing().counts["REJECTED"] == 3


def test_triggers_that_come_with_their_due_time_say_how_late_the_clock_was() -> None:
    flow, (line,) = opened(Pacing.CLOCKED, 2)
    clock = threading.Thread(target=line.run_clock, args=(10.0, 60.0, 1), daemon=True)
    clock.start()
    place = flow.claim(line, frame(0))
    assert place is not None
    flow.fill(place)
    judge_all(flow)
    flow.end(line)
    clock.join(10)
    (verdict,) = line.next_verdicts() or []
    assert verdict.due_s <= verdict.triggered_s <= verdict.decided_s
    (times,) = verdict.times
    assert times.captured_s <= times.claimed_s <= times.filled_s <= times.taken_s <= times.judged_s
    assert pytest.approx(verdict.decided_s, abs=5) == times.judged_s


def test_frames_without_an_image_keep_their_place_until_the_engine_has_passed_them() -> None:
    """Else more frames could be admitted than there are places."""
    flow, (line,) = opened(Pacing.HELD, 4)
    for trigger in range(2):
        for camera in "ab":
            place = flow.claim(line, frame(trigger, camera))
            assert place is not None
            flow.give_up(place)
    assert not line.standing().has_room
    assert line.standing().open == 2
    assert judge_all(flow) == 4
    assert [verdict.outcome for verdict in drained(line)] == [Outcome.INCOMPLETE] * 2
    assert line.standing().has_room
