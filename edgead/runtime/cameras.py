"""Cameras by URI: ``dir://<folder of images>``, ``file://<video>``, ``sim://<object>``.

Options stand in the URI as a query (``dir://parts?pattern=...``), with ``%26`` for ``&`` and ``%25`` for ``%``.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgead.config import CameraConfig
from edgead.errors import ConfigError, nearest
from edgead.runtime.frames import Camera
from edgead.runtime.parts import Slot
from edgead.runtime.recorded_cameras import DirCamera, VideoCamera, natural

SCHEMES = ("dir", "file", "sim")


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
        case "sim":
            from edgead.runtime.sim_camera import SimCamera  # the simulator is not for every station

            return SimCamera(config)
    raise ConfigError(f"camera '{config.name}': unknown scheme '{scheme}'{nearest(scheme, SCHEMES)}")
