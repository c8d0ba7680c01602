"""Any GStreamer pipeline as a camera: ``gst://nvarguscamerasrc ! nvvidconv ! video/x-raw,format=BGRx``.

The pipeline is what ``gst-launch-1.0`` takes, up to where frames leave it; conversion to RGB and the end are added. In
it, ``?`` is written ``%3F``, ``%`` is ``%25``.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import unquote

import numpy as np

from edgead.config import CameraConfig
from edgead.errors import CameraError
from edgead.runtime import introspection
from edgead.runtime.frames import address_of
from edgead.runtime.live_source import Shot

# When the station is slower than the camera, the newest frames are kept; what is dropped shows in the frames' offsets.
_END = "videoconvert ! video/x-raw,format=RGB ! appsink name=edgead sync=false max-buffers=2 drop=true"
_LOOK_S = 0.2  # between looks at the pipeline's errors, while it gives nothing


class GstSource:
    """The frames that leave a pipeline."""

    def __init__(self, config: CameraConfig) -> None:
        self._gst: Any = introspection.load("Gst")
        self._gst.init(None)
        self._text = f"{unquote(address_of(config)).rstrip().rstrip('!')} ! {_END}"
        self._pipeline: Any = None
        self._sink: Any = None
        self._first: Any = None
        self._offset: int | None = None
        self.transport: dict[str, int] = {}
        self.counted: int | None = None

    def open(self, timeout_s: float) -> None:
        """Start the pipeline and wait for its first frame."""
        try:
            self._pipeline = self._gst.parse_launch(self._text)
        except Exception as error:  # GLib.Error: an unknown element, links that do not fit
            raise CameraError(f"the pipeline cannot be made: {getattr(error, 'message', error)}") from error
        self._sink = self._pipeline.get_by_name("edgead")
        self._offset = None
        if self._pipeline.set_state(self._gst.State.PLAYING) == self._gst.StateChangeReturn.FAILURE:
            raise CameraError(f"the pipeline does not start{self._reason()}")
        give_up_s = time.monotonic() + timeout_s
        while self._first is None:  # a pipeline that fails does not wake its end
            self._first = self._pull(min(_LOOK_S, timeout_s))
            reason = self._reason() if self._first is None else ""
            if reason or time.monotonic() > give_up_s:
                raise CameraError(f"the pipeline gave no frame{reason or f' for {timeout_s:.1f} s'}")

    def read(self, timeout_s: float, light: int) -> Shot | None:  # noqa: ARG002 - the pipeline knows no lights
        """Take the oldest frame that waits."""
        sample, self._first = self._first or self._pull(timeout_s), None
        if sample is None:
            reason = self._reason()
            if reason:
                raise CameraError(f"the pipeline failed{reason}")
            return None
        begin_s = time.monotonic()
        caps, buffer = sample.get_caps().get_structure(0), sample.get_buffer()
        height, width = caps.get_value("height"), caps.get_value("width")
        rows = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8)
        if rows.size % height or rows.size // height < 3 * width:
            raise CameraError(f"the pipeline gave {rows.size} bytes for {width}x{height} pixels")
        image = np.ascontiguousarray(rows.reshape(height, -1)[:, : 3 * width]).reshape(height, width, 3)
        # The pipeline decodes in its own threads; what shows here is the copy out of it.
        decode_s = time.monotonic() - begin_s
        return Shot(image, self._captured_s(buffer), self._skipped(buffer), decode_s=decode_s)

    def close(self) -> None:
        """Stop the pipeline."""
        pipeline, self._pipeline, self._sink, self._first = self._pipeline, None, None, None
        if pipeline is not None:
            pipeline.set_state(self._gst.State.NULL)

    def _pull(self, timeout_s: float) -> Any:
        sample = self._sink.emit("try-pull-sample", int(timeout_s * self._gst.SECOND))
        if sample is None and self._sink.get_property("eos"):
            raise CameraError(f"the pipeline has ended{self._reason()}")
        return sample

    def _reason(self) -> str:
        message = self._pipeline.get_bus().pop_filtered(self._gst.MessageType.ERROR)
        if message is None:
            return ""
        error, details = message.parse_error()
        return f" ({message.src.get_name()}: {error.message} {(details or '').rpartition(chr(10))[2]})"

    def _captured_s(self, buffer: Any) -> float:
        """Tell when the frame entered the pipeline, by the pipeline's clock."""
        now_s = time.monotonic()
        clock = self._pipeline.get_clock()
        if clock is None or buffer.pts == self._gst.CLOCK_TIME_NONE:
            return now_s
        age_s = (clock.get_time() - self._pipeline.get_base_time() - buffer.pts) / self._gst.SECOND
        return now_s - age_s if 0 <= age_s < 60 else now_s

    def _skipped(self, buffer: Any) -> int:
        """Count frames between this one and the last by their offsets, where the source gives any."""
        if buffer.offset == self._gst.BUFFER_OFFSET_NONE:
            return 0
        last, self._offset = self._offset, buffer.offset
        gap = 0 if last is None else buffer.offset - last - 1
        return gap if 0 <= gap < 100_000 else 0
