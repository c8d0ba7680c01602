"""What a browser is sent: the numbers of a board as JSON, and its tiles as pictures; each drawn once for all browsers.

A message is four bytes (length of the JSON, big-endian), the JSON, then the pictures in the order and with the lengths
that the JSON names. Everything in it is the newest there is: nothing is queued for a browser that is slow.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edgead.web.window import Window

if TYPE_CHECKING:
    from edgead.images import AnomalyMap, Image
    from edgead.runtime.board import Board, BoardLayout, Numbers, Tile

KEPT = 256  # verdicts
_WIDEST = 512  # pixels of a tile's longer side
_MAP_WIDEST = 128  # the map is a Gaussian's: a quarter of the pixels holds all of it
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 85]
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 3]
# Dark red over orange to pale yellow: brightness rises with the level, so that it can be read without colours.
_COLOURS = np.array([[0, 120, 20, 20], [90, 214, 60, 20], [180, 250, 150, 30], [255, 255, 255, 190]], np.float64)


@dataclass
class Viewer:
    """What a browser has already been sent.

    Attributes:
        tiles: by place in the layout, the sequence of the tile that it shows.
        verdict: the last one.
    """

    tiles: dict[int, int] = field(default_factory=dict)
    verdict: int = 0
    knows_layout: bool = False


@dataclass(frozen=True)
class _Drawn:
    sequence: int
    facts: dict[str, Any]
    image: bytes
    heat: bytes


class Snapshots:
    """Makes messages of what a board says; called by one thread at a time."""

    def __init__(self, board: Board, layout: BoardLayout) -> None:
        self._board = board
        self._layout = layout
        self._window = Window()
        self._drawn: dict[int, _Drawn] = {}
        self._numbers = board.numbers()
        self._lut = colours()
        self._verdicts: deque[str] = deque(maxlen=KEPT)
        self._peak = 0.0  # largest score of a frame so far
        self._last = 0  # number of the last of them
        self.is_over = False  # the station's process has gone

    def look(self) -> Numbers:
        """Read the board's numbers; to be called several times a second, whether anybody looks or not."""
        self._numbers = self._board.numbers()
        self._window.note(self._numbers, time.monotonic(), time.time())
        self._last, new = self._board.verdicts(self._last)
        self._verdicts.extend(new)
        return self._numbers

    @property
    def beat_age_s(self) -> float:
        """Return how long ago the station showed that it lives."""
        return self._window.beat_age_s(time.monotonic())

    def message(self, viewer: Viewer) -> bytes:
        """Return what a browser has not got yet, and note that it has it."""
        last = self._last
        verdicts = list(self._verdicts)[-(last - viewer.verdict) :] if last > viewer.verdict else []
        document: dict[str, Any] = {
            "layout": None if viewer.knows_layout else self._layout.model_dump(mode="json"),
            "numbers": self._state(),
            "verdicts": [],
            "tiles": [],
        }
        pictures = []
        for index in range(len(self._layout.slots)):
            drawn = self._draw(index)
            if drawn is None or viewer.tiles.get(index) == drawn.sequence:
                continue
            viewer.tiles[index] = drawn.sequence
            document["tiles"].append({**drawn.facts, "image": len(drawn.image), "heat": len(drawn.heat)})
            pictures += [drawn.image, drawn.heat]
        viewer.verdict, viewer.knows_layout = last, True
        text = json.dumps(document, allow_nan=False, separators=(",", ":"))
        # The verdicts are JSON already: they are put in as they are.
        text = text.replace('"verdicts":[]', '"verdicts":[' + ",".join(verdicts) + "]", 1) if verdicts else text
        encoded = text.encode()
        return b"".join([len(encoded).to_bytes(4, "big"), encoded, *pictures])

    def is_news(self, viewer: Viewer) -> bool:
        """Tell whether a tile or a verdict has come that a browser has not got."""
        if any(
            self._board.tile_sequence(index) != viewer.tiles.get(index, 0) for index in range(len(self._layout.slots))
        ):
            return True
        return self._last != viewer.verdict

    def _state(self) -> dict[str, Any]:
        numbers, now_s, wall_s = self._numbers, time.monotonic(), time.time()
        decided = sum(numbers.counts.values())
        state = {
            "time_s": wall_s,
            "triggers": numbers.triggers,
            "open": numbers.open,
            "counts": dict(numbers.counts),
            "unaccounted": numbers.triggers - numbers.open - decided,
            "frames": numbers.frames,
            "unused_frames": numbers.unused_frames,
            "batches": numbers.batches,
            "missed_takts": numbers.missed_takts,
            "beat_age_s": round(self._window.beat_age_s(now_s), 3),
            "ended": "ended" if numbers.ended else "died" if self.is_over else None,
            "rates": self._window.rates(numbers, now_s),
            "stages": self._window.stages(numbers, now_s),
            "busy": dict(numbers.busy),
            "bottleneck": numbers.bottleneck,
            "problems": list(numbers.problems),
            "cameras": {
                name: {**camera, "age_s": round(wall_s - camera["seen_s"], 3) if camera.get("seen_s") else None}
                for name, camera in numbers.cameras.items()
            },
            "outputs": list(numbers.outputs),
        }
        return {name: _finite(value) for name, value in state.items()}

    def _draw(self, index: int) -> _Drawn | None:
        """Draw a tile, unless it is drawn already."""
        drawn = self._drawn.get(index)
        if drawn is not None and drawn.sequence == self._board.tile_sequence(index):
            return drawn
        tile = self._board.tile(index)
        if tile is None:
            return drawn
        image, heat = jpeg(tile.image), self.heat(tile)
        self._drawn[index] = _Drawn(tile.sequence, self._facts(index, tile), image, heat)
        return self._drawn[index]

    def _facts(self, index: int, tile: Tile) -> dict[str, Any]:
        facts = {
            "slot": index,
            "sequence": tile.sequence,
            "trigger": tile.trigger,
            "score": float(tile.score),
            "captured_s": float(tile.captured_s),
        }
        return {name: _finite(value) for name, value in facts.items()}

    def heat(self, tile: Tile) -> bytes:
        """Return a tile's map as a picture to lay over it: clear below 0.6 of UNSURE's limit, full at 1.4 of NG's.

        What lies above NG's limit has an outline, to be seen without colours.
        """
        unsure, ng = self._limits(tile)
        anomaly_map = np.nan_to_num(_shrunk(np.asarray(tile.anomaly_map, np.float32), _MAP_WIDEST))
        low, high = unsure - 0.4 * abs(unsure), ng + 0.4 * abs(ng)
        level = np.clip((anomaly_map - low) / max(high - low, 1e-9), 0.0, 1.0)
        picture = self._lut[(level * 255).astype(np.uint8)]
        defective = (anomaly_map > ng).astype(np.uint8)
        outlines, _ = cv2.findContours(defective, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        picture = np.ascontiguousarray(picture)
        cv2.drawContours(picture, outlines, -1, (255, 255, 255, 255), 1)
        return cv2.imencode(".png", picture, _PNG)[1].tobytes()

    def _limits(self, tile: Tile) -> tuple[float, float]:
        """Return UNSURE's and NG's limit on the scale of a frame's map; without any, by its largest value so far."""
        if self._layout.fusion == "max":
            return self._layout.unsure, self._layout.ng
        self._peak = max(self._peak, float(tile.score))
        return 0.7 * self._peak, 0.8 * self._peak


def colours() -> Any:
    """Return the heat's colours by level, uint8 ``(256, 4)`` BGRA; they grow denser with the level."""
    levels = np.arange(256)
    red, green, blue = (np.interp(levels, _COLOURS[:, 0], _COLOURS[:, channel]) for channel in (1, 2, 3))
    alpha = np.interp(levels, [0, 40, 255], [0, 110, 235])
    return np.stack([blue, green, red, alpha], axis=1).astype(np.uint8)


def jpeg(image: Image) -> bytes:
    """Return an RGB image as JPEG, made smaller if it is large."""
    small = np.ascontiguousarray(_shrunk(image, _WIDEST)[..., ::-1])
    return cv2.imencode(".jpg", small, _JPEG)[1].tobytes()


def _shrunk(pixels: Image | AnomalyMap, widest: int) -> Any:
    height, width = pixels.shape[:2]
    if max(height, width) <= widest:
        return pixels
    scale = widest / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _finite(value: Any) -> Any:
    """Replace what JSON has no word for (NaN, infinity) by null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
