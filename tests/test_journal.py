from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from outputs_bench import THRESHOLD, free_port, start_station, wait_until

from benchmarks.endurance.conservation import triggers_of
from edgead.config import SinksConfig, StationConfig, load_station
from edgead.errors import ConfigError, DataError
from edgead.output_config import OutboxConfig
from edgead.runtime import journal as journal_module
from edgead.runtime import recovery
from edgead.runtime.events import Event
from edgead.runtime.fake import FakeRunner
from edgead.runtime.journal import NAME, Journal
from edgead.runtime.outputs.outbox import Outbox
from edgead.runtime.recovery import Recovered, cut_half_line, last_events, recover
from edgead.runtime.sinks import VerdictLog
from edgead.runtime.stations import run_station

RUN, NEXT = "0123456789ab", "ba9876543210"
CONSTANT = {"station": "line-1", "artefact": "int8", "unsure": 0.5, "ng": 0.75}
MISSING = ("top/bright", "top/dark")
SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "verdict.schema.json").read_text())


def event(trigger: int, run: str = RUN, verdict: str = "OK") -> Event:
    """Make an event as a station does."""
    fields = {
        "schema": "edgead.verdict/1",
        "event_id": f"{run}-{trigger}",
        "trigger": trigger,
        "part": "äß",
        "v": verdict,
    }
    return Event(f"{run}-{trigger}", json.dumps(fields))


def begun(folder: Path, run: str = RUN, window: int = 64) -> Journal:
    journal = Journal(folder, window=window)
    journal.begin(run, constant=CONSTANT, missing=MISSING)
    return journal


def kill(journal: Journal) -> None:
    """Leave a journal as a killed process does: its lock is gone, and it has not noted its end."""
    fcntl.flock(journal._file, fcntl.LOCK_UN)
    os.close(journal._file)
    journal._file = -1


class Sinks:
    """A real verdict file and a real outbox."""

    def __init__(self, folder: Path, *, roll_mib: float | None = None, outbox: bool = True) -> None:
        document: dict[str, Any] = {"bundle": folder, "output": folder, "cameras": [{"name": "a", "uri": "sim://x"}]}
        config = StationConfig.model_validate({**document, "sinks": {"roll": {"mib": roll_mib}}})
        assert isinstance(config.sinks, SinksConfig)
        self.log = VerdictLog(config)
        self.outbox = Outbox(folder / "outbox", OutboxConfig(), ["mqtt"]) if outbox else None

    def close(self) -> None:
        self.log.close()
        if self.outbox is not None:
            self.outbox.close()


def logged(folder: Path) -> dict[str, Any]:
    lines = [line for path in sorted(folder.glob("verdicts*.ndjson")) for line in path.read_text("utf-8").splitlines()]
    events = {json.loads(line)["event_id"]: line for line in lines}
    assert len(events) == len(lines)
    return events


def boxed(folder: Path) -> dict[str, str]:
    with sqlite3.connect(folder / "outbox" / "events.sqlite") as file:
        return dict(file.execute("SELECT event_id, body FROM events"))


def restart(folder: Path, *, outbox: bool = True, run: str | None = NEXT, window: int = 64) -> Recovered:
    """Do what a station does at its start, and kill it again."""
    journal = Journal(folder, window=window)
    cut_half_line(folder / "verdicts.ndjson")
    sinks = Sinks(folder, outbox=outbox)
    found = recover(folder, journal.earlier, sinks.log.write, sinks.outbox.write if sinks.outbox else None)
    sinks.close()
    if run is not None:
        journal.begin(run, constant=CONSTANT, missing=MISSING)
    kill(journal)
    return found


