"""Asks an ASGI application directly, byte by byte if need be: no port, no library that mends what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

App = Callable[..., Awaitable[None]]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


async def ask(
    app: App,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] = b"",
    *,
    query: bytes = b"",
    headers: Iterable[tuple[bytes, bytes]] = ((b"host", b"127.0.0.1"),),
    hang: float = 0.0,
) -> Answer:
    """Send one request; ``hang`` holds the end of the body back for so long."""
    pieces = [body] if isinstance(body, bytes) else list(body)
    said: list[MutableMapping[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces) - 1 or hang > 0}
        for number, piece in enumerate(pieces)
    ]
    got: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if said:
            return said.pop(0)
        await asyncio.sleep(hang or 3600)
        return {"type": "http.request", "body": b"", "more_body": False} if hang else {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        got.append(message)

    raw = path.encode("utf-8", "surrogateescape")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote_to_bytes(raw).decode("utf-8", "replace"),
        "raw_path": raw,
        "query_string": query,
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    assert got[0]["type"] == "http.response.start"
    assert all(message["type"] == "http.response.body" for message in got[1:])
    assert not got[-1].get("more_body", False)
    named = {name.decode("latin-1"): value.decode("latin-1") for name, value in got[0]["headers"]}
    return Answer(got[0]["status"], named, b"".join(message.get("body", b"") for message in got[1:]))
