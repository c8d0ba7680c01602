from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from outputs_bench import THRESHOLD, free_port, station, wait_until

asyncua = pytest.importorskip("asyncua", reason="asyncua is not installed: pip install '.[opcua]'")
from asyncua import ua  # noqa: E402

from edgead.bundle import Bundle, BundleInfo  # noqa: E402
from edgead.output_config import OpcuaConfig  # noqa: E402
from edgead.runtime.events import Event  # noqa: E402
from edgead.runtime.outputs.feed import Feed  # noqa: E402
from edgead.runtime.outputs.opcua_server import ReadOnlyServer  # noqa: E402
from edgead.runtime.outputs.recipe import Recipe, recipe_of  # noqa: E402

MACHINE_VISION = "http://opcfoundation.org/UA/MachineVision"
RUN = "0123456789ab"


def event(trigger: int, verdict: str = "OK", part: str | None = "P1", score: float | None = 0.25) -> Event:
    """Make an event as docs/verdict.schema.json has it."""
    fields = {
        "schema": "edgead.verdict/1",
        "event_id": f"{RUN}-{trigger}",
        "time": "2026-01-30T10:00:00.500+00:00",
        "trigger": trigger,
        "part": part,
        "verdict": verdict,
        "score": score,
        "worst": None if score is None else "v/i",
        "frames": 0 if score is None else 1,
        "missing": [],
        "latency_ms": 500.0,
        "station": "press",
        "artefact": "int8",
        "unsure": 0.5,
        "ng": 0.75,
    }
    return Event(f"{RUN}-{trigger}", json.dumps(fields))


@contextmanager
def feeding(folder: Path, port: int, *, drain_s: float = 10, bundle: Path = Path("b"), **values: Any) -> Iterator[Feed]:
    outputs = [{"opcua": {"port": port, **values}}]
    config = station(folder, outputs, name="press", artefact="int8", outbox={"drain_s": drain_s})
    config = config.model_copy(update={"bundle": bundle})
    feed = Feed(config)
    try:
        yield feed
    finally:
        feed.close()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@asynccontextmanager
async def client_of(
    port: int, prepare: Callable[[Any], Any] | None = None, *, typed: bool = False
) -> AsyncIterator[Any]:
    client = asyncua.Client(f"opc.tcp://127.0.0.1:{port}/", timeout=10)
    if prepare is not None:
        answer = prepare(client)
        if answer is not None:
            await answer
    async with client:
        if typed:
            await client.load_data_type_definitions()
        yield client


async def system(client: Any) -> tuple[Any, int, int]:
    """Find the vision system by its type, as a client does that knows the specification."""
    vision, own = await client.get_namespace_index(MACHINE_VISION), await client.get_namespace_index("urn:edgead")
    for node in await client.nodes.objects.get_children():
        kind = await node.read_type_definition()
        if kind == ua.NodeId(1003, vision):
            return node, vision, own
    raise AssertionError("no VisionSystemType among the objects")


class Listener:
    def __init__(self) -> None:
        self.events: list[Any] = []

    def event_notification(self, event: Any) -> None:
        self.events.append(event)


async def until(happened: Callable[[], Any], within_s: float = 20) -> None:
    give_up_s = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < give_up_s, "it did not happen in time"
        await asyncio.sleep(0.02)


async def state_of(node: Any, vision: int, *path: str) -> str:
    current = await node.get_child([*(f"{vision}:{name}" for name in path), "0:CurrentState"])
    value = await current.read_data_value(raise_on_bad_status=False)
    return str(value.Value.Value.Text) if value.StatusCode.is_good() else value.StatusCode.name


