"""What tests of the two drivers and of missed pulses ask of cameras, in their network: ``gige_probe.py WHAT ...``."""

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
from typing import Literal

from gige_network import wait_for_camera

from edgead.config import CameraConfig, StationConfig
from edgead.errors import CameraError
from edgead.runtime.cameras import open_cameras
from edgead.runtime.fake import FakeRunner
from edgead.runtime.frames import Camera, Frame
from edgead.runtime.genicam_options import GigeOptions
from edgead.runtime.gige_camera import GigeSource
from edgead.runtime.live import Live
from edgead.runtime.pulses import ByCounter
from edgead.runtime.stations import run_station
from edgead.runtime.viva_camera import VivaSource
from edgead.thresholds import Threshold


@contextmanager
def aravis_fake(address: str = "127.0.0.1", serial: str = "GV01") -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["arv-fake-gv-camera-0.8", "-i", address, "-s", serial])
    try:
        wait_for_camera(address)
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def line(address: str, serial: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).with_name("gige_line.py")), address, serial]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


def opened(*uris: str, lights: tuple[str, ...] = ()) -> list[Camera]:
    configs = [
        CameraConfig(name=f"cam{number}", uri=uri, view=str(number), illuminations=lights)
        for number, uri in enumerate(uris)
    ]
    return open_cameras(configs)


def frame_of(camera: Camera) -> Frame:
    frame = camera.read(30)
    assert frame is not None
    return frame


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def pulses(*arguments: str) -> None:
    """Show which pulses the frames of cameras on one line belong to: ``pulses URI SCHEDULE URI SCHEDULE ...``."""
    uris, schedules = arguments[::2], arguments[1::2]
    with ExitStack() as stack:
        servers = [stack.enter_context(line(f"127.0.0.{number + 1}", f"GV{number}")) for number in range(len(uris))]
        cameras = opened(*uris)
        seen: list[list[Frame]] = [[] for _ in cameras]

        def read(camera: Camera, frames: list[Frame]) -> None:
            while (frame := camera.read(60)) is not None:
                frames.append(frame)

        threads = [threading.Thread(target=read, args=pair) for pair in zip(cameras, seen, strict=True)]
        for thread in threads:
            thread.start()
        for server, schedule in zip(servers, schedules, strict=True):
            assert server.stdin is not None
            server.stdin.write(f"{schedule}\n")
            server.stdin.flush()
        for server in servers:
            assert server.stdout is not None
            assert server.stdout.readline() == "done\n"
        time.sleep(0.5)  # for the last frame
        for camera in cameras:
            camera.stop()
        for thread in threads:
            thread.join()
        for camera, frames in zip(cameras, seen, strict=True):
            say(
                triggers=[frame.trigger for frame in frames],
                exposures_s=sorted({frame.exposure_s for frame in frames}),
                decode_s=min(frame.decode_s for frame in frames),
                health=asdict(camera.health),
            )
            camera.close()


def lights(uri: str) -> None:
    """Take frames of Aravis' fake camera, each with the exposure of its illumination."""
    with aravis_fake():
        (camera,) = opened(uri, lights=("dark", "bright"))
        frames = [frame_of(camera) for _ in range(6)]
        camera.close()
    say(
        shape=frames[0].image.shape,
        slots=[(frame.trigger, frame.slot.illumination) for frame in frames],
        means=[float(frame.image.mean()) for frame in frames],
        exposures_s=[frame.exposure_s for frame in frames],
        health=asdict(camera.health),
    )


def free(uri: str, pixel_format: str, resend: str) -> None:
    """Take frames of viva's fake camera, which drops a packet of each third block."""
    from viva_genicam.testing import FakeGigeCamera

    dropped = [(block, 1 + block % 2) for block in range(3, 3000, 3)]
    options = {"fps": 30, "drop_packets": dropped, "packet_resend": resend == "resend", "pixel_format": pixel_format}
    with FakeGigeCamera(width=320, height=200, **options):
        (camera,) = opened(uri)
        frames = [frame_of(camera) for _ in range(12)]
        camera.close()
    say(
        triggers=[frame.trigger for frame in frames],
        shape=frames[0].image.shape,
        is_grey=all((frame.image[..., 0] == frame.image[..., 2]).all() for frame in frames),
        level=float(frames[0].image.mean()),
        exposures_s=sorted({frame.exposure_s for frame in frames}),
        ages_s=[time.monotonic() - frame.captured_s for frame in frames[-1:]],
        health=asdict(camera.health),
    )


