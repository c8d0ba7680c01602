"""Inspection over HTTP: one image, or the images of one part, to a verdict. Described by itself at /openapi.json."""

from __future__ import annotations

import asyncio
import io
import re
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import cv2
import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

import edgead
from edgead.errors import DataError, nearest
from edgead.images import AnomalyMap, Image, decode_image, resize
from edgead.runtime.fusion import Largest
from edgead.runtime.parts import Slot
from edgead.thresholds import Threshold
from edgead.web.engines import Engine, Judged
from edgead.web.guard import App, Guard, Sessions
from edgead.web.image_header import refuse_bomb
from edgead.web.problem import MEDIA_TYPE, ProblemError, answer_problems, problem
from edgead.web.rest_schema import INSPECT, INSPECT_PART, BundleAbout, Bundles, Inspected, InspectedPart
from edgead.web.upload import images_of, read_body

MOST_PIXELS = 64_000_000
_DECODERS = 2  # threads, and so images that are large at the same time
_RETRY_S = "1"
_SLOT = re.compile(r"([\w.:-]{1,64})(?:/([\w.:-]{1,64}))?")
_PNG_TYPE, _NPY_TYPE = "image/png", "application/x-npy"


class Service:
    """The REST interface of some engines.

    Args:
        token: None lets everybody ask who reaches the port.
        limit: bytes of a body.
        places: requests that are read, wait or are judged at the same time; more are told to come again.
    """

    def __init__(
        self, engines: Mapping[str, Engine], *, token: str | None = None, limit: int = 32 * 2**20, places: int = 16
    ) -> None:
        self._engines, self._limit, self._places = engines, limit, places
        self._decoders = ThreadPoolExecutor(_DECODERS, "decode")
        self.requests = 0
        api = FastAPI(
            title="edgead",
            version=edgead.__version__,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            lifespan=self._lifespan,
        )
        self._add_routes(api)
        answer_problems(api)
        sessions = Sessions(token, "edgead-rest") if token else None
        self.app: App = Guard(api, sessions=sessions, is_open=(), refuse=_refuse)

    def _add_routes(self, api: FastAPI) -> None:
        problems: dict[int | str, dict[str, Any]] = {
            "default": {"description": "what is wrong", "content": {MEDIA_TYPE: {}}}
        }
        add = api.add_api_route
        add(
            "/v1/bundles",
            self._list,
            methods=["GET"],
            response_model=Bundles,
            operation_id="list",
            summary="List the bundles",
        )
        about = "/v1/bundles/{name}"
        add(
            about,
            self._about,
            methods=["GET"],
            response_model=BundleAbout,
            responses=problems,
            operation_id="about",
            summary="Say what a bundle is",
        )
        add(
            f"{about}/inspect",
            self._inspect,
            methods=["POST"],
            response_model=Inspected,
            responses=problems,
            openapi_extra=INSPECT,
            operation_id="inspect",
            summary="Judge one image",
        )
        add(
            f"{about}/inspect-part",
            self._inspect_part,
            methods=["POST"],
            response_model=InspectedPart,
            responses=problems,
            openapi_extra=INSPECT_PART,
            operation_id="inspectPart",
            summary="Judge the images of one part",
        )

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        yield
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def _list(self, request: Request) -> Response:
        _refuse_query(request, ())
        return JSONResponse({"bundles": [engine.about for engine in self._engines.values()]})

    async def _about(self, name: str, request: Request) -> Response:
        _refuse_query(request, ())
        return JSONResponse(self._engine(name).about)

    async def _inspect(self, name: str, request: Request) -> Response:
        engine, kind = self._engine(name), _kind_of_answer(request)
        _, judged, timings = await self._judge(engine, request, one=True)
        inspection, threshold = judged.inspections[0], engine.threshold
        document = {
            "bundle": name,
            "verdict": inspection.verdict.value,
            "score": inspection.score,
            "threshold": _limits(threshold),
            "timings_ms": timings,
        }
        if kind == "json":
            return JSONResponse(document)
        content, media_type = _drawn(inspection.anomaly_map, threshold, kind)
        headers = {"Edgead-Verdict": inspection.verdict.value, "Edgead-Score": repr(inspection.score)}
        if kind == "png":
            headers["Edgead-Map-White"] = repr(_white(threshold))
        return Response(content, 200, headers, media_type)

    async def _inspect_part(self, name: str, request: Request) -> Response:
        engine = self._engine(name)
        _refuse_query(request, ())
        words, judged, timings = await self._judge(engine, request, one=False)
        slots = [_slot(word) for word in words]
        doubled = next((slot for slot in slots if slots.count(slot) > 1), None)
        if doubled is not None:
            raise ProblemError(400, f"view '{doubled.view}', light '{doubled.illumination}' has two images")
        scores = {slot: one.score for slot, one in zip(slots, judged.inspections, strict=True)}
        part = Largest(engine.threshold).judge(scores)
        document = {
            "bundle": name,
            "verdict": part.verdict.value,
            "score": part.score,
            "worst": _name(part.worst),
            "threshold": _limits(engine.threshold),
            "images": [
                {"name": _name(slot), "score": one.score, "verdict": one.verdict.value}
                for slot, one in zip(slots, judged.inspections, strict=True)
            ],
            "timings_ms": timings,
        }
        return JSONResponse(document)

    def _engine(self, name: str) -> Engine:
        if name not in self._engines:
            raise ProblemError(404, f"there is no bundle '{name[:80]}'{nearest(name[:80], self._engines)}")
        return self._engines[name]

    async def _judge(
        self, engine: Engine, request: Request, *, one: bool
    ) -> tuple[list[str], Judged, dict[str, float]]:
        """Read, decode and judge the images of a request; returns their names, in order."""
        if self._places <= 0:
            raise ProblemError(503, "all places are taken; come again", Retry_After=_RETRY_S)
        self._places -= 1
        self.requests += 1
        try:
            begin_s = time.monotonic()
            images = images_of(request.headers.get("content-type", ""), await read_body(request, self._limit))
            _refuse_names(list(images), one=one)
            read_s = time.monotonic()
            loop = asyncio.get_running_loop()
            size_hw = tuple(engine.about["size_hw"])
            decoded = [
                await loop.run_in_executor(self._decoders, _decoded, data, word or "the image", size_hw)
                for word, data in images.items()
            ]
            decoded_s = time.monotonic()
            judged = await engine.inspect(decoded)
        finally:
            self._places += 1
        timings = {
            "read": 1e3 * (read_s - begin_s),
            "decode": 1e3 * (decoded_s - read_s),
            "queue": judged.queue_ms,
            "engine": judged.engine_ms,
            "total": 1e3 * (time.monotonic() - begin_s),
        }
        return list(images), judged, {stage: round(ms, 3) for stage, ms in timings.items()}


