"""A simulated camera as a real GigE Vision camera: Aravis' fake camera, with the parts of a line for its picture.

Exposure and gain that a station sets have no effect: pixels travel as they were rendered, or as Mono or Bayer of that.
"""

from __future__ import annotations

import ctypes
import enum
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgead.errors import CameraError, MissingError
from edgead.images import Image
from edgead.runtime import introspection
from edgead.runtime.sim_camera import LineCamera
from edgead.runtime.sim_faults import Coming, coming

_LIBRARY = "libaravis-0.8.so.0"
_RGB8, _MONO8, _MONO16 = 0x0218_0014, 0x0108_0001, 0x0110_0007  # GenICam's pixel formats, as the fake camera has them
_BAYER = {0x0108_0008: "GRBG", 0x0108_0009: "RGGB", 0x0108_000A: "GBRG", 0x0108_000B: "BGGR"}
_SENDING_S = 0.1  # for the packets of a frame
_TARDY = 0.25  # of the time between two frames: by then a triggered camera has taken its own, even a fake one
_POLLS = 500.0  # a second: how often it looks for its trigger


class _Readiness(enum.Enum):
    """How far a camera is that waits for the line."""

    ASLEEP = enum.auto()
    WAKING = enum.auto()
    READY = enum.auto()


class GigeCamera:
    """One camera on the network.

    Args:
        address: IPv4 address on an interface of this machine.
        packet_loss: share of its packets that are never sent.

    Raises:
        CameraError: the address is on no interface, or taken.
    """

    def __init__(self, camera: LineCamera, address: str, serial: str, packet_loss: float = 0.0) -> None:
        aravis: Any = introspection.load("Aravis")
        self.camera = camera
        self.serial, self.address = serial, address
        self.sent = 0
        self.error: Exception | None = None
        self.counts: Counter[str] = Counter()
        self._names = aravis
        self._sequence: Iterator[Coming] = iter(())
        self._upcoming: Coming | None = None
        self._armed: Image | None = None  # what a pulse of the line has put before the camera
        self._armed_s = 0.0
        self._tardy_s = _TARDY / (camera.options.rate or 1.0) / len(camera.slots)
        self._arming = threading.Lock()
        self._readiness = _Readiness.ASLEEP
        self._woken_s = 0.0
        self.is_over = False  # it has shown all its parts
        self.rewind()
        self._shape = camera.image(Coming(0, 0)).shape  # of its sensor
        self._fill = _FILL(self._on_fill)  # Aravis keeps no reference
        self._server = aravis.GvFakeCamera.new(address, serial)
        if not self._server.is_running():
            raise CameraError(
                f"camera '{camera.name}': {address} is on no interface, or another camera has it; add it, such as "
                f"ip addr add {address}/8 dev lo"
            )
        self._packet_loss = packet_loss
        self._lose(packet_loss)
        self._fake = self._server.get_fake_camera()
        height, width = self._shape[:2]
        for register, value in (
            ("SENSOR_WIDTH", width),
            ("SENSOR_HEIGHT", height),
            ("WIDTH", width),
            ("HEIGHT", height),
            ("PIXEL_FORMAT", _RGB8),
        ):
            self._write(register, value)
        if camera.options.rate:
            self._write("ACQUISITION_FRAME_PERIOD_US", max(1, round(1e6 / camera.options.rate / len(camera.slots))))
        self._fake.set_trigger_frequency(_POLLS)
        _set_fill(self._fake, self._fill)

    @property
    def is_streaming(self) -> bool:
        """Tell whether a station takes its frames."""
        fake = self._fake
        return fake is not None and bool(fake.get_control_channel_privilege() and fake.get_acquisition_status())

    @property
    def is_ready(self) -> bool:
        """Tell whether it waits for the line to trigger it."""
        return self._readiness is _Readiness.READY

    def look(self) -> None:
        """Follow what stations do, which the fake camera tells nobody; to be called often.

        It takes up to 0.1 s for its first frame of a run, and then 2 ms: where the line triggers it, the first frame is
        one that never leaves it.
        """
        if not self.is_streaming:
            with self._arming:
                if self._armed is not None:
                    self._armed = None
                    self._write("TRIGGER_SOFTWARE", 0)
            self._readiness = _Readiness.ASLEEP
            self._lose(self._packet_loss)
        elif self._readiness is _Readiness.ASLEEP and self._read("TRIGGER_MODE") and not self._read("TRIGGER_SOURCE"):
            self._readiness = _Readiness.WAKING
            self._woken_s = math.inf
            self._lose(1.0)
            self._arm(np.zeros(self._shape, np.uint8))
        elif self._readiness is _Readiness.WAKING and time.monotonic() - self._woken_s > _SENDING_S:
            self._lose(self._packet_loss)
            self._readiness = _Readiness.READY

    def rewind(self) -> None:
        """Begin with the first part."""
        free = {"overtriggered_share": 0.0, "exposure_ms": 0.0, "jitter_ms": 0.0}  # those are of the line's triggers
        options = self.camera.options.model_copy(update=free)
        self._sequence = coming(options, self.camera.slots, self.counts)
        self._upcoming = next(self._sequence, None)
        with self._arming:
            self._armed = None

    def pulse(self, image: Image) -> None:
        """Trigger it by its input. A pulse that it has not answered when the next one comes is lost without a trace."""
        if not self.is_ready:
            self.counts["unheard"] += 1
        elif self._arm(image):
            self.counts["overtriggered"] += 1

    def close(self) -> None:
        """Leave the network; twice is allowed."""
        if self._fake is not None:
            self._write("ACQUISITION", 0)
            _set_fill(self._fake, None)
            self._server = self._fake = None

    def _arm(self, image: Image) -> bool:
        """Put an image before the camera and trigger it; True if it has not answered the last one."""
        with self._arming:
            was_late = self._armed is not None
            self._armed, self._armed_s = image, time.monotonic()
            self._write("TRIGGER_SOURCE", 1)  # the fake camera knows no input; for the moment of a pulse it is asked
            self._write("TRIGGER_SOFTWARE", 1)
        return was_late

    def _lose(self, share: float) -> None:
        self._server.set_property("gvsp-lost-ratio", share)

    def _on_fill(self, buffer: int, _user: int, _exposure_us: int, _gain: int, pixel_format: int) -> None:
        """Draw the picture of a frame; called by Aravis' own thread."""
        try:
            data = encoded(self._cut(self._next_image()), pixel_format)
            ctypes.memmove(_library().arv_buffer_get_data(buffer, None), data.ctypes.data, data.nbytes)
        except Exception as error:  # it cannot be raised through C: the line's own thread does
            self.error = self.error or error
            self._write("ACQUISITION", 0)

    def _next_image(self) -> Image:
        with self._arming:
            if self._armed is not None:
                image, self._armed = self._armed, None
                self._write("TRIGGER_SOURCE", 0)
                self._account_for_pulse()
                return image
        frame = self._upcoming
        if frame is None:
            raise CameraError(f"camera '{self.camera.name}' was asked for more parts than there are")
        self._upcoming = next(self._sequence, None)
        if self._upcoming is None:  # this frame still goes out, and no other is begun
            self._write("ACQUISITION", 0)
            self.is_over = True
        self.sent += 1
        return self.camera.image(frame)

    def _account_for_pulse(self) -> None:
        """Let what a real camera would not give not leave: the frame that wakes it up, and one that is tardy."""
        now_s = time.monotonic()
        if self._readiness is _Readiness.WAKING:
            self._woken_s = now_s
            return
        is_tardy = now_s - self._armed_s > self._tardy_s
        self._lose(1.0 if is_tardy else self._packet_loss)
        if is_tardy:
            self.counts["tardy"] += 1
        else:
            self.sent += 1

    def _cut(self, image: Image) -> Image:
        """Return the region that the station has chosen; there is nothing beside the sensor."""
        if image.shape != self._shape:
            raise CameraError(
                f"camera '{self.camera.name}': a part is {image.shape[1]}x{image.shape[0]} pixels, but the first one "
                f"{self._shape[1]}x{self._shape[0]}; over GigE Vision a camera has one size: resize the images, or "
                "run the station on dataset:// itself"
            )
        x, y, width, height = (self._read(name) for name in ("X_OFFSET", "Y_OFFSET", "WIDTH", "HEIGHT"))
        region = np.zeros((height, width, 3), np.uint8)
        cut = image[y : y + height, x : x + width]
        region[: cut.shape[0], : cut.shape[1]] = cut
        return region

    def _read(self, register: str) -> int:
        _, value = self._fake.read_register(getattr(self._names, f"FAKE_CAMERA_REGISTER_{register}"))
        return int(value)

    def _write(self, register: str, value: int) -> None:
        self._fake.write_register(getattr(self._names, f"FAKE_CAMERA_REGISTER_{register}"), value)


