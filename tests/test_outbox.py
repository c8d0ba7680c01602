from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outputs_bench import (
    THRESHOLD,
    file_system_of_1_mib,
    free_port,
    run,
    start_station,
    station,
    verdicts,
    wait_until,
)

from edgead.config import PicturesConfig, load_station
from edgead.errors import ConfigError, DataError, MissingError
from edgead.images import write_png
from edgead.output_config import OutboxConfig
from edgead.runtime.events import Event, Events
from edgead.runtime.fusion import Largest
from edgead.runtime.outputs.feed import Feed
from edgead.runtime.outputs.outbox import Backlog, Delivered, Outbox, Progress, read_progress
from edgead.runtime.parts import Evidence, Outcome, PartVerdict, Slot
from edgead.runtime.sinks import Pictures, VerdictLog

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: pip install '.[dev]'")
SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "verdict.schema.json").read_text())


def events(begin: int, end: int, size: int = 10) -> list[Event]:
    return [Event(f"{0:012x}-{number}", json.dumps({"n": number, "fill": "x" * size})) for number in range(begin, end)]


def dead_hook() -> list[dict[str, Any]]:
    return [{"webhook": {"url": f"http://127.0.0.1:{free_port()}/", "retry_s": 0.1}}]


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    opened = Outbox(tmp_path / "outbox", OutboxConfig(keep=50), ["a", "b"])
    yield opened
    opened.close()


def test_events_are_kept_once_in_order_over_restarts(tmp_path: Path, outbox: Outbox) -> None:
    outbox.write(events(0, 5))
    outbox.write(events(3, 8))  # three of them again
    outbox.close()
    again = Outbox(tmp_path / "outbox", OutboxConfig(), ["a", "b"])
    again.write(events(8, 10))
    backlog = Backlog(tmp_path / "outbox")
    rows = backlog.after(0, 100)
    assert [event_id for _, event_id, _ in rows] == [event.event_id for event in events(0, 10)]
    seqs = [seq for seq, _, _ in rows]
    assert seqs == sorted(set(seqs))
    assert again.pending({"a": Progress(cursor=seqs[3])}) == {"a": 6, "b": 10}
    backlog.close()
    again.close()


