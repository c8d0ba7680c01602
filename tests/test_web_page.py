"""The page's process and application without a browser: what it sends, to whom, and what it refuses."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import fnmatch
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from asgi_client import ask
from outputs_bench import free_port, wait_until
from web_bench import COLOURS, SIZE, TOKEN, Station, event, fill, layout_of, numbers_of, stage, station

pytest.importorskip("fastapi", reason="the page needs fastapi: pip install '.[page]'")
httpx = pytest.importorskip("httpx")
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402
from websockets.sync.client import ClientConnection, connect  # noqa: E402

from edgead.config import load_station  # noqa: E402
from edgead.errors import ConfigError  # noqa: E402
from edgead.runtime.board import Board, Numbers  # noqa: E402
from edgead.web.guard import HEADERS, Sessions  # noqa: E402
from edgead.web.snapshot import Snapshots, Viewer  # noqa: E402
from edgead.web.window import Window, spread  # noqa: E402
from edgead.web_config import PageConfig, is_loopback, read_token  # noqa: E402

ROOT = Path(__file__).parents[1]


def unpack(message: bytes | str) -> tuple[dict[str, Any], list[bytes]]:
    """Take a message apart, independently of the code: JSON, and its pictures."""
    assert isinstance(message, bytes)
    length = int.from_bytes(message[:4], "big")
    said, rest = json.loads(message[4 : 4 + length]), message[4 + length :]
    pictures = []
    for tile in said["tiles"]:
        for size in (tile["image"], tile["heat"]):
            pictures.append(rest[:size])
            rest = rest[size:]
    assert rest == b""
    return said, pictures


def socket_of(url: str, **headers: str) -> ClientConnection:
    return connect(url.replace("http", "ws", 1) + "/ws", additional_headers=headers, max_size=None)


@pytest.fixture(scope="module")
def open_page() -> Iterator[Station]:
    with station(free_port()) as made:
        yield made


@pytest.fixture(scope="module")
def closed_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(TOKEN + "\nsecond line\n")
    with station(free_port(), token_file=str(path)) as made:
        yield made


def test_a_browser_gets_layout_tiles_and_verdicts_once_and_then_only_news() -> None:
    board = Board.create(layout_of())
    fill(board)
    board.tell([event(number) for number in range(300)])
    board.count(numbers_of())
    shown, viewer = Snapshots(board, board.layout), Viewer()
    shown.look()
    said, pictures = unpack(shown.message(viewer))
    assert said["layout"]["station"] == "line-1"
    assert [verdict["trigger"] for verdict in said["verdicts"]] == list(range(44, 300))
    assert [tile["slot"] for tile in said["tiles"]] == [0, 1, 2, 3]
    for picture, colour in zip(pictures[::2], COLOURS, strict=True):
        pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert pixels.shape == (SIZE, SIZE, 3)
        assert np.abs(pixels[4:-4, 4:-4].astype(int) - colour).max() < 8
    heat = cv2.imdecode(np.frombuffer(pictures[1], np.uint8), cv2.IMREAD_UNCHANGED)
    assert heat[SIZE // 4, SIZE // 4, 3] > 150, "the hot spot is drawn"
    assert heat[-4, -4, 3] == 0, "elsewhere the image is clear"
    assert not shown.is_news(viewer)
    said, pictures = unpack(shown.message(viewer))
    assert (said["layout"], said["verdicts"], said["tiles"], pictures) == (None, [], [], [])
    board.tell([event(300, "NG")])
    board.show(2, *tile_of(), trigger=300, score=0.2, captured_s=1.0)
    shown.look()
    assert shown.is_news(viewer)
    said, pictures = unpack(shown.message(viewer))
    assert [tile["slot"] for tile in said["tiles"]] == [2]
    assert [verdict["trigger"] for verdict in said["verdicts"]] == [300]
    board.close()


def tile_of() -> tuple[Any, Any]:
    return np.zeros((SIZE, SIZE, 3), np.uint8), np.full((SIZE, SIZE), np.nan, np.float32)


def test_numbers_that_json_has_no_word_for_become_null() -> None:
    board = Board.create(layout_of())
    board.show(0, *tile_of(), trigger=0, score=float("nan"), captured_s=0.0)
    board.count(numbers_of(busy={"engine": float("inf")}))
    said, _ = unpack(Snapshots(board, board.layout).message(Viewer()))
    assert said["tiles"][0]["score"] is None
    assert said["numbers"]["busy"] == {"engine": None}
    board.close()


def test_the_heartbeat_is_watched_by_a_clock_that_does_not_jump() -> None:
    window = Window()
    beat = numbers_of(beat_s=1_000_000.0)
    window.note(beat, 10.0, 1_000_000.5)
    assert window.beat_age_s(10.0) == pytest.approx(0.5), "at first the wall clock is all there is"
    window.note(replace(beat, beat_s=999_000.0), 11.0, 999_000.0)  # the wall clock was set back, the heart beats
    assert window.beat_age_s(11.2) == pytest.approx(0.2)
    window.note(replace(beat, beat_s=999_000.0), 15.0, 999_004.0)
    assert window.beat_age_s(15.0) == pytest.approx(4.0)
    fresh = Window()
    fresh.note(Numbers(), 5.0, 1_000_000.0)  # a station that is just starting is not dead
    assert fresh.beat_age_s(5.5) == pytest.approx(0.5)


def test_rates_and_percentiles_are_those_of_the_last_while() -> None:
    window, seconds = Window(), np.random.default_rng(0).lognormal(-4, 0.4, 2000)
    slow = stage([1.0] * 100)
    both = stage([*([1.0] * 100), *seconds])
    before = numbers_of(frames=0, counts={"OK": 0}, stages={"engine": slow})
    now = numbers_of(frames=500, counts={"OK": 250}, stages={"engine": both})
    window.note(before, 0.0, 0.0)
    window.note(now, 5.0, 5.0)
    assert window.rates(now, 5.0) == {"frames": 100.0, "parts": 50.0}
    (row,) = window.stages(now, 5.0)
    for name, share in {"p50": 50, "p95": 95, "p99": 99, "p999": 99.9}.items():
        assert row[name] == pytest.approx(1e3 * np.percentile(seconds, share), rel=0.06), name
    assert row["mean"] == pytest.approx(1e3 * seconds.mean(), rel=1e-3)
    assert spread(slow, slow) is None
    # A minute without anything: what there was before.
    later = Window()
    later.note(now, 0.0, 0.0)
    assert later.stages(now, 1.0)[0]["n"] == 2100


def test_a_page_sends_the_newest_and_waits_for_the_browser(open_page: Station) -> None:
    with socket_of(open_page.url) as slow, socket_of(open_page.url) as quick:
        for client in (slow, quick):
            said, _ = unpack(client.recv(10))
            assert said["numbers"]["unaccounted"] == 0
            assert said["numbers"]["open"] == 2
        quick.send("a")
        begin_s = time.monotonic()
        for _ in range(4):  # without news too: a browser must know that the server lives
            unpack(quick.recv(10))
            quick.send("a")
        assert time.monotonic() - begin_s > 0.9, "not faster than it must"
        open_page.board.tell([event(number, "NG") for number in range(20)])
        with pytest.raises(TimeoutError):
            slow.recv(0.5)  # it has not said that it has drawn: nothing is sent, and nothing piles up
        slow.send("a")
        said, _ = unpack(slow.recv(10))
        assert len(said["verdicts"]) == 20
        with pytest.raises(TimeoutError):
            slow.recv(0.5)


def test_at_most_ten_messages_a_second(open_page: Station) -> None:
    over = threading.Event()

    def show() -> None:
        while not over.wait(0.01):
            fill(open_page.board)

    thread = threading.Thread(target=show)
    thread.start()
    try:
        with socket_of(open_page.url) as client:
            count, begin_s = 0, time.monotonic()
            while time.monotonic() - begin_s < 2:
                client.recv(10)
                client.send("a")
                count += 1
        assert 4 <= count <= 22
    finally:
        over.set()
        thread.join()


def test_a_crowd_is_refused_with_one_line() -> None:
    with station(free_port(), viewers=3) as made, ExitStack() as stack:
        clients = [stack.enter_context(socket_of(made.url)) for _ in range(3)]
        for client in clients:
            client.recv(10)
        with socket_of(made.url) as late, pytest.raises(ConnectionClosed) as refused:
            late.recv(10)
        assert refused.value.rcvd is not None
        assert refused.value.rcvd.code == 1013
        assert refused.value.rcvd.reason == "3 browsers look at this page already; close one of them"
        clients.pop().close()

        def is_let_in() -> bool:
            with socket_of(made.url) as client:
                try:
                    return bool(client.recv(10))
                except ConnectionClosed:
                    return False

        wait_until(is_let_in)


def test_without_a_token_only_this_machine_s_own_names_are_answered(open_page: Station) -> None:
    port = open_page.page["port"]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "[::1]:80"):
        assert httpx.get(open_page.url, headers={"Host": host}).status_code == 200
    for host in ("attacker.example", f"attacker.example:{port}", "", "127.0.0.1.attacker.example", "10.0.0.7"):
        answer = httpx.get(open_page.url, headers={"Host": host})
        assert answer.status_code == 403, host
        assert len(answer.text.splitlines()) == 1
        assert "attacker" not in answer.text


@pytest.mark.parametrize("origin", ["http://attacker.example", "null", "http://127.0.0.1", "http://[", "file://"])
def test_other_sites_get_no_socket(open_page: Station, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        socket_of(open_page.url, Origin=origin)
    assert refused.value.response.status_code == 403
    with socket_of(open_page.url, Origin=open_page.url) as client:
        unpack(client.recv(10))


def test_a_page_with_a_token_shows_nothing_without_it(closed_page: Station) -> None:
    url = closed_page.url
    for path in ("/", "/page.js", "/drawing.js", "/metrics", "/nothing"):
        answer = httpx.get(url + path)
        assert answer.status_code in (303, 401), path
        assert "line-1" not in answer.text
    assert httpx.get(url).headers["location"] == "/login"
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}, {"Cookie": "x=1; y"}):
        with pytest.raises(InvalidStatus) as refused:
            socket_of(url, **headers)
        assert refused.value.response.status_code == 403
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert "edgead_parts_total" in httpx.get(url + "/metrics", headers=bearer).text
    with socket_of(url, **bearer) as client:
        unpack(client.recv(10))


def test_the_token_is_exchanged_for_a_cookie_once(closed_page: Station) -> None:
    with httpx.Client(base_url=closed_page.url) as browser:
        for token in ("", TOKEN + "x", "ä" * 20):
            answer = browser.post("/login", data={"token": token})
            assert (answer.status_code, answer.headers["location"]) == (303, "/login#wrong")
        assert browser.post("/login", content=b"\xff\x00" * 9000).headers["location"] == "/login#wrong"
        assert browser.get("/page.js").status_code == 401
        answer = browser.post("/login", data={"token": TOKEN}, headers={"Origin": closed_page.url})
        assert answer.headers["location"] == "/"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert TOKEN not in cookie
        assert browser.get("/page.js").status_code == 200
        assert browser.post("/login", headers={"Origin": "http://attacker.example"}).status_code == 403


def test_a_cookie_holds_for_one_token_and_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(TOKEN, "edgead-8080")
    value = sessions.cookie()
    assert sessions.is_valid(f"a=1; edgead-8080={value}; b=2")
    assert Sessions(TOKEN, "edgead-8080").is_valid(f"edgead-8080={value}"), "it outlives a restart of the page"
    assert not Sessions(TOKEN + "2", "edgead-8080").is_valid(f"edgead-8080={value}")
    assert not sessions.is_valid(f"edgead-8081={value}")
    until, _, signature = value.partition(".")
    for forged in (f"{int(until) + 1}.{signature}", f"{until}.", until, "", ".", f"-1.{signature}", f"²³.{signature}"):
        assert not sessions.is_valid(f"edgead-8080={forged}"), forged
    later = time.time() + 31 * 24 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    assert not sessions.is_valid(f"edgead-8080={value}")


def test_every_answer_tells_browsers_what_not_to_do(open_page: Station, closed_page: Station) -> None:
    for page in (open_page, closed_page):
        for path in ("/", "/page.js", "/login", "/metrics", "/nothing"):
            headers = httpx.get(page.url + path).headers
            for name, value in HEADERS.items():
                assert headers[name] == value, (path, name)
            assert "server" not in headers
    assert "unsafe" not in HEADERS["content-security-policy"]


def test_the_page_needs_nothing_from_elsewhere() -> None:
    for path in sorted((ROOT / "edgead" / "web").glob("*.*")):
        if path.suffix in (".html", ".js", ".css"):
            text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
            assert "http://" not in text, path
            assert "https://" not in text, path
            assert " style=" not in text, "the security policy forbids inline styles"
            assert "innerHTML" not in text, "names from outside are text"


def test_nothing_can_be_changed_by_the_page(open_page: Station) -> None:
    for path in ("/", "/ws", "/page.js", "/metrics", "/verdicts"):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert httpx.request(method, open_page.url + path).status_code in (404, 405), (method, path)
    for path in (
        "/../page.py",
        "/%2e%2e/page.py",
        "/page.py",
        "/..%2fguard.py",
        "/page.js%00",
        "/docs",
        "/openapi.json",
    ):
        assert httpx.get(open_page.url + path).status_code == 404, path


@pytest.mark.parametrize("said", ["x" * 5000, b"\x00" * 5000, "", b"\xff", "a" * 100, "{}"])
def test_whatever_a_browser_says_the_page_stays_up(open_page: Station, said: str | bytes) -> None:
    with socket_of(open_page.url) as client:
        client.recv(10)
        with contextlib.suppress(ConnectionClosed):
            client.send(said)
            client.recv(2)
    assert httpx.get(open_page.url).status_code == 200
    with socket_of(open_page.url) as client:
        unpack(client.recv(10))


def test_two_thousand_wrong_requests() -> None:
    """Whatever is asked, nothing but what the page has is answered, with and without a token."""
    from edgead.web.page import Page

    rng, board = np.random.default_rng(5), Board.create(layout_of())
    fill(board)
    board.count(numbers_of())
    known = ["/", "/page.js", "/drawing.js", "/page.css", "/login", "/login.js", "/metrics", "/ws"]

    def request() -> dict[str, Any]:
        path = known[rng.integers(len(known))]
        if rng.random() < 0.5:
            at, junk = int(rng.integers(len(path) + 1)), rng.bytes(int(rng.integers(1, 9))).decode("latin-1")
            path = path[:at] + ["%2e%2e/", "../", "//", "%00", junk][rng.integers(5)] + path[at:]
        headers = [(b"host", b"127.0.0.1:8080" if rng.random() < 0.8 else rng.bytes(12))]
        for name in (b"cookie", b"authorization", b"origin", b"content-length", b"upgrade"):
            if rng.random() < 0.2:
                word = [rng.bytes(20), b"Bearer " + rng.bytes(8), b"edgead-8080=9999999999.x"][rng.integers(3)]
                headers.append((name, word))
        method = ["GET", "GET", "POST", "HEAD", "OPTIONS", "PUT", "XYZ"][rng.integers(7)]
        query = [b"", b"", rng.bytes(6), b"token=x"][rng.integers(4)]
        return {"method": method, "path": path, "body": rng.bytes(50), "query": query, "headers": headers}

    async def run(token: str | None) -> set[int]:
        page = Page(board, board.layout, token=token)
        page.snapshots.look()
        answers = []
        for _ in range(1000):
            asked = request()
            if asked["path"] == "/login" and asked["method"] == "POST":
                continue  # waits on purpose
            answers.append(await ask(page.app, **asked))
            assert answers[-1].status < 500, asked
            assert b"Traceback" not in answers[-1].body
            if token is not None:
                assert b"line-1" not in answers[-1].body
        return {answer.status for answer in answers}

    assert {200, 400, 403, 404, 405} <= asyncio.run(run(None))
    assert {200, 303, 400, 401, 403} <= asyncio.run(run(TOKEN))
    board.close()


def test_the_page_ends_with_its_station_and_says_so() -> None:
    with station(free_port()) as made, socket_of(made.url) as client:
        client.recv(10)
        assert made.process is not None
        os.kill(made.process.pid, signal.SIGINT)
        os.kill(made.process.pid, signal.SIGTERM)
        client.send("a")
        assert unpack(client.recv(10))[0]["numbers"]["ended"] is None
        made.beats = False
        assert made.process.stdin is not None
        made.process.stdin.close()
        said = []
        with suppress(ConnectionClosed):
            while True:
                client.send("a")
                said.append(unpack(client.recv(10))[0]["numbers"]["ended"])
        assert said[-1] == "died", "it went without a word"
        assert made.process.wait(10) == 0
    with station(free_port()) as made, socket_of(made.url) as client:
        client.recv(10)
        made.shown = replace(made.shown, ended=True)
        time.sleep(0.5)
        client.send("a")
        assert unpack(client.recv(10))[0]["numbers"]["ended"] == "ended"


def test_a_port_that_is_taken_is_one_line_and_code_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        board = Board.create(layout_of())
        task = {"fd": board.fd, "layout": board.layout.model_dump(), "page": {"port": port}}
        done = subprocess.run(
            [sys.executable, "-m", "edgead.web.process"],
            input=json.dumps(task).encode() + b"\n",
            capture_output=True,
            pass_fds=(board.fd,),
            timeout=60,
        )
        board.close()
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line == f"page: 127.0.0.1:{port} cannot be listened on (Address already in use); take another port"


@pytest.mark.parametrize(
    ("page", "wrong"),
    [
        ("{host: 0.0.0.0}", "host 0.0.0.0 is reached from other machines: name a token_file, or take 127.0.0.1"),
        ("{host: '::'}", "name a token_file"),
        ("{host: station.example}", "name a token_file"),
        ("{port: 0}", "page.port"),
        ("{port: many}", "page.port"),
        ("{viewers: 0}", "page.viewers"),
        ("{tokenfile: secret}", "did you mean 'token_file'?"),
        ("{host: 'a b'}", "page.host"),
    ],
)
def test_a_wrong_page_section_is_one_line(tmp_path: Path, page: str, wrong: str) -> None:
    path = tmp_path / "station.yaml"
    path.write_text(f"bundle: b\noutput: out\ncameras: [{{name: a, uri: 'sim://ceramic_tile'}}]\npage: {page}\n")
    with pytest.raises(ConfigError) as error:
        load_station(path)
    assert wrong in str(error.value)
    assert "\n" not in str(error.value)


def test_a_token_counts_from_the_station_s_folder_and_has_to_be_long(tmp_path: Path) -> None:
    path = tmp_path / "station.yaml"
    path.write_text(
        "bundle: b\noutput: out\ncameras: [{name: a, uri: 'sim://ceramic_tile'}]\n"
        "page: {host: 0.0.0.0, token_file: secret}\n"
    )
    page = load_station(path).page
    assert page is not None
    with pytest.raises(ConfigError, match=r"secret: the token cannot be read \(No such file"):
        page.token()
    for text in (b"", b"\n" + TOKEN.encode(), b"short", "ä".encode() * 20, b"\xff" * 20, b"x" * 513, b"a b\x07" * 9):
        (tmp_path / "secret").write_bytes(text)
        with pytest.raises(ConfigError) as error:
            page.token()
        assert "\n" not in str(error.value)
    (tmp_path / "secret").write_text(f"  {TOKEN} \nmore\n")
    assert page.token() == TOKEN == read_token(tmp_path / "secret")
    assert PageConfig().token() is None


def test_loopback_is_known_in_all_its_spellings() -> None:
    assert all(map(is_loopback, ("localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.example.org", "")))


def test_a_station_never_imports_what_serves_its_page() -> None:
    code = (
        "import sys, edgead.config, edgead.web_config, edgead.runtime.station, edgead.runtime.board\n"
        "print(sorted({'fastapi', 'starlette', 'uvicorn', 'prometheus_client', 'edgead.web'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
    for path in sorted((ROOT / "edgead" / "web").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            assert not (module or "").startswith(("export", "benchmarks", "edgead.cfrg", "edgead.cli")), path


def test_the_wheel_takes_the_files_of_the_page() -> None:
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    patterns = [*packed.get("*", ()), *packed.get("edgead.web", ())]
    others = [path.name for path in (ROOT / "edgead" / "web").iterdir() if path.is_file() and path.suffix != ".py"]
    assert len(others) >= 6
    assert [name for name in others if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []
