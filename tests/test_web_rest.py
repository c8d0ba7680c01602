"""Inspection over HTTP: what is judged, and what is refused, in the application and over a real socket."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import tracemalloc
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from asgi_client import Answer, ask
from outputs_bench import free_port, wait_until

from edgead.bundle import Bundle
from edgead.cli import main
from edgead.errors import DataError
from edgead.runtime.fake import FakeRunner
from edgead.runtime.runner import Prediction
from edgead.thresholds import Threshold

pytest.importorskip("fastapi", reason="edgead serve needs fastapi: pip install '.[page]'")
pytest.importorskip("python_multipart", reason="edgead serve needs python-multipart: pip install '.[page]'")

from edgead.web import upload
from edgead.web.engines import Engine
from edgead.web.image_header import header_size
from edgead.web.rest import MOST_PIXELS, Service

THRESHOLD = Threshold(0.5, 0.75, "part", 2000, 0.95, 3000, 1000, 1500, "by hand")
SIZE = 16
TOKEN = "a-token-that-is-long-enough"
INSPECT, PART = "/v1/bundles/tile/inspect", "/v1/bundles/tile/inspect-part"
HOST = (b"host", b"127.0.0.1:8090")
KINDS = (".png", ".jpg", ".bmp", ".tif", ".webp")


def grey(level: int, kind: str = ".png", hw: tuple[int, int] = (SIZE, SIZE)) -> bytes:
    return cv2.imencode(kind, np.full((*hw, 3), level, np.uint8))[1].tobytes()


def form(parts: dict[str, bytes], boundary: str = "edge") -> tuple[bytes, bytes]:
    """Return a multipart body and its content type."""
    pieces = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'.encode() + data + b"\r\n"
        for name, data in parts.items()
    ]
    return b"".join(pieces) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}".encode()


class Gate(FakeRunner):
    """A runner that waits before it answers, as long as its gate is closed."""

    def __init__(self) -> None:
        super().__init__((SIZE, SIZE), max_batch=4)
        self.gate = threading.Event()
        self.gate.set()
        self.fails = False

    def infer(self, images: npt.NDArray[np.uint8]) -> Prediction:
        assert self.gate.wait(30)
        if self.fails:
            raise RuntimeError("secret words of a driver")
        return super().infer(images)


@pytest.fixture
def runner() -> Gate:
    return Gate()


@pytest.fixture
def engine(runner: Gate) -> Iterator[Engine]:
    made = Engine("tile", runner, THRESHOLD, {"network": "n", "category": "c", "artefact": "fp32", "backend": "fake"})
    yield made
    runner.gate.set()
    made.close()


@pytest.fixture
def serve(engine: Engine) -> Iterator[Callable[..., Service]]:
    """Make services whose threads end with the test, as a server's end with it."""
    made: list[Service] = []

    def serve(**options: Any) -> Service:
        made.append(Service({"tile": engine}, **options))
        return made[-1]

    yield serve
    for service in made:
        service._decoders.shutdown()


@pytest.fixture
def service(serve: Callable[..., Service]) -> Service:
    return serve(limit=2**20, places=8)


def post(service: Service, path: str, body: Any = b"", **values: Any) -> Answer:
    kind = values.pop("kind", None)
    headers = [HOST, *([(b"content-type", kind)] if kind is not None else []), *values.pop("headers", ())]
    return asyncio.run(ask(service.app, values.pop("method", "POST"), path, body, headers=headers, **values))


