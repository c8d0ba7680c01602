"""What a station shows while it runs, in shared memory: the process of the operators' page reads it, nothing waits.

Every piece has a sequence number that is odd while it is written; a reader that finds it odd, or changed afterwards,
reads again. The memory is an anonymous file whose descriptor the other process inherits: nothing is left behind when
either of them dies. What is shown may, between two processors that order their writes weakly, be torn for one frame;
verdicts are not taken from here.
"""

from __future__ import annotations

import json
import mmap
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from edgead.errors import DataError
from edgead.images import AnomalyMap, Image

_KEPT = 256  # verdicts
_EVENT_BYTES = 4096
_NUMBERS_BYTES = 1 << 19
_TRIES = 100


class BoardLayout(BaseModel):
    """What stands on a board, and where: fixed when the station starts.

    Attributes:
        slots: view and illumination of each tile.
        provenance: ``Threshold.explain()``.
        started: ISO time, UTC.
        deadline_ms: of a verdict after its trigger, if there is one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    station: str
    artefact: str
    backend: str
    runner: str
    size_hw: tuple[int, int]
    max_batch: int
    slots: tuple[tuple[str, str], ...]
    cameras: tuple[str, ...]
    stages: tuple[str, ...]
    unsure: float
    ng: float
    provenance: str
    fusion: str
    takt_ms: float | None
    deadline_ms: float | None
    started: str
    pid: int


@dataclass(frozen=True)
class Numbers:
    """A station's counts at a moment.

    Attributes:
        beat_s: when the station wrote this, wall clock: while it lives at least each half second.
        ended: the station has ended, as it should.
        cameras: by name, ``Health`` as a dictionary, with ``seen_s``, wall clock of the last frame, or None.
        counts: parts by outcome.
        stages: by stage, pairs of bin and count of its ``ledger.Histogram``, and the sum of the durations, seconds.
        busy: by resource, share of the time for which it worked.
        outputs: ``OutputReport`` as dictionaries.
        missed_takts: parts whose verdict came late or not at all; None without a deadline.
    """

    beat_s: float = 0.0
    ended: bool = False
    triggers: int = 0
    open: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    frames: int = 0
    unused_frames: int = 0
    batches: int = 0
    fps: float = 0.0
    parts: int = 0
    missed_takts: int | None = None
    cameras: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stages: Mapping[str, tuple[Sequence[tuple[int, int]], float]] = field(default_factory=dict)
    busy: Mapping[str, float] = field(default_factory=dict)
    bottleneck: str = ""
    outputs: Sequence[Mapping[str, Any]] = ()
    problems: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Tile:
    """The last frame of a view under an illumination that the board took.

    Attributes:
        sequence: grows with each frame shown.
        captured_s: wall clock.
        image: uint8 ``(H, W, 3)`` RGB, of the engine's size.
        anomaly_map: float32 ``(H, W)``, raw.
    """

    sequence: int
    trigger: int
    score: float
    captured_s: float
    image: Image
    anomaly_map: AnomalyMap


class Board:
    """Made by ``create`` in the station, by ``attach`` in the process that reads; one thread writes each piece."""

    def __init__(self, layout: BoardLayout, fd: int) -> None:
        self.layout = layout
        self.fd = fd
        height, width = layout.size_hw
        text = np.dtype([("sequence", "<u8"), ("length", "<u8"), ("bytes", "u1", (_NUMBERS_BYTES,))])
        event = np.dtype([("sequence", "<u8"), ("number", "<u8"), ("length", "<u8"), ("bytes", "u1", (_EVENT_BYTES,))])
        tile = np.dtype(
            [
                ("sequence", "<u8"),
                ("trigger", "<i8"),
                ("score", "<f8"),
                ("captured_s", "<f8"),
                ("image", "u1", (height, width, 3)),
                ("anomaly_map", "<f4", (height, width)),
            ]
        )
        whole = np.dtype([("numbers", text), ("events", event, (_KEPT,)), ("tiles", tile, (len(layout.slots),))])
        if os.fstat(fd).st_size < whole.itemsize:
            os.ftruncate(fd, whole.itemsize)
        self._memory = mmap.mmap(fd, whole.itemsize)
        self._all: npt.NDArray[Any] = np.frombuffer(self._memory, whole, 1)[0]
        # Views made once: each costs microseconds.
        self._tiles = [self._all["tiles"][index : index + 1] for index in range(len(layout.slots))]
        self._events = self._all["events"]
        self._count = 0

    @classmethod
    def create(cls, layout: BoardLayout) -> Board:
        """Make a board; its ``fd`` goes to the other process, with the layout."""
        return cls(layout, os.memfd_create("edgead-board", os.MFD_CLOEXEC))

    @classmethod
    def attach(cls, fd: int, layout: BoardLayout) -> Board:
        """Open the board that another process has made."""
        return cls(layout, fd)

    def close(self) -> None:
        """Give the descriptor back; the memory goes with the last array that looks at it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def show(
        self, index: int, image: Image, anomaly_map: AnomalyMap, *, trigger: int, score: float, captured_s: float
    ) -> None:
        """Show a frame as tile ``index``; copies it."""
        tile = self._tiles[index]
        tile["sequence"] += 1
        tile["trigger"], tile["score"], tile["captured_s"] = trigger, score, captured_s
        tile["image"][0] = image
        tile["anomaly_map"][0] = anomaly_map
        tile["sequence"] += 1

    def tile_sequence(self, index: int) -> int:
        """Return the sequence number of a tile; 0 before its first frame."""
        return int(self._tiles[index]["sequence"][0]) // 2

    def tile(self, index: int) -> Tile | None:
        """Return a copy of a tile; None before its first frame, or when it changes all the time."""
        kept = self._tiles[index]
        for _ in range(_TRIES):
            before = int(kept["sequence"][0])
            if before and not before % 2:
                copy = kept[0].copy()
                if int(kept["sequence"][0]) == before:
                    return Tile(
                        before // 2,
                        int(copy["trigger"]),
                        float(copy["score"]),
                        float(copy["captured_s"]),
                        copy["image"],
                        copy["anomaly_map"],
                    )
            elif not before:
                return None
            time.sleep(1e-4)
        return None

    def tell(self, events: Sequence[str]) -> None:
        """Append verdicts, as JSON; one that is too long for the board is left out of it."""
        for text in events:
            body = text.encode()
            if len(body) > _EVENT_BYTES:
                continue
            self._count += 1
            entry = self._events[self._count % _KEPT : self._count % _KEPT + 1]
            entry["sequence"] += 1
            entry["number"], entry["length"] = self._count, len(body)
            entry["bytes"][0, : len(body)] = np.frombuffer(body, np.uint8)
            entry["sequence"] += 1

    def verdicts(self, after: int = 0) -> tuple[int, list[str]]:
        """Return the number of the last verdict, and those after number ``after`` that are still there, in order."""
        found: list[tuple[int, str]] = []
        for index in range(_KEPT):
            entry = self._events[index : index + 1]
            before, number = int(entry["sequence"][0]), int(entry["number"][0])
            if before % 2 or number <= after:
                continue
            body = entry["bytes"][0, : int(entry["length"][0])].tobytes()
            if int(entry["sequence"][0]) == before:
                found.append((number, body.decode()))
        found.sort()
        return (found[-1][0] if found else after), [text for _, text in found]

    def count(self, numbers: Numbers) -> None:
        """Write the counts.

        Raises:
            DataError: they are too long for the board.
        """
        body = json.dumps(numbers.__dict__).encode()
        if len(body) > _NUMBERS_BYTES:
            name = self.layout.station
            raise DataError(f"station '{name}' has {len(body)} bytes of counts; there is room for {_NUMBERS_BYTES}")
        entry = self._all["numbers"]
        entry["sequence"] += 1
        entry["length"] = len(body)
        entry["bytes"][: len(body)] = np.frombuffer(body, np.uint8)
        entry["sequence"] += 1

    def numbers(self) -> Numbers:
        """Return the counts as they were last written."""
        entry = self._all["numbers"]
        for _ in range(_TRIES):
            before = int(entry["sequence"])
            body = entry["bytes"][: int(entry["length"])].tobytes()
            if not before:
                return Numbers()
            if not before % 2 and int(entry["sequence"]) == before:
                return Numbers(**json.loads(body))
            time.sleep(1e-4)
        return Numbers()
