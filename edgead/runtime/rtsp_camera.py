"""Network cameras by RTSP, with as little delay as FFmpeg allows: ``rtsp://user:word@host/path?channel=1``.

What stands behind ``?`` belongs to the camera; the station's options stand behind ``#``.
"""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import Field

from edgead.config import CameraConfig
from edgead.errors import CameraError, require
from edgead.runtime.lag import Lag
from edgead.runtime.live_source import LiveOptions, Shot


class RtspOptions(LiveOptions):
    """Options of ``rtsp://``.

    Attributes:
        transport: tcp loses no packets; udp has less delay on a good network.
        buffer_ms: longest that packets that overtake each other are sorted, with udp.
        lag_ms: oldest that a frame may be when it is read; older ones wait in the network because the station is
            slower than the camera, and are left out.
    """

    transport: Literal["tcp", "udp"] = "tcp"
    buffer_ms: float = Field(default=0, ge=0, le=10_000)
    lag_ms: float = Field(default=500, gt=0)


class RtspSource:
    """The first video stream of an RTSP server, decoded here."""

    def __init__(self, config: CameraConfig, options: RtspOptions) -> None:
        self._av: Any = require("av", extra="cameras")
        self._av.logging.set_level(None)  # FFmpeg would write its own lines; the reason is in the error
        self._url = config.uri.partition("#")[0]
        self._options = {
            "rtsp_transport": options.transport,
            "fflags": "nobuffer",
            "flags": "low_delay",
            "max_delay": str(int(options.buffer_ms * 1e3)),
            "reorder_queue_size": "0" if not options.buffer_ms else "64",
            "probesize": "32768",
            "analyzeduration": "0",
        }
        # FFmpeg needs about two of its own time-outs to give up, and 0 would wait for ever.
        self._silence_s = (options.watchdog_ms or 10_000) / 2e3
        self._lag_s = options.lag_ms / 1e3
        self._container: Any = None
        self._frames: Any = None
        self._lag = Lag()
        self.transport: dict[str, int] = {}
        self.counted: int | None = None

    def open(self, timeout_s: float) -> None:
        """Connect and find the video."""
        try:
            self._container = self._av.open(self._url, options=self._options, timeout=(timeout_s, self._silence_s))
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise CameraError(f"{self._shown} cannot be opened ({_reason(error)}); is it its address?") from error
        if not self._container.streams.video:
            raise CameraError(f"{self._shown} has no video")
        stream = self._container.streams.video[0]
        stream.thread_type = "SLICE"  # threads by frame would hold frames back
        self._frames = self._container.decode(stream)
        self._lag = Lag()

    def read(self, timeout_s: float, light: int) -> Shot | None:  # noqa: ARG002 - the camera knows no lights
        """Decode the next frame that is fresh; the end of the stream means that the camera is gone.

        How long the camera may be silent, FFmpeg knows since the opening; ``timeout_s`` ends the search for a fresh
        frame.
        """
        give_up_s = time.monotonic() + timeout_s
        skipped = 0
        try:
            while True:
                frame = next(self._frames)
                now_s = time.monotonic()
                lag_s = self._lag.of(frame.time, now_s)
                if lag_s <= self._lag_s or now_s > give_up_s:
                    image = frame.to_ndarray(format="rgb24")
                    return Shot(image, now_s - lag_s, skipped, decode_s=time.monotonic() - now_s)
                skipped += 1
        except StopIteration:
            raise CameraError(f"{self._shown} has ended its stream") from None
        except self._av.error.InvalidDataError:
            self._frames = self._container.decode(self._container.streams.video[0])  # a generator ends by raising
            return Shot(None, time.monotonic())
        except (self._av.FFmpegError, OSError) as error:
            raise CameraError(f"{self._shown} gave nothing ({_reason(error)})") from error

    def close(self) -> None:
        """Hang up."""
        container, self._container, self._frames = self._container, None, None
        if container is not None:
            container.close()

    @property
    def _shown(self) -> str:
        return shown(self._url)


def shown(url: str) -> str:
    """Return an address without its user and password, for logs and errors."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"  # the last one: a mistyped slash may stand before the password


def _reason(error: Exception) -> str:
    """Return what an error says without the address in it, for that may hold a password."""
    text = getattr(error, "strerror", None) or type(error).__name__
    return "time-out" if "exit" in text.lower() else str(text)
