"""USB and other cameras of the kernel: ``v4l2:///dev/video0?width=1280&height=720``, through OpenCV."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Any

import cv2
from pydantic import Field

from edgead.config import CameraConfig
from edgead.errors import CameraError
from edgead.runtime.frames import address_of
from edgead.runtime.live_source import LiveOptions, Shot

_WAITED_S = 0.5  # a read that fails sooner did not wait for a frame: the device is gone


class V4l2Options(LiveOptions):
    """Options of ``v4l2://``.

    Attributes:
        fps: frames a second that are asked for.
        format: four letters such as MJPG or YUYV; None leaves the driver's choice.
    """

    fps: float | None = Field(default=None, gt=0)
    format: str | None = Field(default=None, pattern=r"^[A-Z0-9]{4}$")


class V4l2Source:
    """One device of Video4Linux."""

    def __init__(self, config: CameraConfig, options: V4l2Options) -> None:
        self._path = Path(address_of(config))
        self._options = options
        self._video: Any = None
        self.transport: dict[str, int] = {}
        self.counted: int | None = None

    def open(self, timeout_s: float) -> None:  # noqa: ARG002 - a device opens or does not
        """Open the device and ask for size, rate and format."""
        try:
            mode = self._path.stat().st_mode
        except OSError as error:
            found = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "none"
            raise CameraError(f"{self._path} cannot be opened ({error.strerror}); devices here: {found}") from error
        if not stat.S_ISCHR(mode):
            raise CameraError(f"{self._path} is no video device; expected such as /dev/video0")
        # OpenCV waits 10 s for a frame unless told otherwise, once, in whole seconds.
        os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self._video = cv2.VideoCapture(str(self._path), cv2.CAP_V4L2)
        if not self._video.isOpened():
            raise CameraError(f"{self._path} is no camera, is busy, or may not be read; try v4l2-ctl --list-devices")
        options = self._options
        for key, value in (
            (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*options.format) if options.format else None),
            (cv2.CAP_PROP_FRAME_WIDTH, options.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, options.height),
            (cv2.CAP_PROP_FPS, options.fps),
        ):
            if value is not None:
                self._video.set(key, value)

    def read(self, timeout_s: float, light: int) -> Shot | None:  # noqa: ARG002 - OpenCV has its own time-out
        """Take the next frame; OpenCV does not say why there is none."""
        begin_s = time.monotonic()
        ok, pixels = self._video.read()
        if not ok:
            if not self._path.exists() or time.monotonic() - begin_s < _WAITED_S:
                raise CameraError(f"{self._path} is gone, or gives nothing that can be decoded")
            return None
        captured_s = time.monotonic()
        image = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        return Shot(image, captured_s, decode_s=time.monotonic() - captured_s)

    def close(self) -> None:
        """Close the device."""
        video, self._video = self._video, None
        if video is not None:
            video.release()