def test_the_commit_is_on_the_disk_in_wal_and_full(tmp_path: Path, outbox: Outbox) -> None:
    outbox.write(events(0, 1))
    with sqlite3.connect(tmp_path / "outbox" / "events.sqlite") as file:
        assert file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert file.execute("SELECT count(*) FROM events").fetchone() == (1,)
    assert outbox._events.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_only_what_all_outputs_have_is_deleted(tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgead.runtime.outputs.outbox._TIDY_S", 0)
    outbox.write(events(0, 300))
    delivered = Delivered(tmp_path / "outbox", ["a", "b"])
    delivered.write("a", Progress(cursor=300, delivered=300))
    delivered.write("b", Progress(cursor=120, delivered=120))
    outbox.write(events(300, 301))
    backlog = Backlog(tmp_path / "outbox")
    assert backlog.after(0, 1)[0][0] == 121
    delivered.write("b", Progress(cursor=300, delivered=300))
    outbox.write(events(301, 302))
    assert backlog.after(0, 1)[0][0] == 302 - 50 + 1  # the last 50 stay
    assert outbox.dropped() == {"a": 0, "b": 0}
    backlog.close()
    delivered.close()


def test_a_full_outbox_drops_the_oldest_and_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgead.runtime.outputs.outbox._TIDY_S", 0)
    outbox = Outbox(tmp_path / "outbox", OutboxConfig(limit_mib=1), ["a", "b"])
    delivered = Delivered(tmp_path / "outbox", ["a", "b"])
    for begin in range(0, 30_000, 3000):
        outbox.write(events(begin, begin + 3000, size=200))
        if begin == 0:
            delivered.write("b", Progress(cursor=1000, delivered=1000))
    backlog = Backlog(tmp_path / "outbox")
    first = backlog.after(0, 1)[0][0]
    assert first > 20_000
    assert outbox.dropped() == {"a": first - 1, "b": first - 1001}
    assert sum(path.stat().st_size for path in (tmp_path / "outbox").iterdir()) < 8 << 20
    outbox.close()
    backlog.close()
    delivered.close()


def test_a_disk_that_takes_nothing_for_a_while_costs_nothing(tmp_path: Path, outbox: Outbox) -> None:
    outbox.write(events(0, 2))
    blocker = sqlite3.connect(tmp_path / "outbox" / "events.sqlite", isolation_level=None)
    outbox._events.execute("PRAGMA busy_timeout = 50")
    blocker.execute("BEGIN EXCLUSIVE")
    for number in (2, 3):
        with pytest.raises(DataError, match=r"events.sqlite: cannot be written .*wait in memory") as caught:
            outbox.write(events(number, number + 1))
        assert "\n" not in str(caught.value)
    assert outbox.held == 2
    blocker.execute("ROLLBACK")
    outbox.write(events(4, 5))
    assert outbox.held == 0
    assert blocker.execute("SELECT count(*) FROM events").fetchone() == (5,)
    blocker.close()


FILLS_UP = """
import resource, sys
from edgead.config import PicturesConfig, load_station
from edgead.runtime.fake import FakeRunner
from edgead.runtime.stations import run_station
from edgead.thresholds import Threshold
config = load_station(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))  # a real write that the system cuts short
report = run_station(config, runner=FakeRunner((16, 16)),
    threshold=Threshold(0.5, 0.75, "part", 2000, 0.95, 3000, 1000, 1500, "by hand"))
print(report.triggers, report.unsaved, *report.problems, sep="\\n")
"""


def test_a_disk_that_fills_up_loses_no_verdict_silently(tmp_path: Path) -> None:
    yaml = tmp_path / "station.yaml"
    yaml.write_text(
        "bundle: b\noutput: out\ncameras: [{name: a, uri: 'sim://ceramic_tile?parts=1200&cache=1&size=32'}]\n"
        f"outputs: [webhook: {{url: 'http://127.0.0.1:{free_port()}/'}}]\noutbox: {{drain_s: 0}}\n"
    )
    done = subprocess.run([sys.executable, "-c", FILLS_UP, str(yaml)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    triggers, unsaved, *problems = done.stdout.splitlines()
    assert any("events.sqlite: cannot be written" in problem for problem in problems), problems
    assert int(unsaved) > 0
    assert any(problem.startswith(f"{unsaved} verdicts are not in the outbox") for problem in problems)
    with sqlite3.connect(tmp_path / "out" / "outbox" / "events.sqlite") as file:
        kept = [row[0] for row in file.execute("SELECT event_id FROM events")]
    loud = [json.loads(line)["event_id"] for line in done.stderr.splitlines() if line.startswith("{")]
    assert len(kept) > 100
    assert len(set(kept) | set(loud)) == int(triggers)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from file_system_of_1_mib(tmp_path)


def test_a_full_file_system_loses_no_verdict_silently(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = station(small_disk, dead_hook(), parts=40_000, sinks={"pictures": None}, outbox={"drain_s": 0})
    report = run(config)
    said = capfd.readouterr().err.splitlines()
    loud = {json.loads(line)["event_id"] for line in said if line.startswith("{")}
    assert all(line.endswith("free the disk") for line in said if not line.startswith("{"))  # no traceback
    assert 0 < report.triggers < 40_000
    copied = shutil.copytree(small_disk / "out" / "outbox", small_disk.parent / "copy")  # reading needs room
    with sqlite3.connect(copied / "events.sqlite") as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        kept = {row[0] for row in file.execute("SELECT event_id FROM events")}
    assert len(kept | loud) == report.triggers
    assert len(kept) == report.outputs[0].pending + report.outputs[0].delivered - report.unsaved
    assert sum("cannot be written" in problem for problem in report.problems) == 2  # the outbox and the file
    assert all("\n" not in problem for problem in report.problems)


def test_a_full_disk_that_is_freed_has_all_verdicts_in_order(
    small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = station(small_disk, dead_hook(), outbox={"drain_s": 0}, sinks={"pictures": None})
    feed, log = Feed(config), VerdictLog(config)
    feed.write(events(0, 5))
    log.write(events(0, 5))
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    for number in range(5, 45, 10):
        more = events(number, number + 10, size=1000)
        with pytest.raises(DataError, match=r"events.sqlite: cannot be written \(.*\); verdicts wait in memory") as one:
            feed.write(more)
        with pytest.raises(DataError, match=r"verdicts.ndjson: cannot be written \(No space left on device\)") as two:
            log.write(more)
        assert "\n" not in f"{one.value}{two.value}"
    loud = capfd.readouterr().err.splitlines()
    filler.unlink()
    feed.write(events(45, 50))
    log.write(events(45, 50))
    backlog = Backlog(config.output / "outbox")
    assert [event_id for _, event_id, _ in backlog.after(0, 100)] == [event.event_id for event in events(0, 50)]
    backlog.close()
    log.close()
    feed.close()
    assert feed.unsaved == 0
    written = [json.loads(line)["n"] for line in log.path.read_text().splitlines()]
    assert sorted(written + [json.loads(line)["n"] for line in loud if line.startswith("{")]) == list(range(50))
    assert written == sorted(written)


def test_a_clock_that_jumps_back_leaves_ids_and_sequence_alone(
    tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Events(station(tmp_path, []), run="0" * 12, threshold=THRESHOLD)
    hours = iter([12, 13, 3, 3, 14])

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2026, 1, 30, next(hours), tzinfo=tz)

    monkeypatch.setattr("edgead.runtime.events.datetime", Clock)
    for trigger in range(5):
        outbox.write(made.of([PartVerdict(trigger, "P", Outcome.OK, 0.1, Slot("v", "i"), 1, (), 0.0, 0.1)]))
    backlog = Backlog(tmp_path / "outbox")
    rows = backlog.after(0, 100)
    backlog.close()
    assert [(seq, event_id) for seq, event_id, _ in rows] == [(n + 1, f"{'0' * 12}-{n}") for n in range(5)]
    assert [json.loads(body)["time"][11:13] for *_, body in rows] == ["12", "13", "03", "03", "14"]


def test_what_is_in_the_file_is_in_the_outbox_when_the_station_is_killed(tmp_path: Path) -> None:
    yaml = tmp_path / "station.yaml"
    yaml.write_text(
        "bundle: b\noutput: out\ncameras: [{name: a, uri: 'sim://ceramic_tile?parts=90000&cache=4&size=32'}]\n"
        f"outputs: [webhook: {{url: 'http://127.0.0.1:{free_port()}/'}}]\n"
    )
    for _ in range(2):
        process = start_station(yaml)
        log = tmp_path / "out" / "verdicts.ndjson"
        size = log.stat().st_size if log.exists() else 0
        wait_until(lambda size=size, log=log: log.exists() and log.stat().st_size > size + 30_000)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with sqlite3.connect(tmp_path / "out" / "outbox" / "events.sqlite") as file:
        kept = {event_id: json.loads(body) for event_id, body in file.execute("SELECT event_id, body FROM events")}
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    read = verdicts(tmp_path)
    assert len(read) > 100
    assert all(kept[event_id] == verdict for event_id, verdict in read.items())


@pytest.mark.parametrize("target", ["out/outbox", "out/outbox/events.sqlite", "text"])
def test_an_outbox_that_cannot_be_written_is_refused_at_once(tmp_path: Path, target: str) -> None:
    if target == "text":
        (tmp_path / "out" / "outbox").mkdir(parents=True)
        (tmp_path / "out" / "outbox" / "events.sqlite").write_text("no database at all, just a line of text\n" * 100)
    elif target.endswith("sqlite"):
        (tmp_path / target).mkdir(parents=True)
    else:
        (tmp_path / "out").mkdir()
        (tmp_path / target).write_text("in the way")
    with pytest.raises(ConfigError, match=r"outbox.*: cannot be written") as caught:
        run(station(tmp_path, dead_hook()))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self/mounts").exists(), reason="needs /proc")
def test_a_read_only_folder_is_refused_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    if os.geteuid() == 0:  # root writes wherever the file system lets it
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", folder], capture_output=True)
        if mounted.returncode:
            pytest.skip("this system lets root mount nothing")
    else:
        folder.chmod(0o555)
    try:
        with pytest.raises(ConfigError, match="cannot be written"):
            run(station(tmp_path, dead_hook()))
    finally:
        subprocess.run(["umount", folder], capture_output=True)
        folder.chmod(0o755)


def test_two_stations_do_not_share_a_folder(tmp_path: Path, outbox: Outbox) -> None:
    with pytest.raises(ConfigError, match="another station has it"):
        Outbox(outbox.folder, OutboxConfig(), ["a"])
    assert read_progress(tmp_path / "nowhere") == {}


def test_notes_on_an_outbox_that_was_removed_do_not_count_for_the_new_one(outbox: Outbox) -> None:
    outbox.write(events(0, 20))
    delivered = Delivered(outbox.folder, ["a", "b"])
    delivered.write("a", Progress(cursor=20, delivered=20))
    delivered.close()
    outbox.close()
    for path in outbox.folder.glob("events.sqlite*"):
        path.unlink()
    new = Outbox(outbox.folder, OutboxConfig(), ["a", "b"])
    new.write(events(20, 30))
    assert new.pending(read_progress(outbox.folder)) == {"a": 10, "b": 10}
    assert len(new.problems) == 1
    new.close()


def test_a_new_output_begins_now_and_an_old_one_is_given_up_aloud(tmp_path: Path, outbox: Outbox) -> None:
    outbox.write(events(0, 10))
    outbox.close()
    changed = Outbox(tmp_path / "outbox", OutboxConfig(), ["b", "c"])
    assert changed.pending({}) == {"b": 10, "c": 0}
    assert changed.problems == ["output 'a' is no longer in station.yaml: what it has not got, it will not get"]
    changed.close()


def test_every_event_fits_the_schema(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    folder = tmp_path / "parts"
    for part, level in (("P1", 10), ("P2", 140), ("P3", 250)):
        for light in (1, 2):
            if (part, light) != ("P1", 2):
                write_png(folder / f"{part}_V1_L{light}.png", np.full((16, 16, 3), level, np.uint8))
    runs = [f"dir://{folder}", "sim://ceramic_tile?parts=40&cache=1&size=32&lost_share=0.4&seed=2"]
    seen = set()
    for index, uri in enumerate(runs):
        config = station(tmp_path / str(index), [], takt_ms=None if index == 0 else 2, parts_in_flight=2)
        camera = config.cameras[0].model_copy(update={"uri": uri})
        run(config.model_copy(update={"cameras": (camera,)}))
        for event in verdicts(tmp_path / str(index)).values():
            validator.validate(event)
            validator.validate({**event, "sequence": 7})
            seen.add(event["verdict"])
            for key in ("event_id", "station", "score"):
                assert not validator.is_valid({name: value for name, value in event.items() if name != key})
            assert not validator.is_valid({**event, "verdict": "GOOD"})
            assert not validator.is_valid({**event, "more": 1})
    assert seen >= {"INCOMPLETE", "UNSURE", "NG", "MISSED"}


def test_path_tricks_in_names_stay_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pattern"):
        station(tmp_path, [], name="../press")
    with pytest.raises(ValueError, match="pattern"):
        station(tmp_path, [{"name": "../x", "mqtt": {"host": "h"}}])
    with pytest.raises(ValueError, match="wildcards"):
        station(tmp_path, [{"mqtt": {"host": "h", "topic": "a/+/b"}}])
    inside = tmp_path / "a" / "b" / "c"
    tricks = ("../../../../escaped", "/etc/passwd", "..", "a\0b", "\u202e\n\r")
    slot, grey = Slot("../v", "../../i"), np.full((16, 16, 3), 250, np.uint8)
    evidence = (Evidence(slot, 0.9, grey, np.zeros((16, 16), np.float32)),)
    judged = [
        PartVerdict(number, part, Outcome.NG, 0.9, slot, 1, (), 0.0, 0.1, evidence=evidence)
        for number, part in enumerate(tricks)
    ]
    config = station(inside, dead_hook(), name="..", outbox={"drain_s": 0})
    pictures = Pictures(config.output, PicturesConfig(), run="0" * 12, judge=Largest(THRESHOLD))
    pictures.write(judged)
    made = Events(config, run="0" * 12, threshold=THRESHOLD).of(judged)
    feed = Feed(config)
    feed.write(made)
    feed.close()
    assert len(list((inside / "out" / "pictures").iterdir())) == 2 * len(tricks)
    assert [json.loads(event.text)["part"] for event in made] == list(tricks)
    assert all("\n" not in event.text for event in made)
    assert sorted(path.name for path in tmp_path.rglob("*") if inside not in path.parents) == ["a", "b", "c"]
    assert sorted(path.name for path in inside.iterdir()) == ["out"]


def test_a_folder_whose_name_is_no_text_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no UTF-8; choose another path") as caught:
        Feed(station(tmp_path / "\udcff", dead_hook()))
    assert str(caught.value).isprintable()


STATION = "bundle: b\noutput: o\ncameras: [{name: a, uri: 'sim://ceramic_tile'}]\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("outputs: [{mqt: {host: h}}]", ["unknown key 'outputs.0.mqt'", "did you mean 'mqtt'"]),
        ("outputs: [{mqtt: {hots: h}}]", ["unknown key 'outputs.0.mqtt.hots'", "did you mean 'host'"]),
        ("outputs: [{webhook: {uri: h}}]", ["unknown key 'outputs.0.webhook.uri'", "did you mean 'url'"]),
        ("outputs: [{mqtt: {host: h, tls: {cafile: x}}}]", ["unknown key 'outputs.0.mqtt.tls.cafile'", "'ca_file'"]),
        ("outputs: [{mqtt: {host: h, port: 70000}}]", ["outputs.0.mqtt.port: 70000 is wrong"]),
        ("outputs: [{mqtt: {host: 'h h'}}]", ["outputs.0.mqtt.host: 'h h' is wrong"]),
        ("outputs: [{}]", ["outputs.0", "exactly one of mqtt, webhook, modbus, opcua"]),
        ("outputs: [{mqtt: {host: h}, modbus: {}}]", ["outputs.0", "exactly one of mqtt, webhook, modbus, opcua"]),
        ("outputs: [{opcua: {prot: 1}}]", ["unknown key 'outputs.0.opcua.prot'", "did you mean 'port'"]),
        ("outputs: [{opcua: {keep: 0}}]", ["outputs.0.opcua.keep: 0 is wrong"]),
        ("outputs: [{opcua: {username: a}}]", ["outputs.0.opcua", "username and password_file belong together"]),
        ("outputs: [{opcua: {cert_file: a}}]", ["outputs.0.opcua", "cert_file and key_file belong together"]),
        (
            "outputs: [{opcua: {host: h, username: a, password_file: p}}]",
            ["outputs.0.opcua", "would cross the network"],
        ),
        ("outputs: [{mqtt: {host: h}}, {mqtt: {host: i}}]", ["two outputs are called 'mqtt'"]),
        ("outputs: mqtt", ["outputs: 'mqtt' is wrong"]),
        ("outputs: [{mqtt: {host: h", ["mend the YAML"]),
        ("outbox: {keeep: 1}", ["unknown key 'outbox.keeep'", "did you mean 'keep'"]),
        ("outbox: {limit_mib: 0}", ["outbox.limit_mib: 0 is wrong"]),
    ],
)
def test_wrong_outputs_are_refused_in_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "station.yaml"
    path.write_text(f"{STATION}{text}\n")
    with pytest.raises(ConfigError) as caught:
        load_station(path)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_secret_that_cannot_be_read_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "station.yaml"
    path.write_text(f"{STATION}outputs: [{{webhook: {{url: 'http://h/', token_file: secrets/token}}}}]\n")
    with pytest.raises(ConfigError, match=r"output 'webhook': .*secrets/token: cannot be read"):
        run(load_station(path))
    assert not (tmp_path / "o").exists()


def test_a_library_that_is_missing_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)  # as Python marks what cannot be imported
    with pytest.raises(MissingError, match=r"paho.mqtt.client cannot be imported .*\[mqtt\]"):
        run(station(tmp_path, [{"mqtt": {"host": "h"}}]))
    assert list(tmp_path.iterdir()) == []
