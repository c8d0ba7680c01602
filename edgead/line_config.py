"""line.yaml: the simulated cameras that ``edgead simulate --stream`` drives, and their addresses over GigE Vision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, IPvAnyAddress, model_validator

from edgead.config import CameraConfig
from edgead.output_config import Name, Section
from edgead.yaml_file import load


class SimulatedCameraConfig(CameraConfig):
    """One camera of a line: ``sim://`` or ``dataset://``, and what it is as a GigE Vision camera.

    Attributes:
        address: IPv4 address on an interface of this machine, one for each camera; null is 127.0.0.1 for the first,
            127.0.0.2 for the second, and so on.
        serial: its serial number, as in ``gige://SERIAL``; null is its name.
        packet_loss: share of its packets that are never sent.
    """

    address: IPvAnyAddress | None = None
    serial: Annotated[str, Field(min_length=1, max_length=15, pattern=r"^[\w.-]+$")] | None = None
    packet_loss: float = Field(default=0, ge=0, lt=1)

    @property
    def serial_number(self) -> str:
        """Return the serial number: its own, or its name."""
        return self.serial or self.name


class LineConfig(Section):
    """A line of simulated cameras: line.yaml."""

    name: Name = "line"
    cameras: tuple[SimulatedCameraConfig, ...] = Field(min_length=1, max_length=250)

    @model_validator(mode="after")
    def _refuse_equal_ones(self) -> LineConfig:
        for what, values in (
            ("called", [camera.name for camera in self.cameras]),
            ("numbered", [camera.serial_number for camera in self.cameras]),
            ("at", [self.address(place) for place in range(len(self.cameras))]),
        ):
            doubled = sorted({value for value in values if values.count(value) > 1})
            if doubled:
                raise ValueError(f"two cameras are {what} '{doubled[0]}'; give each its own")
        for camera in self.cameras:
            if len(camera.serial_number) > 15:
                raise ValueError(f"camera '{camera.name}': a serial number has 15 characters at most; give it a serial")
            if camera.address is not None and camera.address.version != 4:
                raise ValueError(f"camera '{camera.name}': {camera.address} is no IPv4 address; GigE Vision needs one")
        return self

    def address(self, place: int) -> str:
        """Return the address of camera number ``place``."""
        return str(self.cameras[place].address or f"127.0.0.{place + 1}")


def load_line(path: str | Path) -> LineConfig:
    """Read line.yaml.

    Raises:
        ConfigError: the file, a key or a value is wrong.
    """
    return load(LineConfig, path)
