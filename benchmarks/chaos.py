"""Kill the parts of a running line, again and again, and count what became of every trigger.

    python -m benchmarks.chaos --rounds 20 --save benchmarks/results/chaos.json

Two stations, each a process of its own with the process that delivers for it: ``parts`` with two simulated cameras,
``stream`` with an RTSP camera that sees nothing but white. Both give their verdicts to a real MQTT broker and to a web
server. Each round kills one thing by SIGKILL in the middle of work and starts it again. At the end every trigger of
every run, as the journals told at the moment of each kill, must have one verdict in the file and one at the subscriber,
at the web server too; those on simulated parts must be the verdicts of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.endurance.conservation import Run, check, failures, logged, triggers_of
from benchmarks.endurance.engine import set_limits, small_bundle, write_station
from benchmarks.endurance.processes import Broker, StationProcess, free_port, kill, last_line, wait_until
from benchmarks.endurance.receivers import Subscriber, WebServer
from benchmarks.endurance.white_camera import PATH, is_installed
from benchmarks.results import save
from edgead.bundle import Bundle
from edgead.errors import EdgeadError, GateError

PARTS, STREAM = "parts", "stream"
VICTIMS = ("station", "broker", "deliver", "all", "camera")
_OBJECT = "sim://magnetic_core?seed=7&ng_share=0.3&size=64&cache=24"
_VIEWS = ("front", "back")
_RATE = 40  # parts a second
_JUDGED = frozenset({"OK", "UNSURE", "NG"})
_TOLERANCE = 1e-3  # of scores, relative: batches of another size round otherwise


class Line:
    """All that is killed: two stations, a broker, a camera; and what hears of their verdicts."""

    def __init__(self, folder: Path, bundle: Bundle, *, has_stream: bool) -> None:
        self.folder = folder
        self.runs: dict[str, list[Run]] = {}
        self.reports: dict[str, dict[str, Any]] = {}
        self.broker = Broker(folder / "broker")
        self.subscriber = Subscriber(self.broker.port)
        time.sleep(0.2)
        self.broker.save()
        self.web = WebServer()
        self.camera_port = free_port()
        self.camera: subprocess.Popen[bytes] | None = None
        self.stations: dict[str, StationProcess] = {}
        cameras = {PARTS: simulated(f"&parts=1000000&rate={_RATE}")}
        if has_stream:
            self.start_camera()
            uri = f"rtsp://127.0.0.1:{self.camera_port}{PATH}?watchdog_ms=1000&retry_max_ms=1000"
            cameras[STREAM] = [{"name": "white", "uri": uri}]
        for name in cameras:
            document: dict[str, Any] = {"name": name, "bundle": str(bundle.path), "output": str(folder / name)}
            document |= {"silence_ms": 120_000, "timeout_ms": 1000, "outbox": {"drain_s": 60}}
            outputs = [
                {"mqtt": {"host": "127.0.0.1", "port": self.broker.port, "keepalive_s": 2}},
                {"webhook": {"url": f"http://127.0.0.1:{self.web.port}/{name}", "retry_s": 1}},
            ]
            document |= {"sinks": {"pictures": None, "roll": {"mib": 0.25}}}
            write_station(folder / f"{name}.yaml", {**document, "cameras": cameras[name], "outputs": outputs})
            self.start(name)

    def start(self, name: str) -> None:
        """Start a station, for the first time or again."""
        self.stations[name] = StationProcess(self.folder / f"{name}.yaml", self.folder / name)

    def start_camera(self) -> None:
        """Start the RTSP camera, or start it again."""
        command = [sys.executable, "-m", "benchmarks.endurance.white_camera", str(self.camera_port)]
        self.camera = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.camera.stdout is not None
        if self.camera.stdout.readline() != b"ready\n":
            raise GateError("the RTSP camera does not start")

    def note_end(self, name: str) -> Run:
        """Read from the journal what a station that has just ended has triggered."""
        ended = Run(*triggers_of(self.folder / name))
        self.runs.setdefault(name, []).append(ended)
        return ended

    def heard(self) -> dict[str, int]:
        """Count by station the events at the subscriber."""
        return {name: len(self.subscriber.bodies.get(name, {})) for name in self.stations}

    def wait_for_more(self, least: int = 25) -> None:
        """Wait until every station has given so many verdicts more."""
        before = self.heard()
        for name, process in self.stations.items():
            what = f"more verdicts of station '{name}'; it said: {last_line(process.stderr)}"
            wait_until(partial(self._has_given, name, before[name] + least), what, 120)
            if process.process.poll() is not None:
                raise GateError(f"station '{name}' ended by itself: {last_line(process.stderr)}")

    def _has_given(self, name: str, verdicts: int) -> bool:
        return self.heard()[name] >= verdicts

    def stop(self) -> None:
        """End both stations in an orderly way, and let all outputs catch up."""
        for name, station in self.stations.items():
            self.reports[name] = station.stop()
            self.note_end(name)
        total = sum(run.triggers for runs in self.runs.values() for run in runs)
        with contextlib.suppress(GateError):  # what does not come is counted as lost
            wait_until(lambda: sum(self.heard().values()) >= total, f"{total} verdicts at the subscriber", 20)

    def count(self, name: str, is_right: Callable[[Mapping[str, Any], bool], bool]) -> dict[str, Any]:
        """Count what became of every trigger of a station."""
        receivers = {"mqtt": self.subscriber.bodies.get(name, {}), "webhook": self.web.bodies.get(name, {})}
        return check(self.folder / name, self.runs[name], receivers, is_right)

    def close(self) -> None:
        """Leave nothing running."""
        for station in self.stations.values():
            if station.process.poll() is None:
                station.kill_all()
        if self.camera is not None:
            self.camera.kill()
            self.camera.wait()
        self.subscriber.close()
        self.broker.kill()
        self.web.close()


def simulated(query: str) -> list[dict[str, str]]:
    """Return two cameras that see the same parts from two sides."""
    return [{"name": view, "view": view, "uri": _OBJECT + query} for view in _VIEWS]


def undisturbed(folder: Path, bundle: Bundle, parts: int) -> dict[int, dict[str, Any]]:
    """Return the verdicts on the simulated parts by trigger, when nobody disturbs their station."""
    document: dict[str, Any] = {"name": "truth", "bundle": str(bundle.path), "output": str(folder)}
    document |= {"cameras": simulated(f"&parts={parts}"), "sinks": {"pictures": None}}
    StationProcess(write_station(folder.with_suffix(".yaml"), document), folder).report(600)
    verdicts = {line["trigger"]: line for line in logged(folder)}
    if sorted(verdicts) != list(range(parts)):
        raise GateError(f"an undisturbed station has judged {len(verdicts)} of {parts} parts")
    return verdicts


def choose_limits(folder: Path, bundle: Bundle) -> None:
    """Set limits in wide gaps between the scores, so that parts are OK, UNSURE and NG, and never nearly so."""
    scores = np.unique([line["score"] for line in undisturbed(folder, bundle, 24).values()])
    limits = []
    for low, high in ((0.3, 0.55), (0.6, 0.9)):
        some = scores[int(low * len(scores)) : int(high * len(scores)) + 1]
        widest = int(np.diff(some).argmax())
        limits.append(float(some[widest : widest + 2].mean()))
    set_limits(bundle, *limits)


def strike(line: Line, victim: str) -> dict[str, Any]:
    """Kill something, start it again, and wait until the line works as before."""
    found: dict[str, Any] = {"victim": victim, "runs": [], "triggers": None, "unsettled": None}
    names = list(line.stations)
    if victim in ("station", "all"):
        for name in names:
            station = line.stations[name]
            station.kill_all() if victim == "all" else station.kill()
        ended = [line.note_end(name) for name in names]
        found["runs"] = [run.run for run in ended]
        found["triggers"] = sum(run.triggers for run in ended)
        found["unsettled"] = sum(run.unsettled for run in ended)
        for name in names:
            line.start(name)
    elif victim == "deliver":
        for name in names:
            for child in line.stations[name].children():
                kill(child)
    elif victim == "broker":
        line.broker.kill()
        time.sleep(0.5)
        line.broker.start()
    elif line.camera is not None:
        line.camera.kill()
        line.camera.wait()
        time.sleep(0.5)
        line.start_camera()
    line.wait_for_more()
    return found


def run_chaos(folder: Path, *, rounds: int, seed: int = 1) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Do the rounds in a folder; return what each of them did, and what it came to by station.

    Raises:
        GateError: something did not come back.
        MissingError: mosquitto, paho-mqtt or onnx is not installed.
    """
    draw = random.Random(seed)
    bundle = small_bundle(folder / "bundle")
    choose_limits(folder / "limits", bundle)
    has_stream = is_installed()
    victims = VICTIMS if has_stream else VICTIMS[:-1]
    line = Line(folder, bundle, has_stream=has_stream)
    rows = []
    try:
        line.wait_for_more()
        for number in range(rounds):
            begin_s, before = time.monotonic(), sum(line.heard().values())
            time.sleep(draw.uniform(0.1, 1.0))
            row = {"round": number + 1, **strike(line, victims[number % len(victims)])}
            row |= {"verdicts": sum(line.heard().values()) - before, "seconds": time.monotonic() - begin_s}
            rows.append(row)
            _show(row)
        line.stop()
    finally:
        line.close()
    truth = undisturbed(folder / "truth", bundle, max(run.triggers for run in line.runs[PARTS]))
    judges: dict[str, Callable[[Mapping[str, Any], bool], bool]] = {
        PARTS: partial(is_as_undisturbed, truth),
        STREAM: is_white,
    }
    return rows, {name: line.count(name, judges[name]) for name in line.runs}


