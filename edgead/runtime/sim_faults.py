"""What goes wrong between parts on a line and their frames at a station: seeded, so that every run has the same faults.

Frames leave here in the order in which they reach the station, each with its time on the line's own clock; the clock
on the wall has no say. What a station makes of them (``parts.Parts``): a frame of a later trigger means that its camera
has lost what it has not given of earlier ones, so that those parts end as INCOMPLETE or MISSED. A frame that comes
after all, being late or having changed places with one of the next part, counts as unused, and so does the second of
two equal ones. Frames of one trigger may come in any order. None of that ever changes another part's verdict.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgead.images import Image
from edgead.runtime.parts import Slot

Share = Field(default=0.0, ge=0, le=1)
_BLOCK = 1024  # random numbers drawn at a time
# Streams of random numbers; a new one goes to the end, or old seeds would give other faults.
_STREAMS = ("lost", "late", "duplicated", "swapped", "black", "fuzzed", "flicker", "jitter", "overtriggered")


class FaultOptions(BaseModel):
    """What may stand in the query of the address of any simulated camera.

    A share is the chance of each frame, 0 to 1, on its own; the faults of two frames, or of two kinds, are independent.

    Attributes:
        seed: of parts and faults. Cameras with the same seed see the same parts; each has its own faults.
        parts: number of triggers; one trigger is one part.
        rate: parts a second; without it frames come as fast as they are taken.
        queue: frames that can wait for the station, as in a driver's buffers. With it the camera runs on at its rate
            like a live one, and a frame that finds no buffer is missed; without it the line waits for the station.
        exposure_ms: time from a trigger to its first frame, and from one frame of a part to the next. A trigger that
            comes before the last frame of the part before is lost: none of its frames is ever taken.
        jitter_ms: longest delay of a frame on its way, evenly spread from 0; it never changes the order.
        lost_share: frames that never come; the camera's numbers show it.
        late_share, late_ms: frames that come so much later, behind others if these are faster.
        duplicated_share: frames that come twice.
        swapped_share: frames that change places with the next one of their camera.
        overtriggered_share: chance of each part that its trigger comes too early, the same for all cameras with the
            seed: none of its frames is taken, and no number of the camera shows it.
        black_share: frames without light.
        fuzzed_share: frames of another size, type or number of channels than the camera promised.
        ageing: share of the light that the lamps lose in each 1000 parts, of what is left.
        flicker: largest relative change of the light from frame to frame, evenly spread around 0.
        vanish_after: number of frames, lost ones too, after which the camera is gone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = Field(default=0, ge=0)
    parts: int = Field(default=100, ge=1)
    rate: float | None = Field(default=None, gt=0)
    queue: int | None = Field(default=None, ge=1, le=100_000)
    exposure_ms: float = Field(default=0, ge=0)
    jitter_ms: float = Field(default=0, ge=0)
    lost_share: float = Share
    late_share: float = Share
    late_ms: float = Field(default=0, ge=0)
    duplicated_share: float = Share
    swapped_share: float = Share
    overtriggered_share: float = Share
    black_share: float = Share
    fuzzed_share: float = Share
    ageing: float = Field(default=0, ge=0, lt=1)
    flicker: float = Share
    vanish_after: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _refuse_what_needs_more(self) -> FaultOptions:
        if self.rate is None:
            for name in ("queue", "exposure_ms", "jitter_ms", "late_share"):
                if getattr(self, name):
                    raise ValueError(f"{name} needs a rate (parts a second); without one frames have no times")
        if bool(self.late_share) != bool(self.late_ms):
            raise ValueError("late_share and late_ms say together which frames are late, and by how much; give both")
        return self

    @property
    def on(self) -> tuple[str, ...]:
        """Return the names of the faults that are asked for."""
        none = FaultOptions()
        ways = set(FaultOptions.model_fields) - {"seed", "parts", "rate", "queue"}
        return tuple(name for name in FaultOptions.model_fields if name in ways and self._differs(none, name))

    def _differs(self, other: FaultOptions, name: str) -> bool:
        return bool(getattr(self, name) != getattr(other, name))


