"""The station's side of the operators' page: what it shows on the board, and the process that serves the page."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from edgead.config import StationConfig
from edgead.errors import ConfigError, MissingError
from edgead.images import AnomalyMap, Image
from edgead.runtime.board import Board, BoardLayout, Numbers
from edgead.runtime.engine import Engine
from edgead.runtime.frames import Camera
from edgead.runtime.ledger import STAGES, TaktLedger, bottleneck
from edgead.runtime.line import Standing
from edgead.runtime.parts import Slot
from edgead.runtime.report import busy_shares
from edgead.runtime.runner import Runner
from edgead.thresholds import Threshold

BEAT_S = 0.25
_TILE_S = 0.1  # a tile changes no faster: nobody sees more, and each costs the engine's thread some microseconds
_OUTPUTS_S = 1.0
_RESTART_S = 5.0
_GRACE_S = 5.0


class Showing:
    """A board and its reader. Frames come from the engine's thread, all else from the one that feeds the sinks.

    Raises:
        ConfigError: the page's address is taken, or its token cannot be read.
        MissingError: what serves the page is not installed.
    """

    def __init__(self, config: StationConfig, runner: Runner, threshold: Threshold, cameras: Sequence[Camera]) -> None:
        assert config.page is not None
        if importlib.util.find_spec("fastapi") is None:  # not imported here: the other process needs it
            raise MissingError("the page needs fastapi; in edgead's folder: pip install -c constraints.txt '.[page]'")
        config.page.token()  # said now, not by the other process
        slots = [slot for camera in cameras for slot in camera.slots]
        self._cameras = cameras
        self._places = {slot: index for index, slot in enumerate(slots)}
        self._shown_s = [0.0] * len(slots)
        self._counted_s = self._asked_s = 0.0
        self._outputs: list[dict[str, Any]] = []
        self._frames_before: dict[str, tuple[int, float | None]] = {}
        layout = BoardLayout(
            station=config.name,
            artefact=config.artefact,
            backend=config.backend or "",
            runner=runner.name,
            size_hw=runner.size_hw,
            max_batch=runner.max_batch,
            slots=tuple((slot.view, slot.illumination) for slot in slots),
            cameras=tuple(camera.name for camera in cameras),
            stages=STAGES,
            unsure=threshold.unsure,
            ng=threshold.ng,
            provenance=threshold.explain(),
            fusion=config.fusion,
            takt_ms=config.takt_ms,
            deadline_ms=config.deadline_ms or config.takt_ms,
            started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            pid=os.getpid(),
        )
        self._board = Board.create(layout)
        task = {"fd": self._board.fd, "layout": layout.model_dump(), "page": config.page.model_dump(mode="json")}
        self._task = json.dumps(task).encode() + b"\n"
        self._restarts, self._started_s = 0, 0.0
        self._process = self._start()
        assert self._process.stdout is not None
        if not self._process.stdout.readline():  # it says "ready" when it listens, else why not, on stderr
            self.close()
            raise ConfigError(
                f"the page of station '{config.name}' cannot be served at {config.page.host}:{config.page.port}; "
                "take another port, or leave 'page' out of station.yaml"
            )

    @property
    def problems(self) -> list[str]:
        """Return what the report has to say, one line each."""
        died = f"the process of the page died and was started again {self._restarts} times"
        return [died] if self._restarts else []

    def frame(self, trigger: int, slot: Slot, score: float, image: Image, anomaly_map: AnomalyMap) -> None:
        """Show a frame, unless its tile has just changed."""
        index, now_s = self._places[slot], time.monotonic()
        if now_s - self._shown_s[index] < _TILE_S:
            return
        self._shown_s[index] = now_s
        self._board.show(index, image, anomaly_map, trigger=trigger, score=score, captured_s=time.time())

    def verdicts(self, events: Sequence[str]) -> None:
        """Show verdicts, as JSON."""
        self._board.tell(events)

    def count(
        self,
        standing: Standing,
        ledger: TaktLedger,
        engine: Engine,
        outputs: Callable[[], Sequence[Any]],
        wall_s: float,
        problems: Sequence[str],
        *,
        ended: bool = False,
    ) -> None:
        """Show the counts, unless that has just been done."""
        now_s = time.time()
        if not ended and 0 <= now_s - self._counted_s < BEAT_S:
            return
        self._counted_s = now_s
        if self._process.poll() is not None and time.monotonic() - self._started_s > _RESTART_S:
            self._restarts += 1
            self._process = self._start()
        if not 0 <= now_s - self._asked_s < _OUTPUTS_S:
            self._asked_s = now_s
            self._outputs = [asdict(one) for one in outputs()]
        busy = busy_shares(ledger, engine, wall_s)
        self._board.count(
            Numbers(
                beat_s=now_s,
                ended=ended,
                triggers=standing.triggers,
                open=standing.open,
                counts=standing.counts,
                frames=ledger.frames,
                unused_frames=standing.unused_frames,
                batches=engine.batches,
                fps=ledger.fps,
                parts=ledger.parts,
                missed_takts=ledger.missed if ledger.deadline_s is not None else None,
                cameras={camera.name: self._health(camera, now_s) for camera in self._cameras},
                stages={
                    name: ([(index, count) for index, count in enumerate(stage.counts) if count], stage.sum_s)
                    for name, stage in ledger.stages.items()
                },
                busy=busy,
                bottleneck=bottleneck(busy),
                outputs=self._outputs,
                problems=list(problems),
            )
        )

    def close(self) -> None:
        """End the page; twice is allowed."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._board.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self._started_s = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "edgead.web.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._board.fd,),
            bufsize=0,
            start_new_session=True,
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died already, and is started again after a while
            process.stdin.write(self._task)
        return process

    def _health(self, camera: Camera, now_s: float) -> dict[str, Any]:
        frames, seen_s = self._frames_before.get(camera.name, (0, None))
        health = camera.health
        if health.frames != frames:
            frames, seen_s = health.frames, now_s
            self._frames_before[camera.name] = (frames, seen_s)
        return {**asdict(health), "seen_s": seen_s}