def test_each_trigger_of_a_killed_run_gets_its_verdict_and_keeps_it(tmp_path: Path) -> None:
    journal, sinks = begun(tmp_path), Sinks(tmp_path)
    assert sinks.outbox is not None
    for trigger in range(8):
        journal.triggered(trigger)
    sinks.outbox.write([event(0), event(1)])
    sinks.log.write([event(0), event(1)])
    journal.published([0, 1])
    sinks.outbox.write([event(2), event(3, verdict="NG")])  # killed here: 2 and 3 are in the outbox only
    sinks.log.write([event(2)])
    sinks.log.write([event(5)])  # cannot be, but if it is, it counts
    sinks.close()
    kill(journal)
    found = restart(tmp_path)
    assert [one.event_id for one in found.completed] == [f"{RUN}-3", f"{RUN}-5"]
    assert [one.event_id for one in found.incomplete] == [f"{RUN}-4", f"{RUN}-6", f"{RUN}-7"]
    assert found.problem.count("\n") == 0
    assert "3 of its parts are INCOMPLETE, 2 of its verdicts" in found.problem
    log = logged(tmp_path)
    assert log == boxed(tmp_path)
    assert log.keys() == {f"{RUN}-{trigger}" for trigger in range(8)}
    for trigger in (0, 1, 2, 5):
        assert log[f"{RUN}-{trigger}"] == event(trigger).text
    assert log[f"{RUN}-3"] == event(3, verdict="NG").text


