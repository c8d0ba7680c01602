from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from outputs_bench import Broker, free_port, run, start_station, station, verdicts, wait_until

mqtt = pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed: pip install '.[mqtt]'")


class Listener:
    """A subscriber with a session that the broker keeps: it misses nothing while the broker is away."""

    def __init__(self, port: int, topic: str = "edgead/#") -> None:
        self.messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        self.client.reconnect_delay_set(1, 1)
        ready = threading.Event()
        self.client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.on_message = lambda _client, _user, message: self.messages.put(message)
        self.client.connect_async("127.0.0.1", port, keepalive=5)
        self.client.loop_start()
        assert ready.wait(10)

    def take(self) -> list[Any]:
        taken = []
        while not self.messages.empty():
            taken.append(self.messages.get())
        return taken

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    started = Broker(tmp_path / "broker")
    yield started
    started.kill()


def test_each_verdict_arrives_once_and_a_status_stays(tmp_path: Path, broker: Broker) -> None:
    listener = Listener(broker.port)
    report = run(station(tmp_path, [{"mqtt": {"host": "127.0.0.1", "port": broker.port}}], parts=50))
    messages: list[Any] = []
    wait_until(lambda: messages.extend(listener.take()) or len(messages) >= 52)
    listener.close()
    events = [json.loads(message.payload) for message in messages if message.topic == "edgead/station/verdict"]
    states = [json.loads(message.payload)["state"] for message in messages if message.topic == "edgead/station/status"]
    assert states == ["online", "offline"]
    assert [event.pop("sequence") for event in events] == list(range(1, 51))
    assert {event["event_id"]: event for event in events} == verdicts(tmp_path)
    (output,) = report.outputs
    assert (output.name, output.delivered, output.pending, output.errors) == ("mqtt", 50, 0, 0)
    late = Listener(broker.port, "edgead/station/status")
    wait_until(lambda: not late.messages.empty())
    message = late.messages.get()
    late.close()
    assert message.retain
    assert json.loads(message.payload) == {"schema": "edgead.status/1", "station": "station", "state": "offline"}


def test_nothing_is_lost_when_the_broker_and_the_station_are_killed(tmp_path: Path, broker: Broker) -> None:
    yaml = tmp_path / "station.yaml"
    yaml.write_text(
        "bundle: b\noutput: out\n"
        "cameras: [{name: cam, uri: 'sim://ceramic_tile?parts=PARTS&cache=4&size=32&rate=100'}]\n"
        f"outputs: [{{mqtt: {{host: 127.0.0.1, port: {broker.port}, keepalive_s: 2}}}}]\n"
        "outbox: {drain_s: 20}\n"
    )
    template = yaml.read_text()
    listener = Listener(broker.port, "edgead/station/verdict")
    messages: list[Any] = []

    def received(least: int) -> bool:
        messages.extend(listener.take())
        return len(messages) >= least

    yaml.write_text(template.replace("PARTS", "100000"))
    first = start_station(yaml)
    wait_until(lambda: received(60))
    broker.kill()  # SIGKILL in the middle
    time.sleep(0.3)
    broker.start()
    wait_until(lambda: received(140))
    first.send_signal(signal.SIGKILL)
    first.wait()
    killed_at = len(verdicts(tmp_path))
    yaml.write_text(template.replace("PARTS", "360"))
    second = start_station(yaml)  # at once: what delivered for the first may still be at it
    wait_until(lambda: received(250))
    broker.kill()
    time.sleep(0.3)
    broker.start()
    out, err = second.communicate(timeout=40)
    assert second.returncode == 0, err
    assert out.strip() == "360"
    decided = verdicts(tmp_path)
    assert len(decided) >= killed_at + 360 >= 500  # more: those of the first that the second found and wrote
    wait_until(lambda: received(0) or decided.keys() <= {json.loads(m.payload)["event_id"] for m in messages})
    listener.close()
    events = [json.loads(message.payload) for message in messages]
    by_id: dict[str, dict[str, Any]] = {}
    for event in events:
        assert by_id.setdefault(event["event_id"], event) == event  # a duplicate is equal, sequence and all
    for event_id, decision in decided.items():
        sent = dict(by_id[event_id])
        sent.pop("sequence")
        assert sent == decision
    # What was killed between the outbox and the file may be in the outbox only.
    assert len(by_id) - len(decided) <= 40
    assert max(Counter(event["event_id"] for event in events).values()) <= 4


