from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from outputs_bench import EXAMPLE, free_port, run, station, verdicts

from edgead.runtime.events import Event
from edgead.runtime.outputs.feed import Feed

Answer = Callable[[int, str], int]  # number of the request and idempotency key to a status; 0 breaks the connection


@contextmanager
def server(answer: Answer) -> Iterator[tuple[str, list[tuple[str, Any, str | None]]]]:
    """A real HTTP server that takes events when ``answer`` says 200; gives its URL and what was taken."""
    taken: list[tuple[str, Any, str | None]] = []
    seen = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer takes 40 ms

        def do_POST(self) -> None:
            nonlocal seen
            body = self.rfile.read(int(self.headers["Content-Length"]))
            key, seen = self.headers["Idempotency-Key"], seen + 1
            status = answer(seen, key)
            if status in (0, 200):
                taken.append((key, json.loads(body), self.headers["Authorization"]))
            if status == 0:  # taken, but the answer never comes
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"why\r\n")

        def log_message(self, *_: object) -> None:
            pass

    host = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{host.server_port}/hook?line=3", taken
    finally:
        host.shutdown()
        host.server_close()


def hook(url: str, **values: Any) -> list[dict[str, Any]]:
    return [{"webhook": {"url": url, "timeout_s": 1, "retry_s": 0.05, **values}}]


def test_events_arrive_in_order_with_their_ids_and_the_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    with server(lambda _seen, _key: 200) as (url, taken):
        report = run(station(tmp_path, hook(url, token_file=tmp_path / "token"), parts=60))
    assert [event["sequence"] for _, event, _ in taken] == list(range(1, 61))
    assert all(key == event["event_id"] for key, event, _ in taken)
    assert {key for key, _, _ in taken} == verdicts(tmp_path).keys()
    assert {token for *_, token in taken} == {"Bearer abc"}
    (output,) = report.outputs
    assert (output.name, output.delivered, output.pending, output.errors) == ("webhook", 60, 0, 0)


def test_any_name_of_a_part_arrives(tmp_path: Path) -> None:
    names = ["../../x", "a\0b", "\r\nX-Header: 1", "\ud800", "x" * 100_000, "Prüfling ⚙", None]
    fields = json.loads(EXAMPLE)
    made = [
        Event(f"e-{number}", json.dumps({**fields, "event_id": f"e-{number}", "part": name}))
        for number, name in enumerate(names)
    ]
    with server(lambda _seen, _key: 200) as (url, taken):
        feed = Feed(station(tmp_path, hook(url)))
        feed.write(made)
        feed.close()
    assert [event["part"] for _, event, _ in taken] == names
    assert feed.reports()[0].errors == 0


def test_a_server_that_fails_now_and_then_loses_nothing(tmp_path: Path) -> None:
    failures = {2: 500, 5: 0, 9: 503, 14: 429, 20: 302, 21: 401, 33: 0, 40: 409}
    with server(lambda seen, _key: failures.get(seen, 200)) as (url, taken):
        report = run(station(tmp_path, hook(url), parts=60, outbox={"drain_s": 20}))
    events = {key: event for key, event, _ in taken}
    known = verdicts(tmp_path).keys() - events.keys()
    assert len(known) == 1  # the one that the server said it knows (409) counts as delivered
    assert len(taken) == 59 + 2  # the two whose answers broke off came twice
    assert all(events[key] == event for key, event, _ in taken)
    (output,) = report.outputs
    assert (output.delivered, output.pending, output.refused, output.errors) == (60, 0, 0, 7)


def test_an_event_that_the_server_refuses_for_good_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    with server(lambda _seen, key: 422 if key.endswith("-3") else 200) as (url, taken):
        (output,) = run(station(tmp_path, hook(url), parts=20)).outputs
    assert len(taken) == 19
    assert (output.delivered, output.refused, output.pending, output.errors) == (19, 1, 0, 1)
    assert "-3 refused: HTTP 422 Unprocessable" in output.last_error


def test_a_slow_server_does_not_slow_the_inspection(tmp_path: Path) -> None:
    def slow(_seen: int, _key: str) -> int:
        time.sleep(0.5)
        return 200

    with server(slow) as (url, _):
        report = run(station(tmp_path, hook(url), parts=100, outbox={"drain_s": 0.5}))
    assert report.wall_s < 25  # one after the other they would take 50 s
    (output,) = report.outputs
    assert output.delivered + output.pending == 100
    assert output.pending > 20


def test_nobody_at_the_address_is_said_in_one_line(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/"
    (output,) = run(station(tmp_path, hook(url), parts=10, outbox={"drain_s": 0.5})).outputs
    assert (output.delivered, output.pending) == (0, 10)
    assert "Connection refused" in output.last_error


def test_two_outputs_are_independent(tmp_path: Path) -> None:
    dead = f"http://127.0.0.1:{free_port()}/"
    with server(lambda _seen, _key: 200) as (url, taken):
        outputs = [{"name": "mes", **hook(url)[0]}, {"name": "cloud", **hook(dead)[0]}]
        report = run(station(tmp_path, outputs, parts=30, outbox={"drain_s": 0.5}))
    assert len(taken) == 30
    assert [(one.name, one.delivered, one.pending) for one in report.outputs] == [("mes", 30, 0), ("cloud", 0, 30)]


@pytest.mark.parametrize("url", ["ftp://host/", "http://", "http://user:word@host/", "http://h:x/", "http://h/ x"])
def test_a_malformed_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match=r"http:// or https://"):
        station(tmp_path, hook(url))
