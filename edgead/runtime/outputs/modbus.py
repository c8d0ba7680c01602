"""Verdicts to the controller of the line: a Modbus TCP server with the handshake of docs/modbus.md.

The bits are those that Cognex cameras offer: results valid and results acknowledge hold each result until the
controller has read it, so that none is overwritten; those that wait do so in the outbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from edgead.errors import require
from edgead.output_config import ModbusConfig
from edgead.runtime.outputs.complaints import Complaints
from edgead.runtime.outputs.sender import Condition, Parcel, SendError

CONTROL, STATUS, RESULT = 0, 16, 17  # addresses of holding registers
CONTROL_WORDS, RESULT_WORDS = 16, 31
RESULTS_ACK = 1 << 0  # bits of the control word
CLEAR_MISSED = 1 << 1
TRIGGER_READY, MISSED, COMPLETED, RESULTS_VALID = 1 << 0, 1 << 1, 1 << 2, 1 << 3  # bits of the status word
CODES = {"OK": 1, "UNSURE": 2, "NG": 3, "INCOMPLETE": 4, "MISSED": 5, "REJECTED": 6}
_PART_BYTES = 32
_START_S = 5.0
_HANDSHAKE_S = 1.0


def result_words(fields: dict[str, Any]) -> list[int]:
    """Return the result's registers: sequence, trigger, verdict, score, thresholds, latency, part."""
    score = fields["score"]
    packed = struct.pack(
        ">IIHHfffI",
        fields["sequence"] & 0xFFFFFFFF,
        fields["trigger"] & 0xFFFFFFFF,
        CODES[fields["verdict"]],
        0 if score is None else 1,
        0.0 if score is None else score,
        fields["unsure"],
        fields["ng"],
        min(round(fields["latency_ms"]), 0xFFFFFFFF),
    )
    # A controller shows plain characters: others, and what would steer a terminal, become question marks.
    part = "".join(sign if " " <= sign <= "~" else "?" for sign in fields["part"] or "").encode()[:_PART_BYTES]
    packed += struct.pack(">H", len(part)) + part.ljust(_PART_BYTES, b"\0")
    return list(struct.unpack(f">{len(packed) // 2}H", packed))


class Modbus:
    """A Sender; the server lives in a thread of its own.

    Args:
        note: takes one line about what clients did wrong.

    Raises:
        SendError: the address cannot be listened on.
        MissingError: pymodbus is not installed.
    """

    def __init__(self, config: ModbusConfig, *, note: Callable[[str], None], wake: Callable[[], None]) -> None:
        require("pymodbus", extra="modbus")
        self._config, self._note, self._wake = config, note, wake
        self._words = [0] * (RESULT + RESULT_WORDS)
        self._words[STATUS] = TRIGGER_READY
        self._guard = threading.Lock()
        self._shown: int | None = None  # sequence number of the result that is valid
        self._acknowledged: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._server: Any = None
        started: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(None, self._serve, "modbus", (started,), daemon=True)
        self._thread.start()
        with contextlib.suppress(queue.Empty):
            problem = started.get(timeout=_START_S)
            if problem:
                raise SendError(problem)

    def room(self) -> int:
        """Return 1 when the controller has taken the last result."""
        with self._guard:
            return 0 if self._words[STATUS] & RESULTS_VALID or self._words[CONTROL] & RESULTS_ACK else 1

    def send(self, parcel: Parcel) -> None:
        """Show one result: registers first, then the bits."""
        fields = parcel.fields()
        with self._guard:
            self._words[RESULT:] = result_words(fields)
            status = (self._words[STATUS] ^ COMPLETED) | RESULTS_VALID
            if fields["verdict"] in ("MISSED", "REJECTED"):
                status |= MISSED
            self._words[STATUS] = status
            self._shown = parcel.seq

    def acknowledged(self) -> list[int]:
        """Return what the controller has acknowledged."""
        taken = []
        while not self._acknowledged.empty():
            taken.append(self._acknowledged.get())
        return taken

    def show(self, condition: Condition) -> None:
        """Set or clear trigger ready."""
        with self._guard:
            if condition is Condition.READY:
                self._words[STATUS] |= TRIGGER_READY
            else:
                self._words[STATUS] &= ~TRIGGER_READY

    def close(self) -> None:
        """Close the server, once the controller has ended the handshake that it is in."""
        give_up_s = time.monotonic() + _HANDSHAKE_S
        while self._words[CONTROL] & RESULTS_ACK and time.monotonic() < give_up_s:
            time.sleep(0.01)
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._stop()))
        self._thread.join(2.0)

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.shutdown()

    def _serve(self, started: queue.SimpleQueue[str]) -> None:
        asyncio.set_event_loop(self._loop)
        where = f"{self._config.host}:{self._config.port}"
        complaints = Complaints("pymodbus", where, self._note)
        self._loop.set_exception_handler(lambda _, context: complaints.count(context["message"]))
        try:
            self._loop.run_until_complete(self._listen(started, complaints))
        except Exception as error:
            started.put(f"{where}: cannot listen ({error})")
        finally:
            complaints.end()
            self._loop.close()

    async def _listen(self, started: queue.SimpleQueue[str], complaints: Complaints) -> None:
        from pymodbus.simulator import DataType, SimData, SimDevice

        from edgead.runtime.outputs.modbus_server import Listener

        registers = SimData(0, count=len(self._words), values=0, datatype=DataType.REGISTERS)
        device = SimDevice(0, simdata=[registers], action=self._access)
        address = self._config.host, self._config.port
        self._server = Listener(device, address=address, complaints=complaints)
        await self._server.serve_forever(background=True)
        complaints.begin()
        started.put("")
        await self._server.serving

    async def _access(
        self, function: int, _start: int, address: int, count: int, current: list[int], values: Any
    ) -> Any:
        """Answer a read from the registers; take writes of the control word only."""
        from pymodbus.constants import ExcCodes

        with self._guard:
            if values is not None:
                if function not in (6, 16) or address + count > CONTROL + CONTROL_WORDS:
                    return ExcCodes.ILLEGAL_ADDRESS
                self._words[address : address + count] = [int(value) for value in values]
                self._control()
            current[:] = self._words
        return None

    def _control(self) -> None:
        """Act on the control word; the caller holds the guard."""
        if self._words[CONTROL] & CLEAR_MISSED:
            self._words[STATUS] &= ~MISSED
        if self._words[CONTROL] & RESULTS_ACK and self._shown is not None:
            self._words[STATUS] &= ~RESULTS_VALID
            self._acknowledged.put(self._shown)
            self._shown = None
        self._wake()
