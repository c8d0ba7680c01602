"""Verdicts to an MQTT broker: QoS 1, a last will, a retained status.

Rules found by trying paho: ``on_publish`` runs under paho's own mutex, so it only queues; what is published is paho's
to send again after a reconnect, so nothing is sent twice from the outbox by one process.
"""

from __future__ import annotations

import json
import queue
import ssl
import sys
from collections.abc import Callable
from typing import Any

from edgead.errors import require
from edgead.output_config import MqttConfig
from edgead.runtime.outputs.sender import Condition, Parcel, SendError, secret

STATUS_SCHEMA = "edgead.status/1"
_GOODBYE_S = 2.0
_RETRY_S = (1, 30)


class Mqtt:
    """A Sender; paho's thread connects, and connects again.

    Args:
        note: takes one line about what went wrong.
        wake: called when there is something to do for the owner.

    Raises:
        SendError: a file that it needs cannot be read.
        MissingError: paho-mqtt is not installed.
    """

    def __init__(
        self, config: MqttConfig, *, station: str, name: str, note: Callable[[str], None], wake: Callable[[], None]
    ) -> None:
        mqtt = require("paho.mqtt.client", extra="mqtt")
        port = config.port or (8883 if config.tls else 1883)
        topic = config.topic or f"edgead/{station}"
        self._where = f"{config.host}:{port}"
        self._verdicts, self._status = f"{topic}/verdict", f"{topic}/status"
        self._station, self._window, self._note, self._wake = station, config.window, note, wake
        self._is_connected = False
        self._sent: dict[int, int] = {}  # message id to sequence number
        self._published: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._client: Any = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=config.client_id or f"edgead-{station}-{name}"
        )
        self._client.max_inflight_messages_set(config.window)
        self._client.reconnect_delay_set(*_RETRY_S)
        if config.username is not None:
            self._client.username_pw_set(config.username, secret(config.password_file))
        if config.tls is not None:
            try:
                self._client.tls_set(config.tls.ca_file, config.tls.cert_file, config.tls.key_file)
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                raise SendError(f"TLS files cannot be used ({error})") from error
        self._client.will_set(self._status, self._state("offline"), qos=1, retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.connect_async(config.host, port, keepalive=config.keepalive_s)
        self._client.loop_start()

    def room(self) -> int:
        """Return how much of the window is free; nothing while there is no broker."""
        return self._window - len(self._sent) if self._is_connected else 0

    def send(self, parcel: Parcel) -> None:
        """Publish one event."""
        info = self._client.publish(self._verdicts, parcel.body, qos=1)
        self._sent[info.mid] = parcel.seq  # also when the broker has just gone: paho keeps it and sends it later

    def acknowledged(self) -> list[int]:
        """Return what the broker has acknowledged (PUBACK)."""
        taken = []
        while not self._published.empty():
            seq = self._sent.pop(self._published.get(), None)
            if seq is not None:  # None: the status
                taken.append(seq)
        return taken

    def show(self, condition: Condition) -> None:
        """Do nothing: the status says online or offline, and that is the connection's."""

    def close(self) -> None:
        """Publish that the station is offline, and disconnect."""
        if self._is_connected:
            info = self._client.publish(self._status, self._state("offline"), qos=1, retain=True)
            try:
                info.wait_for_publish(_GOODBYE_S)
            except (RuntimeError, ValueError):  # the broker has just gone: it publishes the will
                self._note(f"{self._where}: went before the station's good-bye")
        self._client.disconnect()
        self._client.loop_stop()

    def _state(self, state: str) -> str:
        return json.dumps({"schema": STATUS_SCHEMA, "station": self._station, "state": state})

    def _on_connect(self, client: Any, _user: object, _flags: object, reason: Any, _properties: object) -> None:
        if reason.is_failure:
            self._note(f"{self._where}: refuses the connection ({reason})")
            return
        self._is_connected = True
        client.publish(self._status, self._state("online"), qos=1, retain=True)
        self._wake()

    def _on_connect_fail(self, _client: object, _user: object) -> None:
        error = sys.exc_info()[1]  # paho calls this where it handles the error
        what = "certificate" if isinstance(error, ssl.SSLError) else "address"
        self._note(f"{self._where}: no connection ({error}); check the broker and its {what}")

    def _on_disconnect(self, _client: object, _user: object, _flags: object, reason: Any, _properties: object) -> None:
        was_connected, self._is_connected = self._is_connected, False
        if was_connected and reason.is_failure:
            self._note(f"{self._where}: lost the connection ({reason})")

    def _on_publish(self, _client: object, _user: object, mid: int, _reason: object, _properties: object) -> None:
        self._published.put(mid)
        self._wake()
