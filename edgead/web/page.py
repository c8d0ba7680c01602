"""The operators' page as an application: what it answers, and to whom. It only shows; nothing can be changed by it.

The token opens the page to be looked at, and /metrics; there is nothing more that it could allow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import PlainTextResponse, RedirectResponse, Response

from edgead.web.guard import SESSION_S, App, Guard, Sessions
from edgead.web.metrics import CONTENT_TYPE, Metrics
from edgead.web.snapshot import Snapshots, Viewer

if TYPE_CHECKING:
    from edgead.runtime.board import Board, BoardLayout

IDLE_S = 0.25  # between two looks at the board when nobody is there
NEWS_S = 0.1  # between two messages to a browser when there is news
BEAT_S = 0.5  # between two messages when there is none, so that a browser knows that this server lives
ACK_S = 30.0  # a browser that does not draw for so long makes room for another
_LONGEST_LOGIN = 4096  # bytes
_WRONG_TOKEN_S = 0.5
_TRY_AGAIN_LATER, _POLICY = 1013, 1008
_TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
_OPEN = ("/login", "/login.js", "/page.css")


class Page:
    """The page of one station.

    Args:
        token: None lets everybody look who reaches the port.
        port: for the name of the cookie: a machine has one jar for all its ports.
        viewers: browsers at the same time.
    """

    def __init__(
        self,
        board: Board,
        layout: BoardLayout,
        *,
        token: str | None = None,
        port: int = 8080,
        metrics: bool = True,
        viewers: int = 16,
    ) -> None:
        self.snapshots = Snapshots(board, layout)
        self._viewers, self._most = 0, viewers
        self._drawing = asyncio.Lock()
        self._wrong = asyncio.Lock()
        self._sessions = Sessions(token, f"edgead-{port}") if token else None
        self._metrics = Metrics(board, layout, lambda: self.snapshots.beat_age_s, lambda: self._viewers)
        api = FastAPI(
            title="edgead page",
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            redirect_slashes=False,
            lifespan=self._lifespan,
        )
        api.add_api_route("/", self._file("page.html"), methods=["GET"])
        for name in ("page.js", "drawing.js", "page.css", "login.js"):
            api.add_api_route(f"/{name}", self._file(name), methods=["GET"])
        api.add_api_route("/login", self._file("login.html"), methods=["GET"])
        api.add_api_route("/login", self._login, methods=["POST"])
        api.add_api_websocket_route("/ws", self._socket)
        if metrics:
            api.add_api_route("/metrics", self._answer_metrics, methods=["GET"])
        self.app: App = Guard(api, sessions=self._sessions, is_open=_OPEN, refuse=_refuse)

    def end(self) -> None:
        """Tell all browsers that the station is no more."""
        self.snapshots.is_over = True

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        while True:
            async with self._drawing:
                await asyncio.to_thread(self.snapshots.look)
            await asyncio.sleep(NEWS_S if self._viewers else IDLE_S)

    def _file(self, name: str) -> Callable[[], Awaitable[Response]]:
        content = files("edgead.web").joinpath(name).read_bytes()
        kind = _TYPES[name.rpartition(".")[2]]

        async def answer() -> Response:
            return Response(content, media_type=kind)

        return answer

    async def _login(self, request: Request) -> Response:
        """Exchange the token for a cookie."""
        if self._sessions is None:
            return RedirectResponse("/", 303)
        token = _token_of(await _body(request))
        if token is None or not self._sessions.opens(token):
            async with self._wrong:  # one after another: guessing does not get faster by asking often
                await asyncio.sleep(_WRONG_TOKEN_S)
            return RedirectResponse("/login#wrong", 303)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            self._sessions.name,
            self._sessions.cookie(),
            max_age=SESSION_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def _answer_metrics(self) -> Response:
        return Response(await asyncio.to_thread(self._metrics.text), media_type=CONTENT_TYPE)

    async def _socket(self, socket: WebSocket) -> None:
        """Serve one browser until it goes."""
        await socket.accept()
        if self._viewers >= self._most:
            await socket.close(_TRY_AGAIN_LATER, f"{self._most} browsers look at this page already; close one of them")
            return
        self._viewers += 1
        try:
            await self._show(socket)
        except asyncio.TimeoutError:
            await socket.close(_POLICY, "no answer")
        except (WebSocketDisconnect, RuntimeError):  # it went while it was being sent to
            return
        finally:
            self._viewers -= 1

    async def _show(self, socket: WebSocket) -> None:
        """Send the newest, wait until it is drawn, and so on: a slow browser sees less, and nothing piles up for it."""
        viewer = Viewer()
        while True:
            async with self._drawing:
                message = await asyncio.to_thread(self.snapshots.message, viewer)
            await socket.send_bytes(message)
            sent = asyncio.get_running_loop().time()
            said = await asyncio.wait_for(socket.receive(), ACK_S)  # whatever it says, it has drawn
            if said["type"] == "websocket.disconnect":
                return
            await self._wait(viewer, sent)

    async def _wait(self, viewer: Viewer, sent_s: float) -> None:
        """Sleep until there is news, ``BEAT_S`` at most after the last message."""
        clock = asyncio.get_running_loop().time
        while (left_s := sent_s + BEAT_S - clock()) > 0:
            await asyncio.sleep(min(NEWS_S, left_s))
            if self.snapshots.is_news(viewer):
                return


def _refuse(status: int, line: str) -> App:
    """Answer a request that may not come in: browsers that lack the token are sent to the form that asks for it."""

    async def answer(scope: Mapping[str, object], receive: object, send: object) -> None:
        response: Response = PlainTextResponse(f"{line}\n", status)
        if status == 401 and scope.get("path") == "/" and scope.get("method") == "GET":
            response = RedirectResponse("/login", 303)
        elif status == 401:
            response.headers["www-authenticate"] = "Bearer"
        await response(scope, receive, send)  # type: ignore[arg-type]

    return answer


async def _body(request: Request) -> bytes:
    """Read a small body; of a larger one, nothing."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_LOGIN:
            return b""
    return body


def _token_of(body: bytes) -> str | None:
    try:
        return parse_qs(body.decode("ascii"), max_num_fields=4).get("token", [None])[0]
    except ValueError:
        return None