def test_a_client_gets_events_state_recipe_and_results(tmp_path: Path) -> None:
    port = free_port()

    async def look(feed: Feed) -> None:
        async with client_of(port, typed=True) as client:
            node, vision, own = await system(client)
            assert (await node.read_browse_name()).Name == "press"
            machine, mode = ("VisionStateMachine",), ("VisionStateMachine", "AutomaticModeStateMachine")
            assert await state_of(node, vision, *machine) == "Operational"
            assert await state_of(node, vision, *mode) == "Ready"
            listener, refusals = Listener(), Listener()
            subscription = await client.create_subscription(20, refusals)
            await subscription.subscribe_events(node)
            subscription = await client.create_subscription(20, listener)
            kind = client.get_node(ua.NodeId(1024, vision))
            for source in (node, client.nodes.server):
                await subscription.subscribe_events(source, kind)
            feed.write([event(0), event(1, "NG", "P2", 0.9), event(2, "MISSED", None, None)])
            await until(lambda: len(listener.events) >= 6)
            await asyncio.sleep(0.1)
            assert len(listener.events) == 6  # each at the vision system and at the server
            by_id = {one.ResultId.Id: one for one in listener.events}
            assert len({one.EventId for one in listener.events}) == len(by_id) == 3
            first, missed = by_id[f"{RUN}-0"], by_id[f"{RUN}-2"]
            assert (first.ResultId.Id, first.PartId.Id, first.ResultState) == (f"{RUN}-0", "P1", 1)
            assert (first.IsPartial, first.InternalRecipeId.Id) == (False, "???b/int8")
            assert json.loads(first.ResultContent[0].Value)["verdict"] == "OK"
            assert first.Message.Text == "P1: OK"
            assert (missed.PartId.Id, missed.ResultState) == ("", 4)
            assert await state_of(node, vision, *mode) == "ContinuousExecution"
            identity = await node.get_child([f"{vision}:{name}" for name in mode] + ["0:CurrentState", "0:Id"])
            assert await identity.read_value() == ua.NodeId(5059, vision)
            await variables(node, vision)
            await recipes(node, vision, own)
            await results(node, vision, own)
            await changes(client, node, vision, own)
            assert any("this station has one engine" in one.Message.Text for one in refusals.events)
            await many(feed, node, vision, own)
            await sessions(port)

    bundle = tmp_path / "\udcff\n\u202eb"  # a folder may be called anything
    with feeding(tmp_path, port, bundle=bundle) as feed:
        wait_until(lambda: listens(port))
        asyncio.run(look(feed))
    (report,) = feed.reports()
    assert (report.name, report.delivered, report.pending) == ("opcua", 900, 0)


async def variables(node: Any, vision: int) -> None:
    verdict = await node.get_child(f"{vision}:Verdict")
    found = {(await one.read_browse_name()).Name: await one.read_value() for one in await verdict.get_children()}
    assert (found["Sequence"], found["EventId"], found["Verdict"]) == (3, f"{RUN}-2", "MISSED")
    assert found["Score"] != found["Score"]  # no score
    assert (found["Unsure"], found["Ng"], found["LatencyMs"]) == (0.5, 0.75, 500.0)
    assert json.loads(found["Json"])["sequence"] == 3
    path = [f"{vision}:ResultManagement", f"{vision}:Results", f"{vision}:Latest"]
    latest = await node.get_child(path)
    assert await latest.read_type_definition() == ua.NodeId(2002, vision)
    assert (await latest.read_value()).ResultId.Id == f"{RUN}-2"
    assert await (await latest.get_child(f"{vision}:ResultState")).read_value() == 4


async def recipes(node: Any, vision: int, own: int) -> None:
    management = await node.get_child(f"{vision}:RecipeManagement")
    external, product = ua.RecipeIdExternalDataType(), ua.ProductIdDataType()
    numbers = [ua.Variant(0, ua.VariantType.UInt32)] * 2
    arguments = [external, product, ua.Variant(2, ua.VariantType.Int32), *numbers, ua.Variant(0, ua.VariantType.Int32)]
    listed = await management.call_method(f"{vision}:GetRecipeListFiltered", *arguments)
    assert [recipe.Id for recipe in listed[3]] == ["???b/int8"]
    ours = await management.call_method(
        f"{vision}:PrepareRecipe", external, ua.RecipeIdInternalDataType(Id="???b/int8")
    )
    assert (ours[0].Id, ours[1], ours[2]) == ("???b/int8", True, 0)
    with pytest.raises(ua.uaerrors.BadNotSupported):
        await management.call_method(f"{vision}:PrepareRecipe", external, ua.RecipeIdInternalDataType(Id="other/fp32"))
    with pytest.raises(ua.uaerrors.BadArgumentsMissing):
        await management.call_method(f"{vision}:PrepareRecipe", external)
    with pytest.raises(ua.uaerrors.BadInvalidArgument):
        await management.call_method(f"{vision}:PrepareRecipe", 1, 2)
    machine = await node.get_child(f"{vision}:VisionStateMachine")
    with pytest.raises(ua.uaerrors.BadNotSupported):
        await machine.call_method(f"{vision}:Halt")
    recipe = (await (await management.get_child(f"{vision}:Recipes")).get_children())[0]
    assert await recipe.read_type_definition() == ua.NodeId(1002, vision)
    assert (await (await recipe.get_child(f"{vision}:InternalId")).read_value()).Id == "???b/int8"
    assert await (await recipe.get_child(f"{own}:Artefact")).read_value() == "int8"


