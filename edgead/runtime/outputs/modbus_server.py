"""A Modbus TCP server that lets go of clients that do not speak Modbus."""

from __future__ import annotations

from typing import Any

from pymodbus.server import ModbusTcpServer
from pymodbus.server.requesthandler import ServerRequestHandler

from edgead.runtime.outputs.complaints import Complaints

_CONNECTIONS = 50
_LENGTHS = range(2, 255)  # unit and function, to the longest that Modbus knows


class _Connection(ServerRequestHandler):
    def __init__(self, listener: Listener) -> None:
        super().__init__(listener, None, None, None)  # type: ignore[no-untyped-call]
        self._listener = listener

    def callback_connected(self) -> None:
        """Refuse more connections than any line has controllers."""
        super().callback_connected()
        if len(self._listener.active_connections) > _CONNECTIONS:
            self._refuse("too many connections")

    def callback_data(self, data: bytes, addr: Any = None) -> int:
        """Take requests; pymodbus would wait for the rest of what can never become one."""
        if len(data) >= 6 and (data[2:4] != b"\0\0" or int.from_bytes(data[4:6], "big") not in _LENGTHS):
            self._refuse("no Modbus request")
            return len(data)
        return int(super().callback_data(data, addr))

    def _refuse(self, why: str) -> None:
        self._listener.complaints.count(why)
        self.close()


class Listener(ModbusTcpServer):
    """The server; to be made where an event loop runs."""

    def __init__(self, device: Any, *, address: tuple[str, int], complaints: Complaints) -> None:
        super().__init__(device, address=address)
        self.complaints = complaints

    def callback_new_connection(self) -> _Connection:
        """Return what serves one client."""
        return _Connection(self)
