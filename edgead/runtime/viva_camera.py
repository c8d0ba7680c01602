"""GigE Vision cameras through viva-genicam, which is one wheel: where no packages of the distribution can be installed.

The addresses are those of Aravis: ``gige://<serial number or IP address>?driver=viva``.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from edgead.config import CameraConfig
from edgead.errors import CameraError, nearest, require
from edgead.images import Image
from edgead.runtime.frames import address_of
from edgead.runtime.genicam_options import GigeOptions
from edgead.runtime.gige_camera import skipped
from edgead.runtime.lag import Lag
from edgead.runtime.live_source import Shot
from edgead.runtime.pixel_formats import grey_bits, grey_to_rgb

_SERIAL = 0xD8  # bootstrap register of the serial number, 16 bytes (GigE Vision 2.0, section 28)
_TICKS = 0x93C  # those of the ticks a second of the camera's clock, 8 bytes; 0 without a clock
_COUNTERS = {
    "failures": "frames_incomplete",
    "underruns": "frames_backpressure",
    "missing_packets": "packets_missing",
    "missing_frames": "frames_missed",
    "resent_packets": "resend_recovered",
}


class VivaSource:
    """One camera, found by its serial number or its address."""

    def __init__(self, config: CameraConfig, options: GigeOptions) -> None:
        self._viva: Any = require("viva_genicam", extra="viva")
        self._address = address_of(config)
        self._options = options
        self._camera: Any = None
        self._stream: Any = None
        self._asked = False  # a software trigger waits for its frame
        self._exposure_us = 0.0  # 0 where the camera does not say
        self._last_id: int | None = None
        self._lag = Lag()
        self._ticks_hz = 0
        self._seen = 0  # frames, lost ones too
        self.counted: int | None = None

    @property
    def transport(self) -> dict[str, int]:
        """Counters of the stream, by the names that Aravis gives them."""
        if self._stream is None:
            return {}
        counts = self._stream.stats()
        return {name: getattr(counts, key) for name, key in _COUNTERS.items()}

    def open(self, timeout_s: float) -> None:
        """Find the camera, take control of it, and start its stream."""
        self._asked, self._exposure_us, self._last_id = False, 0.0, None
        self._lag = Lag()
        options = self._options
        try:
            self._camera = self._viva.connect_gige(self._device(min(timeout_s, 0.5)), iface=options.iface)
            self._set_up()
            self.counted = self._count(None)
            self._stream = self._camera.stream(
                packet_size=options.packet_size,
                auto_packet_size=options.packet_size is None,
                deliver_incomplete=True,
            )
            self._stream.__enter__()
        except self._viva.GenicamError as error:
            raise CameraError(f"{self._address} cannot be opened ({_reason(error)})") from error

    def read(self, timeout_s: float, light: int) -> Shot | None:
        """Trigger, where that is ours to do, and wait for the frame."""
        if self._camera.control_state != self._viva.ControlState.HELD:
            raise CameraError(f"control of {self._address} is lost")
        if self._options.is_asked and not self._asked:
            self._ask(light)
        try:
            frame = self._stream.next_frame(max(1, int(timeout_s * 1e3)))
        except self._viva.TransportError as error:
            if "timeout" in str(error):
                return None
            raise CameraError(f"{self._address} gave nothing ({_reason(error)})") from error
        if frame is None:
            raise CameraError(f"{self._address} has ended its stream")
        self._asked = False
        now_s = time.monotonic()
        has_clock = self._ticks_hz and frame.ts_dev is not None
        captured_s = now_s - self._lag.of(frame.ts_dev / self._ticks_hz if has_clock else None, now_s)
        last, self._last_id = self._last_id, frame.block_id
        missed = skipped(last, frame.block_id)
        self._seen += 1 + missed
        if not frame.is_complete:
            return Shot(None, captured_s, missed)
        count = self._count(frame)
        begin_s = time.monotonic()
        image = self._image(frame)
        return Shot(image, captured_s, missed, count, self._exposure_us / 1e6, time.monotonic() - begin_s)

    def close(self) -> None:
        """Stop the stream and give control back, so that the camera can be opened at once."""
        camera, stream, self._camera, self._stream = self._camera, self._stream, None, None
        for end in (stream and (lambda: stream.__exit__(None, None, None)), camera and camera.close):
            try:
                if end:
                    end()
            except self._viva.GenicamError:  # a camera that is gone cannot be told to stop
                continue

    def _device(self, timeout_s: float) -> Any:
        """Ask the network for the camera; a serial number is asked of each one that answers."""
        iface = self._options.iface
        found = self._viva.discover(timeout_ms=int(timeout_s * 1e3), iface=iface, all=iface is None)
        if self._address.count(".") == 3:
            devices = {device.ip: device for device in found}
            kind = "address"
        else:
            devices = {self._serial(device): device for device in found}
            kind = "serial number"
        if self._address not in devices:
            hint = nearest(self._address, sorted(devices)) if devices else "; none answers in this network"
            raise CameraError(f"no camera has the {kind} '{self._address}'{hint}; check cable and power")
        return devices[self._address]

    def _serial(self, device: Any) -> str:
        with self._viva.connect_gige(device, iface=self._options.iface, monitor=True) as camera:
            serial = str(camera.read_register(_SERIAL, 16).split(b"\0")[0].decode("ascii", "replace"))
            return serial or str(camera.get("DeviceSerialNumber"))

    def _set_up(self) -> None:
        camera, options = self._camera, self._options
        for feature, value in options.set:
            camera.set(feature, value)
        if options.pixel_format:
            camera.set_enum("PixelFormat", options.pixel_format)
        if options.width or options.height:
            region = camera.roi()
            camera.set_roi(self._viva.Roi(0, 0, options.width or region.width, options.height or region.height))
        if options.gain is not None:
            camera.set_gain(options.gain)
        for exposure in options.exposure_us[::-1]:  # out of bounds is an error; the first one stays
            camera.set_exposure_time(exposure)
        if options.trigger == "off":
            camera.disable_trigger("FrameStart")
        else:
            camera.enable_trigger("FrameStart", "Software" if options.is_asked else options.trigger)
        if options.chunk:
            camera.configure_chunks([options.chunk.removeprefix("Chunk")])
        if "ExposureTime" in camera.nodes() or "ExposureTimeAbs" in camera.nodes():  # raw units say nothing
            automatic = "ExposureAuto" in camera.nodes() and camera.get("ExposureAuto") != "Off"
            self._exposure_us = 0.0 if automatic else camera.exposure_time()
        self._ticks_hz = int.from_bytes(camera.read_register(_TICKS, 8), "big")
        if not self._ticks_hz and "GevTimestampTickFrequency" in camera.nodes():
            self._ticks_hz = camera.get_integer("GevTimestampTickFrequency")

    def _ask(self, light: int) -> None:
        exposures = self._options.exposure_us
        try:
            if len(exposures) > 1 and self._exposure_us != exposures[light]:
                self._camera.set_exposure_time(exposures[light])
                self._exposure_us = exposures[light]
            self._camera.execute("TriggerSoftware", wait=False)
        except self._viva.GenicamError as error:
            raise CameraError(f"{self._address} does not take its trigger ({_reason(error)})") from error
        self._asked = True

    def _count(self, frame: Any) -> int | None:
        """Ask how many pulses the camera has counted: the chunk of a frame, or the camera itself."""
        chunk, misses = self._options.chunk, self._options.misses
        counter = self._options.counter or misses
        try:
            if chunk:
                return int(self._camera.chunk_features(frame)[chunk]) if frame else None
            if counter is None:
                return None
            self._camera.invalidate(counter)
            return int(self._camera.get_integer(counter)) + (self._seen if misses else 0)
        except (self._viva.GenicamError, KeyError, TypeError) as error:
            raise CameraError(f"{self._address} does not tell its {counter} ({_reason(error)})") from error

    def _image(self, frame: Any) -> Image:
        name = frame.pixel_format
        bits = grey_bits(name)
        try:
            pixels = frame.to_numpy()
        except self._viva.GenicamError as error:
            raise CameraError(f"{self._address} gave what is no {name} ({_reason(error)})") from error
        if bits is not None and pixels.ndim == 2:
            return grey_to_rgb(pixels, name, bits)
        if pixels.ndim == 3 and pixels.dtype == np.uint8:
            return np.asarray(pixels, np.uint8)
        raise CameraError(f"{self._address} gives {name}, which is not read here; set pixel_format in its address")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())
