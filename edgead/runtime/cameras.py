"""Cameras by URI: recorded ones (``dir://``, ``file://``), simulated ones (``sim://``, ``dataset://``) and live ones.

Live are ``rtsp://``, ``gst://``, ``v4l2://`` and ``gige://``. Options stand in the URI as a query
(``dir://parts?pattern=...``), with ``%26`` for ``&`` and ``%25`` for ``%``; in an ``rtsp://`` address, whose query is
the camera's own, they stand behind ``#``.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgead.config import CameraConfig
from edgead.errors import ConfigError, nearest
from edgead.runtime.frames import Camera, options_of
from edgead.runtime.live import Live, LiveOptions
from edgead.runtime.parts import Slot
from edgead.runtime.recorded_cameras import DirCamera, VideoCamera, natural

SCHEMES = ("dir", "file", "sim", "dataset", "rtsp", "rtsps", "gst", "v4l2", "gige")


def open_cameras(configs: Sequence[CameraConfig]) -> list[Camera]:
    """Open the cameras of a station; folders number the parts that they share alike.

    Raises:
        ConfigError: an unknown scheme or option, or two cameras for one view and illumination.
        CameraError: a camera cannot be opened.
    """
    cameras: list[Camera] = []
    try:
        for config in configs:
            cameras.append(_camera(config))
            cameras[-1].open()
    except BaseException:
        for camera in cameras:
            camera.close()
        raise
    folders = [camera for camera in cameras if isinstance(camera, DirCamera)]
    names = sorted({part for camera in folders for part in camera.parts}, key=natural)
    for camera in folders:
        camera.number(names)
    owners: dict[Slot, str] = {}
    for camera in cameras:
        for slot in camera.slots:
            other = owners.setdefault(slot, camera.name)
            if other != camera.name:
                raise ConfigError(
                    f"cameras '{other}' and '{camera.name}' both give view '{slot.view}' under illumination "
                    f"'{slot.illumination}'; give each its own view in station.yaml"
                )
    return cameras


def _camera(config: CameraConfig) -> Camera:
    scheme, mark, rest = config.uri.partition("://")
    if not mark or not rest:
        raise ConfigError(f"camera '{config.name}': '{config.uri}' is no address; expected such as dir://images")
    match scheme:
        case "dir":
            return DirCamera(config)
        case "file":
            return VideoCamera(config)
        case "sim" | "dataset":
            from edgead.runtime.sim_camera import simulated_camera  # the simulator is not for every station

            return simulated_camera(config)
        case "rtsp" | "rtsps" | "gst" | "v4l2" | "gige":
            return _live(scheme, config)
    raise ConfigError(f"camera '{config.name}': unknown scheme '{scheme}'{nearest(scheme, SCHEMES)}")


def _live(scheme: str, config: CameraConfig) -> Live:
    """Make a live camera; what its library needs is imported only here."""
    match scheme:
        case "gst":
            from edgead.runtime.gst_camera import GstSource

            pipeline_options = options_of(config, LiveOptions, name="gst://")  # a pipeline may hold a password
            return Live(config, GstSource(config), pipeline_options)
        case "v4l2":
            from edgead.runtime.v4l2_camera import V4l2Options, V4l2Source

            device_options = options_of(config, V4l2Options)
            return Live(config, V4l2Source(config, device_options), device_options)
        case "gige":
            from edgead.runtime.gige_camera import GigeOptions, GigeSource

            gige_options = options_of(config, GigeOptions)
            gige_options.refuse_unless_consistent(config.name, max(1, len(config.illuminations)))
            is_asked = gige_options.trigger == "software"
            source = GigeSource(config, gige_options)
            return Live(config, source, gige_options, rate=gige_options.rate, paced=is_asked)
    from edgead.runtime.rtsp_camera import RtspOptions, RtspSource, shown

    rtsp_options = options_of(config, RtspOptions, mark="#", name=shown(config.uri))
    return Live(config, RtspSource(config, rtsp_options), rtsp_options)