async def results(node: Any, vision: int, own: int) -> None:
    management = await node.get_child(f"{vision}:ResultManagement")
    timeout = ua.Variant(0, ua.VariantType.Int32)
    _, one, error = await management.call_method(f"{vision}:GetResultById", ua.ResultIdDataType(Id=f"{RUN}-1"), timeout)
    assert (one.PartId.Id, one.ResultState, error) == ("P2", 1, 0)
    assert json.loads(one.ResultContent[0].Value)["score"] == 0.9
    seconds = (one.ProcessingTimes.EndTime - one.ProcessingTimes.StartTime).total_seconds()
    assert seconds == pytest.approx(0.5)
    parts = await management.call_method(
        f"{vision}:GetResultComponentsById", ua.ResultIdDataType(Id=f"{RUN}-1"), timeout
    )
    assert (parts[0], parts[2], parts[6].Id) == (False, False, "P2")
    with pytest.raises(ua.uaerrors.BadNotFound):
        await management.call_method(f"{vision}:GetResultById", ua.ResultIdDataType(Id="never"), timeout)
    for state, part, wanted in ((0, "", [0, 1, 2]), (4, "", [2]), (0, "P2", [1]), (1, "P3", [])):
        ids = [ua.MeasIdDataType(), ua.PartIdDataType(Id=part), ua.RecipeIdExternalDataType()]
        ids += [ua.RecipeIdInternalDataType(), ua.ConfigurationIdDataType(), ua.ConfigurationIdDataType()]
        ids += [ua.ProductIdDataType(), ua.JobIdDataType()]
        numbers = [ua.Variant(0, ua.VariantType.UInt32)] * 2
        found = await management.call_method(
            f"{vision}:GetResultListFiltered", ua.Variant(state, ua.VariantType.Int32), *ids, *numbers, timeout
        )
        assert [int(result.MeasId.Id) for result in found[3] or []] == wanted
        assert (found[0], found[1]) == (True, len(wanted))
    sequence, most = ua.Variant(1, ua.VariantType.UInt64), ua.Variant(1, ua.VariantType.UInt32)
    texts, is_all = await management.call_method(f"{own}:GetVerdictsAfter", sequence, most)
    assert ([json.loads(text)["sequence"] for text in texts], is_all) == ([2], False)


async def many(feed: Feed, node: Any, vision: int, own: int) -> None:
    """More results than one answer holds are asked for in pieces."""
    feed.write([event(number, "NG", f"part {number}") for number in range(3, 900)])
    management = await node.get_child(f"{vision}:ResultManagement")
    u64, most = ua.VariantType.UInt64, ua.Variant(0, ua.VariantType.UInt32)
    await until(lambda: feed.reports()[0].delivered == 900)
    seen, answers, is_all = 0, 0, False
    while not is_all:
        texts, is_all = await management.call_method(f"{own}:GetVerdictsAfter", ua.Variant(seen, u64), most)
        numbers = [json.loads(text)["sequence"] for text in texts]
        assert numbers == list(range(seen + 1, seen + 1 + len(numbers)))
        seen, answers = numbers[-1], answers + 1
    assert seen == 900
    assert answers > 1


async def sessions(port: int) -> None:
    """One client that opens sessions without an end keeps nobody out."""
    greedy = asyncua.Client(f"opc.tcp://127.0.0.1:{port}/", timeout=10)
    await greedy.connect_socket()
    await greedy.send_hello()
    await greedy.open_secure_channel()
    for _ in range(150):
        await greedy.create_session()
    async with client_of(port) as client:
        assert await system(client)
    greedy.disconnect_socket()