class Coming(NamedTuple):
    """A frame on its way.

    Attributes:
        shot: which of the camera's slots.
        taken_s, arrives_s: seconds since the line began; 0 where it has no rate.
        gain: of the light; 1 is that of new lamps.
        fuzz: which of the ways to be wrong it has; -1 for none.
        swaps: it changes places with the next frame.
    """

    trigger: int
    shot: int
    taken_s: float = 0.0
    arrives_s: float = 0.0
    gain: float = 1.0
    fuzz: int = -1
    swaps: bool = False


def coming(options: FaultOptions, slots: Sequence[Slot], counts: dict[str, int]) -> Iterator[Coming]:
    """Yield the frames of a camera in the order in which they come.

    Args:
        counts: gets the number of frames by fault, as they are yielded or left out.
    """
    frames = _taken(options, slots, counts)
    if options.swapped_share:
        frames = _swapped(frames, counts)
    return _timed(frames) if options.late_share else frames


def _taken(options: FaultOptions, slots: Sequence[Slot], counts: dict[str, int]) -> Iterator[Coming]:
    """Yield the frames in the order of their triggers, without those that never come."""
    if not options.on:
        yield from _plain(options, len(slots))
        return
    draws = _Draws(options, slots)
    exposure_s, jitter_s, late_s = options.exposure_ms / 1e3, options.jitter_ms / 1e3, options.late_ms / 1e3
    free_s = link_s = 0.0  # when the camera can be triggered again; when the frame before came
    for trigger in range(options.parts):
        due_s = trigger / options.rate if options.rate else 0.0
        too_early = draws.overtriggered() or due_s < free_s - 1e-9
        if not too_early:
            free_s = due_s + exposure_s * len(slots)
        for index in range(len(slots)):
            if trigger * len(slots) + index == options.vanish_after:
                return
            drawn = draws.of(index)
            if too_early or drawn.lost:
                counts["overtriggered" if too_early else "lost"] += 1
                continue
            taken_s = due_s + exposure_s * (index + 1)
            link_s = arrives_s = max(link_s, taken_s + jitter_s * drawn.jitter)
            if drawn.late:
                arrives_s += late_s
            gain = _gain(options, trigger, drawn)
            frame = Coming(trigger, index, taken_s, arrives_s, gain, drawn.fuzz, drawn.swaps)
            for name in drawn.names:
                counts[name] += 1
            yield frame
            if drawn.again:
                yield frame._replace(swaps=False)


def _plain(options: FaultOptions, slots: int) -> Iterator[Coming]:
    for trigger in range(options.parts):
        due_s = trigger / options.rate if options.rate else 0.0
        for index in range(slots):
            yield Coming(trigger, index, due_s, due_s)


def _swapped(frames: Iterator[Coming], counts: dict[str, int]) -> Iterator[Coming]:
    """Let frames that swap come directly after the one behind them."""
    held: Coming | None = None
    for frame in frames:
        if held is not None:
            yield frame
            yield held._replace(arrives_s=max(held.arrives_s, frame.arrives_s))
            counts["swapped"] += 1
            held = None
        elif frame.swaps:
            held = frame
        else:
            yield frame
    if held is not None:  # the last one has nothing to change places with
        yield held


def _timed(frames: Iterator[Coming]) -> Iterator[Coming]:
    """Yield frames by the time at which they come; none comes before it is taken."""
    waiting: list[tuple[float, int, Coming]] = []
    latest_s = 0.0
    for number, frame in enumerate(frames):
        latest_s = max(latest_s, frame.taken_s)
        heapq.heappush(waiting, (frame.arrives_s, number, frame))
        while waiting and waiting[0][0] < latest_s:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


