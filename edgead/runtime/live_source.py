"""The seam between what all live cameras share and each kind of them: options, what is read, what a source does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from edgead.images import Image
from edgead.runtime.frames import Health


class LiveOptions(BaseModel):
    """Options that every live camera has.

    Attributes:
        watchdog_ms: longest wait for a complete frame before the camera is opened anew; 0 waits for ever, for cameras
            that are triggered by the line.
        open_ms: longest wait for the camera to open.
        retry_ms, retry_max_ms: first and longest pause before the camera is opened anew; it doubles from one failure
            to the next, and is shortened by up to a half at random.
        width, height: of the frames that the camera promises, pixels; without them the first frame promises.
        period_ms: time between two pulses of the line that triggers the camera, each of which gives one frame; frames
            are then numbered by the clock, and those of all cameras with the same period alike.
        late_ms: a trigger of the station's clock that the camera cannot take within this time is missed, for the part
            has moved on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    watchdog_ms: float = Field(default=2000, ge=0)
    open_ms: float = Field(default=5000, gt=0)
    retry_ms: float = Field(default=250, gt=0)
    retry_max_ms: float = Field(default=5000, gt=0)
    width: int | None = Field(default=None, ge=1)
    height: int | None = Field(default=None, ge=1)
    period_ms: float | None = Field(default=None, gt=0)
    late_ms: float = Field(default=100, gt=0)


class Shot(NamedTuple):
    """What a source has read.

    Attributes:
        image: uint8 ``(H, W, 3)`` RGB; None when the frame came incomplete.
        captured_s: monotonic clock.
        skipped: frames that the camera took since the last one and that never came, by the source's own count.
        pulses: of the trigger input, as the camera has counted them; None where it counts none, or could not be asked
            in time.
        exposure_s: time for which the sensor gathered light; 0 where the camera does not say.
        decode_s: time that it took to decode or convert; 0 where that is not apart from its transport.
    """

    image: Image | None
    captured_s: float
    skipped: int = 0
    pulses: int | None = None
    exposure_s: float = 0.0
    decode_s: float = 0.0


@dataclass
class LiveHealth(Health):
    """What a live camera has come to.

    Attributes:
        triggers: how pulses of the line that the camera misses are noticed, or that they are not; empty where the
            camera runs freely.
        unnumbered: frames that came whole, but of which it is not known which pulse they belong to; they are not
            judged.
    """

    triggers: str = ""
    unnumbered: int = 0


class Source(Protocol):
    """One kind of live camera; opened again after each close."""

    @property
    def transport(self) -> dict[str, int]:
        """What the transport has counted since the camera was last opened."""

    @property
    def counted(self) -> int | None:
        """Pulses that the camera had counted when it was opened; None where it counts none."""

    def open(self, timeout_s: float) -> None:
        """Connect.

        Raises:
            CameraError: the camera is not there, is busy, or refuses an option; says why without the camera's name.
        """

    def read(self, timeout_s: float, light: int) -> Shot | None:
        """Wait for the next frame, taken under illumination number ``light``; None when none came in time.

        Raises:
            CameraError: the camera is gone.
        """

    def close(self) -> None:
        """Disconnect, whatever state the camera is in; twice is allowed."""
