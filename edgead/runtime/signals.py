"""SIGINT and SIGTERM as events."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals(events: queue.SimpleQueue[str]) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into the event ``"stop"``; a second one does what it always did.

    Only in the main thread, where Python delivers signals; elsewhere they stay as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(_number: int, _frame: object) -> None:
        restore()
        events.put("stop")

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