@pytest.mark.parametrize(
    ("host", "words"),
    [("127.0.0.1", "Connection refused"), ("no-such-broker.invalid", "no-such-broker.invalid")],
)
def test_a_wrong_address_costs_no_verdict_and_says_so(tmp_path: Path, host: str, words: str) -> None:
    port = free_port()
    config = station(tmp_path, [{"mqtt": {"host": host, "port": port}}], parts=30, outbox={"drain_s": 1})
    begin_s = time.monotonic()
    report = run(config)
    assert time.monotonic() - begin_s < 40
    assert report.wall_s < 20  # the inspection did not wait
    assert len(verdicts(tmp_path)) == 30
    (output,) = report.outputs
    assert (output.delivered, output.pending) == (0, 30)
    assert output.errors >= 1
    assert words in output.last_error
    assert "\n" not in output.last_error


def test_what_a_run_could_not_deliver_the_next_one_does(tmp_path: Path, broker: Broker) -> None:
    outputs = [{"mqtt": {"host": "127.0.0.1", "port": broker.port}}]
    broker.kill()
    assert run(station(tmp_path, outputs, parts=20, outbox={"drain_s": 0.2})).outputs[0].pending == 20
    broker.start()
    listener = Listener(broker.port, "+/station/verdict")
    (output,) = run(station(tmp_path, outputs, parts=5)).outputs
    assert (output.delivered, output.pending) == (25, 0)
    messages: list[Any] = []
    wait_until(lambda: messages.extend(listener.take()) or len(messages) >= 25)
    listener.close()
    assert [json.loads(message.payload)["sequence"] for message in messages] == list(range(1, 26))


def test_credentials_are_checked_by_the_broker(tmp_path: Path) -> None:
    users = tmp_path / "users"
    done = subprocess.run(["mosquitto_passwd", "-b", "-c", str(users), "line3", "right"], capture_output=True)
    assert done.returncode == 0, done.stderr
    broker = Broker(tmp_path / "broker", "allow_anonymous false", f"password_file {users}")
    try:
        for word, delivered in (("wrong", 0), ("right", 30)):
            (tmp_path / "word").write_text(f"{word}\n")
            settings = {
                "host": "127.0.0.1",
                "port": broker.port,
                "username": "line3",
                "password_file": tmp_path / "word",
            }
            (output,) = run(station(tmp_path, [{"mqtt": settings}], parts=15, outbox={"drain_s": 2})).outputs
            assert (output.delivered, output.pending) == (delivered, 0 if delivered else 15)
            if not delivered:
                assert "Not authorized" in output.last_error
                assert word not in output.last_error
    finally:
        broker.kill()
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or b"right" not in path.read_bytes()


def test_tls_trusts_only_its_authority(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=broker -addext subjectAltName=IP:127.0.0.1"
    made = subprocess.run([*command.split(), "-keyout", key, "-out", certificate], capture_output=True)
    assert made.returncode == 0, made.stderr
    broker = Broker(tmp_path / "broker", "allow_anonymous true", f"certfile {certificate}", f"keyfile {key}")
    try:
        trusting = {"host": "127.0.0.1", "port": broker.port, "tls": {"ca_file": certificate}}
        doubting = {**trusting, "tls": {}}
        (output,) = run(station(tmp_path, [{"mqtt": doubting}], parts=10, outbox={"drain_s": 1})).outputs
        assert (output.delivered, output.pending) == (0, 10)
        assert "CERTIFICATE_VERIFY_FAILED" in output.last_error or "certificate verify failed" in output.last_error
        (output,) = run(station(tmp_path, [{"mqtt": trusting}], parts=10)).outputs
        assert (output.delivered, output.pending) == (20, 0)
    finally:
        broker.kill()


def test_the_process_that_delivers_is_started_again_and_its_will_tells(tmp_path: Path, broker: Broker) -> None:
    yaml = tmp_path / "station.yaml"
    yaml.write_text(
        "name: press\nbundle: b\noutput: out\n"
        "cameras: [{name: cam, uri: 'sim://ceramic_tile?parts=9000&cache=4&size=32&rate=50'}]\n"
        f"outputs: [{{mqtt: {{host: 127.0.0.1, port: {broker.port}}}}}]\n"
    )
    listener = Listener(broker.port, "edgead/press/#")
    process = start_station(yaml)
    messages: list[Any] = []

    def states() -> list[str]:
        messages.extend(listener.take())
        return [json.loads(message.payload)["state"] for message in messages if message.topic.endswith("status")]

    wait_until(lambda: states() == ["online"])
    time.sleep(1.1)
    (delivering,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(delivering), signal.SIGKILL)
    wait_until(lambda: states() == ["online", "offline", "online"])
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    wait_until(lambda: states() == ["online", "offline", "online", "offline"])
    listener.close()
    sent = {json.loads(message.payload)["event_id"] for message in messages if message.topic.endswith("verdict")}
    assert sent == verdicts(tmp_path).keys()
