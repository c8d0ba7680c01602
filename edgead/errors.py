"""Every error that edgead raises on purpose.

    EdgeadError                 exit code 2
    +-- ConfigError             a YAML or JSON file, or a value in it
    +-- DataError               an image, a mask, a dataset
    +-- ArtefactError           a checkpoint, an ONNX model, an engine, a bundle
    +-- TrainingError           a training that cannot go on
    +-- CameraError             a camera that cannot be opened or has vanished
    +-- MissingError            exit code 3: a library, a driver or weights are not installed
    +-- GateError               exit code 1: a measured gate was missed

A message is one line: what was wrong with the value, what was expected, and the command or change that mends it.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import ClassVar


class EdgeadError(Exception):
    """Base of all errors that a user can mend; the command line prints it as one line."""

    exit_code: ClassVar[int] = 2


class ConfigError(EdgeadError):
    """A configuration value is wrong."""


class DataError(EdgeadError):
    """An image, a mask or a dataset is wrong."""


class ArtefactError(EdgeadError):
    """A checkpoint, an ONNX model, an engine or a bundle is wrong."""


class TrainingError(EdgeadError):
    """A training cannot go on."""


class CameraError(EdgeadError):
    """A camera cannot be opened or has vanished."""


class FrameError(CameraError):
    """One frame of a camera is of no use; the next one may be."""


class MissingError(EdgeadError):
    """Something that has to be installed is missing."""

    exit_code = 3


class GateError(EdgeadError):
    """A measured gate was missed."""

    exit_code = 1


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional library, or say which extra installs it.

    Raises:
        MissingError: the library cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingError(
            f"{module} cannot be imported ({error}); in edgead's folder: pip install -c constraints.txt '.[{extra}]'"
        ) from error


def nearest(word: str, valid: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the valid word nearest to ``word``, or all valid words if none is near."""
    words = list(valid)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else f"; valid: {', '.join(words)}"
