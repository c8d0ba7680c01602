from __future__ import annotations

import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from outputs_bench import EXAMPLE, free_port, run, station, verdicts, wait_until

client_of = pytest.importorskip("pymodbus.client", reason="pymodbus is not installed: pip install '.[modbus]'")
from pymodbus.exceptions import ConnectionException  # noqa: E402

from edgead.runtime.events import Event  # noqa: E402
from edgead.runtime.outputs.feed import Feed  # noqa: E402

CODES = {"OK": 1, "UNSURE": 2, "NG": 3, "INCOMPLETE": 4, "MISSED": 5, "REJECTED": 6}  # as docs/modbus.md has them


class Controller(threading.Thread):
    """A controller that takes results by the handshake of docs/modbus.md, until it has ``wanted``."""

    def __init__(self, port: int, wanted: int) -> None:
        super().__init__(daemon=True)
        self.port, self.wanted = port, wanted
        self.results: list[dict[str, Any]] = []
        self.toggles: list[bool] = []
        self.was_missed = self.is_missed_cleared = False

    def run(self) -> None:
        try:
            self.take()
        except (ConnectionException, OSError):  # the station may end while the last handshake does
            if len(self.results) < self.wanted:
                raise

    def take(self) -> None:
        client = client_of.ModbusTcpClient("127.0.0.1", port=self.port, timeout=1)
        while len(self.results) < self.wanted:
            if not client.connected and not client.connect():
                time.sleep(0.05)
                continue
            status = client.read_holding_registers(16).registers[0]
            if not status & 8:
                continue
            self.toggles.append(bool(status & 4))
            self.was_missed |= bool(status & 2)
            self.results.append(decode(client.read_holding_registers(17, count=31).registers))
            client.write_register(0, 1)
            assert not client.read_holding_registers(16).registers[0] & 8
            client.write_register(0, 2)
            self.is_missed_cleared |= not client.read_holding_registers(16).registers[0] & 2
            client.write_register(0, 0)
        client.close()


def decode(words: list[int]) -> dict[str, Any]:
    packed = struct.pack(">31H", *words)
    sequence, trigger, verdict, has_score, score, unsure, ng, latency_ms = struct.unpack(">IIHHfffI", packed[:28])
    (length,) = struct.unpack(">H", packed[28:30])
    return {
        "sequence": sequence,
        "trigger": trigger,
        "verdict": verdict,
        "score": score if has_score else None,
        "thresholds": (unsure, ng),
        "latency_ms": latency_ms,
        "part": packed[30 : 30 + length].decode(),
    }


def test_a_controller_takes_each_result_once_and_in_order(tmp_path: Path) -> None:
    port = free_port()
    controller = Controller(port, 40)
    controller.start()
    query = "&lost_share=0.3&seed=2"
    config = station(
        tmp_path,
        [{"modbus": {"port": port}}],
        parts=40,
        query=query,
        takt_ms=3,
        parts_in_flight=64,
        outbox={"drain_s": 20},
    )
    report = run(config)
    controller.join(5)
    decided = sorted(verdicts(tmp_path).values(), key=lambda event: event["trigger"])
    assert [result["sequence"] for result in controller.results] == list(range(1, 41))
    taken = sorted(controller.results, key=lambda result: result["trigger"])
    for event, result in zip(decided, taken, strict=True):
        assert (result["trigger"], result["verdict"]) == (event["trigger"], CODES[event["verdict"]])
        assert result["part"] == (event["part"] or "")
        assert result["score"] == (None if event["score"] is None else pytest.approx(event["score"], rel=1e-6))
        assert result["thresholds"] == (0.5, 0.75)
        assert abs(result["latency_ms"] - event["latency_ms"]) <= 1
    assert report.verdicts["MISSED"] > 0
    assert controller.was_missed
    assert controller.is_missed_cleared
    assert all(before != after for before, after in zip(controller.toggles, controller.toggles[1:], strict=False))
    (output,) = report.outputs
    assert (output.name, output.delivered, output.pending, output.errors) == ("modbus", 40, 0, 0)


def test_a_result_that_is_not_acknowledged_stays_and_comes_again_next_time(tmp_path: Path) -> None:
    port = free_port()
    outputs = [{"modbus": {"port": port}}]
    (output,) = run(station(tmp_path, outputs, parts=5, outbox={"drain_s": 0.3})).outputs
    assert (output.delivered, output.pending) == (0, 5)
    controller = Controller(port, 6)
    controller.start()
    (output,) = run(station(tmp_path, outputs, parts=1)).outputs
    controller.join(5)
    assert (output.delivered, output.pending) == (6, 0)
    assert [result["trigger"] for result in controller.results] == [0, 1, 2, 3, 4, 0]


