"""Cameras that were recorded: a folder of images, a video file."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
from pydantic import BaseModel, ConfigDict

from edgead.config import CameraConfig
from edgead.datasets import files
from edgead.errors import CameraError, ConfigError, DataError
from edgead.images import read_image
from edgead.runtime.frames import ONLY, Frame, Health, address_of, options_of
from edgead.runtime.parts import Slot

_LARGEST = 1 << 30  # bytes: more than the largest image that is decoded has in colour with 16 bits
_TRUNCATED = 0.98  # a video that ends before this share of the frames that it announces is cut short


def natural(name: str) -> list[tuple[int, str]]:
    """Order names as people do: P2 before P10."""
    return [(int(run), "") if run.isdecimal() else (-1, run) for run in re.split(r"(\d+)", name)]


class _DirOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    pattern: str = files.PART_VIEW_LIGHT


class _NoOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Shot(NamedTuple):
    path: Path
    part: str
    slot: Slot


class DirCamera:
    """The images of a folder in natural order.

    Names that match the pattern (``P0001_V1_L2``) tell part, view and illumination; the camera's own view and
    illuminations, if given, then choose among them. If no name matches, each image is a part, or as many images as the
    camera has illuminations.
    """

    def __init__(self, config: CameraConfig) -> None:
        self.name = config.name
        self.health = Health()
        self.slots: tuple[Slot, ...] = ()
        self.triggers: int | None = None
        self._config = config
        self._pattern = _pattern(config)
        self._shots: list[_Shot] = []
        self._numbers: dict[str, int] = {}
        self._next = 0

    @property
    def parts(self) -> list[str]:
        """Names of the parts in the folder."""
        return list(dict.fromkeys(shot.part for shot in self._shots))

    def open(self) -> None:
        """List the folder."""
        folder = Path(address_of(self._config))
        paths = sorted(files.images(folder), key=lambda path: natural(path.stem))
        if not paths:
            state = "holds no image" if folder.is_dir() else "is no folder"
            raise CameraError(f"camera '{self.name}': {folder} {state}; expected a folder of images")
        named = any(re.search(self._pattern, path.stem) for path in paths)
        shots = [self._named(path) for path in paths] if named else self._counted(paths)
        view, lights = self._config.view, self._config.illuminations
        self._shots = [
            shot
            for shot in shots
            if view in (None, shot.slot.view) and (not lights or shot.slot.illumination in lights)
        ]
        if not self._shots:
            there = ", ".join(sorted({f"{slot.view}/{slot.illumination}" for _, _, slot in shots}))
            raise CameraError(f"camera '{self.name}': no image of its view and illuminations; {folder} has {there}")
        self.slots = tuple(sorted({shot.slot for shot in self._shots}))
        self.number(self.parts)

    def number(self, names: Sequence[str]) -> None:
        """Number the parts by their place in ``names``, which all cameras of a station share."""
        self._numbers = {name: number for number, name in enumerate(names)}
        self._shots.sort(key=lambda shot: self._numbers[shot.part])  # stable: images of a part keep their order
        self.triggers = len(names)

    def read(self, timeout_s: float) -> Frame | None:  # noqa: ARG002 - a file is there or not
        """Decode the next image; a missing or corrupt one means that the camera has vanished."""
        if self._next == len(self._shots):
            return None
        shot = self._shots[self._next]
        self._next += 1
        begin_s = time.monotonic()
        try:
            _refuse_odd_file(shot.path)
            image = read_image(shot.path)
        except DataError as error:
            reason = " ".join(str(error).split())  # a file's name may hold anything
            raise CameraError(f"camera '{self.name}' has vanished: {reason}") from error
        self.health.frames += 1
        now_s = time.monotonic()
        trigger = self._numbers[shot.part]
        return Frame(image, self.name, shot.slot, trigger, shot.part, now_s, decode_s=now_s - begin_s)

    def stop(self) -> None:
        """Do nothing: a read waits for nobody."""

    def close(self) -> None:
        """Forget the listing."""
        self._next = len(self._shots)

    def _named(self, path: Path) -> _Shot:
        match = re.search(self._pattern, path.stem)
        if match is None:
            raise CameraError(
                f"camera '{self.name}': {path.name!r} does not match the pattern {self._pattern!r} that other images "
                "of its folder match; move it away, or give a pattern: dir://folder?pattern=..."
            )
        found = {name: text for name, text in match.groupdict().items() if text is not None}
        return _Shot(path, found["part"], Slot(found.get("view", ONLY), found.get("light", ONLY)))

    def _counted(self, paths: Sequence[Path]) -> list[_Shot]:
        lights = self._config.illuminations or (ONLY,)
        view = self._config.view or ONLY
        firsts = [paths[index - index % len(lights)].stem for index in range(len(paths))]
        return [
            _Shot(path, first, Slot(view, lights[index % len(lights)]))
            for index, (path, first) in enumerate(zip(paths, firsts, strict=True))
        ]


class VideoCamera:
    """The frames of a video file; with several illuminations they take turns."""

    def __init__(self, config: CameraConfig) -> None:
        options_of(config, _NoOptions)
        self.name = config.name
        self.health = Health()
        lights = config.illuminations or (ONLY,)
        self.slots = tuple(Slot(config.view or ONLY, light) for light in lights)
        self.triggers: int | None = None
        self._path = Path(address_of(config))
        self._video: Any = None
        self._announced = 0
        self._next = 0

    def open(self) -> None:
        """Open the file."""
        if not self._path.is_file():
            raise CameraError(f"camera '{self.name}': {self._path} is no file; expected a video")
        # OpenCV and FFmpeg would write their own lines to stderr; what they complain of is said below.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        self._video = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        if not self._video.isOpened():
            raise CameraError(f"camera '{self.name}': {self._path} is no video, or a corrupt one")
        self._announced = max(0, int(self._video.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.triggers = self._announced // len(self.slots) or None

    def read(self, timeout_s: float) -> Frame | None:  # noqa: ARG002 - a file is there or not
        """Decode the next frame; an end well before the announced one means that the camera has vanished."""
        if self._video is None:
            return None
        begin_s = time.monotonic()
        ok, pixels = self._video.read()
        if not ok:
            self.close()
            if self._next < _TRUNCATED * self._announced or not self._next:
                raise CameraError(
                    f"camera '{self.name}' has vanished: {self._path} ends after {self._next} of {self._announced} "
                    "frames; it is truncated or corrupt"
                )
            return None
        trigger, light = divmod(self._next, len(self.slots))
        self._next += 1
        self.health.frames += 1
        image = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        part, now_s = f"{self._path.stem}-{trigger}", time.monotonic()
        return Frame(image, self.name, self.slots[light], trigger, part, now_s, decode_s=now_s - begin_s)

    def stop(self) -> None:
        """Do nothing: a read waits for nobody."""

    def close(self) -> None:
        """Close the file."""
        if self._video is not None:
            self._video.release()
            self._video = None


def _refuse_odd_file(path: Path) -> None:
    """Refuse what would keep its reader waiting for ever, or fill the memory."""
    try:
        status = path.stat()
    except OSError:
        return  # reading it says why
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: is no file but a pipe or a device; expected an image file")
    if status.st_size > _LARGEST:
        raise DataError(f"{path}: has {status.st_size >> 20} MiB; expected an image of {_LARGEST >> 20} MiB at most")


def _pattern(config: CameraConfig) -> str:
    pattern = options_of(config, _DirOptions).pattern
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise ConfigError(f"camera '{config.name}': pattern {pattern!r} is no regular expression: {error}") from error
    if "part" not in groups:
        raise ConfigError(f"camera '{config.name}': pattern {pattern!r} has no group 'part'; add (?P<part>...)")
    return pattern
