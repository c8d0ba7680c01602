from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgead.config import CameraConfig, StationConfig
from edgead.errors import ConfigError
from edgead.runtime.engine import Engine
from edgead.runtime.fake import FakeRunner
from edgead.runtime.ledger import FrameTimes, Histogram, TaktLedger, bottleneck, edges_s, percentiles, spans
from edgead.runtime.parts import Outcome, PartVerdict, Slot
from edgead.runtime.stations import Stations, by_largest, run_station, run_stations
from edgead.thresholds import Threshold

SLOT = Slot("top", "ring")
THRESHOLD = Threshold(1.5, 1.6, "part", 2000, 0.95, 3000, 1000, 1500, "by hand")


def station(folder: Path, name: str = "s", **values: Any) -> StationConfig:
    uri = "sim://chip_inductor?seed=1&parts=12&ng_share=0&cache=2&size=32"
    cameras = tuple(CameraConfig(name=view, uri=uri, view=view) for view in ("top", "side"))
    return StationConfig(name=name, bundle=folder, output=folder / name, cameras=cameras, **values)


def test_percentiles_are_those_of_the_durations_within_a_bin() -> None:
    draw = np.random.default_rng(3)
    seconds = np.exp(draw.normal(-6, 1.5, 20_000))
    histogram = Histogram()
    for value in seconds.tolist():
        histogram.add(value)
    expected = np.percentile(seconds * 1e3, (50, 95, 99, 99.9))
    assert np.allclose(histogram.spread()[:4], expected, rtol=0.03)
    assert histogram.count == len(seconds)
    assert histogram.spread().mean == pytest.approx(1e3 * seconds.mean(), rel=1e-3)


def test_durations_beyond_the_bins_are_counted_at_their_ends() -> None:
    histogram = Histogram()
    for value in (0.0, -1e-9, 1e-9, 1e9):
        histogram.add(value)
    assert (histogram.counts[0], histogram.counts[-1]) == (3, 1)
    assert percentiles([0] * 10) == [0.0] * 4
    edges = edges_s()
    assert len(edges) == len(histogram.counts)
    assert np.all(np.diff(edges) > 0)
    value = 0.0123
    histogram.add(value)
    index = next(index for index, count in enumerate(histogram.counts[1:], 1) if count)
    assert edges[index - 1] <= value <= edges[index]


def test_stages_of_a_frame_follow_each_other_without_gaps() -> None:
    draw = random.Random(1)
    for _ in range(100):
        at = sorted(draw.uniform(10, 11) for _ in range(6))
        times = FrameTimes("cam", SLOT, at[1], claimed_s=at[2], filled_s=at[3], taken_s=at[4], judged_s=at[5])
        times.exposure_s, times.decode_s = (at[1] - at[0]) / 4, (at[1] - at[0]) / 2
        found = {name: (begin, end) for name, begin, end in spans(times, at[0])}
        order = ["exposure", "transport", "decode", "admission", "resize", "queue", "engine"]
        assert found["exposure"][0] == pytest.approx(at[0])
        for one, other in pairwise(order):
            assert found[one][1] == pytest.approx(found[other][0])
        assert sum(end - begin for begin, end in found.values()) == pytest.approx(at[5] - at[0])


def part(latency_s: float, outcome: Outcome = Outcome.OK) -> PartVerdict:
    return PartVerdict(0, "P", outcome, 0.1, SLOT, 1, (), 5.0, 5.0 + latency_s, due_s=4.99)


def test_late_verdicts_and_none_at_all_miss_the_takt() -> None:
    ledger = TaktLedger(deadline_s=0.1, clocked=True)
    ledger.note([part(0.05), part(0.11), part(0.01, Outcome.REJECTED), part(0.01, Outcome.MISSED)], 6.0, 6.01)
    takt = ledger.takt()
    assert takt is not None
    assert (takt.parts, takt.missed, takt.share) == (4, 3, 0.75)
    assert 0.75 < takt.upper < 1
    assert ledger.busy_s["sinks"] == pytest.approx(0.01)
    assert ledger.spreads()["trigger"].p50 == pytest.approx(10, rel=0.03)
    assert TaktLedger().takt() is None


