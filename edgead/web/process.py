"""The process of a station's page: ``python -m edgead.web.process``, started by the station.

Its standard input tells what there is to do: one line of JSON (``Task``), and its end that the station has ended, or
died. It says ``ready`` when it listens, and nothing else; the board comes as an inherited file. It is a process of its
own because one talkative Python thread makes the station's OpenCV calls forty times slower.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from socket import socket

from pydantic import BaseModel, ConfigDict

from edgead.errors import EdgeadError, require
from edgead.runtime.board import Board, BoardLayout
from edgead.web.listening import listening
from edgead.web_config import PageConfig

_FAREWELL_S = 1.5  # for browsers to be told


class Task(BaseModel):
    """What the station asks for.

    Attributes:
        fd: the board's file, inherited.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fd: int
    layout: BoardLayout
    page: PageConfig


def main() -> int:
    """Serve the page until the station ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the station ends this process, also by dying
        signal.signal(number, signal.SIG_IGN)
    os.nice(5)
    with open(0, "rb", buffering=0, closefd=False) as wishes:
        line = wishes.readline()
        if not line:  # the station went before it asked for anything
            return 0
        task = Task.model_validate_json(line)
        try:
            for library in ("fastapi", "uvicorn", "websockets", "prometheus_client"):
                require(library, extra="page")
            token = task.page.token()
            with listening(task.page.host, task.page.port) as listener:
                print("ready", flush=True)
                asyncio.run(_serve(task, token, listener, wishes.fileno()))
        except OSError as error:
            where = f"{task.page.host}:{task.page.port}"
            print(f"page: {where} cannot be listened on ({error.strerror}); take another port", file=sys.stderr)
            return 2
        except EdgeadError as error:
            print(f"page: {error}", file=sys.stderr)
            return error.exit_code
    return 0


async def _serve(task: Task, token: str | None, listener: socket, wishes: int) -> None:
    from edgead.web.page import Page
    from edgead.web.server import Server

    board, page = Board.attach(task.fd, task.layout), task.page
    shown = Page(board, task.layout, token=token, port=page.port, metrics=page.metrics, viewers=page.viewers)
    server = Server(shown.app)
    serving = asyncio.create_task(server.serve([listener]))
    await asyncio.to_thread(_wait_for_the_end, wishes)
    shown.end()
    await asyncio.sleep(_FAREWELL_S)
    server.should_exit = True
    await serving
    board.close()


def _wait_for_the_end(wishes: int) -> None:
    while os.read(wishes, 4096):
        pass


if __name__ == "__main__":
    sys.exit(main())
