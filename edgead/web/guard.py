"""Who may ask: the token, the names under which this machine is known, and what browsers are told not to do."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from edgead.web_config import is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Refuse = Callable[[int, str], App]  # status and one line to the application that answers so

SESSION_S = 30 * 24 * 3600
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer, browsers hide the origin of a form too
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Sessions:
    """Cookies that stand for the token in a browser; they outlive a restart of the server, and not the token.

    Args:
        name: of the cookie; browsers keep one jar for all ports of a machine.
    """

    def __init__(self, token: str, name: str) -> None:
        self._token = token.encode()
        self.name = name

    def opens(self, token: str) -> bool:
        """Compare a token in constant time."""
        return hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self._token)

    def cookie(self) -> str:
        """Return the value of a new cookie."""
        until = str(int(time.time()) + SESSION_S)
        return f"{until}.{self._sign(until)}"

    def is_valid(self, cookies: str) -> bool:
        """Tell whether a Cookie header holds a cookie of this token that has not run out."""
        jar = dict(pair.strip().partition("=")[::2] for pair in cookies.split(";"))
        until, _, signature = jar.get(self.name, "").partition(".")
        if not (until.isascii() and until.isdecimal() and len(until) < 20):
            return False
        return hmac.compare_digest(signature.encode(), self._sign(until).encode()) and int(until) > time.time()

    def _sign(self, until: str) -> str:
        return hmac.new(self._token, f"edgead {self.name} {until}".encode(), hashlib.sha256).hexdigest()


class Guard:
    """Lets through what may come in, and adds the headers that keep a browser to this server alone.

    Args:
        sessions: None lets everybody look who reaches this machine under a name of its own: another name would be a
            foreign page that has made itself an address here (DNS rebinding).
        is_open: paths that need no token.
        refuse: makes the answer to the others.
    """

    def __init__(self, app: App, *, sessions: Sessions | None, is_open: Iterable[str], refuse: Refuse) -> None:
        self._app = app
        self._sessions = sessions
        self._open = frozenset(is_open)
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                present = {name for name, _ in message.get("headers", ())}
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *(pair for pair in added if pair[0] not in present)]
            await send(message)

        app = self._judge(scope) or self._app
        if scope["type"] == "websocket" and app is not self._app:
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # before it was accepted: the server answers 403
            return
        await app(scope, receive, send_with_headers)

    def _judge(self, scope: Scope) -> App | None:
        """Return what refuses a request; None where it may come in."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if not scope["query_string"].isascii():  # frameworks below decode it at places of their own
            return self._refuse(400, "the query has bytes that are no ASCII; expected them percent-encoded")
        if self._sessions is None and not is_loopback(_name_of(host)):
            return self._refuse(403, "this server answers to localhost alone; set a token_file to open it to others")
        if origin is not None and (urlsplit_or_none(origin) or "").lower() != host.lower():
            return self._refuse(403, "the request comes from a page of another server")
        if self._sessions is None or scope["path"] in self._open or self._has_token(headers):
            return None
        return self._refuse(401, "the token is missing or wrong")

    def _has_token(self, headers: dict[str, str]) -> bool:
        assert self._sessions is not None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._sessions.opens(token.strip())
        return self._sessions.is_valid(headers.get("cookie", ""))


def urlsplit_or_none(url: str) -> str | None:
    """Return host and port of a URL, None where it has none."""
    try:
        return urlsplit(url).netloc or None
    except ValueError:
        return None


def _name_of(host: str) -> str:
    """Return a Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0].strip("[]")
    return host.partition(":")[0]