def test_the_wilson_bound_covers_as_often_as_it_says() -> None:
    draw, rate, covered = np.random.default_rng(0), 0.03, 0
    for _ in range(2000):
        missed = int(draw.binomial(400, rate))
        ledger = TaktLedger(deadline_s=1.0, parts=400, missed=missed)
        takt = ledger.takt()
        assert takt is not None
        covered += takt.upper >= rate
    assert 0.93 < covered / 2000 < 0.985


def test_the_bottleneck_has_a_name() -> None:
    assert bottleneck({"engine": 0.9, "camera a": 0.95, "sinks": 0.1}) == "camera a"
    assert bottleneck({"engine": 0.4, "sinks": 0.1}).startswith("the source")
    assert bottleneck({}).startswith("the source")


def test_a_trace_holds_every_stage_of_every_part_on_one_clock(tmp_path: Path) -> None:
    path = tmp_path / "new" / "trace.json"
    report = run_station(station(tmp_path, trace=path), runner=FakeRunner((32, 32)), threshold=THRESHOLD)
    assert report.trace == path
    events = json.loads(path.read_text())["traceEvents"]
    timed = [event for event in events if "ts" in event]
    assert min(event["ts"] for event in timed) == 0
    begun = [(event["cat"], event["id"]) for event in timed if event["ph"] == "b"]
    ended = [(event["cat"], event["id"]) for event in timed if event["ph"] == "e"]
    assert sorted(begun) == sorted(ended)
    assert sum(cat == "part" for cat, _ in begun) == report.triggers == 12
    tracks = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert tracks == {"camera top", "camera side", "engine", "verdicts"}
    batches = [event for event in timed if event["name"].startswith("batch")]
    assert sum(int(event["name"].split()[1]) for event in batches) == report.frames
    assert all(event["dur"] >= 0 for event in timed if event["ph"] == "X")


def test_a_trace_that_cannot_be_written_costs_no_verdict(tmp_path: Path) -> None:
    report = run_station(
        station(tmp_path, trace=Path("/proc/no/trace.json")), runner=FakeRunner((32, 32)), threshold=THRESHOLD
    )
    assert report.trace is None
    assert report.verdicts["OK"] == 12
    assert any("the trace cannot be written" in problem for problem in report.problems)


def test_several_stations_share_an_engine_and_keep_their_verdicts_apart(tmp_path: Path) -> None:
    runner = FakeRunner((32, 32), max_batch=8)
    configs = [station(tmp_path, name, parts_in_flight=8) for name in ("a", "b", "c")]
    engine = Engine(runner)
    with Stations() as stations:
        for config in configs:
            stations.add(config, engine, by_largest(THRESHOLD))
        reports = stations.run()
    assert [report.station for report in reports] == ["a", "b", "c"]
    for report in reports:
        lines = [json.loads(line) for line in report.verdict_file.read_text().splitlines()]
        assert {line["station"] for line in lines} == {report.station}
        assert sorted(line["trigger"] for line in lines) == list(range(12))
        assert report.verdicts["OK"] == 12
        assert report.is_conserved
        assert 0 < report.station_over_engine <= 1
    assert engine.frames == sum(report.frames for report in reports)
    scores = [
        [
            json.loads(line)["score"]
            for line in sorted(report.verdict_file.read_text().splitlines(), key=lambda x: json.loads(x)["trigger"])
        ]
        for report in reports
    ]
    assert scores[0] == scores[1] == scores[2]


def test_one_station_that_dies_leaves_the_others_running(tmp_path: Path) -> None:
    engine = Engine(FakeRunner((32, 32), max_batch=8))
    with Stations() as stations:
        for name in ("a", "b"):
            stations.add(station(tmp_path, name), engine, by_largest(THRESHOLD))

        def fail(_steps: int) -> None:
            raise RuntimeError("the sink broke")

        def start(over: Callable[[], None], _advance: object, begin: Callable[..., None]) -> None:
            begin(over, fail)

        broken = stations._stations[0]
        broken.start = partial(start, begin=broken.start)  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="the sink broke"):
            stations.run()
    assert len((tmp_path / "b" / "verdicts.ndjson").read_text().splitlines()) == 12


def test_stations_that_would_mix_their_verdicts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two stations are called 's'"):
        run_stations([station(tmp_path), station(tmp_path)])
    other = station(tmp_path, "t").model_copy(update={"output": tmp_path / "s"})
    with pytest.raises(ConfigError, match="two stations write into"):
        run_stations([station(tmp_path), other])
