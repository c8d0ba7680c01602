"""A station's side of a simulated line over GigE Vision, within its network namespace.

``gige_line_client.py line.yaml OPTIONS COUNT [FORMAT [wait|again]]``: start ``edgead simulate --stream --gige`` with a
line, open all its cameras with these options of ``gige://``, read so many frames of each, hold them against what the
parts look like, and print one JSON line.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import cv2
import numpy as np

from edgead.config import CameraConfig
from edgead.errors import CameraError
from edgead.images import Image
from edgead.line_config import LineConfig, load_line
from edgead.runtime.cameras import open_cameras
from edgead.runtime.frames import Camera, Frame
from edgead.runtime.sim_camera import LineCamera, simulated_camera
from edgead.runtime.sim_faults import Coming, coming


@contextmanager
def served(path: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", "edgead", "simulate", "--stream", path, "--gige", "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "runs" in line:
                break
        else:
            raise SystemExit(f"the line did not start: {process.wait()}")
        yield process
    finally:
        process.kill()
        process.wait()


def opened(line: LineConfig, options: str) -> list[Camera]:
    shown = [simulated_camera(camera) for camera in line.cameras]
    for camera in shown:
        camera.open()
    return open_cameras(
        [
            CameraConfig(
                name=camera.name,
                uri=f"gige://{line.address(place)}?{options}",
                view=camera.view,
                illuminations=tuple(slot.illumination for slot in shown[place].slots),
            )
            for place, camera in enumerate(line.cameras)
        ]
    )


def expected(camera: LineCamera, frame: Frame, pixel_format: str) -> Image:
    """Return what a frame should show: the draws of a camera do not depend on when it was triggered."""
    shot = camera.slots.index(frame.slot)
    plain = camera.options.model_copy(update={"overtriggered_share": 0.0, "exposure_ms": 0.0})
    frames = coming(plain, camera.slots, Counter())
    image = camera.image(next(one for one in frames if (one.trigger, one.shot) == (frame.trigger, shot)))
    if pixel_format == "RGB8":
        return image
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.repeat(grey[..., None], 3, axis=2)


def read(camera: Camera, truth: LineCamera, count: int, pixel_format: str) -> dict[str, object]:
    """Read frames, and count those that show what they should, and those that show any of the line's first parts."""
    pictures = [
        truth.image(Coming(part, shot))
        for part in range(min(8, truth.options.parts))
        for shot in range(len(truth.slots))
    ]
    right, whole, seen = 0, 0, []
    error = ""
    try:
        for _ in range(count):
            frame = camera.read(5)
            assert frame is not None
            seen.append((frame.trigger, frame.slot.illumination))
            whole += any(np.array_equal(frame.image, picture) for picture in pictures)
            right += np.array_equal(frame.image, expected(truth, frame, pixel_format))
    except CameraError as problem:
        error = str(problem)
    return {
        "frames": len(seen),
        "right": right,
        "whole": whole,
        "seen": seen,
        "error": error,
        "health": asdict(camera.health),
    }


def main(path: str, options: str, count: str, pixel_format: str = "RGB8", end: str = "stop") -> None:
    line = load_line(path)
    truths = [simulated_camera(camera) for camera in line.cameras]
    for truth in truths:
        truth.open()
    with served(path) as process:
        found: dict[str, object] = {}
        for _ in range(2 if end == "again" else 1):  # what the last run of a station saw is kept
            cameras = opened(line, options)

            def keep(camera: Camera, truth: LineCamera) -> None:
                found[camera.name] = read(camera, truth, int(count), pixel_format)
                camera.close()

            threads = [threading.Thread(target=keep, args=pair) for pair in zip(cameras, truths, strict=True)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if end == "again":
                time.sleep(1.5)  # the line begins anew a second after it has been left
        if end != "wait":
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        found["line"] = json.loads(out) if process.returncode == 0 else err
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
