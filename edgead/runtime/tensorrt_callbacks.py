"""What TensorRT calls back: its logger, to which alone it tells its errors, and its progress monitor.

Their classes derive from those of a TensorRT module, so they are made when the module is known.
"""

from __future__ import annotations

import functools
import re
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

_LINES = 40  # that a logger keeps: a station runs for months


class Log(Protocol):
    """The logger of a TensorRT library; errors of its calls arrive only here."""

    def clear(self) -> None:
        """Forget what was logged."""

    def reason(self, otherwise: str = "no reason given") -> str:
        """Return the errors since ``clear`` as one line."""

    def warned(self) -> str:
        """Return the warnings since ``clear`` as one line."""


class Steps(Protocol):
    """What a builder tells of its progress. Called from a thread of its own."""

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins within another."""

    def step(self, phase: str, step: int) -> bool:
        """A step is done; False cancels the build."""

    def finish(self, phase: str) -> None:
        """A phase ends."""


@functools.cache
def logger_of(trt: Any) -> Any:
    """Return the one logger of a TensorRT module."""
    error, warning = int(trt.ILogger.ERROR), int(trt.ILogger.WARNING)

    class Collected(trt.ILogger):  # type: ignore[misc]  # the module is only known when it runs
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors, self.warnings = deque[str](maxlen=_LINES), deque[str](maxlen=_LINES)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= error:
                self.errors.append(message)
            elif int(severity) == warning:
                self.warnings.append(message)

        def clear(self) -> None:
            self.errors.clear()
            self.warnings.clear()

        def reason(self, otherwise: str = "no reason given") -> str:
            return one_line(self.errors) or otherwise

        def warned(self) -> str:
            return one_line(self.warnings)

    return Collected()


def monitor_of(trt: Any, steps: Steps) -> Any:
    """Return a progress monitor of a TensorRT module that hands all on."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, count: int) -> None:
            steps.start(phase, parent, count)

        def step_complete(self, phase: str, step: int) -> bool:
            return steps.step(phase, step)

        def phase_finish(self, phase: str) -> None:
            steps.finish(phase)

    return Monitor()


def one_line(messages: Iterable[str]) -> str:
    """Return the first two messages without the places in NVIDIA's sources: what follows is their consequence."""
    plain = [re.sub(r"\.? In \w+ at /\S+?:\d+|\[\S+::\S+::\d+\] ", "", " ".join(each.split())) for each in messages]
    return "; ".join(list(dict.fromkeys(plain))[:2])[:400]
