"""An RTSP camera that sees nothing but white: ``python -m benchmarks.endurance.white_camera PORT``; prints ``ready``.

Needs GStreamer's RTSP server; see README.md, cameras.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from edgead.errors import MissingError
from edgead.runtime import introspection

PATH = "/white"


def is_installed() -> bool:
    """Tell whether there is what it needs."""
    try:
        _server()
    except (MissingError, ImportError, ValueError):
        return False
    return True


def main(port: str) -> None:
    """Serve until killed."""
    gst, rtsp, glib = _server()
    gst.init(None)
    server = rtsp.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = rtsp.RTSPMediaFactory.new()
    factory.set_launch(
        "( videotestsrc is-live=true pattern=white ! video/x-raw,width=160,height=120,framerate=25/1 "
        "! videoconvert ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay name=pay0 pt=96 )"
    )
    factory.set_shared(True)
    server.get_mount_points().add_factory(PATH, factory)
    if not server.attach(None):
        sys.exit(f"port {port} is taken")
    print("ready", flush=True)
    glib.MainLoop().run()


def _server() -> tuple[Any, Any, Any]:
    gst = introspection.load("Gst")
    gi = importlib.import_module("gi")
    gi.require_version("GstRtspServer", "1.0")
    return gst, *(importlib.import_module(f"gi.repository.{name}") for name in ("GstRtspServer", "GLib"))


if __name__ == "__main__":
    main(*sys.argv[1:])
