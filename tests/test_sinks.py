from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from outputs_bench import THRESHOLD, run, station

from benchmarks.report.station import logs_below
from edgead.config import StationConfig
from edgead.runtime.events import Event
from edgead.runtime.fake import FakeRunner
from edgead.runtime.sinks import VerdictLog, rolled
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


def parquet(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edgead.runtime.parquet", folder], capture_output=True, text=True)


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
    assert reader.read_table(out / "verdicts.parquet").to_pylist() == [json.loads(line) for line in lines[:-1]]


def test_a_folder_without_verdicts_is_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install '.[parquet]'")
    done = parquet(tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"edgead: {tmp_path}: holds no verdicts.ndjson; expected the output folder of a station\n"
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_made_room_for_newer_ones_are_counted(tmp_path: Path) -> None:
    config = station(tmp_path, [], parts=12, query="&ng_share=0", sinks={"pictures": {"limit": 10}})
    report = run_station(config, runner=FakeRunner((16, 16)), threshold=replace(THRESHOLD, unsure=0.001, ng=0.002))
    kept = len(list((tmp_path / "out" / "pictures").iterdir()))
    assert (kept, report.pictures > 20) == (10, True)
    assert report.pictures_removed == report.pictures - kept