def chunks(uri: str, driver: Literal["aravis", "viva"]) -> None:
    """Number frames by a chunk that comes with them: one of viva's fake camera counts frames, dropped ones too."""
    from viva_genicam.testing import FakeGigeCamera

    with FakeGigeCamera(
        width=64, height=480, fps=30, drop_packets=[(block, 1) for block in range(4, 4000, 4)], packet_resend=False
    ):
        config = CameraConfig(name="cam", uri=uri)
        options = GigeOptions(counter="ChunkFrameID", driver=driver)  # no pulses: it has no input
        source = VivaSource(config, options) if driver == "viva" else GigeSource(config, options)
        camera = Live(config, source, options, pulses=ByCounter(exact=True))
        camera.open()
        frames = [frame_of(camera) for _ in range(8)]
        camera.close()
    say(triggers=[frame.trigger for frame in frames], health=asdict(camera.health))


def revoked(uri: str) -> None:
    """Take control from the station in the middle of its work, then the camera; it comes back each time."""
    from viva_genicam.testing import FakeGigeCamera

    fake = FakeGigeCamera(width=64, height=48, fps=30)
    fake.start()
    (camera,) = opened(uri)
    assert isinstance(camera, Live)
    for event in (fake.revoke_control, fake.stop):
        for _ in range(5):
            frame_of(camera)
        before = camera.health.reconnects
        event()
        if event == fake.stop:
            threading.Timer(0.5, fake.start).start()
        while camera.health.reconnects == before:
            frame = frame_of(camera)
        say(error=camera.health.last_error, trigger=frame.trigger, health=asdict(camera.health))
    camera.close()
    say(controller=fake.controller())
    fake.stop()


def fired(uri: str, count: str) -> None:
    """Fire the triggers of a station's clock at a camera, but for number 3."""
    with aravis_fake():
        (camera,) = opened(uri, lights=("dark", "bright"))
        assert isinstance(camera, Live)
        assert camera.arm()
        numbers = [number for number in range(int(count)) if number != 3]
        fired_s = {}
        frames = []
        for number in numbers:
            fired_s[number] = time.monotonic()
            camera.fire(number)
            frames += [frame_of(camera) for _ in range(2)]
        camera.close()
    say(
        slots=[(frame.trigger, frame.slot.illumination) for frame in frames],
        later=[frame.captured_s >= fired_s[frame.trigger] - 0.005 for frame in frames],
        health=asdict(camera.health),
    )


def clocked(out: str) -> None:
    """Run a station whose clock triggers two cameras of two lights, one by each driver, for 20 parts."""
    options = "trigger=software&width=64&height=64"
    lights = ["a", "b"]
    values = {
        "bundle": "b",
        "output": out,
        "takt_ms": 250,
        "timeout_ms": 20_000,
        "parts_in_flight": 32,
        "cameras": [
            {"name": "one", "view": "1", "uri": f"gige://127.0.0.1?{options}&driver=aravis", "illuminations": lights},
            {"name": "two", "view": "2", "uri": f"gige://127.0.0.2?{options}&driver=viva", "illuminations": lights},
        ],
    }
    threshold = Threshold(0.5, 0.75, "part", 2000, 0.95, 3000, 1000, 1500, "by hand")
    with aravis_fake(), aravis_fake("127.0.0.2", "GV02"):
        verdicts = Path(out) / "verdicts.ndjson"

        def stop() -> None:
            give_up_s = time.monotonic() + 60
            while time.monotonic() < give_up_s:
                if verdicts.exists() and verdicts.read_text().count("\n") >= 20:
                    break
                time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)

        stopping = threading.Thread(target=stop)
        stopping.start()
        report = run_station(StationConfig.model_validate(values), runner=FakeRunner((32, 32)), threshold=threshold)
        stopping.join()
    say(report=report.to_dict())


def wrong(*uris: str) -> None:
    with aravis_fake():
        for uri in uris:
            try:
                open_cameras([CameraConfig(name="cam", uri=uri)])[0].close()
            except CameraError as error:
                say(error=str(error))
            else:
                say(error="")


if __name__ == "__main__":
    work = {
        "pulses": pulses,
        "lights": lights,
        "free": free,
        "chunks": chunks,
        "revoked": revoked,
        "fired": fired,
        "clocked": clocked,
        "wrong": wrong,
    }
    work[sys.argv[1]](*sys.argv[2:])