class _Drawn(NamedTuple):
    """What chance has in store for one frame."""

    lost: bool
    late: bool
    again: bool
    swaps: bool
    black: bool
    fuzz: int
    flicker: float
    jitter: float

    @property
    def names(self) -> Iterator[str]:
        """Names of the faults that show in the frame."""
        told = {"late": self.late, "duplicated": self.again, "black": self.black, "fuzzed": self.fuzz >= 0}
        return (name for name, happens in told.items() if happens)


class _Draws:
    """Chance, by fault and slot: the draws of one do not depend on what other slots or faults a camera has."""

    def __init__(self, options: FaultOptions, slots: Sequence[Slot]) -> None:
        self._shares = {name: getattr(options, f"{name}_share") for name in ("lost", "late", "duplicated", "swapped")}
        self._black, self._fuzzed = options.black_share, options.fuzzed_share
        wanted = {name: bool(share) for name, share in self._shares.items()}
        wanted |= {"black": bool(self._black), "fuzzed": bool(self._fuzzed)}
        wanted |= {"flicker": bool(options.flicker), "jitter": bool(options.jitter_ms)}
        # A stream that no option needs is all ones: no share is above it.
        self._streams: list[Mapping[str, Iterator[float]]] = [
            {name: _uniform(options.seed, name, slot) if on else itertools.repeat(1.0) for name, on in wanted.items()}
            for slot in slots
        ]
        self._early = options.overtriggered_share
        self._triggers = _uniform(options.seed, "overtriggered", None) if self._early else itertools.repeat(1.0)

    def overtriggered(self) -> bool:
        """Draw for the next part."""
        return next(self._triggers) < self._early

    def of(self, index: int) -> _Drawn:
        """Draw for the next frame of a slot."""
        drawn = {name: next(stream) for name, stream in self._streams[index].items()}
        lost, late, again, swaps = (drawn[name] < share for name, share in self._shares.items())
        fuzzed = drawn["fuzzed"] < self._fuzzed
        fuzz = int(drawn["fuzzed"] / self._fuzzed * len(_FUZZ)) if fuzzed else -1
        return _Drawn(lost, late, again, swaps, drawn["black"] < self._black, fuzz, drawn["flicker"], drawn["jitter"])


def _uniform(seed: int, stream: str, slot: Slot | None) -> Iterator[float]:
    key = crc32("/".join(slot).encode()) if slot else 0
    source = np.random.default_rng((seed, _STREAMS.index(stream), key))
    while True:
        yield from source.random(_BLOCK).tolist()


def _gain(options: FaultOptions, trigger: int, drawn: _Drawn) -> float:
    if drawn.black:
        return 0.0
    gain: float = (1 - options.ageing) ** (trigger / 1000)
    return gain * (1 + options.flicker * (2 * drawn.flicker - 1)) if options.flicker else gain


def changed(image: Image, frame: Coming) -> Image:
    """Return an image as this frame shows it: in its light, and, where it is fuzzed, no image of the kind promised."""
    if frame.gain != 1.0:
        image = np.asarray(cv2.convertScaleAbs(image, alpha=frame.gain), np.uint8)
    return _fuzzed(image, frame.fuzz) if frame.fuzz >= 0 else image


_FUZZ = ("half", "narrow", "grey", "alpha", "deep", "float", "empty")


def _fuzzed(image: Image, fuzz: int) -> npt.NDArray[np.uint8]:
    wrong: npt.NDArray[np.generic]
    match _FUZZ[fuzz]:
        case "half":
            wrong = image[::2, ::2].copy()
        case "narrow":
            wrong = image[:, : image.shape[1] * 3 // 4].copy()
        case "grey":
            wrong = image[..., 0].copy()
        case "alpha":
            wrong = np.concatenate([image, image[..., :1]], axis=2)
        case "deep":
            wrong = image.astype(np.uint16) << 8
        case "float":
            wrong = image.astype(np.float32) / 255
        case _:
            wrong = image[:0]
    return wrong  # type: ignore[return-value]  # that is what is wrong with it
