"""What hears of the verdicts of stations, and keeps them: an MQTT subscriber, a web server."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from edgead.errors import GateError, require


class Subscriber:
    """Keeps what arrives at topics, by station and event id; its session outlives the broker's death.

    Attributes:
        bodies: by station, by event id, what came under it, as often as it came.
        count: messages so far.
    """

    def __init__(self, port: int, *, keep: bool = True) -> None:
        mqtt = require("paho.mqtt.client", extra="mqtt")
        self.bodies: dict[str, dict[str, list[bytes]]] = {}
        self.count = 0
        self._keep = keep
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="endurance", clean_session=False)
        self._client.reconnect_delay_set(1, 1)
        ready = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe("edgead/+/verdict", qos=1)
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.on_message = self._take
        self._client.connect_async("127.0.0.1", port, keepalive=5)
        self._client.loop_start()
        if not ready.wait(20):
            raise GateError("the broker takes no subscription")

    def _take(self, _client: object, _user: object, message: Any) -> None:
        body = bytes(message.payload)
        event_id = body[body.find(b'"event_id": "') + 13 :].partition(b'"')[0].decode()
        known = self.bodies.setdefault(message.topic.split("/")[1], {}).setdefault(event_id, [])
        known.append(body if self._keep else b"")
        self.count += 1

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


class WebServer:
    """Keeps what is posted, by station and event id."""

    def __init__(self) -> None:
        self.bodies: dict[str, dict[str, list[bytes]]] = {}
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                events = bodies.setdefault(self.path.strip("/"), {})
                events.setdefault(self.headers["Idempotency-Key"], []).append(body)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                if not isinstance(sys.exc_info()[1], ConnectionError):  # who posts here is killed in the middle of it
                    super().handle_error(request, client_address)

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
