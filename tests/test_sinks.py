from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from outputs_bench import EXAMPLE, THRESHOLD, file_system_of_1_mib, run, station

from benchmarks.report.station import logs_below
from edgead.config import PicturesConfig, StationConfig
from edgead.runtime.events import Event
from edgead.runtime.fake import FakeRunner
from edgead.runtime.fusion import Largest
from edgead.runtime.parts import Evidence, Outcome, PartVerdict, Slot
from edgead.runtime.sinks import Pictures, VerdictLog, rolled
from edgead.runtime.stations import run_station


def rolling(folder: Path, **roll: float) -> StationConfig:
    return station(folder, [], parts=120, sinks={"roll": roll, "pictures": None})


def test_a_log_is_rolled_by_size_and_nothing_is_lost_between_the_files(tmp_path: Path) -> None:
    for _ in range(2):
        report = run(rolling(tmp_path, mib=0.01))
        assert report.problems == ()
    files = [*rolled(tmp_path / "out"), tmp_path / "out" / "verdicts.ndjson"]
    assert [path.name for path in files[:2]] == ["verdicts-000001.ndjson", "verdicts-000002.ndjson"]
    assert len(files) > 5
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert [line["trigger"] for line in lines] == [*range(120), *range(120)]
    (log,) = logs_below(tmp_path)  # the report counts over all files
    assert (log.runs, log.triggers, log.is_conserved) == (2, 120, True)


def test_a_log_is_rolled_by_day(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "verdicts.ndjson").write_text('{"event_id": "1", "time": "2026-01-30T23:59:59.000+00:00"}\n')
    log = VerdictLog(rolling(tmp_path, days=1))
    log.write([Event("2", '{"event_id": "2"}')])
    log.write([Event("3", '{"event_id": "3"}')])
    log.close()
    assert [len(path.read_text().splitlines()) for path in rolled(folder)] == [1]
    assert [json.loads(line)["event_id"] for line in log.path.read_text().splitlines()] == ["2", "3"]


def test_a_log_is_one_file_unless_told_otherwise(tmp_path: Path) -> None:
    run(station(tmp_path, [], parts=30))
    assert rolled(tmp_path / "out") == []


def line(number: int, day: str = "2026-01-30", fill: int = 0) -> Event:
    return Event(str(number), json.dumps({"time": f"{day}T10:00:00.000+00:00", "n": number, "fill": "x" * fill}))


def test_rolled_files_keep_within_their_budget_and_the_oldest_go(tmp_path: Path) -> None:
    roll = {"mib": 0.01, "keep_mib": 0.03}
    log = VerdictLog(rolling(tmp_path, **roll))
    for number in range(100):
        log.write([line(number, fill=1000)])
        assert sum(path.stat().st_size for path in rolled(log.path.parent)) <= 0.03 * (1 << 20)
    log.close()
    kept = [json.loads(text)["n"] for path in (*rolled(log.path.parent), log.path) for text in path.open()]
    assert kept == list(range(kept[0], 100))
    assert kept[0] > 50
    assert log.removed > 5
    assert log.problems == [f"{log.removed} of the oldest verdict files are gone (sinks.roll.keep_mib 0.03)"]
    for number in range(200, 230):  # of an earlier run, or of another budget
        (log.path.parent / f"verdicts-{number:06d}.ndjson").write_text("x" * 5000)
    again = VerdictLog(rolling(tmp_path, **roll))
    again.close()
    left = rolled(log.path.parent)
    assert [path.name for path in left] == [f"verdicts-{number:06d}.ndjson" for number in range(224, 230)]
    assert again.removed >= 24


def test_a_budget_without_rolling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="say with mib or days when to roll"):
        rolling(tmp_path, keep_mib=5)