def refused(answer: Answer, status: int) -> str:
    """Hold that an answer is a problem of one line, and return the line."""
    assert answer.headers["content-type"] == "application/problem+json", answer
    said = json.loads(answer.body)
    assert (answer.status, said["status"], said["type"]) == (status, status, "about:blank"), said
    assert set(said) == {"type", "title", "status", "detail"}
    assert len(said["detail"].splitlines()) == 1
    assert len(said["detail"]) <= 500
    assert "Traceback" not in said["detail"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    return str(said["detail"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("level", "verdict"), [(51, "OK"), (153, "UNSURE"), (230, "NG")])
def test_an_image_is_judged_as_a_station_would(service: Service, kind: str, level: int, verdict: str) -> None:
    for body, content_type in (
        (grey(level, kind), None),
        (grey(level, kind), b"image/any"),
        form({"x": grey(level, kind)}),
    ):
        answer = post(service, INSPECT, body, kind=content_type)
        assert answer.status == 200, answer
        said = json.loads(answer.body)
        assert (said["verdict"], said["bundle"]) == (verdict, "tile")
        assert said["score"] == pytest.approx(level / 255, abs=0.01)
        assert said["threshold"] == {"unsure": 0.5, "ng": 0.75, "unit": "part"}
        assert list(said["timings_ms"]) == ["read", "decode", "queue", "engine", "total"]
        assert all(ms >= 0 for ms in said["timings_ms"].values())


def test_the_map_comes_as_it_is_or_as_a_picture(service: Service) -> None:
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[4:8, 2:6] = 204
    body = cv2.imencode(".png", image)[1].tobytes()
    accept = [(b"accept", b"image/png")]
    for asked in ({"query": b"map=png"}, {"headers": accept}):
        answer = post(service, INSPECT, body, **asked)
        assert answer.headers["content-type"] == "image/png"
        assert (answer.headers["edgead-verdict"], float(answer.headers["edgead-score"])) == ("NG", pytest.approx(0.8))
        drawn = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_UNCHANGED)
        white = float(answer.headers["edgead-map-white"])
        assert drawn[5, 3] == round(255 * 0.8 / white)
        assert drawn[0, 0] == 0
    answer = post(service, INSPECT, body, query=b"map=npy", headers=accept)
    found = np.load(io.BytesIO(answer.body), allow_pickle=False)
    assert (found.dtype, found.shape) == (np.float32, (SIZE, SIZE))
    np.testing.assert_allclose(found, image.mean(axis=2) / 255, atol=1e-6)
    assert post(service, INSPECT, body, query=b"map=none", headers=accept).headers["content-type"] == "application/json"


def test_a_part_is_judged_by_the_largest_of_its_images(service: Service) -> None:
    levels = {"top": 20, "top/1": 153, "side/0": 230, "side/bright": 10}
    answer = post(service, PART, *[form({name: grey(level) for name, level in levels.items()})[0]], kind=form({})[1])
    said = json.loads(answer.body)
    assert (said["verdict"], said["worst"]) == ("NG", "side/0")
    assert said["score"] == pytest.approx(230 / 255)
    assert [image["name"] for image in said["images"]] == ["top/0", "top/1", "side/0", "side/bright"]
    assert [image["verdict"] for image in said["images"]] == ["OK", "UNSURE", "NG", "OK"]


def test_bundles_say_what_they_are(service: Service) -> None:
    (about,) = json.loads(post(service, "/v1/bundles", method="GET").body)["bundles"]
    assert about == json.loads(post(service, "/v1/bundles/tile", method="GET").body)
    assert (about["name"], about["size_hw"], about["max_batch"]) == ("tile", [SIZE, SIZE], 4)
    assert "NG above 0.75" in about["threshold"]["explained"]


def test_the_description_fits_what_is_answered(service: Service) -> None:
    described = json.loads(post(service, "/openapi.json", method="GET").body)
    assert described["openapi"].startswith("3.")
    operations = {
        (method.upper(), path): operation
        for path, item in described["paths"].items()
        for method, operation in item.items()
    }
    assert set(operations) == {
        ("GET", "/v1/bundles"),
        ("GET", "/v1/bundles/{name}"),
        ("POST", "/v1/bundles/{name}/inspect"),
        ("POST", "/v1/bundles/{name}/inspect-part"),
    }
    import jsonschema

    schemas = described["components"]["schemas"]
    single = json.loads(post(service, INSPECT, grey(3)).body)
    body, kind = form({"a/1": grey(3)})
    part = json.loads(post(service, PART, body, kind=kind).body)
    about = json.loads(post(service, "/v1/bundles", method="GET").body)
    for document, name in ((single, "Inspected"), (part, "InspectedPart"), (about, "Bundles")):
        jsonschema.validate(document, {**schemas[name], "components": described["components"]})
        assert set(document) == set(schemas[name]["properties"])
    for path in ("/docs", "/redoc"):
        refused(post(service, path, method="GET"), 404)  # their scripts come from elsewhere: a line has no internet


def crc(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be enormous."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + crc(b"IHDR", head) + crc(b"IDAT", zlib.compress(bytes(1000))) + crc(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        (b"", 400, "the body is empty"),
        (b"hello", 422, "not an image of a known kind; expected PNG, JPEG, BMP, TIFF or WebP"),
        (grey(9)[:60], 422, "truncated"),
        (grey(9)[:-20], 422, ""),
        (grey(9, ".jpg", (64, 64))[:200], 422, ""),
        (grey(9)[:40] + b"\0" * 8 + grey(9)[48:], 422, "a corrupt PNG"),
        (grey(9)[:20], 422, "its head says no size"),
        (b"BM" + bytes(60), 422, "its head says no size"),
        (b"II*\0\x08\0\0\0\xff\xff" + b"\0" * 100, 422, "its head says no size"),
        (b"RIFF\0\0\0\0WEBPVP8X", 422, "its head says no size"),
        (b"GIF89a" + bytes(100), 422, "not an image of a known kind"),
        (bomb(60_000, 60_000), 422, "60000x60000 pixels; expected at most 64 million"),
        (bomb(2**31 - 1, 2**31 - 1), 422, "pixels; expected at most"),
        (bomb(MOST_PIXELS + 1, 1), 422, "64000001x1 pixels"),
        (b"x" * (2**20 + 1), 413, "the body is larger than 1 MiB"),
    ],
)
def test_what_is_no_image_is_refused(service: Service, body: bytes, status: int, line: str) -> None:
    assert line in refused(post(service, INSPECT, body), status)
    assert post(service, INSPECT, grey(10)).status == 200


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hw", [(1, 1), (7, 300), (301, 5)])
def test_the_size_is_known_before_the_pixels(kind: str, hw: tuple[int, int]) -> None:
    data = grey(100, kind, hw)
    assert header_size(data, name="image") == hw
    for end in range(0, 40, 3):  # however little has come, never an error of another kind
        try:
            assert header_size(data[:end], name="image") in (hw, hw)
        except DataError:
            continue