def _decoded(data: bytes, name: str, size_hw: tuple[int, int]) -> Image:
    """Decode an image at the engine's size: what waits is small."""
    refuse_bomb(data, name=name, most_pixels=MOST_PIXELS)
    try:
        return resize(decode_image(data, name=name), size_hw)
    except (MemoryError, cv2.error) as error:
        raise DataError(f"{name}: cannot be decoded ({type(error).__name__}); expected an image") from error


def _refuse_query(request: Request, known: tuple[str, ...]) -> None:
    for name in request.query_params:
        if name not in known:
            hint = nearest(name[:80], known) if known else "; this address takes none"
            raise ProblemError(400, f"there is no parameter '{name[:80]}'{hint}")


def _kind_of_answer(request: Request) -> str:
    """Return "json", "png" or "npy": as ``map`` says, else as the Accept header does."""
    _refuse_query(request, ("map",))
    wanted = request.query_params.getlist("map")
    if len(wanted) > 1 or (wanted and wanted[0] not in ("png", "npy", "none")):
        raise ProblemError(400, f"map={','.join(wanted)[:80]} is wrong; expected png, npy or none")
    if wanted:
        return "json" if wanted[0] == "none" else wanted[0]
    accepted = request.headers.get("accept", "")
    return "png" if _PNG_TYPE in accepted else "npy" if _NPY_TYPE in accepted else "json"


def _refuse_names(words: list[str], *, one: bool) -> None:
    if one and len(words) != 1:
        raise ProblemError(400, f"{len(words)} images; expected one, or POST them to inspect-part")
    if one:
        return
    if words == [""]:
        raise ProblemError(415, "one body; expected multipart/form-data with one part for each image, named VIEW/LIGHT")
    for word in words:
        if not _SLOT.fullmatch(word):
            raise ProblemError(400, f"'{word[:80]}' names no frame of a part; expected VIEW or VIEW/LIGHT")


def _slot(word: str) -> Slot:
    view, _, light = word.partition("/")
    return Slot(view, light or "0")


def _name(slot: Slot) -> str:
    return f"{slot.view}/{slot.illumination}"


def _limits(threshold: Threshold) -> dict[str, Any]:
    return {"unsure": threshold.unsure, "ng": threshold.ng, "unit": threshold.unit}


def _white(threshold: Threshold) -> float:
    """Return the value of a map that is drawn white: twice the limit of NG, which is so a middle grey."""
    return 2 * abs(threshold.ng) or 1.0


def _drawn(anomaly_map: AnomalyMap, threshold: Threshold, kind: str) -> tuple[bytes, str]:
    if kind == "npy":
        file = io.BytesIO()
        np.save(file, anomaly_map.astype(np.float32, copy=False), allow_pickle=False)
        return file.getvalue(), _NPY_TYPE
    level = np.clip(anomaly_map / _white(threshold), 0, 1)
    return cv2.imencode(".png", np.round(255 * level).astype(np.uint8))[1].tobytes(), _PNG_TYPE


def _refuse(status: int, line: str) -> App:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return problem(status, line, headers)
