"""The verb that inspects single images over HTTP: serve."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgead.cli.answer import Answer
from edgead.cli.measuring import add_backend

if TYPE_CHECKING:
    from socket import socket

    from edgead.cli.parser import Verbs
    from edgead.web.guard import App

_MOST_MIB = 1024


def add_verbs(verbs: Verbs) -> None:
    """Add serve."""
    parser = verbs.add(
        "serve",
        serve,
        summary="inspect single images and parts over HTTP, described at /openapi.json",
        example="edgead serve runs/my_part, then: curl --data-binary @image.png "
        "http://127.0.0.1:8090/v1/bundles/my_part/inspect",
        more="Ends at Ctrl-C. Bundles are named after their folders.",
    )
    parser.add_argument(
        "bundles", type=Path, nargs="+", metavar="RUN", help="folder of a run; several are served together"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on (%(default)s)")
    parser.add_argument("--port", type=_port, default=8090, metavar="N", help="to listen on (%(default)s)")
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="its first line is asked for as 'Authorization: Bearer'; a host other than this machine's own needs it",
    )
    parser.add_argument("--artefact", default="fp32", metavar="NAME", help="of all bundles (%(default)s)")
    add_backend(parser)
    parser.add_argument(
        "--threads", type=_threads, default=0, metavar="N", help="CPU threads; 0: all cores (%(default)s)"
    )
    parser.add_argument(
        "--max-upload-mib", type=_mib, default=32, metavar="N", help="largest body of a request (%(default)s)"
    )


def serve(wanted: argparse.Namespace) -> Answer:
    """Serve bundles until Ctrl-C."""
    import contextlib
    import sys

    from edgead.errors import ConfigError, require
    from edgead.web_config import read_token, refuse_open_door

    try:
        refuse_open_door(wanted.host, has_token=wanted.token_file is not None)
    except ValueError as error:
        raise ConfigError(str(error).replace("token_file", "--token-file")) from error
    token = read_token(wanted.token_file) if wanted.token_file else None
    for library in ("fastapi", "uvicorn", "python_multipart"):
        require(library, extra="page")
    from edgead.web.engines import open_engines
    from edgead.web.listening import listening
    from edgead.web.rest import Service

    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(listening(wanted.host, wanted.port))
        except OSError as error:
            where = f"{wanted.host}:{wanted.port}"
            raise ConfigError(f"{where} cannot be listened on ({error.strerror}); take another --port") from error
        engines = open_engines(
            wanted.bundles,
            artefact=wanted.artefact,
            backend=wanted.backend,
            threads=wanted.threads,
            keep=stack.callback,
        )
        service = Service(engines, token=token, limit=wanted.max_upload_mib * 2**20)
        shown = f"[{wanted.host}]" if ":" in wanted.host else wanted.host
        print(f"serving {', '.join(engines)} at http://{shown}:{wanted.port}/v1/bundles", file=sys.stderr, flush=True)
        _until_stopped(service.app, listener)
    document = {"bundles": list(engines), "requests": service.requests}
    return Answer(document, [f"{service.requests} images and parts were asked about"])


def _until_stopped(app: App, listener: socket) -> None:
    import asyncio
    import signal

    from edgead.web.server import Server

    server = Server(app)

    def stop() -> None:
        server.should_exit = True

    async def live() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        await server.serve([listener])

    asyncio.run(live())


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= 65535):
        raise argparse.ArgumentTypeError(f"'{text}' is no port; expected 1 to 65535")
    return int(text)


def _threads(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 5):
        raise argparse.ArgumentTypeError(f"'{text}' is no number of threads; expected 0 or more")
    return int(text)


def _mib(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= _MOST_MIB):
        raise argparse.ArgumentTypeError(f"'{text}' is no size; expected 1 to {_MOST_MIB} (MiB)")
    return int(text)
