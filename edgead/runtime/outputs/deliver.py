"""The process that delivers: reads the outbox, feeds each output in a thread of its own, notes what was acknowledged.

Started by the station as ``python -m edgead.runtime.outputs.deliver``. Its standard input tells what there is to do:
one line of JSON (``Task``), then ``n`` for new events, ``+`` for room for one more part and ``-`` for none, at last
``e`` for the end; end of file means that the station died.
It is a process of its own because one talkative Python thread makes the station's OpenCV calls forty times slower.
"""

from __future__ import annotations

import os
import queue
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from edgead.errors import EdgeadError
from edgead.output_config import OutputConfig
from edgead.runtime.outputs.outbox import Backlog, Delivered, Progress, lock, read_progress
from edgead.runtime.outputs.recipe import Recipe
from edgead.runtime.outputs.sender import Condition, Parcel, RefusedError, Sender, SendError

NEW, END = b"n", b"e"
ROOM, NO_ROOM = b"+", b"-"
_ORPHAN_S = 2.0  # for what is left when the station died
_LOCK_S = 30.0
_LOOK_S = 1.0  # should a wake-up be lost
_NOTE_S = 0.1  # between two notes of progress: after a crash so much comes twice
_FIRST_RETRY_S = 0.25
_MOST = 100  # events read at once