async def changes(client: Any, node: Any, vision: int, own: int) -> None:
    """Nobody can change anything."""
    verdict = await (await node.get_child(f"{vision}:Verdict")).get_children()
    for variable in [*verdict, client.get_node(ua.ObjectIds.Server_ServerStatus_State)]:
        with pytest.raises((ua.uaerrors.BadNotWritable, ua.uaerrors.BadUserAccessDenied)):
            await variable.write_value(ua.Variant("x", ua.VariantType.String))
    with pytest.raises(ua.uaerrors.BadUserAccessDenied):
        await client.nodes.objects.add_object(own, "mine")
    with pytest.raises(ua.uaerrors.BadUserAccessDenied):
        await client.delete_nodes([node])
    description = ua.RegisteredServer(ServerUri="urn:x", ServerNames=[ua.LocalizedText("x")])
    with pytest.raises(ua.uaerrors.BadServiceUnsupported):
        await client.uaclient.register_server(description)


def test_a_client_reads_what_it_missed_over_restarts(tmp_path: Path) -> None:
    port = free_port()
    names = ["../../etc/passwd", "a\0b", "\r\n<b>", "x" * 100_000, "\u202e\ud800", "Prüfling 7 ⚙"]
    with feeding(tmp_path, port, keep=6) as feed:
        feed.write([event(number, "NG", name) for number, name in enumerate(names)])
    (report,) = feed.reports()
    assert (report.delivered, report.errors) == (6, 0)

    async def ask(after: int) -> dict[int, str]:
        async with client_of(port) as client:
            node, vision, own = await system(client)
            management = await node.get_child(f"{vision}:ResultManagement")
            numbers = ua.Variant(after, ua.VariantType.UInt64), ua.Variant(0, ua.VariantType.UInt32)
            texts, is_all = await management.call_method(f"{own}:GetVerdictsAfter", *numbers)
            assert is_all
            found = [json.loads(text) for text in texts or []]
            return {fields["sequence"]: fields["part"] for fields in found}

    with feeding(tmp_path, port, keep=6) as feed:
        wait_until(lambda: listens(port))
        assert asyncio.run(ask(0)) == dict(enumerate(names, 1))  # any name travels
        assert list(asyncio.run(ask(4))) == [5, 6]
        feed.write([event(number, part=f"P{number}") for number in range(6, 10)])
        wait_until(lambda: feed.reports()[0].delivered == 4)
        assert list(asyncio.run(ask(6))) == [7, 8, 9, 10]
        assert list(asyncio.run(ask(0))) == [5, 6, 7, 8, 9, 10]  # the last six
        end = threading.Thread(target=feed.close)
        assert asyncio.run(watch(port, end.start)) == ["Operational", "Halted"]
        end.join(30)
    folders = {path.name for path in tmp_path.rglob("*") if path.is_dir()}
    assert folders == {"out", "outbox"}


