"""GigE Vision cameras through Aravis: ``gige://<serial number or IP address>?trigger=software&exposure_us=800,4000``.

Only buffers that came whole are frames. With a software trigger the station asks for each frame, and every
illumination may have its own exposure.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from edgead.config import CameraConfig
from edgead.errors import CameraError, ConfigError, nearest
from edgead.images import Image
from edgead.runtime import introspection
from edgead.runtime.frames import address_of
from edgead.runtime.live import LiveOptions, Shot

# OpenCV's own names for Bayer patterns start at the second pixel of the second row; these start at the first.
_BAYER = {
    "RG": cv2.COLOR_BayerRGGB2RGB,
    "GR": cv2.COLOR_BayerGRBG2RGB,
    "GB": cv2.COLOR_BayerGBRG2RGB,
    "BG": cv2.COLOR_BayerBGGR2RGB,
}
_BITS = {"Mono8": 8, "Mono10": 10, "Mono12": 12, "Mono14": 14, "Mono16": 16, "RGB8": 8, "RGB8Packed": 8}
_BITS |= {"BGR8": 8, "BGR8Packed": 8} | {f"Bayer{name}8": 8 for name in _BAYER}
_COUNTERS = ("n_failures", "n_underruns", "n_missing_packets", "n_missing_frames", "n_resent_packets")
_discovery = threading.Lock()  # Aravis keeps one list of devices


class GigeOptions(LiveOptions):
    """Options of ``gige://``.

    Attributes:
        trigger: off, software, or the name of the camera's input, such as Line1.
        rate: parts a second that the software trigger asks for; None asks as soon as the station takes the next.
        exposure_us: of each illumination, by commas, or one for all; several need the software trigger.
        gain: in the camera's unit.
        pixel_format: GenICam's name, such as Mono8 or BayerRG8; None leaves the camera's.
        packet_size: bytes; None negotiates the largest that the network carries.
        buffers: frames that may wait for the station.
    """

    trigger: str = Field(default="off", pattern=r"^(off|software|[A-Z]\w*)$")
    rate: float | None = Field(default=None, gt=0)
    exposure_us: tuple[float, ...] = ()
    gain: float | None = None
    pixel_format: str | None = None
    packet_size: int | None = Field(default=None, ge=576, le=16_384)
    buffers: int = Field(default=8, ge=2, le=256)

    @field_validator("exposure_us", mode="before")
    @classmethod
    def _by_commas(cls, value: object) -> object:
        return value.split(",") if isinstance(value, str) else value

    def refuse_unless_consistent(self, camera: str, lights: int) -> None:
        """Refuse options that contradict each other.

        Raises:
            ConfigError: a rate or several exposures without the software trigger, or not one for each illumination.
        """
        if self.trigger != "software" and (self.rate is not None or len(self.exposure_us) > 1):
            raise ConfigError(f"camera '{camera}': a rate or several exposures need trigger=software in its address")
        if len(self.exposure_us) not in (0, 1, lights) or any(value <= 0 for value in self.exposure_us):
            raise ConfigError(
                f"camera '{camera}': exposure_us has {len(self.exposure_us)} values for {lights} illuminations; "
                "expected one above 0 for each, or one for all"
            )


class GigeSource:
    """One camera, found by its serial number or its address."""

    def __init__(self, config: CameraConfig, options: GigeOptions) -> None:
        self._aravis: Any = introspection.load("Aravis")
        self._address = address_of(config)
        self._options = options
        self._camera: Any = None
        self._stream: Any = None
        self._lost = threading.Event()
        self._asked = False  # a software trigger waits for its frame
        self._exposure: float | None = None
        self._last_id: int | None = None
        self._formats: dict[int, str] = {}

    @property
    def transport(self) -> dict[str, int]:
        """Counters of the stream, by Aravis' names without their n_."""
        return {name[2:]: self._stream.get_info_uint64_by_name(name) for name in _COUNTERS} if self._stream else {}

    def open(self, timeout_s: float) -> None:  # noqa: ARG002 - Aravis has its own time-outs, about 2 s in all
        """Find the camera, take control of it, and start its stream."""
        lost = self._lost = threading.Event()  # a new one: word of an earlier connection may still come
        self._asked, self._exposure, self._last_id = False, None, None
        try:
            self._camera = self._aravis.Camera.new(self._device())
            self._set_up()
            self._stream = self._camera.create_stream(None, None)
            if self._stream is None:
                raise CameraError(f"{self._address} gives no stream; another program may have control of it")
            payload = self._camera.get_payload()
            for _ in range(self._options.buffers):
                self._stream.push_buffer(self._aravis.Buffer.new_allocate(payload))
            self._camera.start_acquisition()
        except CameraError:
            raise
        except Exception as error:  # GLib.Error, whose class is known only once the library is there
            raise CameraError(f"{self._address} cannot be opened ({_reason(error)})") from error
        self._camera.get_device().connect("control-lost", lambda _device: lost.set())

    def read(self, timeout_s: float, light: int) -> Shot | None:
        """Trigger, where that is ours to do, and wait for the buffer."""
        if self._lost.is_set():
            raise CameraError(f"control of {self._address} is lost")
        if self._options.trigger == "software" and not self._asked:
            self._ask(light)
        buffer = self._stream.timeout_pop_buffer(int(timeout_s * 1e6))
        if buffer is None:
            return None
        self._asked = False
        try:
            captured_s = self._captured_s(buffer)
            skipped = self._skipped(buffer.get_frame_id())
            if buffer.get_status() != self._aravis.BufferStatus.SUCCESS:
                return Shot(None, captured_s, skipped)
            return Shot(self._image(buffer), captured_s, skipped)
        finally:
            self._stream.push_buffer(buffer)

    def close(self) -> None:
        """Stop the stream and give control back, so that the camera can be opened at once."""
        camera, self._camera, self._stream = self._camera, None, None
        if camera is None or self._lost.is_set():
            return
        try:
            camera.stop_acquisition()
        except Exception:  # GLib.Error: a camera that is gone cannot be told to stop
            self._lost.set()

    def _device(self) -> str:
        """Return Aravis' name of the camera; an address needs no discovery."""
        if self._address.count(".") == 3:
            return self._address
        aravis = self._aravis
        with _discovery:
            aravis.update_device_list()
            serials = {aravis.get_device_serial_nbr(n): aravis.get_device_id(n) for n in range(aravis.get_n_devices())}
        if self._address not in serials:
            hint = nearest(self._address, sorted(serials)) if serials else "; none answers in this network"
            raise CameraError(f"no camera has the serial number '{self._address}'{hint}; check cable and power")
        return str(serials[self._address])

    def _set_up(self) -> None:
        camera, options = self._camera, self._options
        if options.pixel_format:
            camera.set_pixel_format_from_string(options.pixel_format)
        name = camera.get_pixel_format_as_string()
        if name not in _BITS:
            raise CameraError(
                f"{self._address} gives {name}, which is not read here; set pixel_format in its address"
                f"{nearest(name, _BITS)}"
            )
        self._formats = {camera.get_pixel_format(): name}
        if options.width or options.height:
            _, _, width, height = camera.get_region()
            camera.set_region(0, 0, options.width or width, options.height or height)
        # Aravis moves a value that is out of bounds to the nearest one, and says nothing.
        if options.gain is not None:
            self._refuse_outside("gain", options.gain, camera.get_gain_bounds())
            camera.set_gain(options.gain)
        for exposure in options.exposure_us:
            self._refuse_outside("exposure_us", exposure, camera.get_exposure_time_bounds())
        if len(options.exposure_us) == 1:
            camera.set_exposure_time(options.exposure_us[0])
        if options.packet_size:
            camera.gv_set_packet_size(options.packet_size)
        else:
            camera.gv_auto_packet_size()
        if options.trigger == "off":
            camera.clear_triggers()
        else:
            camera.set_trigger("Software" if options.trigger == "software" else options.trigger)

    def _refuse_outside(self, name: str, value: float, bounds: tuple[float, float]) -> None:
        if not bounds[0] <= value <= bounds[1]:
            raise CameraError(f"{self._address} has no {name} of {value:g}; expected {bounds[0]:g} to {bounds[1]:g}")

    def _ask(self, light: int) -> None:
        exposures = self._options.exposure_us
        try:
            if len(exposures) > 1 and self._exposure != exposures[light]:
                self._camera.set_exposure_time(exposures[light])
                self._exposure = exposures[light]
            self._camera.software_trigger()
        except Exception as error:  # GLib.Error: no answer
            raise CameraError(f"{self._address} does not take its trigger ({_reason(error)})") from error
        self._asked = True

    def _image(self, buffer: Any) -> Image:
        name = self._formats.get(buffer.get_image_pixel_format())
        width, height = buffer.get_image_width(), buffer.get_image_height()
        if name is None:
            raise CameraError(f"{self._address} changed its pixel format while it was open")
        return to_rgb(buffer.get_data(), name, height, width)

    def _captured_s(self, buffer: Any) -> float:
        """Tell when the first packet came, on the monotonic clock."""
        age_s = time.time() - buffer.get_system_timestamp() / 1e9
        return time.monotonic() - (age_s if 0 <= age_s < 60 else 0.0)  # a clock that was set back says nothing

    def _skipped(self, number: int) -> int:
        """Count the frames between this one and the last by their ids, which wrap at 16 bit and leave out 0."""
        last, self._last_id = self._last_id, number
        if last is None or number == last:
            return 0
        gap = number - last - 1 if number > last else number + 65_535 - last - 1
        return gap if 0 <= gap < 10_000 else 0


def to_rgb(data: bytes, pixel_format: str, height: int, width: int) -> Image:
    """Convert a buffer in one of GenICam's formats to uint8 ``(height, width, 3)`` RGB.

    Raises:
        CameraError: the buffer is too short for its size.
    """
    channels = 3 if pixel_format.startswith(("RGB", "BGR")) else 1
    bits = _BITS[pixel_format]
    dtype = np.dtype(np.uint8 if bits == 8 else "<u2")
    count = height * width * channels
    if not count or len(data) < count * dtype.itemsize:
        raise CameraError(f"gave {len(data)} bytes for {width}x{height} pixels of {pixel_format}")
    pixels: npt.NDArray[Any] = np.frombuffer(data, dtype, count).reshape(height, width, *[channels][: channels - 1])
    if bits > 8:
        pixels = (pixels >> (bits - 8)).astype(np.uint8)
    if pixel_format.startswith("RGB"):
        return pixels
    if pixel_format.startswith("BGR"):
        return np.ascontiguousarray(pixels[..., ::-1])
    code = _BAYER[pixel_format[5:7]] if pixel_format.startswith("Bayer") else cv2.COLOR_GRAY2RGB
    return np.asarray(cv2.cvtColor(pixels, code), np.uint8)


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", error)).split())