def test_trigger_ready_follows_the_room_of_the_station_and_its_end(tmp_path: Path) -> None:
    port = free_port()
    feed = Feed(station(tmp_path, [{"modbus": {"port": port}}], outbox={"drain_s": 2}))
    client = client_of.ModbusTcpClient("127.0.0.1", port=port, timeout=5)

    def is_ready() -> bool:
        return bool(client.read_holding_registers(16).registers[0] & 1)

    try:
        wait_until(client.connect)
        wait_until(is_ready)
        feed.show_room(False)
        wait_until(lambda: not is_ready())
        os.kill(feed._process.pid, signal.SIGKILL)  # the process that is started in its place knows it too
        feed._process.wait()
        time.sleep(1.1)
        feed.write([Event("e-1", " ".join(EXAMPLE.splitlines()))])
        client.close()
        wait_until(client.connect)
        wait_until(lambda: client.read_holding_registers(16).registers[0] & 8)
        wait_until(lambda: not is_ready())
        feed.show_room(True)
        wait_until(is_ready)
        closing = threading.Thread(target=feed.close)
        closing.start()  # it waits for somebody to acknowledge the result
        wait_until(lambda: not is_ready())
        closing.join(20)
        assert not closing.is_alive()
    finally:
        feed.close()
        client.close()


@pytest.mark.parametrize("verdict", CODES)
def test_only_missed_and_rejected_parts_are_missed_acquisitions(tmp_path: Path, verdict: str) -> None:
    port = free_port()
    feed = Feed(station(tmp_path, [{"modbus": {"port": port}}], outbox={"drain_s": 0}))
    client = client_of.ModbusTcpClient("127.0.0.1", port=port, timeout=5)
    try:
        fields = {**json.loads(EXAMPLE), "verdict": verdict}
        feed.write([Event(fields["event_id"], json.dumps(fields))])
        wait_until(client.connect)
        wait_until(lambda: client.read_holding_registers(16).registers[0] & 8)
        is_missed = verdict in ("MISSED", "REJECTED")
        assert bool(client.read_holding_registers(16).registers[0] & 2) == is_missed
        assert client.read_holding_registers(21).registers[0] == CODES[verdict]
        client.write_register(0, 2)
        assert not client.read_holding_registers(16).registers[0] & 2
    finally:
        feed.close()
        client.close()


@contextmanager
def running(tmp_path: Path, port: int) -> Iterator[None]:
    config = station(tmp_path, [{"modbus": {"port": port}}], parts=120, query="&rate=50", outbox={"drain_s": 0})
    thread = threading.Thread(target=run, args=(config,), daemon=True)
    thread.start()
    yield
    thread.join(20)
    assert not thread.is_alive()


def test_wrong_addresses_functions_and_noise_are_refused_and_the_server_stays(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path, port):
        client = client_of.ModbusTcpClient("127.0.0.1", port=port, timeout=1)
        wait_until(client.connect)
        wait_until(lambda: client.read_holding_registers(16).registers[0] & 8)
        before = client.read_holding_registers(16, count=32).registers
        assert client.read_holding_registers(40, count=20).isError()
        assert client.write_registers(15, [1, 1]).isError()  # beyond the control words
        assert client.write_register(17, 5).isError()
        assert client.write_coil(0, True).isError()
        client.close()
        for noise in (b"\0" * 300, b"GET / HTTP/1.0\r\n\r\n", b"\0\1\0\0\0\6\1\x2b\0\0\0\1", b"\0\1\0\0\xff\xff\1\3"):
            with socket.create_connection(("127.0.0.1", port), 1) as raw:
                raw.sendall(noise)
        assert client.connect()
        assert client.read_holding_registers(16, count=32).registers == before  # the first result still waits
        client.close()


def test_a_port_that_is_taken_is_said_and_taken_when_it_is_free(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        config = station(tmp_path, [{"modbus": {"port": other.getsockname()[1]}}], parts=5, outbox={"drain_s": 0.5})
        (output,) = run(config).outputs
    assert (output.delivered, output.pending) == (0, 5)
    assert "cannot listen" in output.last_error
