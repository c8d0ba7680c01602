"""The benchmarks of endurance, in short: what they count, and that they can fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import chaos, overload, soak
from benchmarks.endurance.conservation import Run, check, failures
from benchmarks.results import markdown, read
from edgead.errors import GateError

needs_mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto", path="/usr/sbin:/usr/bin") is None,
    reason="mosquitto is not installed: apt-get install mosquitto",
)
FIRST, LAST = f"{1:012x}", f"{2:012x}"


def event(run: str, trigger: int, **fields: Any) -> dict[str, Any]:
    return {"event_id": f"{run}-{trigger}", "trigger": trigger, "verdict": "OK", **fields}


def counted(folder: Path, lines: list[dict[str, Any]], heard: dict[str, list[bytes]]) -> dict[str, Any]:
    """Count a station of two lives, with five triggers each."""
    (folder / "verdicts.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = [Run(FIRST, 5, 2), Run(LAST, 5, 0)]
    return check(folder, runs, {"mqtt": heard}, lambda one, _: one["verdict"] == "OK")


def good() -> tuple[list[dict[str, Any]], dict[str, list[bytes]]]:
    lines = [event(run, trigger) for run in (FIRST, LAST) for trigger in range(5)]
    lines[4] = event(FIRST, 4, verdict="INCOMPLETE", reason="station killed")
    return lines, {line["event_id"]: [json.dumps({**line, "sequence": 7}).encode()] for line in lines}


def test_a_line_that_loses_nothing_passes(tmp_path: Path) -> None:
    lines, heard = good()
    heard[f"{LAST}-3"] *= 2  # once more is allowed
    counts = counted(tmp_path, lines, heard)
    assert failures(counts) == []
    assert (counts["triggers"], counts["made_up"], counts["again"]) == (10, 1, {"file": 0, "mqtt": 1})


def test_every_way_to_lose_a_verdict_is_seen(tmp_path: Path) -> None:
    def lost_line(lines: list[dict[str, Any]], _: dict[str, list[bytes]]) -> None:
        del lines[3]

    def lost_message(_: list[dict[str, Any]], heard: dict[str, list[bytes]]) -> None:
        del heard[f"{FIRST}-3"]

    def doubled_line(lines: list[dict[str, Any]], _: dict[str, list[bytes]]) -> None:
        lines.append(lines[3])

    def changed(_: list[dict[str, Any]], heard: dict[str, list[bytes]]) -> None:
        heard[f"{FIRST}-3"].append(heard[f"{FIRST}-3"][0].replace(b"OK", b"NG"))

    def other(_: list[dict[str, Any]], heard: dict[str, list[bytes]]) -> None:
        heard[f"{FIRST}-3"] = [heard[f"{FIRST}-3"][0].replace(b"OK", b"NG")]

    def unknown(lines: list[dict[str, Any]], _: dict[str, list[bytes]]) -> None:
        lines.append(event(FIRST, 5))

    def wrong(lines: list[dict[str, Any]], heard: dict[str, list[bytes]]) -> None:
        lines[3]["verdict"] = "NG"
        heard[f"{FIRST}-3"] = [json.dumps(lines[3]).encode()]

    def made_up(lines: list[dict[str, Any]], heard: dict[str, list[bytes]]) -> None:
        lines[9] |= {"verdict": "INCOMPLETE", "reason": "station killed"}  # of the run that was not killed
        heard[f"{LAST}-4"] = [json.dumps(lines[9]).encode()]

    expected = {
        lost_line: "lost in file: 1",
        lost_message: "lost in mqtt: 1",
        doubled_line: "again in file: 1",
        changed: "changed in mqtt: 1",
        other: "changed in mqtt: 1",
        unknown: "unknown in file: 1",
        wrong: "wrong: 1",
        made_up: "wrong: 1",
    }
    for spoil, failure in expected.items():
        lines, heard = good()
        spoil(lines, heard)
        assert failures(counted(tmp_path, lines, heard)) == [failure], spoil.__name__


def test_memory_that_grows_is_seen_through_noise_and_a_warm_up() -> None:
    def grown(mib: Callable[[int], float]) -> soak.Growth:
        return soak.growth_of([soak.Sample(at, mib(at)) for at in range(0, 100_000, 100)])

    noise = [0.0, 0.3, -0.2, 0.1, 5.0, -0.4, 0.2]
    flat = grown(lambda at: min(at / 100, 80) + noise[at // 100 % 7])
    assert flat.is_flat
    assert abs(flat.by_slope) < 0.5
    leak = grown(lambda at: 80 + 25 * at / 100_000 + noise[at // 100 % 7])
    assert not leak.is_flat
    assert leak.by_slope == pytest.approx(25 * 0.9, abs=1)
    assert leak.by_ends == pytest.approx(25 * 0.86, abs=1.5)
    step = grown(lambda at: 80 if at < 92_000 else 110)  # late: no slope sees it
    assert not step.is_flat
    with pytest.raises(GateError, match="only 3 samples"):
        soak.growth_of([soak.Sample(at, 1) for at in (1, 2, 3)])


def test_an_overload_that_loses_parts_or_time_is_seen() -> None:
    row = {"load": 1.5, "triggers": 90, "judged": 60, "incomplete": 0, "rejected": 30, "part_p99_ms": 9, "bound_ms": 10}
    assert overload.failures(row) == []
    for change, words in (
        ({"incomplete": 1, "judged": 59}, "1 admitted parts were not judged whole"),
        ({"rejected": 29}, "29 rejections"),
        ({"part_p99_ms": 11}, "above its bound"),
        ({"rejected": 0, "judged": 90}, "this was no overload"),
    ):
        (failure,) = overload.failures({**row, **change})
        assert words in failure


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (chaos.main, ["--rounds", "0"]),
        (chaos.main, ["--rounds", "many"]),
        (chaos.main, ["--folder", "."]),
        (soak.main, ["--frames", "7"]),
        (soak.main, ["--frames", "1e6"]),
        (soak.main, ["--no-mqtt=yes"]),
        (soak.main, ["--fps", "0"]),
        (overload.main, ["--load", "1"]),
        (overload.main, ["--load", "nan"]),
        (overload.main, ["--seconds", "0"]),
        (overload.main, ["--laod", "2"]),
    ],
)
def test_wrong_arguments_are_one_line(
    main: Callable[[list[str]], int], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("python -m benchmarks.")


def test_a_bundle_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert overload.main(["--bundle", str(tmp_path), "--seconds", "1"]) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "no bundle here" in line


@needs_mosquitto
@pytest.mark.slow
def test_two_rounds_of_chaos(tmp_path: Path) -> None:
    path = tmp_path / "chaos.json"
    assert chaos.main(["--rounds", "2", "--folder", str(tmp_path / "line"), "--save", str(path)]) == 0
    found = read(path)
    kills: Any = found.conditions["kills"]
    assert [kill["victim"] for kill in kills] == ["station", "broker"]
    counts: Any = found.rows[0]
    assert (counts["station"], counts["runs"]) == ("parts", 2)
    assert set(counts["verdicts"]) >= {"OK", "UNSURE", "NG"}
    assert counts["lost"] == {"file": 0, "mqtt": 0, "webhook": 0}
    assert "lost.mqtt" in markdown(found)


@needs_mosquitto
@pytest.mark.slow
def test_a_short_soak(tmp_path: Path) -> None:
    path = tmp_path / "soak.json"
    assert soak.main(["--frames", "20000", "--fps", "1600", "--save", str(path)]) == 0
    (row,) = read(path).rows
    memory: Any = row["memory"]
    assert row["triggers"] == 2500
    assert memory["station"]["is_flat"]
    assert memory["deliver"]["is_flat"]


@pytest.mark.slow
def test_a_short_overload(tmp_path: Path) -> None:
    # Much more than the engine can do: a busy machine may do half or twice of what it did when it was measured.
    under, over = overload.run_overload(tmp_path, load=5, seconds=4)
    assert (under["load"], over["load"]) == (0.8, 5.0)
    assert under["incomplete"] == over["incomplete"] == 0
    assert over["rejected_share"] > 0.3
    late = "is above its bound"  # on a busy machine other programs take their share of any time
    assert [line for row in (under, over) for line in overload.failures(row) if late not in line] == []
    assert over["part_p99_ms"] < 4 * over["bound_ms"]
