"""Verdicts to OPC UA clients: a server after OPC 40100-1 Machine Vision, as docs/opcua.md describes it.

OPC UA has no acknowledgement of an event: one counts as delivered when it was fired and can be asked for. The last ones
stay, over restarts of the station too, so that a client that was away reads what it missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgead.errors import require
from edgead.output_config import OpcuaConfig
from edgead.runtime.outputs.outbox import Backlog
from edgead.runtime.outputs.recipe import Recipe
from edgead.runtime.outputs.sender import Condition, Parcel, SendError

if TYPE_CHECKING:
    from edgead.runtime.outputs.opcua_server import ReadOnlyServer
    from edgead.runtime.outputs.opcua_space import Space

_WINDOW = 100
_START_S = 60.0  # a slow machine loads the standard address space for seconds
_SHOWN_S = 0.5  # the state in which a station ended can be read for so long


class Opcua:
    """A Sender; the server lives in a thread of its own.

    Args:
        folder: of the outbox, which has the results of earlier runs.
        last: sequence number up to which events were delivered before.

    Raises:
        SendError: the address cannot be listened on, or a file that it needs cannot be used.
        MissingError: asyncua is not installed.
    """

    def __init__(
        self,
        config: OpcuaConfig,
        *,
        station: str,
        recipe: Recipe,
        folder: Path,
        last: int,
        note: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        require("asyncua", extra="opcua")
        self._config, self._station, self._recipe, self._note, self._wake = config, station, recipe, note, wake
        self._before = _delivered(folder, last, config.keep)
        self._waiting = 0
        self._published: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._wishes: asyncio.Queue[Parcel | Condition | None]
        self._loop = asyncio.new_event_loop()
        started: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(None, self._serve, "opcua", (started,), daemon=True)
        self._thread.start()
        try:
            problem = started.get(timeout=_START_S)
        except queue.Empty:
            problem = f"{config.host}:{config.port}: has not started in {_START_S:g} s"
        if problem:
            raise SendError(problem)

    def room(self) -> int:
        """Return how much of the window is free."""
        return _WINDOW - self._waiting

    def send(self, parcel: Parcel) -> None:
        """Hand one event to the server's thread.

        Raises:
            SendError: the server has ended.
        """
        if not self._thread.is_alive():
            raise SendError(f"{self._config.host}:{self._config.port}: the server has ended; start the station again")
        self._waiting += 1
        self._wish(parcel)

    def acknowledged(self) -> list[int]:
        """Return what was published."""
        taken = []
        while not self._published.empty():
            taken.append(self._published.get())
        self._waiting -= len(taken)
        return taken

    def show(self, condition: Condition) -> None:
        """Show how the station is, in the state machine."""
        self._wish(condition)

    def close(self) -> None:
        """Publish what there is, and close the server."""
        self._wish(None)
        self._thread.join(5.0)

    def _wish(self, what: Parcel | Condition | None) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._wishes.put_nowait, what)

    def _serve(self, started: queue.SimpleQueue[str]) -> None:
        asyncio.set_event_loop(self._loop)
        where = f"{self._config.host}:{self._config.port}"
        try:
            self._loop.run_until_complete(self._live(started))
        except SendError as error:
            started.put(str(error))
        except Exception as error:  # whatever asyncua raises
            problem = f"{where}: cannot listen ({error or type(error).__name__})"
            started.put(problem)
            self._note(problem)
        finally:
            self._loop.close()

    async def _live(self, started: queue.SimpleQueue[str]) -> None:
        from edgead.runtime.outputs.opcua_results import Results
        from edgead.runtime.outputs.opcua_server import ReadOnlyServer
        from edgead.runtime.outputs.opcua_space import Space

        self._wishes = asyncio.Queue()
        server = ReadOnlyServer(self._config, station=self._station, note=self._note)
        self._loop.set_exception_handler(lambda _, context: server.complaints.count(context["message"]))
        try:
            await server.init()
            results = Results(self._recipe, self._config.keep)
            space = Space(server, station=self._station, recipe=self._recipe, results=results, note=self._note)
            await space.add()
            for parcel in self._before:
                results.add(parcel.body)
            await server.start()
            server.complaints.begin()
            started.put("")
            await self._publish(server, space, results)
        finally:
            server.complaints.end()

    async def _publish(self, server: ReadOnlyServer, space: Space, results: Any) -> None:
        while (wish := await self._wishes.get()) is not None:
            try:
                if isinstance(wish, Condition):
                    await space.show(wish)
                else:
                    await space.publish(results.add(wish.body))
            except Exception as error:  # one that cannot be shown must not hold up the others
                self._note(f"{type(error).__name__}: {error}")
            if isinstance(wish, Parcel):
                self._published.put(wish.seq)
                self._wake()
            await asyncio.sleep(0)  # nothing above ever waits: in a burst, clients would not be heard
        await asyncio.sleep(_SHOWN_S)
        await server.stop()


def _delivered(folder: Path, last: int, keep: int) -> list[Parcel]:
    """Return the last events that were delivered before, as far as the outbox still has them."""
    try:
        with contextlib.closing(Backlog(folder)) as backlog:
            rows = backlog.after(max(0, last - keep), keep)
    except sqlite3.Error as error:
        raise SendError(f"{folder}: earlier results cannot be read ({error})") from error
    return [Parcel.of(*row) for row in rows if row[0] <= last]