def test_a_clock_that_jumps_loses_no_line_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [date(2026, 1, 30)]
    monkeypatch.setattr("edgead.runtime.sinks._today", lambda: clock[0])
    days = [
        "2026-01-30",
        "2026-01-31",
        "2030-05-05",
        "2026-01-31",
        "2026-01-31",
        "2020-01-01",
        "2020-01-02",
        "2026-02-01",
    ]
    for restart in (False, True):
        folder = tmp_path / str(restart)
        log = VerdictLog(rolling(folder, days=1))
        for number, day in enumerate(days):
            clock[0] = date.fromisoformat(day)
            if restart:
                log.close()
                log = VerdictLog(rolling(folder, days=1))
            log.write([line(number, day)])
        log.close()
        files = [*rolled(log.path.parent), log.path]
        contents = [[json.loads(text)["n"] for text in path.open()] for path in files]
        assert [number for content in contents for number in content] == list(range(len(days)))
        assert contents[:2] == [[0], [1]]
        assert restart or contents[2:] == [[2, 3, 4, 5], [6], [7]]


PART = Slot("v", "i")


def ng(trigger: int, part: str, *slots: Slot) -> PartVerdict:
    grey, heat = np.full((16, 16, 3), 200, np.uint8), np.zeros((16, 16), np.float32)
    seen = tuple(Evidence(slot, 0.9, grey, heat) for slot in slots)
    return PartVerdict(trigger, part, Outcome.NG, 0.9, slots[0], len(slots), (), 0.0, 0.1, evidence=seen)


def test_pictures_keep_within_both_budgets_with_those_of_earlier_runs(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(30):
        (folder / f"{'a' * 12}-{number}_P_v+i_image.png").write_bytes(b"x" * 100_000)
        os.utime(folder / f"{'a' * 12}-{number}_P_v+i_image.png", (number, number))
    (folder / f".{'a' * 12}-77_P_v+i_image.png.tmp").write_bytes(b"x" * 100_000)  # of a run that was killed
    (folder / "mine.txt").write_text("of somebody else")
    config = PicturesConfig(limit=1000, limit_mib=1)
    pictures = Pictures(tmp_path, config, run="b" * 12, judge=Largest(THRESHOLD))
    for number in range(5):
        pictures.write([ng(number, "P", PART)])
        assert sum(path.stat().st_size for path in folder.iterdir()) <= (1 << 20) + 100
    names = {path.name for path in folder.iterdir()}
    assert {f"{'b' * 12}-{number}_P_v+i_{kind}.png" for number in range(5) for kind in ("image", "overlay")} < names
    assert f"{'a' * 12}-29_P_v+i_image.png" in names
    assert f"{'a' * 12}-15_P_v+i_image.png" not in names
    assert "mine.txt" in names
    assert not any(name.endswith(".tmp") for name in names)
    few = Pictures(tmp_path, PicturesConfig(limit=4), run="c" * 12, judge=Largest(THRESHOLD))
    few.write([ng(0, "P", PART)])
    assert len(list(folder.glob("*.png"))) == 4


def test_names_of_parts_and_views_make_different_pictures_inside_the_folder(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path, PicturesConfig(), run="0" * 12, judge=Largest(THRESHOLD))
    long, wide = "x" * 300, "é" * 300
    slots = [Slot(long + "1", "i"), Slot(long + "2", "i"), Slot(wide + "1", "i"), Slot(wide + "2", "i")]
    slots += [Slot("a/b", "i"), Slot("a-b", "i"), Slot("../..", "/etc"), Slot("\0", "\n"), Slot("\ud800", "\u202e")]
    parts = ["../../x", "..-..-x", "\0", "\n", long, wide, "\ud800", ""]
    for number, part in enumerate(parts):
        pictures.write([ng(number, part, *slots)])
    names = [path.name for path in (tmp_path / "pictures").iterdir()]
    assert len(names) == 2 * len(parts) * len(slots)
    assert max(len(name.encode()) for name in names) < 250
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def parquet(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edgead.runtime.parquet", *words], capture_output=True, text=True)


def test_rolled_files_become_parquet_files_of_their_own(tmp_path: Path) -> None:
    reader = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install '.[parquet]'")
    out, fields = tmp_path / "out", json.loads(EXAMPLE)
    out.mkdir()
    names = ["../x", "a\0b", "\ud800", "\n", "x" * 10_000, "Prüfling"]
    lines = [json.dumps({**fields, "part": name, "worst": f"{name}/i", "missing": [name]}) for name in names]
    (out / "verdicts-000001.ndjson").write_text("\n".join(lines) + "\n")
    (out / "verdicts-000002.ndjson").write_text(lines[0] + "\n" + lines[1][:50])
    (out / "verdicts.ndjson").write_text(lines[2] + "\n")
    done = parquet("--rolled", "--remove", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{out}/verdicts-000001.parquet: 6 verdicts; 0 lines that hold none",
        f"{out}/verdicts-000002.parquet: 1 verdicts; 1 lines that hold none",
    ]
    table = reader.read_table(out / "verdicts-000001.parquet").to_pylist()
    assert [row["part"] for row in table] == [*names[:2], "?", *names[3:]]
    assert sorted(path.name for path in out.iterdir()) == [
        "verdicts-000001.parquet",
        "verdicts-000002.ndjson",  # a line of it is in no Parquet file
        "verdicts-000002.parquet",
        "verdicts.ndjson",
    ]
    assert parquet("--rolled", out).stdout == ""  # all is done
    assert parquet(out).stdout == f"{out}/verdicts.parquet: 2 verdicts; 1 lines that hold none\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--remove", "."], "--remove goes with --rolled only"),
        (["--rolled", "/nowhere"], "/nowhere: is no folder"),
        (["--roled", "."], "unrecognized arguments: --roled"),
        (["/nowhere"], "/nowhere: holds no verdicts.ndjson"),
    ],
)
def test_wrong_words_are_refused_in_one_line(words: list[str], said: str) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install '.[parquet]'")
    done = parquet(*words)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from file_system_of_1_mib(tmp_path)