def encoded(image: Image, pixel_format: int) -> npt.NDArray[np.generic]:
    """Return an RGB image as the bytes of one of the fake camera's pixel formats.

    Raises:
        CameraError: an unknown format.
    """
    if pixel_format == _RGB8:
        return np.ascontiguousarray(image)
    if pixel_format in _BAYER:
        mosaic = np.empty(image.shape[:2], np.uint8)
        for place, letter in enumerate(_BAYER[pixel_format]):
            rows, columns = divmod(place, 2)
            mosaic[rows::2, columns::2] = image[rows::2, columns::2, "RGB".index(letter)]
        return mosaic
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if pixel_format == _MONO8:
        return np.ascontiguousarray(grey)
    if pixel_format == _MONO16:
        return grey.astype("<u2") << 8
    raise CameraError(f"a station wants the pixel format {pixel_format:#010x}, which the simulator does not give")


_FILL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32)


@cache
def _library() -> ctypes.CDLL:
    """Return Aravis as C has it: its introspection cannot carry a callback that fills a buffer."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise MissingError(f"{_LIBRARY} cannot be loaded ({error}); apt-get install gir1.2-aravis-0.8") from error
    library.arv_buffer_get_data.restype = ctypes.c_void_p
    library.arv_buffer_get_data.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.arv_fake_camera_set_fill_pattern.restype = None
    library.arv_fake_camera_set_fill_pattern.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    return library


def _set_fill(fake: Any, fill: Any) -> None:
    pointer = None if fill is None else ctypes.cast(fill, ctypes.c_void_p)
    _library().arv_fake_camera_set_fill_pattern(hash(fake), pointer, None)