def test_nobody_is_let_in_before_the_server_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    listening: list[Any] = []
    listen = socket.socket.listen
    monkeypatch.setattr(socket.socket, "listen", lambda *arguments: (listening.append(arguments), listen(*arguments)))

    async def live() -> None:
        server = ReadOnlyServer(OpcuaConfig(port=free_port()), station="press", note=print)
        await server.init()
        assert not listening
        await server.start()
        assert listening
        await server.stop()

    asyncio.run(live())


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate of an application, as OPC UA wants them."""
    key, made = folder / f"{name}-key.pem", folder / f"{name}.pem"
    usage = "keyUsage=critical,digitalSignature,keyEncipherment,dataEncipherment"
    extensions = [f"subjectAltName=URI:urn:test:{name}", usage]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    command += [word for extension in extensions for word in ("-addext", extension)]
    done = subprocess.run([*command, "-keyout", str(key), "-out", str(made)], capture_output=True)
    assert done.returncode == 0, done.stderr
    return made, key


def test_with_a_certificate_and_a_password_nobody_else_gets_in(tmp_path: Path) -> None:
    port = free_port()
    (server, server_key), (own, own_key) = certificate(tmp_path, "press"), certificate(tmp_path, "client")
    (tmp_path / "word").write_text("right\n")

    def secured(mode: str, name: str | None, word: str | None) -> Callable[[Any], Any]:
        def prepare(client: Any) -> Any:
            client.application_uri = "urn:test:client"
            if name is not None:
                client.set_user(name)
                client.set_password(word)
            return client.set_security_string(f"Basic256Sha256,{mode},{own},{own_key},{server}")

        return prepare

    async def look() -> None:
        with pytest.raises((ua.UaError, ConnectionError, asyncio.TimeoutError)):
            async with client_of(port):
                pass
        for name, word in ((None, None), ("line3", "wrong"), ("line3", ""), ("other", "right"), ("line3\0right", "")):
            with pytest.raises(ua.UaError):
                async with client_of(port, secured("SignAndEncrypt", name, word)):
                    pass
        for mode in ("SignAndEncrypt", "Sign"):
            async with client_of(port, secured(mode, "line3", "right")) as client:
                assert (await system(client))[0] is not None

    files = {"cert_file": server, "key_file": server_key, "password_file": tmp_path / "word"}
    with feeding(tmp_path, port, username="line3", **files):
        wait_until(lambda: listens(port))
        asyncio.run(look())
    assert not any(b"right" in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


@pytest.mark.parametrize("what", ["text", "port", "pair"])
def test_what_stands_in_the_way_is_said_in_one_line(tmp_path: Path, what: str) -> None:
    (tmp_path / "x.pem").write_text("no certificate\n")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1] if what == "port" else free_port()
        text = tmp_path / "x.pem"
        pair = certificate(tmp_path, "a")[0], certificate(tmp_path, "b")[1]
        files = {"port": {}, "text": dict.fromkeys(("cert_file", "key_file"), text)}
        files["pair"] = dict(zip(("cert_file", "key_file"), pair, strict=True))
        with feeding(tmp_path, port, drain_s=0.1, **files[what]) as feed:
            feed.write([event(0)])
            wait_until(lambda: feed.reports()[0].errors)
    (report,) = feed.reports()
    assert (report.delivered, report.pending) == (0, 1)
    words = {"text": "no certificate and its key", "port": "cannot listen", "pair": "not the RSA key of this"}
    assert words[what] in report.last_error
    assert "\n" not in report.last_error


def test_a_recipe_tells_the_bundle_and_the_artefact_by_its_hash(tmp_path: Path) -> None:
    bundle = Bundle.create(tmp_path / "tiles", BundleInfo(network="cfrg-lite0", category="tile", size_hw=(64, 64)))

    def write(path: Path) -> None:
        path.write_bytes(b"model")

    bundle.add("fp32", write, kind="onnx", precision="fp32", made_from=None, tools={})
    bundle.set_threshold("fp32", THRESHOLD)
    config = station(tmp_path, []).model_copy(update={"bundle": bundle.path})
    recipe = recipe_of(config)
    assert recipe.name == "tiles/fp32"
    assert (recipe.product, recipe.sha256) == ("tile", hashlib.sha256(b"model").hexdigest())
    assert (recipe.unsure, recipe.ng) == (0.5, 0.75)
    (tmp_path / "tiles" / "bundle.json").write_text("{")
    assert recipe_of(config) == Recipe(name="tiles/fp32")


PROGRAM = """
import sys, time
from edgead.config import load_station
from edgead.runtime.outputs.feed import Feed
feed = Feed(load_station(sys.argv[1]))
time.sleep(60)
"""


async def watch(port: int, end: Callable[[], None]) -> list[str]:
    states: list[str] = []

    class Changes:
        def datachange_notification(self, _node: Any, value: Any, _data: Any) -> None:
            states.append(value.Text)

    async with client_of(port) as client:
        node, vision, _ = await system(client)
        subscription = await client.create_subscription(20, Changes())
        await subscription.subscribe_data_change(
            await node.get_child([f"{vision}:VisionStateMachine", "0:CurrentState"])
        )
        await until(lambda: states)
        end()
        await until(lambda: len(states) >= 2)
    return states


def test_the_state_machine_tells_that_the_station_has_died(tmp_path: Path) -> None:
    yaml, port = tmp_path / "station.yaml", free_port()
    cameras = "[{name: a, uri: 'sim://ceramic_tile'}]"
    yaml.write_text(f"bundle: b\noutput: out\ncameras: {cameras}\noutputs: [opcua: {{port: {port}}}]\n")
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(yaml)])
    try:
        wait_until(lambda: listens(port))
        assert asyncio.run(watch(port, lambda: process.send_signal(signal.SIGKILL))) == ["Operational", "Error"]
    finally:
        process.kill()
        process.wait()