def test_the_size_is_known_in_other_writings_of_the_formats() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (33, 21, 3), dtype=np.uint8)
    progressive = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    lossless = cv2.imencode(".webp", noise, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    with_alpha = cv2.imencode(".webp", np.dstack([noise, noise[..., 0]]), [cv2.IMWRITE_WEBP_QUALITY, 80])[1].tobytes()
    exif = progressive[:2] + b"\xff\xe1\x00\x08Exif\0\0" + b"\xff\xff" + progressive[3:]
    big_endian = struct.pack(">2sHIHHHIHHHHIHHI", b"MM", 42, 8, 2, 256, 3, 1, 21, 0, 257, 3, 1, 33, 0, 0)
    for data in (progressive, lossless, with_alpha, exif, big_endian):
        assert header_size(data, name="image") == (33, 21)


def test_a_large_body_is_refused_before_it_has_come(service: Service) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(2**16)

    async def upload_endlessly() -> Answer:
        pieces, got = endless(), []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": next(pieces), "more_body": True}

        async def send(message: Any) -> None:
            got.append(message)

        scope = {"type": "http", "method": "POST", "path": INSPECT, "raw_path": INSPECT.encode(), "query_string": b""}
        scope |= {"headers": [HOST], "root_path": "", "scheme": "http", "server": ("a", 1), "http_version": "1.1"}
        await service.app(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in got[0]["headers"]}
        return Answer(got[0]["status"], headers, got[1]["body"])

    refused(asyncio.run(upload_endlessly()), 413)
    assert taken == 17, "a limit of 1 MiB is 16 such pieces"
    for length in (b"99999999", b"9" * 400):
        refused(post(service, INSPECT, grey(1), headers=[(b"content-length", length)]), 413)
    assert post(service, INSPECT, grey(1), headers=[(b"content-length", b"-1")]).status == 200  # a server sees to it


def test_a_body_that_does_not_come_gives_its_place_back(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "READ_S", 0.05)
    for _ in range(20):
        assert "did not come" in refused(post(service, INSPECT, grey(1), hang=5.0), 408)
    assert post(service, INSPECT, grey(1)).status == 200


@pytest.mark.parametrize(
    ("body", "kind", "status", "line"),
    [
        (b"x", b"text/html", 415, "content type text/html; expected image/*"),
        (b"x", b"application/json", 415, "content type application/json"),
        (b"x", b"\xff\xfe; a", 415, "content type"),
        (b"x", b"multipart/form-data", 400, "no boundary"),
        (b"x", b"multipart/form-data; boundary=" + b"b" * 71, 400, "longer than 70"),
        (b"x", b"multipart/form-data; boundary=edge", 400, "malformed"),
        (b"--edge\r\n\r\nx", b"multipart/form-data; boundary=edge", 400, "cut short"),
        (b"--edge--\r\n", b"multipart/form-data; boundary=edge", 400, ""),
        (form({"a": grey(1)})[0][:-9], b"multipart/form-data; boundary=edge", 400, "cut short"),
        (form({"a": grey(1), "b": grey(1)})[0], b"multipart/form-data; boundary=edge", 400, "2 images; expected one"),
        (form({f"v{n}": b"" for n in range(65)})[0], b"multipart/form-data; boundary=edge", 400, "more than 64 parts"),
        (form({"a": b""})[0], b"multipart/form-data; boundary=edge", 422, "the file is empty"),
        (b"--edge\r\nX: " + b"y" * 9000 + b"\r\n\r\n\r\n--edge--", b"multipart/form-data; boundary=edge", 400, ""),
        (b"--edge\r\nX: y\r\n\r\nz\r\n--edge--", b"multipart/form-data; boundary=edge", 400, "has no name"),
    ],
)
def test_forms_and_types_that_are_wrong_are_refused(
    service: Service, body: bytes, kind: bytes, status: int, line: str
) -> None:
    assert line in refused(post(service, INSPECT, body, kind=kind), status)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["../../etc/passwd"], "names no frame"),
        (["a/b/c"], "names no frame"),
        ([""], ""),
        (["<script>"], "names no frame"),
        (["top\0"], ""),
        (["top", "top/0"], "view 'top', light '0' has two images"),
    ],
)
def test_names_of_frames_that_are_wrong_are_refused(service: Service, names: list[str], line: str) -> None:
    body, kind = form({name: grey(1) for name in names})
    answer = post(service, PART, body, kind=kind)
    assert line in refused(answer, 415 if names == [""] else 400)


