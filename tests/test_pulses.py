"""Which pulse of the line a frame belongs to: the rules, and cameras that really miss pulses."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator

import pytest
from gige_network import Inside, namespace, needs_gige

from edgead.config import CameraConfig
from edgead.errors import ConfigError
from edgead.runtime.cameras import open_cameras
from edgead.runtime.firing import Firing
from edgead.runtime.pulses import ByClock, ByCounter, LineClock

LINE = "trigger=Line0&watchdog_ms=0"
COUNTED = f"{LINE}&set=CounterEventSource:Line0&counter=CounterValue"
SPACED = f"{LINE}&period_ms=400"


@pytest.fixture(scope="module")
def inside() -> Iterator[Inside]:
    with namespace(f"edgead-pulses-{os.getpid()}", "gige_probe.py") as run:
        yield run


# By the clock


def test_an_interval_of_k_periods_is_k_pulses() -> None:
    clock = ByClock(LineClock(0.1))
    assert [clock.number(at_s) for at_s in (5.0, 5.1, 5.3, 5.41, 5.8)] == [0, 1, 3, 4, 8]


def test_pulses_that_jitter_and_drift_keep_their_numbers_over_weeks() -> None:
    draw = random.Random(0)
    clock = ByClock(LineClock(0.1))
    at_s, expected, seen = 0.0, [], []
    for number in range(100_000):
        at_s += 0.1 * (1 + 0.02 * draw.uniform(0.5, 1))  # the belt is slower than its period says
        if number == 0 or draw.random() < 0.9:
            expected.append(number)
            seen.append(clock.number(at_s + draw.uniform(-0.015, 0.015)))
    assert seen == expected


def test_a_frame_that_no_pulse_was_due_for_has_no_number_and_moves_no_other() -> None:
    clock = ByClock(LineClock(0.1))
    assert [clock.number(at_s) for at_s in (1.0, 1.02, 1.1, 1.13, 1.2)] == [0, None, 1, None, 2]


def test_cameras_of_one_line_number_its_pulses_alike_whoever_misses_the_first() -> None:
    line = LineClock(0.1)
    first, second = ByClock(line), ByClock(line)
    assert first.number(7.0) == 0
    assert second.number(7.22) == 2  # it missed two; its light takes 20 ms longer
    assert (first.number(7.2), second.number(7.32)) == (2, 3)
    assert ByClock(line).number(6.8) is None  # before anybody's first pulse


def test_a_line_that_stood_still_goes_on_with_the_next_number_for_all_cameras() -> None:
    for pause_s in (3600.03, 3600.05, 3600.07, 1.34, 1.45):  # wherever its pulses fall then
        line = LineClock(0.1)
        first, second = ByClock(line), ByClock(line)
        assert (first.number(5.0), second.number(5.03), first.number(5.1), second.number(5.12)) == (0, 0, 1, 1)
        begin_s = 5.1 + pause_s
        assert (second.number(begin_s + 0.04), first.number(begin_s), first.number(begin_s + 0.1)) == (2, 2, 3)
        assert second.number(begin_s + 0.13) == 3


def test_a_camera_that_was_away_missed_the_pulses_meanwhile() -> None:
    line = LineClock(0.1)
    alone = ByClock(line)
    assert (alone.number(1.0), alone.number(4.0, was_away=True)) == (0, 30)
    first, second = ByClock(line), ByClock(line)
    assert (first.number(4.1), second.number(4.1)) == (31, 31)
    for number in range(32, 90):
        assert first.number(1.0 + 0.1 * number) == number
    assert second.number(9.98) == 90  # others saw the line run


# By the camera's counter


def test_a_count_that_comes_with_the_frame_is_its_number() -> None:
    counter = ByCounter(exact=True)
    counter.start(None, 0)
    assert [counter.number(count, following) for count, following in ((40, 0), (41, 1), (45, 2), (46, 6))] == [
        0,
        1,
        5,
        6,
    ]
    assert counter.number(None, 7) == 7  # a frame cut short has no chunk
    assert counter.number(48, 8) == 8
    counter.start(None, 9)  # away, and back with its counter at the beginning
    assert counter.number(1, 9, 3) == 12
    assert counter.number(3, 13) == 14


def test_a_count_that_was_read_later_leaves_one_frame_in_doubt_and_the_next_ones_right() -> None:
    counter = ByCounter(exact=False)
    counter.start(100, 0)
    assert counter.number(101, 0) == 0
    assert counter.number(103, 1) is None  # pulse 1 was missed before this frame, or pulse 2 after it
    assert counter.number(104, 1) == 3
    assert counter.number(105, 4) == 4


def test_a_count_that_was_read_after_the_next_pulse_shifts_nothing() -> None:
    counter = ByCounter(exact=False)
    counter.start(0, 0)
    assert counter.number(1, 0) == 0
    assert counter.number(3, 1) is None  # frame 1, but pulse 2 was there before the counter was read
    assert counter.number(3, 1) == 2
    assert counter.number(4, 3) == 3
    assert counter.number(None, 4) == 4  # others waited behind it: not asked
    assert counter.number(6, 5) == 5


def test_frames_lost_on_the_way_are_no_missed_pulses() -> None:
    counter = ByCounter(exact=False)
    counter.start(0, 0)
    assert counter.number(1, 0) == 0
    assert counter.number(4, 1, skipped=2) == 3


def test_a_camera_that_counted_on_while_it_was_away_keeps_its_numbers() -> None:
    counter = ByCounter(exact=False)
    counter.start(0, 0)
    assert counter.number(1, 0) == 0
    counter.start(21, 1)
    assert counter.number(22, 1) == 21
    counter.start(0, 22)  # it was without power
    assert counter.number(1, 22) == 22


# Real cameras: Aravis' fake one, on a line that pulses faster than it takes, or past it


@needs_gige
@pytest.mark.parametrize("driver", ["aravis", "viva"])
def test_a_camera_that_misses_pulses_keeps_its_numbers_by_its_counter(inside: Inside, driver: str) -> None:
    # Pulse 2 does not reach it, pulses 5 and 6 come at once: a frame each has no number; ids of frames show none of it.
    (seen,) = inside("pulses", f"gige://127.0.0.1?{COUNTED}&driver={driver}", "250 1 1 x 1 1 2 1 x x 1 1")
    health = seen["health"]
    assert seen["triggers"] == [0, 1, 4, 7, 11]
    assert health["unnumbered"] == 3
    assert health["missed"] == 7  # 2, 5 and 6, 8 and 9 of the line, with 3 and 10, whose frames were in doubt
    assert health["transport"]["missing_frames"] == 0
    assert health["triggers"] == "counted by CounterValue"
    assert seen["exposures_s"] == [0.01]
    assert seen["decode_s"] > 0


@needs_gige
@pytest.mark.parametrize("driver", ["aravis", "viva"])
def test_a_camera_that_counts_its_misses_keeps_its_numbers(inside: Inside, driver: str) -> None:
    (seen,) = inside("pulses", f"gige://127.0.0.1?{LINE}&misses=MissedTriggers&driver={driver}", "250 1 1 x 1 1 2 1 1")
    assert seen["triggers"] == [0, 1, 4, 7, 8]
    assert seen["health"]["unnumbered"] == 2
    assert seen["health"]["missed"] == 4  # 2, and 5 or 6, with 3 and the other, whose frames were in doubt
    assert seen["health"]["triggers"] == "counted by MissedTriggers"


@needs_gige
def test_cameras_that_miss_pulses_stay_together_by_the_clock_even_from_the_first(inside: Inside) -> None:
    first, second = inside(
        "pulses",
        *(f"gige://127.0.0.1?{SPACED}", "400 x 1 1 x 1"),
        *(f"gige://127.0.0.2?{SPACED}&driver=viva", "400 1 x x 1 1"),
    )
    assert first["triggers"] == [1, 2, 4]
    assert second["triggers"] == [0, 3, 4]
    for seen in (first, second):
        assert seen["health"]["missed"] == 2
        assert seen["health"]["transport"]["missing_frames"] == 0
        assert seen["health"]["triggers"] == "by the clock, one each 400 ms"


@needs_gige
def test_a_camera_whose_missed_pulses_show_nowhere_says_so(inside: Inside) -> None:
    (seen,) = inside("pulses", f"gige://127.0.0.1?{LINE}", "100 1 x x 1 2 1")
    assert seen["triggers"] == [0, 1, 2, 3]  # of seven pulses
    assert seen["health"]["missed"] == 0
    assert seen["health"]["triggers"].startswith("not countable: ")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("period_ms=100", "period_ms numbers the pulses of a line; it needs the input"),
        (
            "trigger=software&counter=CounterValue",
            "it needs the input that takes them, such as trigger=Line1, in its address",
        ),
        ("trigger=Line1&counter=CounterValue&misses=Missed", "counter and misses would number its frames"),
        ("trigger=Line1&period_ms=100&counter=CounterValue", "period_ms and counter would number"),
        ("trigger=Line1&misses=7", "misses"),
        ("trigger=Line1&period_ms=0", "period_ms"),
        ("trigger=Line1&period_ms=often", "period_ms"),
        ("trigger=Line1&counter=0", "counter"),
        ("trigger=Line1&set=CounterSelector", "expected Name:value"),
        ("trigger=Line1&driver=arravis", "did you mean 'aravis'?"),
        ("iface=eth0", "iface needs driver=viva"),
        ("late_ms=-1", "late_ms"),
    ],
)
def test_an_address_that_counts_where_there_is_nothing_to_count_is_refused(query: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_cameras([CameraConfig(name="cam", uri=f"gige://GV01?{query}")])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# Fired by the station's clock


def test_the_newest_trigger_waits_and_those_before_it_are_counted() -> None:
    firing = Firing()
    for trigger in (4, 5, 7):
        firing.fire(trigger)
    taken = firing.take()
    assert taken is not None
    assert (taken.trigger, taken.overrun) == (7, 2)
    assert taken.fired_s <= time.monotonic()
    timer = threading.Timer(0.1, firing.fire, [8])
    timer.start()
    again = firing.take()
    assert again is not None
    assert (again.trigger, again.overrun) == (8, 0)
    timer = threading.Timer(0.1, firing.stop)
    timer.start()
    assert firing.take() is None
    assert firing.take() is None