def test_what_is_made_up_says_why_and_fits_the_schema(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.triggered(0)
    kill(journal)
    time.sleep(0.05)
    ((made,),) = [restart(tmp_path, outbox=False).incomplete]
    read = json.loads(made.text)
    assert read["latency_ms"] >= 50
    wanted = {"event_id": f"{RUN}-0", "trigger": 0, "part": None, "verdict": "INCOMPLETE", "score": None, "worst": None}
    wanted |= {"frames": 0, "missing": list(MISSING), "reason": "station killed", **CONSTANT}
    assert {name: read[name] for name in wanted} == wanted
    jsonschema.validate(read, SCHEMA)


def test_recovery_may_be_killed_anywhere_and_comes_to_the_same(tmp_path: Path) -> None:
    journal, sinks = begun(tmp_path), Sinks(tmp_path)
    for trigger in range(6):
        journal.triggered(trigger)
    sinks.close()
    kill(journal)

    class Killed(BaseException):
        pass

    def killed_after(write: Callable[[Sequence[Event]], None], events: int) -> Callable[[Sequence[Event]], None]:
        def half(wanted: Sequence[Event]) -> None:
            write(wanted[:events])
            raise Killed

        return half

    for kills in range(4):
        again, sinks = Journal(tmp_path, window=64), Sinks(tmp_path)
        assert sinks.outbox is not None
        boxes = killed_after(sinks.outbox.write, 3) if kills < 1 else sinks.outbox.write
        with pytest.raises(Killed):
            recover(tmp_path, again.earlier, killed_after(sinks.log.write, kills), boxes)
        sinks.close()
        kill(again)
    first = boxed(tmp_path)
    restart(tmp_path)
    assert logged(tmp_path) == boxed(tmp_path) == first
    assert len(first) == 6
    assert restart(tmp_path) == Recovered()  # settled, and so is the empty run after it


def test_several_kills_in_a_row_are_each_accounted_for(tmp_path: Path) -> None:
    runs = [f"{number:012x}" for number in range(1, 5)]
    for number, run in enumerate(runs):
        restart(tmp_path, run=None)
        journal, sinks = begun(tmp_path, run), Sinks(tmp_path)
        assert sinks.outbox is not None
        for trigger in range(10 * (number + 1)):
            journal.triggered(trigger)
            if trigger < 5:
                sinks.outbox.write([event(trigger, run)])
                sinks.log.write([event(trigger, run)])
                journal.published([trigger])
        sinks.close()
        kill(journal)
    restart(tmp_path)
    log = logged(tmp_path)
    assert log == boxed(tmp_path)
    assert log.keys() == {f"{run}-{trigger}" for at, run in enumerate(runs) for trigger in range(10 * (at + 1))}


def test_a_run_that_ended_leaves_nothing_to_do(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.triggered(0)
    journal.published([0])
    journal.close()
    journal.close()
    again = Journal(tmp_path)
    assert again.earlier is not None
    assert again.earlier.has_ended
    assert again.earlier.unsettled == []
    assert again.problems == []
    assert recover(tmp_path, again.earlier, [].extend, None) == Recovered()
    again.close()


def test_what_was_said_on_stderr_is_completed_but_never_made_up(tmp_path: Path) -> None:
    journal, sinks = begun(tmp_path), Sinks(tmp_path)
    assert sinks.outbox is not None
    for trigger in range(3):
        journal.triggered(trigger)
    sinks.outbox.write([event(0)])
    journal.said([0, 1])
    sinks.close()
    journal.close()
    found = restart(tmp_path)
    assert [one.event_id for one in found.completed] == [f"{RUN}-0"]
    assert [json.loads(one.text)["reason"] for one in found.incomplete] == ["station failed"]
    assert logged(tmp_path).keys() == {f"{RUN}-0", f"{RUN}-2"}


def test_without_outputs_an_old_outbox_is_read_and_not_written(tmp_path: Path) -> None:
    journal, sinks = begun(tmp_path), Sinks(tmp_path)
    assert sinks.outbox is not None
    journal.triggered(0)
    journal.triggered(1)
    sinks.outbox.write([event(0)])
    sinks.close()
    kill(journal)
    restart(tmp_path, outbox=False)
    assert logged(tmp_path).keys() == {f"{RUN}-0", f"{RUN}-1"}
    assert boxed(tmp_path).keys() == {f"{RUN}-0"}


def test_the_journal_goes_round(tmp_path: Path) -> None:
    journal = begun(tmp_path, window=8)
    for trigger in range(100):
        journal.triggered(trigger)
        if trigger >= 5 and trigger != 97:
            journal.published([trigger - 5])
    journal.published([3, 99])  # one of long ago; one out of turn
    kill(journal)
    again = Journal(tmp_path, window=16)
    assert again.earlier is not None
    assert [one.trigger for one in again.earlier.unsettled] == [92, 95, 96, 97, 98]
    kill(again)


def test_more_open_triggers_than_it_holds_are_said(tmp_path: Path) -> None:
    journal = begun(tmp_path, window=8)
    for trigger in range(10):
        journal.triggered(trigger)
    kill(journal)
    again = Journal(tmp_path)
    (problem,) = again.problems
    assert "2 triggers of the run before cannot be read" in problem
    assert again.earlier is not None
    assert len(again.earlier.unsettled) == 8


def test_a_second_station_is_kept_out(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    with pytest.raises(ConfigError, match=r"another station has it; give each its own output$"):
        Journal(tmp_path)
    journal.triggered(0)
    journal.close()
    Journal(tmp_path).close()


def test_a_station_that_does_not_start_leaves_no_journal_and_lets_the_next_one_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Journal(tmp_path)
    with monkeypatch.context() as patient:
        patient.setattr(journal_module, "_LOCK_S", 30.0)
        waits = threading.Timer(0.3, first.close)
        waits.start()
        second = Journal(tmp_path)  # had the file open when the first one removed it
        waits.join()
    with pytest.raises(ConfigError, match="another station has it"):
        Journal(tmp_path)
    second.close()
    assert list(tmp_path.iterdir()) == []


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _text(path: Path) -> None:
    path.write_text("a line of text\n" * 1000)


def _short(path: Path) -> None:
    path.write_bytes(b"EDGEADJ1")


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[80] ^= 0xFF
    path.write_bytes(content)


def _huge(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8:16] = b"\xff" * 8
    path.write_bytes(content)


def _notes(path: Path) -> None:
    import zlib

    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[24:32], "little")
    content[64 : 64 + length] = b"7".ljust(length)
    content[32:40] = zlib.crc32(content[64 : 64 + length]).to_bytes(8, "little")
    path.write_bytes(content)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [_truncated, _text, _short, _flipped, _huge, _notes, _folder, _link, _pipe])
def test_what_is_no_journal_is_moved_aside(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    for number in (1, 2):
        journal = begun(tmp_path)
        journal.triggered(0)
        kill(journal)
        spoil(tmp_path / NAME)
        again = Journal(tmp_path, window=64)
        assert again.earlier is None
        (problem,) = again.problems
        assert "\n" not in problem
        assert f"moved to {NAME}.bad-{number}" in problem
        again.begin(NEXT, constant=CONSTANT, missing=MISSING)  # and it works
        again.triggered(0)
        kill(again)
        third = Journal(tmp_path, window=64)
        assert third.earlier is not None
        assert third.earlier.notes.run == NEXT
        assert [one.trigger for one in third.earlier.unsettled] == [0]
        assert third.problems == []
        kill(third)
        (tmp_path / NAME).unlink()


def test_damaged_triggers_are_counted_and_the_others_kept(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    for trigger in range(4):
        journal.triggered(trigger)
    kill(journal)
    content = bytearray((tmp_path / NAME).read_bytes())
    content[4096 + 16 : 4096 + 24] = b"\xff" * 8
    content[4096 + 40 : 4096 + 48] = b"\xff" * 8  # the time of trigger 2 is no number
    (tmp_path / NAME).write_bytes(content)
    again = Journal(tmp_path, window=64)
    assert again.earlier is not None
    assert [one.trigger for one in again.earlier.unsettled] == [0, 2, 3]
    assert all(abs(one.triggered_s - time.time()) < 60 for one in again.earlier.unsettled)
    assert len(again.problems) == 1


def test_an_empty_journal_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(bytes(5000))  # as it stands in the middle of begin
    journal = Journal(tmp_path)
    assert (journal.earlier, journal.problems) == (None, [])
    journal.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_one_line_and_never_a_bus_error(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(small)], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        journal = Journal(small)
        journal.begin(RUN, constant=CONSTANT, missing=MISSING)
        (problem,) = journal.problems
        assert "cannot be written (No space left on device); free the disk" in problem
        assert "\n" not in problem
        for trigger in range(20_000):
            journal.triggered(trigger)
            journal.published([trigger])
        journal.close()
        again = Journal(small)
        again.close()
        assert again.earlier is None
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written .*; choose a writable output folder$"):
        Journal(tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b'{"a": 1}\n', b'{"a": 1}\n'),
        (b'{"a": 1}\n{"b": ', b'{"a": 1}\n'),
        (b'{"a": 1}\n{"b": 2}', b'{"a": 1}\n{"b": 2}\n'),
        (b'{"half', b""),
        (b'{"a": 1}\n' + b"\0" * 5000, b'{"a": 1}\n'),
        (b'{"a": 1}\n{"b": "' + b"x" * (3 << 20), b'{"a": 1}\n'),
        (b'{"a": 1}\n7', b'{"a": 1}\n'),
    ],
)
def test_a_half_line_is_cut(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "verdicts.ndjson"
    path.write_bytes(before)
    cut_half_line(path)
    assert path.read_bytes() == after


def test_a_missing_file_has_no_half_line(tmp_path: Path) -> None:
    cut_half_line(tmp_path / "verdicts.ndjson")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "verdicts.ndjson").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        cut_half_line(tmp_path / "verdicts.ndjson")


def test_verdicts_are_found_in_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_BLOCK", 100)  # lines go over the borders of blocks
    for name, run, triggers in (
        ("verdicts-000001.ndjson", NEXT, range(5)),
        ("verdicts-000002.ndjson", RUN, range(5)),
        ("verdicts.ndjson", RUN, range(5, 9)),
    ):
        (tmp_path / name).write_text("".join(f"{event(trigger, run).text}\n" for trigger in triggers))
    path = tmp_path / "verdicts.ndjson"
    wanted = {f"{RUN}-{trigger}" for trigger in (2, 8, 11)}
    assert last_events(path, RUN, wanted) == {f"{RUN}-{trigger}": event(trigger).text for trigger in (8, 2)}
    assert last_events(path, RUN, wanted, most=3).keys() == {f"{RUN}-8"}
    assert last_events(path, NEXT, {f"{NEXT}-4"}) == {}  # its lines are not the last ones: it has written none
    path.unlink()
    assert last_events(path, RUN, {f"{RUN}-4"}).keys() == {f"{RUN}-4"}


def test_an_outbox_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.triggered(0)
    kill(journal)
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox" / "events.sqlite").write_text("no database\n" * 1000)
    again = Journal(tmp_path)
    with pytest.raises(DataError, match=r"events.sqlite: cannot be read .*move it away$"):
        recover(tmp_path, again.earlier, lambda _: None, None)


WRITER = """
import sys
from pathlib import Path
from edgead.runtime.journal import Journal
journal = Journal(Path(sys.argv[1]), window=1024)
journal.begin("0123456789ab", constant={}, missing=())
print("begun", flush=True)
trigger = 0
while True:
    journal.triggered(trigger)
    print(trigger, flush=True)
    if trigger >= 100:
        journal.published([trigger - 100])
    trigger += 1
"""


def test_no_trigger_is_forgotten_through_a_kill(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        for line in writer.stdout:
            if int(line) > 3000:
                break
        writer.send_signal(signal.SIGKILL)
        *_, last = (int(line), *(int(more) for more in writer.stdout.read().split("\n")[:-1]))
    journal = Journal(tmp_path)
    assert journal.earlier is not None
    numbers = [one.trigger for one in journal.earlier.unsettled]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert numbers[-1] in (last, last + 1)
    assert numbers[0] in (last - 100, last - 99)
    assert not journal.earlier.has_ended
    journal.close()


def test_a_station_that_is_killed_again_and_again_loses_no_trigger(tmp_path: Path) -> None:
    yaml = tmp_path / "station.yaml"
    text = "bundle: b\noutput: out\noutputs: [webhook: {url: 'http://127.0.0.1:PORT/'}]\noutbox: {drain_s: 0}\n"
    text += "cameras: [{name: a, uri: 'sim://ceramic_tile?parts=PARTS&cache=4&size=32&rate=400'}]\n"
    text = text.replace("PORT", str(free_port()))
    yaml.write_text(text.replace("PARTS", "100000"))
    out = tmp_path / "out"
    noted: dict[str, int] = {}
    log = out / "verdicts.ndjson"
    for _ in range(2):
        size = log.stat().st_size if log.exists() else 0
        process = start_station(yaml)
        wait_until(lambda size=size: log.exists() and log.stat().st_size > size + 30_000)
        if not noted:
            with pytest.raises(ConfigError, match="another station has it; give each its own output"):
                run_station(load_station(yaml), runner=FakeRunner((16, 16)), threshold=THRESHOLD)
        process.kill()
        process.communicate()
        run, triggers, _ = triggers_of(out)
        noted[run] = triggers
        with log.open("ab") as file:  # as a kill may leave it
            file.write(b'{"schema": "edgead.verdict/1", "event_id": "')
    yaml.write_text(text.replace("PARTS", "50"))
    last = start_station(yaml)
    _, err = last.communicate(timeout=60)
    assert last.returncode == 0, err
    log_events = {event_id: json.loads(line) for event_id, line in logged(out).items()}
    run, triggers, unsettled = triggers_of(out)
    assert (triggers, unsettled) == (50, 0)
    assert len(noted) == 2
    noted[run] = 50
    assert log_events.keys() == {f"{run}-{trigger}" for run, count in noted.items() for trigger in range(count)}
    assert {event_id: json.loads(body) for event_id, body in boxed(out).items()} == log_events
    made_up = [one for one in log_events.values() if one.get("reason") == "station killed"]
    assert all(one["verdict"] == "INCOMPLETE" for one in made_up)
    assert len(made_up) < 100
