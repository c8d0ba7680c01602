"""Cameras by URI: recorded ones (``dir://``, ``file://``), simulated ones (``sim://``, ``dataset://``) and live ones.

Live are ``rtsp://``, ``gst://``, ``v4l2://``, ``gige://`` and ``cti://``. Options stand in the URI as a query
(``dir://parts?pattern=...``), with ``%26`` for ``&`` and ``%25`` for ``%``; in an ``rtsp://`` address, whose query is
the camera's own, they stand behind ``#``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict
from urllib.parse import unquote

from edgead.config import CameraConfig
from edgead.errors import ConfigError, MissingError, nearest
from edgead.runtime.frames import Camera, options_of
from edgead.runtime.genicam_options import GenicamOptions, GigeOptions
from edgead.runtime.live import Live
from edgead.runtime.live_source import LiveOptions, Source
from edgead.runtime.parts import Slot
from edgead.runtime.pulses import ByClock, ByCounter, LineClock
from edgead.runtime.recorded_cameras import DirCamera, VideoCamera, natural

SCHEMES = ("dir", "file", "sim", "dataset", "rtsp", "rtsps", "gst", "v4l2", "gige", "cti")


def open_cameras(configs: Sequence[CameraConfig]) -> list[Camera]:
    """Open the cameras of a station; folders number the parts that they share alike.

    Raises:
        ConfigError: an unknown scheme or option, or two cameras for one view and illumination.
        CameraError: a camera cannot be opened.
    """
    cameras: list[Camera] = []
    clocks: dict[float, LineClock] = {}  # by period: one line triggers all cameras that name the same
    try:
        for config in configs:
            cameras.append(_camera(config, clocks))
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


def armed(cameras: Sequence[Camera]) -> Callable[[int], None] | None:
    """Let the station's clock trigger the cameras that take their frames when they are asked; before they are read.

    Returns:
        what fires a trigger at all of them, from any thread and at once; None where no camera waits for it.
    """
    waiting = [camera for camera in cameras if isinstance(camera, Live) and camera.arm()]

    def fire(trigger: int) -> None:
        for camera in waiting:
            camera.fire(trigger)

    return fire if waiting else None


def _camera(config: CameraConfig, clocks: dict[float, LineClock]) -> Camera:
    scheme, mark, rest = config.uri.partition("://")
    if scheme != "gst" and not unquote(config.uri).isprintable():  # a pipeline may stand in several lines
        raise ConfigError(f"camera '{config.name}': its address holds a character that cannot be printed; remove it")
    if not mark or not rest:
        shown = "its address" if "@" in config.uri else f"'{config.uri}'"  # it may hold a password
        raise ConfigError(f"camera '{config.name}': {shown} is no address; expected such as dir://images")
    match scheme:
        case "dir":
            return DirCamera(config)
        case "file":
            return VideoCamera(config)
        case "sim" | "dataset":
            from edgead.runtime.sim_camera import simulated_camera  # the simulator is not for every station

            return simulated_camera(config)
        case "rtsp" | "rtsps" | "gst" | "v4l2":
            source, options = _source(scheme, config)
            return Live(config, source, options, **_pulses(options, clocks))
        case "gige" | "cti":
            source, genicam = _genicam(scheme, config)
            return Live(
                config,
                source,
                genicam,
                rate=genicam.rate,
                paced=genicam.is_asked,
                **_pulses(genicam, clocks),
            )
    raise ConfigError(f"camera '{config.name}': unknown scheme '{scheme}'{nearest(scheme, SCHEMES)}")


def _source(scheme: str, config: CameraConfig) -> tuple[Source, LiveOptions]:
    """Make the source of a live camera; what its library needs is imported only here."""
    match scheme:
        case "gst":
            from edgead.runtime.gst_camera import GstSource

            # A pipeline may hold a password.
            return GstSource(config), options_of(config, LiveOptions, name="gst://")
        case "v4l2":
            from edgead.runtime.v4l2_camera import V4l2Options, V4l2Source

            device_options = options_of(config, V4l2Options)
            return V4l2Source(config, device_options), device_options
    from edgead.runtime.rtsp_camera import RtspOptions, RtspSource, shown

    rtsp_options = options_of(config, RtspOptions, mark="#", name=shown(config.uri))
    return RtspSource(config, rtsp_options), rtsp_options


def _genicam(scheme: str, config: CameraConfig) -> tuple[Source, GenicamOptions]:
    """Make the source of a GenICam camera, whose pulses may be counted."""
    lights = max(1, len(config.illuminations))
    if scheme == "cti":
        from edgead.runtime.cti_camera import CtiOptions, CtiSource

        cti_options = options_of(config, CtiOptions)
        cti_options.refuse_unless_consistent(config.name, lights)
        return CtiSource(config, cti_options), cti_options
    options = options_of(config, GigeOptions)
    options.refuse_unless_consistent(config.name, lights)
    from edgead.runtime.gige_camera import GigeSource
    from edgead.runtime.viva_camera import VivaSource

    if options.driver == "viva":
        return VivaSource(config, options), options
    try:
        return GigeSource(config, options), options
    except MissingError as missing:
        if options.driver == "aravis":
            raise
        try:
            return VivaSource(config, options), options
        except MissingError as error:
            raise MissingError(f"{missing}; or, where only wheels can be installed: {error}") from error


class _Pulses(TypedDict):
    """What numbers the frames of a camera, and what its health says of it."""

    pulses: ByClock | ByCounter | None
    triggers: str


def _pulses(options: LiveOptions, clocks: dict[float, LineClock]) -> _Pulses:
    trigger = options.trigger if isinstance(options, GenicamOptions) else "off"
    if isinstance(options, GenicamOptions) and (counter := options.counter or options.misses):
        return {"pulses": ByCounter(exact=options.chunk is not None), "triggers": f"counted by {counter}"}
    if options.period_ms is not None:
        clock = clocks.setdefault(options.period_ms, LineClock(options.period_ms / 1e3))
        return {"pulses": ByClock(clock), "triggers": f"by the clock, one each {options.period_ms:g} ms"}
    if trigger == "software":
        return {"pulses": None, "triggers": "asked for by the station"}
    unknown = "not countable: a pulse that the camera misses shows nowhere; give counter or period_ms in its address"
    return {"pulses": None, "triggers": "" if trigger == "off" else unknown}
