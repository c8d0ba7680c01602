"""What the addresses of GenICam cameras may say: ``gige://`` and ``cti://``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from edgead.errors import ConfigError
from edgead.runtime.live_source import LiveOptions


class GenicamOptions(LiveOptions):
    """Options of every GenICam camera.

    Attributes:
        trigger: off, software, or the name of the camera's input, such as Line1.
        rate: parts a second that the software trigger asks for; None asks when the station's takt says so, or, without
            a takt, as soon as the station takes the next.
        exposure_us: of each illumination, by commas, or one for all; several need the software trigger.
        gain: in the camera's unit.
        pixel_format: GenICam's name, such as Mono8 or BayerRG8; None leaves the camera's.
        set: further features, ``Name:value`` by commas, set in that order before anything else.
        counter: an integer feature that counts the pulses of the trigger input, such as CounterValue, which is read
            after each frame, or the chunk of a frame, such as ChunkCounterValue, which comes with it.
        misses: an integer feature that counts the pulses that the camera could not take, in place of counter.
        buffers: frames that may wait for the station.
    """

    trigger: str = Field(default="off", pattern=r"^(off|software|[A-Z]\w*)$")
    rate: float | None = Field(default=None, gt=0)
    exposure_us: tuple[float, ...] = ()
    gain: float | None = None
    pixel_format: str | None = None
    set: tuple[tuple[str, str], ...] = ()
    counter: str | None = Field(default=None, pattern=r"^[A-Za-z]\w*$")
    misses: str | None = Field(default=None, pattern=r"^[A-Za-z]\w*$")
    buffers: int = Field(default=8, ge=2, le=256)

    @field_validator("exposure_us", mode="before")
    @classmethod
    def _by_commas(cls, value: object) -> object:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("set", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [pair.partition(":") for pair in value.split(",")]
        if not all(name and mark and text for name, mark, text in pairs):
            raise ValueError("expected Name:value,Name:value")
        return tuple((name, text) for name, _, text in pairs)

    @property
    def is_asked(self) -> bool:
        """Tell whether the station asks for each frame."""
        return self.trigger == "software"

    @property
    def chunk(self) -> str | None:
        """Name of the chunk that counts pulses, None where no chunk does."""
        return self.counter if self.counter and self.counter.startswith("Chunk") else None

    def refuse_unless_consistent(self, camera: str, lights: int) -> None:
        """Refuse options that contradict each other.

        Raises:
            ConfigError: a rate or several exposures without the software trigger, not one for each illumination, or
                pulses counted where no line gives any.
        """
        if not self.is_asked and (self.rate is not None or len(self.exposure_us) > 1):
            raise ConfigError(f"camera '{camera}': a rate or several exposures need trigger=software in its address")
        if len(self.exposure_us) not in (0, 1, lights) or any(value <= 0 for value in self.exposure_us):
            raise ConfigError(
                f"camera '{camera}': exposure_us has {len(self.exposure_us)} values for {lights} illuminations; "
                "expected one above 0 for each, or one for all"
            )
        ways = [name for name in ("period_ms", "counter", "misses") if getattr(self, name) is not None]
        if ways and self.trigger in ("off", "software"):
            raise ConfigError(
                f"camera '{camera}': {ways[0]} numbers the pulses of a line; it needs the input that takes them, such "
                "as trigger=Line1, in its address"
            )
        if len(ways) > 1:
            raise ConfigError(f"camera '{camera}': {' and '.join(ways)} would number its frames; give one of them")


class GigeOptions(GenicamOptions):
    """Options of ``gige://``.

    Attributes:
        packet_size: bytes; None negotiates the largest that the network carries.
        driver: aravis or viva; None takes Aravis where it is installed.
        iface: name or address of the network interface that viva searches for the camera; None searches all.
    """

    packet_size: int | None = Field(default=None, ge=576, le=16_384)
    driver: Literal["aravis", "viva"] | None = None
    iface: str | None = None

    def refuse_unless_consistent(self, camera: str, lights: int) -> None:
        """Refuse options that contradict each other, those of the driver too."""
        super().refuse_unless_consistent(camera, lights)
        if self.iface is not None and self.driver != "viva":
            raise ConfigError(f"camera '{camera}': iface needs driver=viva in its address; Aravis asks all interfaces")
