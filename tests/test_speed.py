"""The stopwatch is held against runners that take a known time."""

from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest

from benchmarks.speed import Speed, machine, measure, peak_rss_mib, ratio
from edgead.errors import DataError
from edgead.runtime.fake import FakeRunner
from edgead.runtime.runner import Prediction

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
IMAGES[:, 0, 0, 0] = 1, 2, 3  # what tells them apart


class SlowRunner(FakeRunner):
    """Takes a known time and keeps a diary."""

    def __init__(self, name: str, seconds: float, diary: list[tuple[str, int]]) -> None:
        super().__init__((16, 16), name=name)
        self.threads = 2
        self.seconds = seconds
        self.diary = diary

    def infer(self, images: np.ndarray) -> Prediction:
        time.sleep(self.seconds)
        self.diary.append((self.name, int(images[0, 0, 0, 0])))
        return super().infer(images)


def test_latency_and_fps_are_those_of_the_runner() -> None:
    diary: list[tuple[str, int]] = []
    slow, fast = measure(
        {"slow": SlowRunner("a", 0.03, diary), "fast": SlowRunner("b", 0.01, diary)}, IMAGES, batch=2, n=10, warmup=2
    )
    assert (slow.runner, slow.backend, slow.batch, slow.threads, slow.n, slow.warmup) == ("slow", "a", 2, 2, 10, 2)
    assert slow.p50_ms >= 30
    assert fast.p50_ms >= 10
    assert fast.p50_ms <= fast.p95_ms <= fast.p99_ms
    assert slow.fps == pytest.approx(2000 / slow.mean_ms)
    assert 1.5 < ratio(fast, slow) < 4
    json.dumps(slow.to_dict(), allow_nan=False)


def test_runners_alternate_on_the_same_images_and_walk_through_them() -> None:
    diary: list[tuple[str, int]] = []
    measure({"a": SlowRunner("a", 0, diary), "b": SlowRunner("b", 0, diary)}, IMAGES, n=3, warmup=1)
    first = IMAGES[:, 0, 0, 0].tolist()
    turns = [turn for turn, _ in itertools.groupby(diary)]
    assert len(diary) > len(turns)  # each turn has untimed calls before the timed one
    assert turns == [
        ("b", first[0]),
        ("a", first[0]),
        ("a", first[1]),
        ("b", first[1]),
        ("b", first[2]),
        ("a", first[2]),
        ("a", first[0]),
        ("b", first[0]),
    ]


def test_seconds_decide_on_the_rounds() -> None:
    (speed,) = measure({"a": SlowRunner("a", 0.02, [])}, IMAGES, seconds=0.4, warmup=1)
    assert 5 <= speed.n <= 20
    (speed,) = measure({"a": FakeRunner((16, 16))}, IMAGES, seconds=0, warmup=1)
    assert speed.n == 5
    assert speed.threads is None


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"n": 0}, {"warmup": 0}])
def test_wrong_counts_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match="expected 1 or more"):
        measure({"a": FakeRunner((16, 16))}, IMAGES, **wrong)


def test_no_runners_and_no_images_are_refused() -> None:
    with pytest.raises(DataError, match="at least one of each"):
        measure({}, IMAGES)
    with pytest.raises(DataError, match="at least one of each"):
        measure({"a": FakeRunner((16, 16))}, IMAGES[:0])


def test_ratio_counts_images_not_batches() -> None:
    common = {"runner": "r", "backend": "b", "threads": 1, "n": 5, "warmup": 1, "mean_ms": 8.0, "p50_ms": 8.0}
    rest = {"p95_ms": 8.0, "p99_ms": 8.0, "iqr_ms": 0.0, "fps": 1.0, "peak_rss_mib": None}
    assert ratio(Speed(batch=4, **common, **rest), Speed(batch=1, **common, **rest)) == 4


def test_the_machine_is_described() -> None:
    described = machine()
    assert described["cores"] >= 1
    assert described["cpu"]
    assert described["libraries"]["numpy"] == np.__version__
    json.dumps(described, allow_nan=False)
    before = peak_rss_mib()
    assert before is None or 10 < before < 1e6
