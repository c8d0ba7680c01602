"""A line of simulated cameras, driven in real time without a station: what they give, and what goes wrong."""

from __future__ import annotations

import csv
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from edgead.bundle_file import write_whole
from edgead.errors import CameraError, ConfigError
from edgead.line_config import LineConfig
from edgead.runtime.sim_camera import LineCamera, simulated_camera


class Standing(NamedTuple):
    """What a camera of a line has come to.

    Attributes:
        frames: given to whoever reads it, or sent.
        missed: frames that it knows to be lost.
        faults: frames by fault, those too that the camera cannot know of.
    """

    camera: str
    frames: int
    missed: int
    faults: Mapping[str, int]


class DrivenLine:
    """All cameras of a line, each read by a thread of its own that throws the frames away.

    Raises:
        ConfigError, CameraError, DataError: a camera cannot be opened.
    """

    def __init__(self, config: LineConfig) -> None:
        self.problems: list[str] = []
        self.cameras: list[LineCamera] = []
        with ExitStack() as stack:
            for wanted in config.cameras:
                camera = simulated_camera(wanted)
                camera.open()
                stack.callback(camera.close)
                self.cameras.append(camera)
            self._life = stack.pop_all()

    def run(self, stop: threading.Event) -> None:
        """Drive the cameras until they have no more frames, or ``stop`` is set."""
        threads = [threading.Thread(target=self._read, args=(camera,), name=camera.name) for camera in self.cameras]
        over = threading.Thread(target=self._halt, args=(stop,), daemon=True)
        for camera in self.cameras:
            camera.begin()
        for thread in (*threads, over):
            thread.start()
        for thread in threads:
            thread.join()
        stop.set()
        over.join()

    def standing(self) -> list[Standing]:
        """Return what each camera has come to."""
        return [Standing(one.name, one.health.frames, one.health.missed, dict(one.counts)) for one in self.cameras]

    def close(self) -> None:
        """Give everything back; twice is allowed."""
        self._life.close()

    def _read(self, camera: LineCamera) -> None:
        try:
            while camera.read(threading.TIMEOUT_MAX) is not None:
                pass
        except CameraError as error:
            self.problems.append(str(error))

    def _halt(self, stop: threading.Event) -> None:
        stop.wait()
        for camera in self.cameras:
            camera.stop()


def write_truth(path: Path, cameras: Sequence[LineCamera]) -> dict[str, int]:
    """Write a CSV file with the trigger, the name and the defect (or ``good``) of each part; return parts by defect.

    Raises:
        ConfigError: the cameras do not show the same parts, so that there is no one truth.
        ArtefactError: the file cannot be written.
    """
    first = cameras[0]
    counts: dict[str, int] = {}

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(("trigger", "part", "defect"))
            for trigger in range(first.options.parts):
                shown = first.shown(trigger)
                for other in cameras[1:]:
                    if other.options.parts != first.options.parts or other.shown(trigger) != shown:
                        raise ConfigError(
                            f"cameras '{first.name}' and '{other.name}' show different parts, so that there is no one "
                            "truth; give their addresses the same object or data set, seed, parts, ng_share and cache"
                        )
                counts[shown.defect] = counts.get(shown.defect, 0) + 1
                table.writerow((trigger, *shown))

    write_whole(path, write)
    return counts