def test_a_part_of_one_bare_body_or_of_doubled_names_is_refused(service: Service) -> None:
    assert "expected multipart/form-data" in refused(post(service, PART, grey(1)), 415)
    body, kind = form({"a": grey(1), "b": grey(1)})
    assert "two parts of the form" in refused(post(service, PART, body.replace(b'"b"', b'"a"'), kind=kind), 400)


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "tile%00", "tile%2f..", "Tile", "%ff", "tile ", "<script>", "a" * 5000, "%0d%0aX:1"]
)
def test_unknown_bundles_and_tricks_in_their_names_are_refused(service: Service, name: str) -> None:
    for path in (f"/v1/bundles/{name}", f"/v1/bundles/{name}/inspect"):
        answer = post(service, path, grey(1), method="POST" if path.endswith("inspect") else "GET")
        refused(answer, 404)


@pytest.mark.parametrize(
    "query", [b"map=nan", b"map=", b"map=png&map=npy", b"threshold=nan", b"%00=1", b"map=NaN", b"x"]
)
def test_parameters_that_do_not_exist_are_refused(service: Service, query: bytes) -> None:
    answer = post(service, INSPECT, grey(1), query=query)
    assert "map" in refused(answer, 400) if query != b"x" else refused(answer, 400)
    refused(post(service, "/v1/bundles", method="GET", query=b"page=1"), 400)


def test_other_methods_and_addresses_are_refused(service: Service) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "BREW"):
        refused(post(service, INSPECT, method=method), 405)
    for path in (
        "/",
        "//",
        "/v1",
        "/v1/bundles/",
        "/v1/bundles/tile/",
        "/v1/bundles/tile/inspect/x",
        "/../../etc/passwd",
    ):
        assert post(service, path, method="GET").status == 404, path