class Task(BaseModel):
    """What the station asks for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path
    station: str
    recipe: Recipe
    outputs: tuple[OutputConfig, ...]
    drain_s: float


class Delivery:
    """One output: from its place in the outbox on, in order, until all is acknowledged."""

    def __init__(self, task: Task, output: OutputConfig, delivered: Delivered, guard: threading.Lock) -> None:
        self._task, self._output, self._delivered, self._guard = task, output, delivered, guard
        self._name = output.title
        self._wake = threading.Event()
        self._problems: queue.SimpleQueue[str] = queue.SimpleQueue()  # its put takes no lock that a callback may hold
        self._give_up_s: float | None = None
        self._sender: Sender | None = None
        self._condition = self._shown = Condition.READY
        self._open: dict[int, bool] = {}  # sent, in order: whether it is settled
        self._retry_s, self._wait_s = 0.0, _FIRST_RETRY_S
        self._noted_s = 0.0
        self._is_noted = True
        self._backlog = Backlog(self._task.folder)
        before = read_progress(self._task.folder).get(self._name, Progress())
        self._progress = before._replace(cursor=max(before.cursor, self._backlog.since(self._name)), last_error="")
        self._sent = self._progress.cursor
        self.thread = threading.Thread(None, self._run, f"output {self._name}", daemon=True)

    def wake(self) -> None:
        """Look for new events."""
        self._wake.set()

    def show(self, condition: Condition) -> None:
        """Let the output show how the station is."""
        self._condition = condition
        self._wake.set()

    def end(self, within_s: float, condition: Condition) -> None:
        """Deliver what there is, for so long at most."""
        self._give_up_s = time.monotonic() + within_s
        self.show(condition)

    def _run(self) -> None:
        while True:
            self._wake.clear()  # before looking, so that nothing that comes meanwhile is slept over
            try:
                moved = self._settle() | self._send()
                self._show()
                is_over = self._is_over()
            except Exception as error:  # no output may take the others with it
                self._fail(f"{type(error).__name__}: {error}")
                moved, is_over = False, self._is_late()
            self._note()
            if is_over:
                break
            if not moved:
                self._wake.wait(self._pause_s())
        if self._sender is not None:
            self._sender.close()
        self._settle()
        self._note(at_once=True)

    def _pause_s(self) -> float:
        until = [self._retry_s] + ([self._give_up_s] if self._give_up_s is not None else [])
        now_s = time.monotonic()
        ahead = [at - now_s for at in until if at > now_s]
        return min([_LOOK_S, *ahead]) if self._is_noted else min([_NOTE_S, *ahead])

    def _is_over(self) -> bool:
        if self._give_up_s is None:
            return False
        is_all_sent = not self._open and not self._backlog.after(self._sent, 1)
        return is_all_sent or self._is_late()

    def _is_late(self) -> bool:
        return self._give_up_s is not None and time.monotonic() >= self._give_up_s

    def _show(self) -> None:
        condition = self._condition
        if self._sender is not None and condition is not self._shown:
            self._sender.show(condition)
            self._shown = condition

    def _settle(self) -> bool:
        """Move the cursor over all that is settled; tell whether anything was."""
        while not self._problems.empty():
            self._fail(self._problems.get(), wait=False)
        settled = self._sender.acknowledged() if self._sender is not None else []
        for seq in settled:
            self._open[seq] = True
        if settled:
            self._wait_s = _FIRST_RETRY_S
            self._change(delivered=self._progress.delivered + len(settled))
            self._advance()
        return bool(settled)

    def _advance(self) -> None:
        for seq in list(self._open):
            if not self._open[seq]:
                break
            del self._open[seq]
            self._change(cursor=seq)

    def _send(self) -> bool:
        """Send what there is room for; tell whether anything was."""
        if time.monotonic() < self._retry_s:
            return False
        try:
            if self._sender is None:
                self._sender = open_sender(self._task, self._output, self._sent, self._problems.put, self.wake)
            room = min(self._sender.room(), _MOST)
            parcels = [Parcel.of(*row) for row in self._backlog.after(self._sent, room)] if room > 0 else []
            for parcel in parcels:
                self._send_one(self._sender, parcel)
            return bool(parcels)
        except (SendError, EdgeadError, OSError, sqlite3.Error) as error:
            self._fail(str(error))
            return False

    def _send_one(self, sender: Sender, parcel: Parcel) -> None:
        try:
            sender.send(parcel)
            self._open[parcel.seq] = False
        except RefusedError as error:
            self._fail(f"{parcel.event_id} refused: {error}", wait=False)
            self._open[parcel.seq] = True
            self._change(refused=self._progress.refused + 1)
            self._advance()
        self._sent = parcel.seq

    def _fail(self, problem: str, *, wait: bool = True) -> None:
        self._change(errors=self._progress.errors + 1, last_error=" ".join(problem.split())[:300])
        if wait:
            longest = self._output.webhook.retry_s if self._output.webhook else 30.0
            self._retry_s = time.monotonic() + min(self._wait_s, longest)
            self._wait_s = min(2 * self._wait_s, longest)

    def _change(self, **fields: int | str) -> None:
        self._progress = self._progress._replace(**fields)  # type: ignore[arg-type]
        self._is_noted = False

    def _note(self, *, at_once: bool = False) -> None:
        now_s = time.monotonic()
        if self._is_noted or (not at_once and now_s - self._noted_s < _NOTE_S):
            return
        self._noted_s = now_s
        try:
            with self._guard:
                self._delivered.write(self._name, self._progress)
            self._is_noted = True
        except sqlite3.Error as error:  # then more comes twice after a restart: not worth ending for
            self._change(last_error=f"progress cannot be noted ({error})")


def open_sender(
    task: Task, output: OutputConfig, last: int, note: Callable[[str], None], wake: Callable[[], None]
) -> Sender:
    """Open an output.

    Args:
        last: sequence number up to which it has everything.

    Raises:
        SendError: a file or an address that it needs cannot be had now.
        MissingError: its library is not installed.
    """
    if output.mqtt is not None:
        from edgead.runtime.outputs.mqtt import Mqtt

        return Mqtt(output.mqtt, station=task.station, name=output.title, note=note, wake=wake)
    if output.webhook is not None:
        from edgead.runtime.outputs.webhook import Webhook

        return Webhook(output.webhook)
    if output.opcua is not None:
        from edgead.runtime.outputs.opcua import Opcua

        return Opcua(
            output.opcua,
            station=task.station,
            recipe=task.recipe,
            folder=task.folder,
            last=last,
            note=note,
            wake=wake,
        )
    from edgead.runtime.outputs.modbus import Modbus

    assert output.modbus is not None
    return Modbus(output.modbus, note=note, wake=wake)


def main() -> int:
    """Deliver until the station ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the station ends this process, also by dying
        signal.signal(number, signal.SIG_IGN)
    os.nice(5)
    with open(0, "rb", buffering=0, closefd=False) as wishes:
        task = Task.model_validate_json(wishes.readline())
        try:
            held = lock(task.folder / "deliver.lock", wait_s=_LOCK_S)
        except BlockingIOError:
            print(f"{task.folder}: another process delivers from there and does not end", file=sys.stderr)
            return 2
        try:
            return _deliver(task, wishes.fileno())
        except sqlite3.Error as error:  # the station starts this process again after a while
            print(f"{task.folder}: nothing is delivered ({error}); free the disk", file=sys.stderr)
            return 2
        finally:
            os.close(held)


def _deliver(task: Task, wishes: int) -> int:
    delivered = Delivered(task.folder, [output.title for output in task.outputs])
    guard = threading.Lock()
    deliveries = [Delivery(task, output, delivered, guard) for output in task.outputs]
    for delivery in deliveries:
        delivery.thread.start()
    while wish := os.read(wishes, 4096):
        if END in wish:
            break
        has_room, has_none = wish.rfind(ROOM), wish.rfind(NO_ROOM)
        for delivery in deliveries:
            if has_room != has_none:
                delivery.show(Condition.READY if has_room > has_none else Condition.BUSY)
            else:
                delivery.wake()
    within_s, condition = (task.drain_s, Condition.ENDED) if wish else (_ORPHAN_S, Condition.DIED)
    for delivery in deliveries:
        delivery.end(within_s, condition)
    give_up_s = time.monotonic() + within_s + 3.0
    for delivery in deliveries:
        delivery.thread.join(max(0.0, give_up_s - time.monotonic()))
    with guard:
        delivered.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
