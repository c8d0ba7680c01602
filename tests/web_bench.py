"""What the tests of the page share: a board with known pictures and counts, and a station's side of the page."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgead.runtime.board import Board, BoardLayout, Numbers
from edgead.runtime.ledger import STAGES, Histogram

TOKEN = "a-token-that-is-long-enough"
SIZE = 32
SLOTS = (("top", "left"), ("top", "right"), ("side", "left"), ("side", "right"))
COLOURS = ((200, 40, 40), (40, 180, 60), (40, 60, 200), (190, 180, 60))  # of the tiles' images, RGB


def layout_of(**values: Any) -> BoardLayout:
    """A layout of two views under two lights; UNSURE above 0.5, NG above 0.75."""
    standard: dict[str, Any] = {
        "station": "line-1",
        "artefact": "int8",
        "backend": "openvino",
        "runner": "openvino-cpu",
        "size_hw": (SIZE, SIZE),
        "max_batch": 8,
        "slots": SLOTS,
        "cameras": ("top", "side"),
        "stages": STAGES,
        "unsure": 0.5,
        "ng": 0.75,
        "provenance": "NG above 0.75: at most 1998 of a million Good parts are rejected, at 95.0% confidence",
        "fusion": "max",
        "takt_ms": 200.0,
        "deadline_ms": 150.0,
        "started": "2026-01-02T03:04:05+00:00",
        "pid": 1,
    }
    return BoardLayout(**{**standard, **values})


def event(trigger: int, verdict: str = "OK", **values: Any) -> str:
    """A verdict as the station tells it."""
    judged = verdict in ("OK", "UNSURE", "NG")
    fields = {
        "schema": "edgead.verdict/1",
        "event_id": f"run-{trigger}",
        "time": "2026-01-02T03:04:05.678+00:00",
        "trigger": trigger,
        "part": f"part-{trigger:05}",
        "verdict": verdict,
        "score": {"OK": 0.31, "UNSURE": 0.62, "NG": 0.93}[verdict] if judged else None,
        "worst": "top/left" if judged else None,
        "frames": 4,
        "missing": [] if judged else ["side/right"],
        "latency_ms": 31.5,
    }
    return json.dumps({**fields, **values})


def stage(seconds: Sequence[float]) -> tuple[list[tuple[int, int]], float]:
    """Durations as a board has them."""
    histogram = Histogram()
    for value in seconds:
        histogram.add(value)
    return [(index, count) for index, count in enumerate(histogram.counts) if count], histogram.sum_s


def numbers_of(**values: Any) -> Numbers:
    """Counts of a station that lives and is sound: 107 triggers, of which 2 are open."""
    camera = {"frames": 210, "incomplete": 1, "missed": 2, "reconnects": 3, "last_error": "", "seen_s": time.time()}
    output = {"name": "mqtt", "kind": "mqtt", "delivered": 99, "pending": 6, "refused": 1, "dropped": 2, "errors": 4}
    standard = Numbers(
        beat_s=time.time(),
        triggers=107,
        open=2,
        counts={"OK": 90, "UNSURE": 5, "NG": 4, "INCOMPLETE": 3, "MISSED": 2, "REJECTED": 1},
        frames=412,
        unused_frames=7,
        batches=80,
        parts=105,
        missed_takts=9,
        cameras={"top": camera, "side": {**camera, "frames": 202, "last_error": "no frame for 2.0 s"}},
        stages={"engine": stage([0.004] * 50 + [0.02]), "part": stage([0.03] * 99 + [0.4])},
        busy={"engine": 0.81, "camera top": 0.12},
        bottleneck="engine",
        outputs=[{**output, "last_error": "connection refused"}],
        problems=["unproven: by hand"],
    )
    return replace(standard, **values)


def fill(board: Board) -> None:
    """Show each tile in one colour, with a hot spot in the map's upper left quarter."""
    for index, colour in enumerate(COLOURS[: len(board.layout.slots)]):
        height, width = board.layout.size_hw
        image = np.full((height, width, 3), colour, np.uint8)
        anomaly_map = np.full((height, width), 0.1, np.float32)
        anomaly_map[: height // 2, : width // 2] = 0.9
        board.show(index, image, anomaly_map, trigger=104, score=0.9, captured_s=time.time())


@dataclass
class Station:
    """The station's side of a page: a board that is kept alive by a thread, and the page's process.

    Attributes:
        beats: whether the heart beats.
    """

    board: Board
    page: dict[str, Any]
    beats: bool = True
    process: subprocess.Popen[bytes] | None = None
    shown: Numbers = field(default_factory=numbers_of)
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.page['port']}"

    def start(self) -> None:
        """Start the process of the page, and wait until it is ready."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgead.web.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self.board.fd,),
            bufsize=0,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        task = {"fd": self.board.fd, "layout": self.board.layout.model_dump(), "page": self.page}
        self.process.stdin.write(json.dumps(task).encode() + b"\n")
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        """Kill the process of the page."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """End as a station does; returns the exit code of the page's process."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(20)

    def live(self) -> None:
        while not self._over.wait(0.1):
            if self.beats:
                self.shown = replace(self.shown, beat_s=time.time())
                self.board.count(self.shown)


@contextlib.contextmanager
def station(port: int, layout: BoardLayout | None = None, **page: Any) -> Iterator[Station]:
    """A station whose page runs in its own process."""
    made = Station(Board.create(layout or layout_of()), {"port": port, **page})
    fill(made.board)
    made.board.count(made.shown)
    heart = threading.Thread(target=made.live, daemon=True)
    heart.start()
    try:
        made.start()
        yield made
    finally:
        made._over.set()
        heart.join()
        if made.process is not None and made.process.poll() is None:
            made.kill()
        made.board.close()