def test_without_its_token_nothing_is_answered(serve: Callable[..., Service]) -> None:
    service = serve(token=TOKEN)
    for headers in (
        [],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer wrong")],
        [(b"authorization", f"Basic {TOKEN}".encode())],
        [(b"authorization", b"Bearer \xff\xfe")],
        [(b"cookie", f"edgead-rest={TOKEN}".encode())],
    ):
        for path in (INSPECT, "/v1/bundles", "/openapi.json", "/nothing"):
            answer = post(service, path, grey(1), headers=headers, method="POST" if path == INSPECT else "GET")
            assert "token is missing or wrong" in refused(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
    bearer = [(b"authorization", f"Bearer {TOKEN}".encode())]
    assert post(service, INSPECT, grey(1), headers=bearer).status == 200


def test_pages_of_other_sites_are_refused(service: Service) -> None:
    refused(post(service, INSPECT, grey(1), headers=[(b"origin", b"http://attacker.example")]), 403)
    foreign = asyncio.run(ask(service.app, "GET", "/v1/bundles", headers=[(b"host", b"attacker.example")]))
    refused(foreign, 403)


def test_when_all_places_are_taken_the_rest_is_told_to_come_again(serve: Callable[..., Service], runner: Gate) -> None:
    service = serve(places=3)
    runner.gate.clear()

    async def crowd() -> list[Answer]:
        first = [asyncio.create_task(ask(service.app, "POST", INSPECT, grey(n), headers=[HOST])) for n in range(3)]
        await asyncio.sleep(0.3)
        late = [await ask(service.app, "POST", INSPECT, grey(1), headers=[HOST]) for _ in range(5)]
        assert not any(task.done() for task in first)
        runner.gate.set()
        return [*late, *await asyncio.gather(*first)]

    answers = asyncio.run(crowd())
    for answer in answers[:5]:
        assert "all places are taken" in refused(answer, 503)
        assert answer.headers["retry-after"] == "1"
    assert [answer.status for answer in answers[5:]] == [200] * 3
    assert post(service, INSPECT, grey(1)).status == 200


def test_what_waits_is_judged_in_batches_and_each_gets_its_own(serve: Callable[..., Service], runner: Gate) -> None:
    service = serve(places=64)
    runner.gate.clear()

    async def crowd() -> list[Answer]:
        tasks = [
            asyncio.create_task(ask(service.app, "POST", INSPECT, grey(10 * n), headers=[HOST])) for n in range(20)
        ]
        await asyncio.sleep(0.5)
        runner.gate.set()
        return list(await asyncio.gather(*tasks))

    scores = [json.loads(answer.body)["score"] for answer in asyncio.run(crowd())]
    assert scores == pytest.approx([10 * n / 255 for n in range(20)], abs=1e-6)
    assert max(runner.batches) == 4


def test_an_engine_that_fails_says_so_and_goes_on(service: Service, runner: Gate) -> None:
    runner.fails = True
    line = refused(post(service, INSPECT, grey(1)), 500)
    assert "the engine failed (RuntimeError)" in line
    assert "secret" not in line
    runner.fails = False
    assert post(service, INSPECT, grey(1)).status == 200


def fuzzed(rng: np.random.Generator, seeds: list[bytes]) -> dict[str, Any]:
    """Make a request that is wrong in one way or in several, or not at all."""

    def pick(*of: Any) -> Any:
        return of[rng.integers(len(of))]

    body = seeds[rng.integers(len(seeds))]
    kind: bytes | None = pick(None, b"image/png", b"application/octet-stream", b"text/plain", rng.bytes(12))
    if rng.random() < 0.4:
        names = [pick("top", "side/1", "../x", "a" * 100, "\u202e", '"', "") for _ in range(rng.integers(1, 5))]
        body, kind = form({name: seeds[rng.integers(len(seeds))] for name in names})
    for _ in range(rng.integers(0, 6)):
        at = int(rng.integers(0, max(len(body), 1)))
        body = pick(
            body[:at],
            body[:at] + rng.bytes(int(rng.integers(1, 9))) + body[at:],
            body[:at] + rng.bytes(4) + body[at + 4 :],
            body[:at] + b"\xff" * 4 + body[at + 4 :],
            body[at:] + body[:at],
            body,
        )
    junk = rng.bytes(int(rng.integers(0, 20))).decode("latin-1").replace("\n", "")
    path = pick(
        INSPECT, INSPECT, INSPECT, PART, PART, "/v1/bundles", f"/v1/bundles/{junk}", f"/{junk}", "/v1/bundles/../x"
    )
    headers = [HOST]
    if kind is not None:
        headers.append((b"content-type", bytes(kind)))
    if rng.random() < 0.2:
        headers.append((pick(b"accept", b"content-length", b"origin", b"cookie", b"authorization"), rng.bytes(10)))
    cut = int(rng.integers(0, len(body) + 1))
    return {
        "method": pick("POST", "POST", "POST", "GET", "PUT"),
        "path": path,
        "body": pick(body, [body[:cut], body[cut:]], [body, b""]),
        "query": pick(b"", b"", b"map=png", b"map=npy", b"map=" + rng.bytes(4), rng.bytes(8)),
        "headers": headers,
    }


def files_below(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def fuzz(service: Service, count: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Ask ``count`` times, mostly nonsense; the answers by status. No answer is an error of this program."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TMPDIR", str(folder))
    rng = np.random.default_rng(7)
    seeds = [grey(int(level), kind, (24, 20)) for level, kind in zip((5, 80, 150, 200, 250), KINDS, strict=True)]
    statuses: dict[int, int] = {}
    before = files_below(folder)

    async def run() -> None:
        for number in range(count):
            asked = fuzzed(rng, seeds)
            answer = await ask(service.app, **asked)
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
            assert answer.status < 500, (number, asked, answer)
            assert b"Traceback" not in answer.body
            if answer.status >= 400:
                refused(answer, answer.status)
            if number == count // 5:
                tracemalloc.start()
            if number == count // 5 + 50:
                warm.append(tracemalloc.get_traced_memory()[0])
        warm.append(tracemalloc.get_traced_memory()[0])

    warm: list[int] = []
    try:
        asyncio.run(run())
    finally:
        tracemalloc.stop()
    assert warm[1] - warm[0] < 2 * 2**20, "memory is flat"
    assert files_below(folder) == before, "nothing is written"
    assert post(service, INSPECT, grey(230)).status == 200
    return statuses


def test_five_hundred_wrong_requests(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = fuzz(service, 500, tmp_path, monkeypatch)
    assert {200, 400, 404, 405, 415, 422} <= set(statuses)


@pytest.mark.slow
def test_ten_thousand_wrong_requests(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(fuzz(service, 10_000, tmp_path, monkeypatch).values()) == 10_000


@pytest.fixture(scope="module")
def run(exported: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "my_part"
    shutil.copytree(exported.path, folder)
    Bundle.open(folder).set_threshold("fp32", THRESHOLD)
    return folder


def test_the_verb_serves_a_bundle_until_it_is_stopped(run: Path, tmp_path: Path) -> None:
    port, token = free_port(), tmp_path / "token"
    token.write_text(TOKEN)
    words = ["serve", str(run), "--port", str(port), "--token-file", str(token), "--threads", "1", "--json"]
    words += ["--max-upload-mib", "1"]
    command = [sys.executable, "-c", "import sys; from edgead.cli import main; sys.exit(main())", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stderr is not None
    try:
        assert process.stderr.readline() == f"serving my_part at http://127.0.0.1:{port}/v1/bundles\n"
        url = f"http://127.0.0.1:{port}/v1/bundles/my_part/inspect"

        def answer(body: bytes, bearer: str = TOKEN) -> tuple[int, dict[str, Any]]:
            asked = urllib.request.Request(
                url, body, {"Authorization": f"Bearer {bearer}", "Content-Type": "image/png"}
            )
            try:
                with urllib.request.urlopen(asked, timeout=30) as got:
                    return got.status, json.loads(got.read())
            except urllib.error.HTTPError as error:
                return error.code, json.loads(error.read())

        def is_up() -> bool:
            try:
                return answer(grey(100))[0] == 200
            except urllib.error.URLError:
                return False

        wait_until(is_up)
        assert answer(grey(100))[1]["verdict"] in ("OK", "UNSURE", "NG")
        assert answer(grey(100), bearer="wrong")[0] == 401
        assert answer(grey(100)[:50])[0] == 422
        with socket.create_connection(("127.0.0.1", port)) as raw:  # what is no HTTP at all
            raw.sendall(b"\x16\x03\x01\x02\x00 garbage\r\n\r\n")
            assert b"400" in raw.recv(1000)
        with socket.create_connection(("127.0.0.1", port)) as raw:  # one that goes in the middle of its body
            raw.sendall(f"POST {INSPECT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc".encode())
        assert answer(grey(100))[0] == 200
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert json.loads(out)["bundles"] == ["my_part"]
    assert json.loads(out)["requests"] >= 3
    assert TOKEN not in out + err
    assert "Traceback" not in err
    assert sorted(os.listdir(tmp_path)) == ["token"], "nothing is written"


def test_the_station_and_the_service_say_the_same(run: Path) -> None:
    """The verdict over HTTP is the one of the library for the same file."""
    from edgead.images import decode_image
    from edgead.runtime.inspector import Inspector
    from edgead.runtime.open import open_runner
    from edgead.web.engines import open_engines

    rng = np.random.default_rng(3)
    data = cv2.imencode(".png", rng.integers(0, 255, (90, 120, 3), dtype=np.uint8))[1].tobytes()
    with open_runner(Bundle.open(run), "fp32", threads=1) as runner:
        (expected,) = Inspector(runner, THRESHOLD).inspect([decode_image(data, name="image")])
    engines = open_engines([run], artefact="fp32", backend=None, threads=1, keep=lambda _close: None)
    service = Service(engines)
    try:
        answer = post(service, "/v1/bundles/my_part/inspect", data)
    finally:
        service._decoders.shutdown()
        engines["my_part"].close()
    said = json.loads(answer.body)
    assert said["score"] == pytest.approx(expected.score, rel=1e-6)
    assert said["verdict"] == expected.verdict.value


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--host", "0.0.0.0"], "host 0.0.0.0 is reached from other machines: name a --token-file"),
        (["--port", "0"], "'0' is no port; expected 1 to 65535"),
        (["--port", "http"], "'http' is no port"),
        (["--max-upload-mib", "0"], "'0' is no size"),
        (["--max-upload-mib", "1e3"], "'1e3' is no size"),
        (["--threads", "-1"], "is no number of threads"),
        (["--artefact", "fp31"], "the bundle has no artefact 'fp31'"),
        (["--artefact", "checkpoint"], "'checkpoint' has no threshold"),
        (["--backend", "onnx"], "there is no backend 'onnx', did you mean 'onnxruntime'?"),
        (["--token-file", "nothing"], "nothing: the token cannot be read (No such file"),
        (["--token", "x"], "unknown flag '--token', did you mean '--token-file'?"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    run: Path, flags: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(run), "--port", str(free_port()), *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert line in err
    assert len(err.splitlines()) == 1


def test_bundles_that_cannot_be_served_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "my_part"
    shutil.copytree(run, other)
    unproven = tmp_path / "unproven"
    shutil.copytree(run, unproven)
    bundle = Bundle.open(unproven)
    shutil.copy(bundle.path / "model.fp32.onnx", tmp_path / "model")
    bundle.add(
        "int8",
        lambda path: path.write_bytes((tmp_path / "model").read_bytes()),
        kind="onnx",
        precision="int8",
        made_from="fp32",
        tools={},
    )
    bundle.set_threshold("int8", THRESHOLD)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words, line in (
            ([str(run), str(other)], "two bundles are called 'my_part'; rename one of the folders"),
            ([str(tmp_path / "nothing")], "nothing"),
            (
                [str(unproven), "--artefact", "int8"],
                "has not been held against its checkpoint; prove it: edgead parity",
            ),
            ([str(run), "--port", port], f"127.0.0.1:{port} cannot be listened on"),
        ):
            port_flag = [] if "--port" in words else ["--port", str(free_port())]
            assert main(["serve", *words, *port_flag]) == 2
            out, err = capsys.readouterr()
            assert (out, len(err.splitlines())) == ("", 1)
            assert line in err
