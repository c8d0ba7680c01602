"""Verdicts to an HTTP server: one POST each, in their order, the next after the last was answered."""

from __future__ import annotations

import contextlib
import http.client
import ssl
from urllib.parse import urlsplit

from edgead.output_config import WebhookConfig
from edgead.runtime.outputs.sender import Condition, Parcel, RefusedError, SendError, secret

_NEVER = frozenset({400, 413, 415, 422})  # it is about this very event: sending it again changes nothing
_KNOWN = 409  # the server has this event already
_SHOWN = 120


class Webhook:
    """A Sender; the connection is kept open between events.

    Raises:
        SendError: a file that it needs cannot be read.
    """

    def __init__(self, config: WebhookConfig) -> None:
        parts = urlsplit(config.url)
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._acknowledged: list[int] = []
        host, port, timeout_s = parts.hostname or "", parts.port, config.timeout_s
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            try:
                context = ssl.create_default_context(cafile=config.ca_file)
            except OSError as error:  # ssl.SSLError is one
                raise SendError(f"{config.ca_file}: no certificate of an authority ({error})") from error
            self._connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        self._headers = {"Content-Type": "application/json", "User-Agent": "edgead"}
        token = secret(config.token_file)
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def room(self) -> int:
        """Return 1: one after the other."""
        return 1

    def send(self, parcel: Parcel) -> None:
        """Post one event and wait for the answer.

        Raises:
            SendError: no connection, no answer in time, or an answer that may be another one later.
            RefusedError: the server will not have this event.
        """
        headers = {**self._headers, "Idempotency-Key": parcel.event_id}
        try:
            self._connection.request("POST", self._path, parcel.body, headers)
            with self._connection.getresponse() as answer:
                status, reason = answer.status, answer.reason
                said = answer.read(4096).decode(errors="replace")
                if not answer.isclosed():  # more than anyone wants to read
                    self._connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise SendError(f"no answer ({error or type(error).__name__})") from error
        if 200 <= status < 300 or status == _KNOWN:
            self._acknowledged.append(parcel.seq)
            return
        problem = f"HTTP {status} {reason}: {' '.join(said.split())[:_SHOWN]}"
        raise RefusedError(problem) if status in _NEVER else SendError(problem)

    def acknowledged(self) -> list[int]:
        """Return what was answered with a 2xx, or with 409 (known already)."""
        taken, self._acknowledged = self._acknowledged, []
        return taken

    def show(self, condition: Condition) -> None:
        """Do nothing: there is no place for it."""

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._connection.close()
