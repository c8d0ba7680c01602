"""A line of simulated cameras on the network, as real GigE Vision cameras.

A station on another machine, or in another network namespace, opens them as ``gige://SERIAL``. Who sets the pace is for
the station to say, as with any camera. With ``trigger=software``, and in free run, each exposure shows the next frame
of the line. With ``trigger=Line0`` the line triggers all its cameras at its own rate, with an even pause between the
frames of a part where no ``exposure_ms`` says otherwise; a trigger that comes before a camera is ready gives no frame
and leaves no gap in its frame ids. Every run of a station begins with the first part.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

from edgead.errors import CameraError, ConfigError
from edgead.line_config import LineConfig
from edgead.runtime.gige_simulator import GigeCamera
from edgead.runtime.sim_camera import LineCamera, simulated_camera
from edgead.runtime.sim_faults import FaultOptions
from edgead.runtime.sim_line import Standing

_LOOK_S = 0.02  # the fake camera tells nobody when a station comes or goes
_JOIN_S = 1.0  # after the last camera has come, the line waits for others; after the last has gone, it begins anew
_PATIENCE_S = 10.0  # but a line that triggers its cameras runs on for so long: they may be back
_BEGIN_S = 0.05  # from the decision to begin to the first trigger
_SENDING_S = 0.3  # for the packets of the last frame
# What cannot happen between a GigE Vision camera and its station, or would need a network that does it.
_NOT_HERE = ("queue", "lost_share", "late_share", "duplicated_share", "swapped_share", "fuzzed_share", "vanish_after")


class GigeLine:
    """All cameras of a line on the network, until the line has no more parts.

    Raises:
        ConfigError: a fault that cannot happen here, or no rate.
        CameraError: an address is on no interface.
        MissingError: Aravis is not installed.
    """

    def __init__(self, config: LineConfig) -> None:
        self.cameras: list[GigeCamera] = []
        self._pulsing: list[threading.Thread] = []
        self._begun = False
        self._changed_s = self._heard_s = time.monotonic()
        with ExitStack() as stack:
            for place, wanted in enumerate(config.cameras):
                camera = simulated_camera(wanted)
                _refuse(camera)
                camera.open()
                stack.callback(camera.close)
                camera.options = _evenly(camera.options, len(camera.slots))
                server = GigeCamera(camera, config.address(place), wanted.serial_number, wanted.packet_loss)
                stack.callback(server.close)
                self.cameras.append(server)
            self._life = stack.pop_all()

    def run(self, stop: threading.Event) -> None:
        """Serve until the line has no more parts or ``stop`` is set.

        Raises:
            EdgeadError: an image that cannot be read any more.
        """
        joined = 0
        while not stop.wait(_LOOK_S):
            for server in self.cameras:
                if server.error is not None:
                    raise server.error
                server.look()
            now_s = time.monotonic()
            streaming = sum(server.is_streaming for server in self.cameras)
            if streaming != joined:
                joined, self._changed_s = streaming, now_s
            if streaming:
                self._heard_s = now_s
            if self._pulsing and not any(thread.is_alive() for thread in self._pulsing):
                break
            if all(server.is_over for server in self.cameras):
                break
            self._follow(now_s, streaming)
        stop.wait(_SENDING_S)

    def standing(self) -> list[Standing]:
        """Return what each camera has come to."""
        return [
            Standing(server.camera.name, server.sent, 0, dict(server.counts + server.camera.counts))
            for server in self.cameras
        ]

    def close(self) -> None:
        """Leave the network; twice is allowed."""
        self._halt()
        self._life.close()

    def _follow(self, now_s: float, streaming: int) -> None:
        """Begin to trigger when the cameras are there, and begin anew when they have been left."""
        self._begun = self._begun or bool(streaming)
        waiting = sum(server.is_ready for server in self.cameras)
        is_joined = waiting == len(self.cameras) or now_s - self._changed_s > _JOIN_S
        if waiting and is_joined and not self._pulsing:
            begin_s = now_s + _BEGIN_S
            self._pulsing = [threading.Thread(target=self._pulse, args=(one, begin_s)) for one in self.cameras]
            for thread in self._pulsing:
                thread.start()
        left_s = now_s - self._heard_s
        if self._begun and left_s > (_PATIENCE_S if self._pulsing else _JOIN_S):
            self._halt()
            self._begun = False
            for server in self.cameras:
                server.rewind()

    def _pulse(self, server: GigeCamera, begin_s: float) -> None:
        camera = server.camera
        camera.begin(begin_s)
        try:
            while (frame := camera.read(threading.TIMEOUT_MAX)) is not None:
                server.pulse(frame.image)
        except CameraError as error:
            server.error = error

    def _halt(self) -> None:
        for server in self.cameras:
            server.camera.stop()
        for thread in self._pulsing:
            thread.join()
        self._pulsing = []


def _refuse(camera: LineCamera) -> None:
    options = camera.options
    for name in _NOT_HERE:
        if name in options.on or getattr(options, name):
            raise ConfigError(
                f"camera '{camera.name}': {name} cannot happen over GigE Vision here; take it out of its address, or "
                "see packet_loss, or run the station on sim:// itself"
            )
    if options.rate is None:
        raise ConfigError(f"camera '{camera.name}': over GigE Vision a line needs a rate (parts a second): ...?rate=5")


def _evenly(options: FaultOptions, frames: int) -> FaultOptions:
    """Let each frame of a part have a pulse of its own, where nothing is said about them."""
    if options.exposure_ms or not options.rate or frames == 1:
        return options
    return options.model_copy(update={"exposure_ms": 1e3 / options.rate / frames})
