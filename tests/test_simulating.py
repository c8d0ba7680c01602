"""``edgead simulate --stream``: a line of cameras in real time, and as GigE Vision cameras."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgead.cli import main
from edgead.errors import CameraError, ConfigError, MissingError
from edgead.images import write_png
from edgead.line_config import load_line
from edgead.runtime import introspection
from edgead.runtime.dataset_parts import DatasetCameraOptions
from edgead.runtime.gige_line import GigeLine
from edgead.runtime.gige_simulator import encoded
from edgead.runtime.pixel_formats import to_rgb
from edgead.runtime.sim_camera import simulated_camera
from edgead.runtime.sim_parts import SimOptions

HERE = Path(__file__).parent
CORE = "sim://magnetic_core?size=64&seed=3&cache=8"


def line_of(folder: Path, query: str = "", text: str = "", objects: tuple[str, ...] = (CORE, CORE)) -> Path:
    rows = [
        f"  - {{name: {view}, uri: '{uri}{query}', view: {view}{text}}}"
        for view, uri in zip(("front", "back"), objects, strict=True)
    ]
    path = folder / "line.yaml"
    path.write_text("name: test\ncameras:\n" + "\n".join(rows) + "\n")
    return path


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main(["simulate", *map(str, words), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_a_line_is_driven_to_its_end_and_its_truth_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, truth = line_of(tmp_path, "&parts=60&rate=200&lost_share=.1&ng_share=.4"), tmp_path / "out" / "truth.csv"
    found = answer(capsys, "--stream", path, "--truth", truth)
    assert found["line"] == "test"
    assert 59 / 200 <= found["seconds"] < 20
    for camera in found["cameras"].values():
        assert camera["frames"] + camera["missed"] == 60 * 4
        assert camera["missed"] == camera["faults"]["lost"] > 0
    rows = list(csv.DictReader(truth.open()))
    source = simulated_camera(load_line(path).cameras[0])
    source.open()
    assert [(row["part"], row["defect"]) for row in rows] == [source.shown(part) for part in range(60)]
    assert [int(row["trigger"]) for row in rows] == list(range(60))
    assert sum(found["parts"].values()) == 60
    assert found["parts"]["good"] == sum(row["defect"] == "good" for row in rows)


def test_a_line_ends_when_its_time_is_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = line_of(tmp_path, "&parts=100000&rate=20")
    found = answer(capsys, "--stream", path, "--seconds", 0.5)
    assert 0.5 <= found["seconds"] < 10
    assert all(4 <= camera["frames"] < 1000 for camera in found["cameras"].values())


def test_a_camera_that_vanishes_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "--stream", line_of(tmp_path, "&parts=9&vanish_after=7"))
    assert sorted(found["problems"]) == [
        f"camera '{name}' has vanished after 7 frames; check its cable" for name in ("back", "front")
    ]


def test_a_line_without_json_is_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = line_of(tmp_path, "&parts=5&overtriggered_share=1")
    assert main(["simulate", "--stream", str(path), "--truth", str(tmp_path / "truth.csv")]) == 0
    out = capsys.readouterr().out
    assert "front" in out
    assert "20 overtriggered" in out
    assert "truth.csv" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_line_with_its_summary(tmp_path: Path, number: signal.Signals) -> None:
    path = line_of(tmp_path, "&parts=100000&rate=10")
    words = [sys.executable, "-m", "edgead", "simulate", "--stream", str(path), "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert "line 'test' runs" in process.stderr.readline()
        time.sleep(0.3)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert err == ""
    assert json.loads(out)["cameras"]["front"]["frames"] >= 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give an OBJECT and --out FOLDER for a data set, or --stream line.yaml"),
        (["ceramic_tile"], "add --out FOLDER, such as --out data/ceramic_tile"),
        (["ceramic_tile", "--out", "x", "--gige"], "--gige belongs to --stream"),
        (["ceramic_tile", "--out", "x", "--truth", "t"], "--truth belongs to --stream"),
        (["ceramic_tile", "--stream", "{good}"], "leave out ceramic_tile"),
        (["--stream", "{good}", "--out", "x"], "leave out --out"),
        (["--stream", "{good}", "--seed", "3"], "leave out --seed"),
        (["--stream", "{good}", "--seconds", "0"], "--seconds is 0"),
        (["--stream", "{good}", "--seconds", "nan"], "--seconds is nan"),
        (["--stream", "{good}", "--second", "1"], "did you mean '--seconds'?"),
        (["--stream", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--stream", "{different}", "--truth", "{tmp}/truth.csv"], "show different parts"),
        (["--stream", "{good}", "--truth", "/proc/truth.csv"], "/proc/truth.csv: cannot be written"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    good = line_of(tmp_path, "&parts=4")
    (tmp_path / "other").mkdir()
    different = line_of(tmp_path / "other", "&parts=4&ng_share=.5", objects=(CORE, CORE.replace("seed=3", "seed=4")))
    places = {"{good}": str(good), "{different}": str(different), "{tmp}": str(tmp_path)}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    assert main(["simulate", *words]) == 2
    captured = capsys.readouterr()
    assert told in captured.err.splitlines()[-1]
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert not (tmp_path / "truth.csv").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cameras: []", "cameras"),
        ("camera: [{name: a, uri: 'sim://ceramic_tile'}]", "unknown key 'camera', did you mean 'cameras'?"),
        ("cameras: [{name: a, uri: 'dir://x'}]", "is not simulated; expected sim://OBJECT or dataset://FOLDER"),
        ("cameras: [{name: a, uri: 'sim://ceramic_tile', adress: 127.0.0.1}]", "did you mean 'address'?"),
        ("cameras: [{name: a, uri: 'sim://ceramic_tile', address: 127.0.0.999}]", "address"),
        ("cameras: [{name: a, uri: 'sim://ceramic_tile', address: '::1'}]", "::1 is no IPv4 address"),
        ("cameras: [{name: a, uri: 'sim://ceramic_tile', packet_loss: 1}]", "packet_loss"),
        ("cameras: [{name: a-very-long-name, uri: 'sim://ceramic_tile'}]", "15 characters at most"),
        ("cameras: [{name: a, uri: 'sim://x'}, {name: a, uri: 'sim://y'}]", "two cameras are called 'a'"),
        ("cameras: [{name: a, uri: 'sim://x', serial: z}, {name: b, uri: 'sim://y', serial: z}]", "are numbered 'z'"),
        ("cameras: [{name: a, uri: 'sim://x', address: 127.0.0.2}, {name: b, uri: 'sim://y'}]", "at '127.0.0.2'"),
        ("bundle: x\ncameras: [{name: a, uri: 'sim://ceramic_tile'}]", "unknown key 'bundle'"),
    ],
)
def test_a_wrong_line_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    (tmp_path / "line.yaml").write_text(text + "\n")
    assert main(["simulate", "--stream", str(tmp_path / "line.yaml")]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert len(captured.err.splitlines()) == 1


def test_the_page_on_the_simulator_shows_a_valid_line_and_every_option(tmp_path: Path) -> None:
    page = (HERE.parent / "docs" / "simulator.md").read_text()
    text = page.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "line.yaml").write_text(text)
    line = load_line(tmp_path / "line.yaml")
    assert [simulated_camera(camera).options.parts for camera in line.cameras] == [100_000] * 2
    for options in (SimOptions, DatasetCameraOptions):
        for name in options.model_fields:
            assert f"`{name}`" in page


# Over GigE Vision, in a network namespace of its own


@pytest.mark.parametrize(
    ("name", "number"),
    [("BayerGR8", 0x0108_0008), ("BayerRG8", 0x0108_0009), ("BayerGB8", 0x0108_000A), ("BayerBG8", 0x0108_000B)],
)
def test_a_mosaic_of_even_colour_is_that_colour_again(name: str, number: int) -> None:
    image = np.broadcast_to(np.array([200, 100, 30], np.uint8), (8, 10, 3))
    assert np.array_equal(to_rgb(encoded(image, number).tobytes(), name, 8, 10), image)


def test_grey_levels_and_colours_are_encoded_as_they_are() -> None:
    image = np.arange(240, dtype=np.uint8).reshape(8, 10, 3)
    assert np.array_equal(to_rgb(encoded(image, 0x0218_0014).tobytes(), "RGB8", 8, 10), image)
    grey = np.repeat(image[..., :1], 3, axis=2)
    for name, number in (("Mono8", 0x0108_0001), ("Mono16", 0x0110_0007)):
        assert np.array_equal(to_rgb(encoded(grey, number).tobytes(), name, 8, 10), grey)
    with pytest.raises(CameraError, match="pixel format 0x01080099"):
        encoded(image, 0x0108_0099)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("", "over GigE Vision a line needs a rate"),
        ("&rate=5&lost_share=.1", "lost_share cannot happen over GigE Vision here"),
        ("&rate=5&late_share=.1&late_ms=4", "late_share cannot"),
        ("&rate=5&queue=4", "queue cannot"),
        ("&rate=5&vanish_after=4", "vanish_after cannot"),
        ("&rate=5&fuzzed_share=.4", "fuzzed_share cannot"),
    ],
)
def test_what_gige_vision_cannot_do_is_refused_before_anything_is_on_the_network(
    tmp_path: Path, query: str, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        GigeLine(load_line(line_of(tmp_path, query)))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def gige_problem() -> str | None:
    try:
        introspection.load("Aravis")
    except MissingError as error:
        return str(error)
    if os.geteuid() or not shutil.which("ip"):
        return "a network namespace needs root and iproute2"
    return None


needs_gige = pytest.mark.skipif(gige_problem() is not None, reason=str(gige_problem()))
Inside = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def inside() -> Iterator[Inside]:
    """Run a Python program in a network namespace that has two addresses."""
    namespace = f"edgead-sim-{os.getpid()}"
    enter = ["ip", "netns", "exec", namespace]
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        subprocess.run([*enter, "ip", "link", "set", "lo", "up"], check=True)
        subprocess.run([*enter, "ip", "addr", "add", "127.0.0.2/8", "dev", "lo"], check=True)

        def run(*words: object) -> subprocess.CompletedProcess[str]:
            command = [*enter, sys.executable, *map(str, words)]
            return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

        yield run
    finally:
        subprocess.run(["ip", "netns", "del", namespace], check=True)


def station(inside: Inside, *words: object) -> dict[str, Any]:
    done = inside(HERE / "gige_line_client.py", *words)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@needs_gige
def test_parts_travel_as_they_are_over_gige_vision_until_there_are_no_more(inside: Inside, tmp_path: Path) -> None:
    path = line_of(tmp_path, "&parts=5&rate=10&flicker=.2&black_share=.2")
    found = station(inside, path, "trigger=software", 20, "RGB8", "wait")
    for name in ("front", "back"):
        camera = found[name]
        assert (camera["frames"], camera["right"], camera["error"]) == (20, 20, "")
        assert camera["health"]["missed"] == camera["health"]["incomplete"] == 0
        assert [trigger for trigger, _ in camera["seen"]] == [number // 4 for number in range(20)]
        assert found["line"]["cameras"][name]["frames"] == 20
        assert found["line"]["cameras"][name]["faults"]["black"] > 0


@needs_gige
@pytest.mark.slow
def test_a_station_may_ask_for_grey_levels_at_the_pace_of_the_line(inside: Inside, tmp_path: Path) -> None:
    found = station(inside, line_of(tmp_path, "&parts=1000&rate=5"), "pixel_format=Mono8", 40, "Mono8")
    assert found["front"]["right"] == found["back"]["right"] == 40
    assert found["line"]["seconds"] > 39 / 20


@needs_gige
@pytest.mark.slow
def test_each_run_of_a_station_begins_with_the_first_part(inside: Inside, tmp_path: Path) -> None:
    found = station(inside, line_of(tmp_path, "&parts=1000&rate=5"), "trigger=software", 10, "RGB8", "again")
    assert found["front"]["right"] == found["back"]["right"] == 10
    assert found["line"]["cameras"]["front"]["frames"] >= 20


@needs_gige
@pytest.mark.slow
def test_a_line_triggers_its_cameras_and_those_that_are_too_slow_lose_parts_without_a_trace(
    inside: Inside, tmp_path: Path
) -> None:
    path = line_of(tmp_path, "&parts=1000&rate=2.5&overtriggered_share=.25")
    found = station(inside, path, "trigger=Line0&period_ms=100&watchdog_ms=0", 32)
    line, front, back = found["line"]["cameras"], found["front"], found["back"]
    for camera in (front, back):
        assert camera["error"] == ""
        assert camera["frames"] == 32
        assert camera["right"] == 32
        assert camera["health"]["transport"]["missing_packets"] == 0
    for name in ("front", "back"):
        assert line[name]["faults"]["overtriggered"] >= 4
    shown = {(trigger, light) for trigger, light in front["seen"]}
    assert len({trigger for trigger, _ in shown}) < front["seen"][-1][0] + 1  # some parts are missing as a whole


@needs_gige
@pytest.mark.slow
def test_packets_that_are_lost_are_no_frames(inside: Inside, tmp_path: Path) -> None:
    path = line_of(tmp_path, "&parts=1000&rate=5", text=", packet_loss: 0.05")
    found = station(inside, path, "packet_size=1400", 40)
    for name in ("front", "back"):
        assert found[name]["health"]["incomplete"] > 0
        assert found[name]["frames"] == found[name]["whole"] == 40


@needs_gige
@pytest.mark.slow
def test_images_of_different_sizes_end_the_line_in_one_line(inside: Inside, tmp_path: Path) -> None:
    for part, size in enumerate((64, 64, 96)):
        write_png(tmp_path / "nuts" / "Image" / "Good" / f"P{part}_V1_L1.png", np.full((size, 64, 3), part, np.uint8))
    uri = f"dataset://{tmp_path}?kind=sim&show=all&ng_share=0&rate=10"
    (tmp_path / "line.yaml").write_text(f"cameras: [{{name: a, view: 1, uri: '{uri}'}}]\n")
    found = station(inside, tmp_path / "line.yaml", "trigger=software&watchdog_ms=500&open_ms=500", 4, "RGB8", "wait")
    assert found["a"]["frames"] < 4
    assert "over GigE Vision a camera has one size" in found["line"]
    assert "Traceback" not in found["line"]


@needs_gige
def test_an_address_that_no_interface_has_is_refused_in_one_line(inside: Inside, tmp_path: Path) -> None:
    done = inside(
        "-m",
        "edgead",
        "simulate",
        "--gige",
        "--stream",
        line_of(tmp_path, "&rate=5", text=", address: 10.1.2.3").absolute(),
    )
    assert done.returncode == 2
    assert "at '10.1.2.3'" in done.stderr  # both have it
    (tmp_path / "one.yaml").write_text(f"cameras: [{{name: a, uri: '{CORE}&rate=5', address: 10.1.2.3}}]\n")
    done = inside("-m", "edgead", "simulate", "--gige", "--stream", tmp_path / "one.yaml")
    assert done.returncode == 2
    assert "10.1.2.3 is on no interface" in done.stderr
    assert "Traceback" not in done.stderr
