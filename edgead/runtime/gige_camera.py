"""GigE Vision cameras through Aravis: ``gige://<serial number or IP address>?trigger=software&exposure_us=800,4000``.

Only buffers that came whole are frames. With a software trigger the station asks for each frame, and every
illumination may have its own exposure.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from edgead.config import CameraConfig
from edgead.errors import CameraError, nearest
from edgead.images import Image
from edgead.runtime import introspection
from edgead.runtime.frames import address_of
from edgead.runtime.genicam_options import GigeOptions
from edgead.runtime.live_source import Shot
from edgead.runtime.pixel_formats import BITS, to_rgb

_COUNTERS = ("n_failures", "n_underruns", "n_missing_packets", "n_missing_frames", "n_resent_packets")
_discovery = threading.Lock()  # Aravis keeps one list of devices


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
        self._exposure_us = 0.0  # 0 where the camera does not say
        self._last_id: int | None = None
        self._failed = 0  # buffers since then
        self._formats: dict[int, str] = {}
        self._chunks: Any = None  # reads those of a buffer
        self._seen = 0  # frames, lost ones too
        self.counted: int | None = None

    @property
    def transport(self) -> dict[str, int]:
        """Counters of the stream, by Aravis' names without their n_."""
        return {name[2:]: self._stream.get_info_uint64_by_name(name) for name in _COUNTERS} if self._stream else {}

    def open(self, timeout_s: float) -> None:  # noqa: ARG002 - Aravis has its own time-outs, about 2 s in all
        """Find the camera, take control of it, and start its stream."""
        lost = self._lost = threading.Event()  # a new one: word of an earlier connection may still come
        self._asked, self._exposure_us, self._last_id, self._failed = False, 0.0, None, 0
        try:
            self._camera = self._aravis.Camera.new(self._device())
            self._set_up()
            self._stream = self._camera.create_stream(None, None)
            if self._stream is None:
                raise CameraError(f"{self._address} gives no stream; another program may have control of it")
            payload = self._camera.get_payload()
            self.counted = self._count(None)
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
            if buffer.get_status() != self._aravis.BufferStatus.SUCCESS:
                self._failed += 1  # its id may be of another frame: its first packet may be what is missing
                self._seen += 1
                return Shot(None, captured_s)
            skipped = self._skipped(buffer.get_frame_id())
            self._seen += 1 + skipped
            count = self._count(buffer)
            begin_s = time.monotonic()
            image = self._image(buffer)
            decode_s = time.monotonic() - begin_s
            return Shot(image, captured_s, skipped, count, self._exposure_us / 1e6, decode_s)
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
        for feature, value in options.set:
            camera.get_device().set_features_from_string(f"{feature}={value}")
        if options.pixel_format:
            camera.set_pixel_format_from_string(options.pixel_format)
        name = camera.get_pixel_format_as_string()
        if name not in BITS:
            raise CameraError(
                f"{self._address} gives {name}, which is not read here; set pixel_format in its address"
                f"{nearest(name, BITS)}"
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
        if options.chunk:
            camera.set_chunks(options.chunk.removeprefix("Chunk"))
            self._chunks = camera.create_chunk_parser()
        elif (name := options.counter or options.misses) and not camera.is_feature_available(name):
            raise CameraError(f"{self._address} has no feature {name}; see arv-tool-0.8 features")
        self._exposure_us = self._exposure_now()

    def _exposure_now(self) -> float:
        """Return the exposure that the camera has, in microseconds; 0 where it has none, or changes it by itself."""
        camera = self._camera
        if not camera.is_exposure_time_available():
            return 0.0
        automatic = camera.is_exposure_auto_available() and camera.get_exposure_time_auto() != self._aravis.Auto.OFF
        return 0.0 if automatic else float(camera.get_exposure_time())

    def _refuse_outside(self, name: str, value: float, bounds: tuple[float, float]) -> None:
        if not bounds[0] <= value <= bounds[1]:
            raise CameraError(f"{self._address} has no {name} of {value:g}; expected {bounds[0]:g} to {bounds[1]:g}")

    def _ask(self, light: int) -> None:
        exposures = self._options.exposure_us
        try:
            if len(exposures) > 1 and self._exposure_us != exposures[light]:
                self._camera.set_exposure_time(exposures[light])
                self._exposure_us = exposures[light]
            self._camera.software_trigger()
        except Exception as error:  # GLib.Error: no answer
            raise CameraError(f"{self._address} does not take its trigger ({_reason(error)})") from error
        self._asked = True

    def _count(self, buffer: Any) -> int | None:
        """Ask how many pulses the camera has counted: the chunk of a buffer, or the camera itself."""
        chunk, misses = self._options.chunk, self._options.misses
        counter = self._options.counter or misses
        try:
            if chunk:
                return int(self._chunks.get_integer_value(buffer, chunk)) if buffer else None
            if counter is None or (buffer and self._stream.get_n_buffers().n_output_buffers):
                return None  # a frame waits behind this one: its pulse would be counted for this one
            return int(self._camera.get_integer(counter)) + (self._seen if misses else 0)
        except Exception as error:  # GLib.Error: not in the chunks, no answer
            raise CameraError(f"{self._address} does not tell its {counter} ({_reason(error)})") from error

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
        """Count the frames that nothing came of since the last whole one, which ``_failed`` has not counted."""
        last, self._last_id = self._last_id, number
        failed, self._failed = self._failed, 0
        return max(0, skipped(last, number) - failed)


def skipped(last: int | None, number: int) -> int:
    """Count the frames between two by their ids, which wrap at 16 bit and leave out 0."""
    if last is None or number == last:
        return 0
    gap = number - last - 1 if number > last else number + 65_535 - last - 1
    return gap if 0 <= gap < 10_000 else 0


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", error)).split())
