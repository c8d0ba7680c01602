"""Errors of the REST interface as problem details (RFC 9457): one line each, and never a traceback."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from edgead.errors import ArtefactError, ConfigError, DataError, EdgeadError

MEDIA_TYPE = "application/problem+json"
_LONGEST = 500  # characters of a line: a name in it may be as long as a request


class ProblemError(Exception):
    """A request that is refused.

    Args:
        line: what was wrong, what was expected.
    """

    def __init__(self, status: int, line: str, **headers: str) -> None:
        super().__init__(line)
        self.status, self.line = status, line
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def problem(status: int, line: str, headers: dict[str, str] | None = None) -> Response:
    """Return an answer that says in one line what is wrong."""
    told = " ".join(line.split()).encode("utf-8", "replace").decode()
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": told if len(told) <= _LONGEST else told[: _LONGEST - 1] + "…",
    }
    return Response(json.dumps(body), status, headers, MEDIA_TYPE)


def answer_problems(api: FastAPI) -> None:
    """Let an application answer every error with a problem."""

    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return problem(error.status, error.line, error.headers)

    async def known(_request: Request, error: Exception) -> Response:
        match error:
            case DataError():
                return problem(422, str(error))
            case ConfigError():
                return problem(400, str(error))
            case ArtefactError():
                return problem(500, str(error))
            case _:
                return problem(500, str(error))

    async def of_the_framework(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        lines = {404: "there is no such address; GET /openapi.json lists all", 405: "this address takes another method"}
        headers = dict(error.headers or {})
        return problem(error.status_code, lines.get(error.status_code, str(error.detail)), headers)

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        return problem(400, f"{where}: {first['msg']}")

    async def unforeseen(_request: Request, error: Exception) -> Response:
        return problem(500, f"internal error ({type(error).__name__}); please report it")

    api.add_exception_handler(ProblemError, refused)
    api.add_exception_handler(EdgeadError, known)
    api.add_exception_handler(HTTPException, of_the_framework)
    api.add_exception_handler(RequestValidationError, invalid)
    api.add_exception_handler(Exception, unforeseen)
