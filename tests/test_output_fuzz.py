"""Malformed messages against every output that listens, and from a hostile broker to the one that does not."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from outputs_bench import EXAMPLE, free_port, station, wait_until

from edgead.output_config import MqttConfig
from edgead.runtime.events import Event
from edgead.runtime.outputs.feed import Feed
from edgead.runtime.outputs.sender import Parcel

FEW = 300
MANY = pytest.param(10_000, marks=pytest.mark.slow)
GROWTH_MIB = 40


@contextmanager
def feeding(folder: Path, outputs: list[dict[str, Any]]) -> Iterator[Feed]:
    feed = Feed(station(folder, outputs, name="press", outbox={"drain_s": 0}))
    feed.write([Event(f"{'a' * 12}-0", " ".join(EXAMPLE.splitlines()))])
    try:
        yield feed
    finally:
        feed.close()


def resident_mib(process: int | str) -> float:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 / 2**20


def files_of(feed: Feed) -> int:
    return len(list(Path(f"/proc/{feed._process.pid}/fd").iterdir()))


def mangled(valid: list[bytes], chance: random.Random) -> bytes:
    """Return noise, or a valid message with something wrong in it."""
    message = bytearray(chance.choice(valid))
    match chance.randrange(7):
        case 0:
            return chance.randbytes(chance.randrange(1, 300))
        case 1:
            return bytes(message[: chance.randrange(len(message))])
        case 2:
            for _ in range(chance.randrange(1, 6)):
                message[chance.randrange(len(message))] ^= 1 << chance.randrange(8)
        case 3:
            at = chance.randrange(len(message))
            message[at : at + 4] = chance.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"])
        case 4:
            at = chance.randrange(len(message))
            message[at:at] = chance.randbytes(chance.randrange(1, 50))
        case 5:
            message += chance.choice(valid) + chance.randbytes(3)
        case 6:
            return bytes(message) * chance.randrange(2, 5)
    return bytes(message)


def throw(port: int, valid: list[bytes], count: int, *, before: list[bytes], seed: int) -> None:
    """Send malformed messages, some on one connection, until each is refused or swallowed."""
    chance, sent = random.Random(seed), 0
    while sent < count:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as link:
            link.settimeout(0.002)
            for message in before if chance.random() < 0.8 else []:
                link.sendall(message)
            for _ in range(chance.randrange(1, 20)):
                sent += 1
                link.sendall(mangled(valid, chance))
                with contextlib.suppress(TimeoutError):
                    if not link.recv(65536):
                        break


def holds(feed: Feed, capfd: pytest.CaptureFixture[str], before_mib: float, before_files: int, folder: Path) -> None:
    """Hold that the process is the same, as large as before, silent, and has written nothing elsewhere."""
    assert feed._process.poll() is None
    assert resident_mib(feed._process.pid) - before_mib < GROWTH_MIB
    wait_until(lambda: files_of(feed) < before_files + 60, 40)
    assert capfd.readouterr().err == ""
    assert [path.name for path in folder.iterdir()] == ["out"]
    assert [path.name for path in (folder / "out").iterdir()] == ["outbox"]
    said = feed.reports()[0].last_error
    assert "\n" not in said
    assert len(said) <= 300


@pytest.mark.parametrize("count", [FEW, MANY])
def test_modbus(tmp_path: Path, count: int, capfd: pytest.CaptureFixture[str]) -> None:
    client_of = pytest.importorskip("pymodbus.client", reason="pymodbus is not installed: pip install '.[modbus]'")
    port = free_port()

    def ask(function: int, *words: int) -> bytes:
        body = bytes([1, function]) + b"".join(word.to_bytes(2, "big") for word in words)
        return b"\0\1\0\0" + len(body).to_bytes(2, "big") + body

    valid = [ask(3, 16, 32), ask(6, 1, 5), ask(4, 0, 1), ask(1, 0, 8), ask(8, 0, 4), ask(8, 4, 0), ask(43, 0x0E01, 0)]
    valid += [
        ask(16, 1, 2) + b"\4\0\1\0\2",
        ask(23, 16, 2, 1, 1) + b"\2\0\1",
        ask(22, 1, 2, 3),
        ask(11),
        ask(17),
        ask(24, 0),
    ]
    with feeding(tmp_path, [{"modbus": {"port": port}}]) as feed:
        client = client_of.ModbusTcpClient("127.0.0.1", port=port, timeout=5)
        wait_until(client.connect)
        wait_until(lambda: client.read_holding_registers(16).registers[0] & 8)
        shown = client.read_holding_registers(17, count=31).registers
        before = resident_mib(feed._process.pid), files_of(feed)
        throw(port, valid, count, before=[], seed=1)
        client.close()
        assert client.connect()
        assert client.read_holding_registers(16).registers[0] & 1  # trigger ready
        # Mangled messages may well be right ones that acknowledge: but then nothing else is shown.
        assert client.read_holding_registers(17, count=31).registers == shown
        client.close()
        holds(feed, capfd, *before, tmp_path)


def test_a_request_without_an_end_is_cut_off(tmp_path: Path) -> None:
    pytest.importorskip("asyncua", reason="asyncua is not installed: pip install '.[opcua]'")
    port = free_port()
    hello = b"HELF" + (32).to_bytes(4, "little") + bytes(4) + b"\0\0\1\0" * 2 + bytes(8) + b"\xff" * 4
    piece = b"MSGC" + (60_000).to_bytes(4, "little") + bytes(60_000 - 8)
    with feeding(tmp_path, [{"opcua": {"port": port}}]) as feed:
        wait_until(lambda: feed.reports()[0].delivered == 1)
        before = resident_mib(feed._process.pid)
        for message in (piece, b"MSGF" + b"\xff\xff\xff\x7f", b"MSGF" + b"\0\xff\0\0" + b"x" * 60_000):
            with socket.create_connection(("127.0.0.1", port), 5) as link, contextlib.suppress(OSError):
                link.sendall(hello)
                for _ in range(1000):
                    link.sendall(message)
        assert resident_mib(feed._process.pid) - before < GROWTH_MIB


@pytest.mark.parametrize("kind", ["modbus", "opcua"])
def test_more_connections_than_any_line_has_are_closed(tmp_path: Path, kind: str) -> None:
    library = {"modbus": "pymodbus", "opcua": "asyncua"}[kind]
    pytest.importorskip(library, reason=f"{library} is not installed: pip install '.[{kind}]'")
    port = free_port()

    def connects() -> socket.socket | None:
        try:
            return socket.create_connection(("127.0.0.1", port), 5)
        except OSError:
            return None

    with feeding(tmp_path, [{kind: {"port": port}}]) as feed:
        wait_until(connects)
        before = files_of(feed)
        links = [link for _ in range(200) if (link := connects())]
        wait_until(lambda: files_of(feed) <= before + 60)
        for link in links:
            link.close()
        wait_until(lambda: files_of(feed) <= before)
        with socket.create_connection(("127.0.0.1", port), 5) as link:
            hello = b"HELF" + (32).to_bytes(4, "little") + bytes(4) + b"\0\0\1\0" * 2 + bytes(8) + b"\xff" * 4
            link.sendall(hello if kind == "opcua" else b"\0\1\0\0\0\6\1\3\0\x10\0\1")
            assert link.recv(100)[:3] in (b"ACK", b"\0\1\0")


class Quiet:
    def datachange_notification(self, _node: Any, _value: Any, _data: Any) -> None:
        pass


@pytest.mark.parametrize("count", [FEW, MANY])
def test_opcua(tmp_path: Path, count: int, capfd: pytest.CaptureFixture[str]) -> None:
    asyncua = pytest.importorskip("asyncua", reason="asyncua is not installed: pip install '.[opcua]'")
    port = free_port()

    async def session(wrong: int) -> list[bytes]:
        """Do what clients do, then send so many mangled requests in the same session; return all messages."""
        chance, chunks, bodies = random.Random(2), [], []
        client = asyncua.Client(f"opc.tcp://127.0.0.1:{port}/", timeout=10)
        async with client:
            protocol = client.uaclient.protocol
            write, pack = protocol.transport.write, protocol._connection.message_to_binary

            def packed(body: bytes, *more: Any, **named: Any) -> bytes:
                bodies.append(body)
                data = pack(body, *more, **named)
                chunks.append(data)
                return data

            protocol._connection.message_to_binary = packed
            for node in await client.nodes.objects.get_children():
                await node.read_browse_name()
                await node.get_children()
            subscription = await client.create_subscription(50, Quiet())
            await subscription.subscribe_data_change(client.get_node(asyncua.ua.ObjectIds.Server_ServerStatus_State))
            management = await client.nodes.objects.get_child(["3:press", "2:ResultManagement"])
            numbers = [
                asyncua.ua.Variant(0, kind) for kind in (asyncua.ua.VariantType.UInt64, asyncua.ua.VariantType.UInt32)
            ]
            await management.call_method("3:GetVerdictsAfter", *numbers)
            with contextlib.suppress(asyncua.ua.UaError):
                await management.write_attribute(asyncua.ua.AttributeIds.DisplayName, asyncua.ua.DataValue("x"))
            valid = list(bodies)
            for number in range(wrong):
                body = chance.choice(valid)
                head = 4 + 14  # what it asks for, and whose session it is
                data = pack(body[:head] + mangled([body[head:]], chance), request_id=100_000 + number)
                protocol._callbackmap[100_000 + number] = asyncio.get_running_loop().create_future()
                if protocol.transport.is_closing():
                    break
                write(data)
                await asyncio.sleep(0.002)
        return chunks

    with feeding(tmp_path, [{"opcua": {"port": port}}]) as feed:
        wait_until(lambda: feed.reports()[0].delivered == 1)
        chunks = asyncio.run(session(0))
        before = resident_mib(feed._process.pid), files_of(feed)
        hello = b"HELF" + (32).to_bytes(4, "little") + bytes(4) + b"\0\0\1\0" * 2 + bytes(8) + b"\xff" * 4
        throw(port, [hello, *chunks], count // 2, before=[hello], seed=3)
        sent = 0
        while sent < count // 2:
            with contextlib.suppress(Exception):  # the server may close on what it does not understand
                asyncio.run(session(100))
            sent += 100
        assert asyncio.run(session(0))
        holds(feed, capfd, *before, tmp_path)


class HostileBroker(threading.Thread):
    """Answers with what no broker says; from ``is_honest`` on with CONNACK and PUBACK."""

    def __init__(self, seed: int) -> None:
        super().__init__(daemon=True)
        self.answers, self.is_honest = 0, False
        self._chance = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            with link, contextlib.suppress(OSError):
                link.settimeout(5)
                self.serve(link)

    def close(self) -> None:
        self._listener.close()

    def serve(self, link: socket.socket) -> None:
        connack = b"\x20\2\0\0"
        valid = [connack, b"\x40\2\0\1", b"\x20\2\0\1", b"\x90\3\0\1\0", b"\xd0\0", b"\x50\2\0\1", b"\x62\2\0\1"]
        valid += [b"\x30\x08\0\3a/bxyz", b"\x32\x0a\0\3a/b\0\7xyz", b"\xb0\2\0\1", b"\xe0\0", b"\x70\2\0\1"]
        asked = link.recv(4096)
        if self.is_honest:
            link.sendall(connack)
            while asked := link.recv(65536):
                self.acknowledge(link, asked)
            return
        if self._chance.random() < 0.7:
            link.sendall(connack)
        for _ in range(self._chance.randrange(1, 12)):
            huge = bytes([self._chance.randrange(256)]) + b"\xff\xff\xff\x7f" + self._chance.randbytes(5000)
            link.sendall(huge if self._chance.random() < 0.05 else mangled(valid, self._chance))
            self.answers += 1

    @staticmethod
    def acknowledge(link: socket.socket, asked: bytes) -> None:
        """Acknowledge each PUBLISH with QoS 1."""
        while asked:
            size, at, shift = 0, 1, 0
            while True:
                size |= (asked[at] & 127) << shift
                at, shift = at + 1, shift + 7
                if not asked[at - 1] & 128:
                    break
            packet, asked = asked[at : at + size], asked[at + size :]
            if len(packet) == size and size > 2:
                topic = int.from_bytes(packet[:2], "big")
                link.sendall(b"\x40\2" + packet[2 + topic : 4 + topic])


@pytest.mark.parametrize("count", [FEW, MANY])
def test_a_hostile_broker(count: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed: pip install '.[mqtt]'")
    from edgead.runtime.outputs import mqtt

    monkeypatch.setattr(mqtt, "_RETRY_S", (0.001, 0.005))  # else it takes hours
    broker, notes = HostileBroker(4), []
    broker.start()
    config = MqttConfig(host="127.0.0.1", port=broker.port, keepalive_s=5)
    sender = mqtt.Mqtt(config, station="press", name="mqtt", note=notes.append, wake=lambda: None)
    wait_until(lambda: broker.answers >= 20)
    before = resident_mib("self")
    for seq in range(1, 6):
        sender.send(Parcel.of(seq, f"e-{seq}", EXAMPLE))
    wait_until(lambda: broker.answers >= count, 300)
    sender.acknowledged()  # of what it was told so
    broker.is_honest = True
    wait_until(lambda: sender.room() > 0, 90)
    sender.send(Parcel.of(9, "e-9", EXAMPLE))
    wait_until(lambda: 9 in sender.acknowledged(), 60)
    assert resident_mib("self") - before < GROWTH_MIB
    assert notes
    assert all("\n" not in note and "Traceback" not in note for note in notes)
    assert capfd.readouterr().err == ""
    sender.close()
    broker.close()