def test_a_full_disk_leaves_no_half_parquet_file(small_disk: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install '.[parquet]'")
    fields = json.loads(EXAMPLE)
    with (small_disk / "verdicts.ndjson").open("w") as file:
        for _ in range(2300):
            file.write(json.dumps({**fields, "part": os.urandom(60).hex()}) + "\n")
    done = parquet(small_disk)
    assert done.returncode == 2
    full = "cannot be written (No space left on device); choose a writable folder"
    assert done.stderr == f"edgead: {small_disk}/verdicts.parquet: {full}\n"
    assert [path.name for path in small_disk.iterdir()] == ["verdicts.ndjson"]


def test_verdicts_become_one_parquet_file(tmp_path: Path) -> None:
    reader = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install '.[parquet]'")
    run(rolling(tmp_path, mib=0.01))
    out = tmp_path / "out"
    with (out / "verdicts.ndjson").open("a") as file:
        file.write('{"cut')
    done = parquet(out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{out}/verdicts.parquet: 120 verdicts; 1 lines that hold none\n"
    lines = [line for path in (*rolled(out), out / "verdicts.ndjson") for line in path.read_text().splitlines()]
    assert reader.read_table(out / "verdicts.parquet").to_pylist() == [
        {**json.loads(line), "reason": None} for line in lines[:-1]
    ]


def test_a_folder_without_verdicts_is_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install '.[parquet]'")
    done = parquet(tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"edgead: {tmp_path}: holds no verdicts.ndjson; expected the output folder of a station\n"
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_made_room_for_newer_ones_are_counted(tmp_path: Path) -> None:
    config = station(tmp_path, [], parts=12, query="&ng_share=0", sinks={"pictures": {"limit": 10}})
    report = run_station(config, runner=FakeRunner((16, 16)), threshold=replace(THRESHOLD, unsure=0.001, ng=0.002))
    kept = len(list((tmp_path / "out" / "pictures").iterdir()))
    assert (kept, report.pictures > 20) == (10, True)
    assert report.pictures_removed == report.pictures - kept
