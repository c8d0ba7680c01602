"""What a test asks of a GigE Vision camera, within its network namespace: ``gige_client.py WHAT ADDRESS...``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from gige_network import wait_for_camera

from edgead.config import CameraConfig, StationConfig
from edgead.errors import CameraError
from edgead.images import write_png
from edgead.runtime.cameras import open_cameras
from edgead.runtime.fake import FakeRunner
from edgead.runtime.frames import Camera, Frame
from edgead.runtime.stations import run_station
from edgead.thresholds import Threshold


@contextmanager
def fake(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["arv-fake-gv-camera-0.8", "-i", "127.0.0.1", "-s", "GV01", *options])
    try:
        wait_for_camera("127.0.0.1")
        yield process
    finally:
        process.kill()
        process.wait()


def opened(uri: str, *lights: str) -> Camera:
    return open_cameras([CameraConfig(name="cam", uri=uri, illuminations=lights)])[0]


def frame_of(camera: Camera) -> Frame:
    frame = camera.read(20)
    assert frame is not None
    return frame


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def killed(uri: str) -> None:
    with fake() as process:
        camera = opened(uri)
        frames = [frame_of(camera) for _ in range(10)]
        triggers = [frame.trigger for frame in frames]
        say(triggers=triggers, shape=frames[0].image.shape, health=asdict(camera.health))
        process.kill()
        process.wait()
    again = threading.Event()

    def revive() -> None:
        time.sleep(0.8)
        with fake():
            again.wait()

    thread = threading.Thread(target=revive)
    thread.start()
    errors: list[str | None] = []
    begin_s = time.monotonic()
    frame = None
    while camera.health.reconnects == 0:
        try:
            frame = camera.read(0.6)
        except CameraError:
            errors.append(camera.health.last_error)
    assert frame is not None
    say(pause_s=time.monotonic() - begin_s, errors=errors, trigger=frame.trigger, health=asdict(camera.health))
    camera.close()
    begin_s = time.monotonic()
    camera = opened(uri)
    frame_of(camera)
    say(reopened_s=time.monotonic() - begin_s, reconnects=camera.health.reconnects)
    camera.close()
    again.set()
    thread.join()


def lights(uri: str) -> None:
    with fake():
        camera = opened(uri, "dark", "bright")
        begin_s = time.monotonic()
        frames = [frame_of(camera) for _ in range(6)]
        camera.close()
    say(
        shape=frames[0].image.shape,
        slots=[(frame.trigger, frame.slot.illumination) for frame in frames],
        means=[float(frame.image.mean()) for frame in frames],
        captured_s=[frame.captured_s for frame in frames],
        begin_s=begin_s,
    )


def lossy(uri: str) -> None:
    """Read until some buffers lacked packets: a third of them does, but chance decides which."""
    with fake("-r", "2"):
        camera = opened(uri)
        for _ in range(200):
            frame = frame_of(camera)
            if camera.health.incomplete > 2 and frame.trigger >= 15:
                break
        camera.close()
    say(last=frame.trigger, health=asdict(camera.health))


def folder(uri: str, path: str, out: str) -> None:
    """Write what a camera that shows a folder gives."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("gige_folder.py")), "127.0.0.1", "GV09", path],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        camera = opened(uri)
        for number in range(8):
            frame = frame_of(camera)
            assert frame.trigger == number
            write_png(Path(out) / f"{number}.png", frame.image)
        camera.close()
    finally:
        server.kill()
        server.wait()


def unplugged(uri: str) -> None:
    with fake() as process:
        camera = opened(uri)
        try:
            camera.read(0.5)
        except CameraError as error:
            say(error=str(error))
        process.kill()
        process.wait()
        begin_s = time.monotonic()
        try:
            camera.read(12)
        except CameraError as error:
            say(error=str(error), waited_s=time.monotonic() - begin_s)
        camera.close()


def station(uri: str, out: str) -> None:
    """Run a station for eight seconds, in which its camera dies and comes back after one."""
    values = {
        "bundle": "b",
        "output": out,
        "takt_ms": 100,
        "timeout_ms": 500,
        "silence_ms": 20_000,
        "cameras": [{"name": "cam", "uri": uri, "illuminations": ["dark", "bright"]}],
    }
    threshold = Threshold(0.5, 0.75, "part", 2000, 0.95, 3000, 1000, 1500, "by hand")
    signalled: list[float] = []
    with ExitStack() as stack:
        first = stack.enter_context(fake())

        def act() -> None:
            time.sleep(2)
            first.kill()
            time.sleep(1)
            stack.enter_context(fake())
            time.sleep(5)
            signalled.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        actor = threading.Thread(target=act)
        actor.start()
        report = run_station(StationConfig.model_validate(values), runner=FakeRunner((32, 32)), threshold=threshold)
        actor.join()
        say(report=report.to_dict(), late_s=time.monotonic() - signalled[0])


def wrong(*uris: str) -> None:
    with fake():
        for uri in uris:
            try:
                opened(uri).close()
            except CameraError as error:
                say(error=str(error))
            else:
                say(error="")


if __name__ == "__main__":
    work = {
        "killed": killed,
        "lights": lights,
        "lossy": lossy,
        "folder": folder,
        "unplugged": unplugged,
        "station": station,
        "wrong": wrong,
    }
    work[sys.argv[1]](*sys.argv[2:])