def is_as_undisturbed(truth: Mapping[int, Mapping[str, Any]], event: Mapping[str, Any], was_last: bool) -> bool:
    """Tell whether a verdict on a simulated part is the one that it gets when nobody disturbs its station."""
    if event["verdict"] not in _JUDGED:
        return event["verdict"] == "INCOMPLETE" and was_last
    true = truth[event["trigger"]]
    same = all(event[key] == true[key] for key in ("part", "verdict", "worst", "frames", "missing"))
    return same and abs(event["score"] - true["score"]) <= _TOLERANCE * abs(true["score"])


def is_white(event: Mapping[str, Any], _was_last: bool) -> bool:
    """Tell whether a verdict on the camera that sees white can be right: NG, or none."""
    return event["verdict"] not in ("OK", "UNSURE")


def _show(row: Mapping[str, Any]) -> None:
    open_parts = "" if row["unsettled"] is None else f", {row['unsettled']} of {row['triggers']} triggers unsettled"
    print(
        f"round {row['round']:>2}: killed {row['victim']:<8} {row['verdicts']:>4} verdicts in {row['seconds']:4.1f} s"
        f"{open_parts}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill the parts of a running line, and count what became of every trigger."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="kills (default 20: about 5 minutes)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills (default 1)")
    parser.add_argument("--folder", type=Path, help="an empty one, to look into afterwards (default: a temporary one)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the counts as JSON")
    given = parser.parse_args(arguments)
    if given.rounds < 1:
        parser.error(f"--rounds is {given.rounds}; expected 1 or more")
    if given.folder is not None and given.folder.exists() and any(given.folder.iterdir()):
        parser.error(f"--folder is {given.folder}, which is not empty")
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = given.folder or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            begin_s = time.monotonic()
            rows, totals = run_chaos(folder.absolute(), rounds=given.rounds, seed=given.seed)
    except EdgeadError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for name, counts in totals.items():
        print(f"station '{name}': " + ", ".join(f"{key} {value}" for key, value in counts.items()))
    bad = [f"station '{name}': {failure}" for name, counts in totals.items() for failure in failures(counts)]
    if given.save is not None:
        conditions = {"signal": "SIGKILL", "seed": given.seed, "seconds": time.monotonic() - begin_s, "kills": rows}
        command = f"python -m benchmarks.chaos --rounds {given.rounds} --save {given.save}"
        stations = [{"station": name, "kills": given.rounds, **counts} for name, counts in totals.items()]
        save(given.save, command=command, conditions=conditions, rows=stations)
    for failure in bad:
        print(f"{failure}, expected 0", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
