"""Cameras through a maker's GenTL producer: ``cti:///opt/maker/producer.cti?serial=1234``, by harvesters.

For cameras behind frame grabbers (CoaXPress, Camera Link) and makers that give only such a file.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from edgead.config import CameraConfig
from edgead.errors import CameraError, nearest, require
from edgead.runtime.frames import address_of
from edgead.runtime.genicam_options import GenicamOptions
from edgead.runtime.live_source import Shot
from edgead.runtime.pixel_formats import BITS, to_rgb

_lock = threading.Lock()
_producers: dict[Path, tuple[Any, int]] = {}  # a producer is loaded once in a process, for all of its cameras


class CtiOptions(GenicamOptions):
    """Options of ``cti://``.

    Attributes:
        serial: the camera's serial number, or its id; may be left out where there is one camera.
    """

    serial: str | None = Field(default=None, min_length=1)


class CtiSource:
    """One camera of a GenTL producer."""

    def __init__(self, config: CameraConfig, options: CtiOptions) -> None:
        require("genicam", extra="genicam")
        self._harvesters: Any = require("harvesters.core", extra="genicam")
        self._path = Path(address_of(config))
        self._options = options
        self._producer: Any = None
        self._acquirer: Any = None
        self._asked = False  # a software trigger waits for its frame
        self._exposure_us = 0.0  # 0 where the camera does not say
        self._last_id: int | None = None
        self._seen = 0  # frames, lost ones too
        self.counted: int | None = None
        self.transport: dict[str, int] = {}

    def open(self, timeout_s: float) -> None:  # noqa: ARG002 - the producer has its own time-outs
        """Load the producer, take the camera and start it."""
        self._asked, self._exposure_us, self._last_id = False, 0.0, None
        self.transport = {"failures": 0, "missing_frames": 0}
        if not self._path.is_file():
            raise CameraError(f"{self._path} is no file; expected a GenTL producer, which the camera's maker installs")
        try:
            self._producer = _load(self._harvesters, self._path)
            with _lock:
                self._acquirer = self._producer.create(self._index(self._producer.device_info_list))
            self._acquirer.num_buffers = self._options.buffers
            self._set_up(self._acquirer.remote_device.node_map)
            self.counted = self._count(None)
            self._acquirer.start()
        except CameraError:
            raise
        except Exception as error:  # the producer's own, of GenTL, GenApi or none of them
            raise CameraError(f"{self._path} does not open its camera ({_reason(error)})") from error

    def read(self, timeout_s: float, light: int) -> Shot | None:
        """Trigger, where that is ours to do, and wait for the buffer."""
        try:
            if self._options.is_asked and not self._asked:
                self._ask(light)
            buffer = self._acquirer.try_fetch(timeout=timeout_s)
        except Exception as error:  # as above
            raise CameraError(f"{self._path} gave nothing ({_reason(error)})") from error
        if buffer is None:
            return None
        self._asked = False
        try:
            return self._shot(buffer)
        except CameraError:
            raise
        except Exception as error:  # as above
            raise CameraError(f"{self._path} gave a buffer that cannot be read ({_reason(error)})") from error
        finally:
            buffer.queue()

    def close(self) -> None:
        """Stop the camera and give it and the producer back."""
        acquirer, producer, self._acquirer, self._producer = self._acquirer, self._producer, None, None
        try:
            if acquirer is not None:
                acquirer.destroy()
        except Exception as error:  # as above; a camera that is gone cannot be told to stop
            self.transport["failures"] += bool(str(error))
        finally:
            if producer is not None:
                _unload(self._path)

    def _index(self, devices: Any) -> int:
        serials = [str(device.serial_number) for device in devices]
        names = [str(device.id_) for device in devices]
        wanted = self._options.serial
        if wanted is None and len(devices) == 1:
            return 0
        if wanted is not None and wanted in serials + names:
            return serials.index(wanted) if wanted in serials else names.index(wanted)
        if not devices:
            raise CameraError(f"{self._path} finds no camera; check cable and power")
        if wanted is None:
            raise CameraError(f"{self._path} has several cameras; say ?serial= one of {', '.join(serials)}")
        raise CameraError(f"{self._path} has no camera '{wanted}'{nearest(wanted, serials + names)}")

    def _set_up(self, nodes: Any) -> None:
        options = self._options
        settings: list[tuple[str, object]] = list(options.set)
        if options.pixel_format:
            settings.append(("PixelFormat", options.pixel_format))
        settings += [
            (name, value)
            for name, value in (("Width", options.width), ("Height", options.height), ("Gain", options.gain))
            if value is not None
        ]
        settings += [("ExposureTime", exposure) for exposure in options.exposure_us[:1]]
        if options.trigger != "off":
            source = "Software" if options.is_asked else options.trigger
            settings += [("TriggerSelector", "FrameStart"), ("TriggerMode", "On"), ("TriggerSource", source)]
        elif nodes.has_node("TriggerMode"):
            settings.append(("TriggerMode", "Off"))
        if options.chunk:
            settings += [("ChunkModeActive", "true"), ("ChunkSelector", options.chunk.removeprefix("Chunk"))]
            settings.append(("ChunkEnable", "true"))
        for name, value in settings:
            self._node(name).from_string(str(value))
        name = self._node("PixelFormat").to_string()
        if name not in BITS:
            raise CameraError(f"the camera gives {name}, which is not read here; set pixel_format{nearest(name, BITS)}")
        if nodes.has_node("ExposureTime"):
            automatic = nodes.has_node("ExposureAuto") and self._node("ExposureAuto").to_string() != "Off"
            self._exposure_us = 0.0 if automatic else float(self._node("ExposureTime").value)

    def _node(self, name: str) -> Any:
        nodes = self._acquirer.remote_device.node_map
        if not nodes.has_node(name):
            near = nearest(name, [node.node.name for node in nodes.nodes])
            raise CameraError(f"the camera of {self._path.name} has no feature {name}{near if len(near) < 99 else ''}")
        return nodes.get_node(name)

    def _ask(self, light: int) -> None:
        exposures = self._options.exposure_us
        if len(exposures) > 1 and self._exposure_us != exposures[light]:
            self._node("ExposureTime").value = exposures[light]
            self._exposure_us = exposures[light]
        self._node("TriggerSoftware").execute()
        self._asked = True

    def _shot(self, buffer: Any) -> Shot:
        captured_s = time.monotonic()
        number = int(buffer.module.frame_id)
        gap = 0 if self._last_id is None else number - self._last_id - 1
        self._last_id = number
        skipped = gap if 0 <= gap < 10_000 else 0  # ids of some producers wrap, at their own number
        self.transport["missing_frames"] += skipped
        self._seen += 1 + skipped
        if not buffer.module.is_complete():
            self.transport["failures"] += 1
            return Shot(None, captured_s, skipped)
        count = self._count(buffer)
        picture = buffer.payload.components[0]
        begin_s = time.monotonic()
        if picture.data_format not in BITS:
            raise CameraError(f"the camera gave {picture.data_format}, which is not read here; set pixel_format")
        image = to_rgb(picture.data, picture.data_format, picture.height, picture.width)
        if image.base is not None:
            image = image.copy()  # the buffer goes back to the producer
        return Shot(image, captured_s, skipped, count, self._exposure_us / 1e6, time.monotonic() - begin_s)

    def _count(self, buffer: Any) -> int | None:
        """Ask how many pulses the camera has counted: the chunk of a buffer, or the camera itself."""
        options = self._options
        counter = options.counter or options.misses
        if counter is None or (options.chunk and buffer is None):
            return None
        return int(self._node(counter).value) + (
            self._seen if options.misses else 0
        )  # chunks have been read into the nodes by the fetch


def _load(harvesters: Any, path: Path) -> Any:
    with _lock:
        producer, users = _producers.get(path, (None, 0))
        if producer is None:
            producer = harvesters.Harvester()
            try:
                producer.add_file(str(path), check_existence=True, check_validity=True)
                producer.update()  # later on, it would take away the cameras that are open
            except BaseException:
                producer.reset()
                raise
        _producers[path] = (producer, users + 1)
        return producer


def _unload(path: Path) -> None:
    with _lock:
        producer, users = _producers[path]
        if users > 1:
            _producers[path] = (producer, users - 1)
        else:
            del _producers[path]
            producer.reset()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
