"""The seam between a station and its cameras: what a frame is, and what a camera does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar
from urllib.parse import unquote

from pydantic import BaseModel

from edgead.config import CameraConfig
from edgead.images import Image
from edgead.runtime.parts import Slot
from edgead.yaml_file import check

ONLY = "0"  # name of the view or the light where there is only one
_Options = TypeVar("_Options", bound=BaseModel)


class Frame(NamedTuple):
    """An image and what it shows.

    Attributes:
        image: uint8 ``(H, W, 3)`` RGB.
        slot: view and illumination.
        trigger: number of the trigger that it belongs to, from 0; one trigger is one part.
        part: the source's name of the part.
        captured_s: monotonic clock, when it was complete.
        exposure_s: time for which the sensor gathered light; 0 where the camera does not say.
        decode_s: time that it took to decode, convert or render; 0 where that is not apart from its transport.
    """

    image: Image
    camera: str
    slot: Slot
    trigger: int
    part: str
    captured_s: float
    exposure_s: float = 0.0
    decode_s: float = 0.0


@dataclass
class Health:
    """What a camera has come to; written by the thread that reads it.

    Attributes:
        frames: complete ones.
        incomplete: came with packets missing, or could not be decoded.
        missed: known to have been taken and never come, or estimated for the time in which the camera was away.
        reconnects: times that the camera came back.
        last_error: why it was lost, or could not be opened, the last time.
        transport: what its transport counts: packets lost and sent again, frames without a buffer.
    """

    frames: int = 0
    incomplete: int = 0
    missed: int = 0
    reconnects: int = 0
    last_error: str | None = None
    transport: dict[str, int] = field(default_factory=dict)


class Camera(Protocol):
    """A source of frames, in the order of their triggers; opened, read and closed by one thread at a time."""

    @property
    def name(self) -> str:
        """Name of the camera in its station."""

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Frames that it gives for each part; known once it is open."""

    @property
    def triggers(self) -> int | None:
        """Number of triggers that it has frames for; None if that is not known beforehand."""

    @property
    def health(self) -> Health:
        """What became of its frames so far."""

    def open(self) -> None:
        """Get ready.

        Raises:
            CameraError: it is not there, or gives nothing.
        """

    def read(self, timeout_s: float) -> Frame | None:
        """Wait for the next frame; None when there are no more.

        Raises:
            FrameError: a frame came that is of no use; there may be others.
            CameraError: it has vanished, or gave nothing for ``timeout_s``.
        """

    def stop(self) -> None:
        """Wake a read that waits, which returns None like all later ones; from any thread."""

    def close(self) -> None:
        """Give everything back; twice is allowed."""


def options_of(config: CameraConfig, model: type[_Options], *, mark: str = "?", name: str | None = None) -> _Options:
    """Read the options in a camera's URI.

    Args:
        mark: what stands before them.
        name: what errors call the URI.

    Raises:
        ConfigError: an unknown option, or a wrong value.
    """
    _, _, query = config.uri.partition(mark)
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    values = {unquote(key): unquote(value) for key, _, value in pairs}
    return check(model, values, name=f"camera '{config.name}': {name or config.uri}")


def address_of(config: CameraConfig) -> str:
    """Return what stands between the scheme and the query of a camera's URI."""
    return config.uri.partition("?")[0].partition("://")[2]
