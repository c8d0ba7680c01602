"""Live cameras against real counterparts: an RTSP server, a GigE Vision camera, GStreamer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edgead.config import CameraConfig, StationConfig
from edgead.datasets.simulated import render
from edgead.errors import CameraError, ConfigError, MissingError
from edgead.images import read_image, write_png
from edgead.runtime import introspection
from edgead.runtime.cameras import open_cameras
from edgead.runtime.fake import FakeRunner
from edgead.runtime.frames import Camera, Frame
from edgead.runtime.live import Live
from edgead.runtime.live_source import LiveOptions, Shot
from edgead.runtime.parts import Slot
from edgead.runtime.pixel_formats import to_rgb
from edgead.runtime.stations import run_station
from edgead.thresholds import Threshold

HERE = Path(__file__).parent
NAMESPACE = f"edgead-{os.getpid()}"


def config(uri: str, **values: object) -> CameraConfig:
    return CameraConfig.model_validate({"name": "cam", "uri": uri, **values})


@contextmanager
def opened(uri: str, **values: object) -> Iterator[Camera]:
    camera = open_cameras([config(uri, **values)])[0]
    try:
        yield camera
    finally:
        camera.close()


def frame_of(camera: Camera, timeout_s: float = 10) -> Frame:
    frame = camera.read(timeout_s)
    assert frame is not None
    return frame


def has(namespace: str) -> bool:
    try:
        introspection.load(namespace)
    except MissingError:
        return False
    return True


needs_gst = pytest.mark.skipif(not has("Gst"), reason="GStreamer for Python is not installed")


class Scripted:
    """A source of the fewest lines: what it gives, or raises, is a list."""

    def __init__(self, script: list[object]) -> None:
        self.script = list(script)
        self.lights: list[int] = []
        self.opened = 0
        self.closed = 0
        self.counted: int | None = None
        self.transport: dict[str, int] = {}

    def open(self, timeout_s: float) -> None:
        assert timeout_s > 0
        self.opened += 1
        if self.script and isinstance(self.script[0], str):
            raise CameraError(str(self.script.pop(0)))
        self.transport = {"resent_packets": 0}

    def read(self, timeout_s: float, light: int) -> Shot | None:
        self.lights.append(light)
        self.transport["resent_packets"] += 1
        if not self.script:
            time.sleep(timeout_s)
            return None
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        assert step is None or isinstance(step, Shot)
        return step

    def close(self) -> None:
        self.closed += 1


def shot(captured_s: float, skipped: int = 0, hw: tuple[int, int] = (4, 6)) -> Shot:
    return Shot(np.zeros((*hw, 3), np.uint8), captured_s, skipped)


def live(script: list[object], lights: tuple[str, ...] = (), **options: object) -> tuple[Live, Scripted]:
    source = Scripted(script)
    values = LiveOptions.model_validate({"retry_ms": 1, "retry_max_ms": 4, **options})
    camera = Live(config("rtsp://x", illuminations=lights), source, values)
    camera.open()
    return camera, source


def test_frames_that_are_known_to_be_lost_keep_their_numbers() -> None:
    camera, _ = live([shot(0.0), shot(0.1), Shot(None, 0.2), shot(0.5, skipped=2), shot(0.6)], lights=("a", "b"))
    frames = [frame_of(camera) for _ in range(4)]
    assert [(frame.trigger, frame.slot.illumination) for frame in frames] == [(0, "a"), (0, "b"), (2, "b"), (3, "a")]
    assert (camera.health.frames, camera.health.incomplete, camera.health.missed) == (4, 1, 2)


def test_the_number_follows_the_clock_over_a_gap_and_a_part_begins_whole() -> None:
    script = [shot(0.1 * step) for step in range(5)]
    camera, source = live([*script, CameraError("pulled"), "still gone", shot(1.4), shot(1.5)], lights=("a", "b"))
    numbers = [(frame_of(camera).trigger, frame_of(camera).trigger) for _ in range(2)]
    assert numbers == [(0, 0), (1, 1)]
    assert frame_of(camera).trigger == 2
    frame = frame_of(camera)  # taken 10 pauses after frame number 4
    assert (frame.trigger, frame.slot.illumination) == (7, "a")
    assert frame_of(camera).slot.illumination == "b"
    assert (camera.health.missed, camera.health.reconnects, camera.health.last_error) == (9, 1, "still gone")
    assert (source.opened, source.closed) == (3, 2)


def test_counters_of_the_transport_add_up_over_connections() -> None:
    camera, _ = live([shot(0), shot(1), CameraError("x"), shot(2)])
    for _ in range(3):
        frame_of(camera)
    assert camera.health.transport == {"resent_packets": 4}
    camera.close()
    assert camera.health.transport == {"resent_packets": 4}


def test_a_camera_that_stays_away_is_given_up_with_its_reason_after_the_configured_time() -> None:
    camera, source = live([shot(0), CameraError("the plug was pulled"), *["no route to host"] * 500])
    frame_of(camera)
    begin_s = time.monotonic()
    with pytest.raises(
        CameraError, match=r"camera 'cam' has vanished: it gave no frame for 0\.3 s \(no route to host\)"
    ):
        camera.read(0.3)
    assert 0.25 < time.monotonic() - begin_s < 10
    assert 5 < source.opened < 160  # pauses of 2 to 4 ms at least, once they have grown to their bound
    assert camera.health.reconnects == 0


def test_pauses_grow_up_to_a_bound_and_are_the_same_in_each_run() -> None:
    def times() -> list[float]:
        camera, _ = live([CameraError("gone"), *["still gone"] * 6, shot(0)], retry_ms=10, retry_max_ms=80)
        pauses: list[float] = []
        camera._stopped.wait = pauses.append  # type: ignore[method-assign, assignment]
        frame_of(camera, 60)
        return pauses

    first, second = times(), times()
    assert first == second
    assert len(set(first)) == 7
    for pause, full in zip(first, [0.01, 0.02, 0.04, 0.08, 0.08, 0.08, 0.08], strict=True):
        assert full / 2 <= pause <= full


def test_the_watchdog_opens_a_silent_camera_anew_but_not_one_that_the_line_triggers() -> None:
    camera, source = live([shot(0)], watchdog_ms=50)
    frame_of(camera)
    with pytest.raises(CameraError, match=r"no complete frame for 0\.05 s"):
        camera.read(2)  # a look at the watchdog takes up to a fifth of a second
    assert source.opened > 2
    patient, source = live([shot(0)], watchdog_ms=0)
    frame_of(patient)
    with pytest.raises(CameraError, match=r"gave no frame for 0\.3 s; check cable"):
        patient.read(0.3)
    assert source.opened == 1


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((6, 4, 3), np.uint8), "gave a frame of 4x6 pixels; expected 6x4"),
        (np.zeros((4, 6), np.uint8), "expected uint8"),
        (np.zeros((4, 6, 4), np.uint8), "expected uint8"),
        (np.zeros((4, 6, 3), np.uint16), "gave uint16 .4, 6, 3.; expected uint8"),
        (np.zeros((0, 6, 3), np.uint8), "expected uint8"),
    ],
)
def test_a_frame_of_another_size_or_type_than_promised_ends_the_camera(image: np.ndarray, words: str) -> None:
    camera, _ = live([shot(0), Shot(image, 0.1)])
    frame_of(camera)
    with pytest.raises(CameraError, match=words):
        camera.read(1)
    promised, _ = live([Shot(image, 0.1)], width=6, height=4)
    with pytest.raises(CameraError, match=words):
        promised.read(1)


@pytest.mark.parametrize("script", [[], [CameraError("gone"), *["gone"] * 9]])
def test_stop_wakes_a_read_from_another_thread(script: list[object]) -> None:
    camera, source = live(script, watchdog_ms=0, retry_ms=60_000, retry_max_ms=60_000)
    timer = threading.Timer(0.1, camera.stop)
    timer.start()
    begin_s = time.monotonic()
    assert camera.read(60) is None
    assert time.monotonic() - begin_s < 30
    assert camera.read(60) is None
    camera.close()
    camera.close()
    assert source.closed >= 1


def test_a_rate_triggers_on_time_and_leaves_out_what_came_due_without_the_camera() -> None:
    class Triggered(Scripted):
        def read(self, timeout_s: float, light: int) -> Shot | None:
            seen = super().read(timeout_s, light)
            return seen._replace(captured_s=time.monotonic()) if seen else None

    source = Triggered([shot(0), shot(0), shot(0), CameraError("gone"), *["gone"] * 3, shot(0), shot(0)])
    options = LiveOptions(retry_ms=60, retry_max_ms=60)
    camera = Live(config("rtsp://x", illuminations=("a", "b")), source, options, rate=20, paced=True)
    begin_s = time.monotonic()
    camera.open()
    frames = [frame_of(camera) for _ in range(5)]
    assert [frame.trigger for frame in frames[:3]] == [0, 0, 1]
    assert [frame.slot.illumination for frame in frames] == ["a", "b", "a", "a", "b"]
    assert frames[3].trigger == frames[4].trigger > 3
    for frame in frames[2:4]:
        assert 0 <= frame.captured_s - begin_s - frame.trigger / 20 < 2
    assert camera.health.missed == frames[3].trigger * 2 - 3


def fired(script: list[object], **options: object) -> Live:
    values = LiveOptions.model_validate({"retry_ms": 1, "retry_max_ms": 4, "late_ms": 20_000, **options})
    camera = Live(config("rtsp://x", illuminations=("a", "b")), Scripted(script), values, paced=True)
    camera.open()
    assert camera.arm()
    return camera


def test_the_stations_clock_gives_frames_their_triggers() -> None:
    camera = fired([shot(0), shot(0), shot(0), Shot(None, 0), shot(0), shot(0)])
    seen = []
    for trigger in (0, 2, 5):  # the clock rejected the parts between them
        camera.fire(trigger)
        for _ in range(1 if trigger == 2 else 2):  # its second frame comes incomplete
            frame = frame_of(camera)
            seen.append((frame.trigger, frame.slot.illumination))
    assert seen == [(0, "a"), (0, "b"), (2, "a"), (5, "a"), (5, "b")]
    assert (camera.health.missed, camera.health.incomplete) == (0, 1)


def test_triggers_that_a_camera_cannot_take_in_time_are_missed() -> None:
    camera = fired([shot(0)] * 4, late_ms=200)
    for trigger in range(4):
        camera.fire(trigger)
    assert {frame_of(camera).trigger, frame_of(camera).trigger} == {3}
    assert camera.health.missed == 6  # three parts of two frames
    camera.fire(4)
    time.sleep(0.3)
    timer = threading.Timer(0.1, camera.fire, [5])
    timer.start()
    assert frame_of(camera).trigger == 5
    assert camera.health.missed == 8


def test_a_camera_that_is_lost_within_a_part_goes_on_with_the_next_trigger() -> None:
    camera = fired([shot(0), CameraError("gone"), "still gone", shot(0), shot(0)])
    camera.fire(0)
    assert frame_of(camera).trigger == 0
    timer = threading.Timer(0.3, camera.fire, [7])
    timer.start()
    assert frame_of(camera).trigger == frame_of(camera).trigger == 7
    assert (camera.health.missed, camera.health.reconnects) == (1, 1)


def test_a_camera_waits_for_its_trigger_without_end_and_may_be_stopped() -> None:
    camera = fired([shot(0)], watchdog_ms=20)
    timer = threading.Timer(0.5, camera.stop)
    timer.start()
    assert camera.read(0.05) is None
    assert camera.health.last_error is None
    free, _ = live([shot(0)])
    assert not free.arm()  # it has its own pace
    own = Live(config("rtsp://x"), Scripted([]), LiveOptions(), paced=True, rate=5)
    assert not own.arm()


# GStreamer


@needs_gst
def test_a_pipeline_gives_rgb_frames_with_their_capture_times() -> None:
    pipeline = "videotestsrc is-live=true pattern=smpte ! video/x-raw,format=I420,width=322,height=240,framerate=50/1"
    with opened(f"gst://{pipeline}", view="top") as camera:
        frames = [frame_of(camera) for _ in range(8)]
        now_s = time.monotonic()
    assert {frame.image.shape for frame in frames} == {(240, 322, 3)}
    assert all(frame.slot == Slot("top", "0") for frame in frames)
    assert [frame.trigger for frame in frames] == sorted({frame.trigger for frame in frames})
    bars = frames[0].image[60, [23, 69, 115, 161, 207, 253, 299]].astype(int)
    expected = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 1, 0], [1, 0, 1], [1, 0, 0], [0, 0, 1]])
    assert np.array_equal(bars > 96, expected == 1)
    captured = [frame.captured_s for frame in frames]
    assert now_s - 5 < captured[-1] <= now_s
    steps = np.diff(captured) / np.diff([frame.trigger for frame in frames])
    assert np.median(steps) == pytest.approx(0.02, abs=0.004)


@needs_gst
def test_a_frame_that_waited_in_the_pipeline_says_when_it_was_taken() -> None:
    with opened("gst://videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=5/1") as camera:
        for _ in range(20):
            first = frame_of(camera)
            time.sleep(max(0.0, first.captured_s + 0.3 - time.monotonic()))
            second = frame_of(camera)
            age_s = time.monotonic() - second.captured_s
            pause_s = second.captured_s - first.captured_s
            if second.trigger == first.trigger + 1 and pause_s == pytest.approx(0.2, abs=0.04):
                break  # else the machine was too busy to wake this thread in time
        else:
            raise AssertionError(f"frames came {pause_s} s apart")
        assert age_s > 0.05


@needs_gst
def test_a_slow_reader_gets_new_frames_and_the_others_are_counted() -> None:
    with opened("gst://videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=100/1") as camera:
        frame_of(camera)
        time.sleep(1)  # a hundred frames
        ages_s = []
        for _ in range(3):
            frame = frame_of(camera)
            ages_s.append(time.monotonic() - frame.captured_s)
        assert min(ages_s) < 0.8
        assert camera.health.missed > 25
        assert frame.trigger == camera.health.missed + camera.health.frames - 1


@needs_gst
def test_the_end_of_a_pipeline_is_a_disconnect() -> None:
    pipeline = "videotestsrc is-live=true num-buffers=3 ! video/x-raw,width=64,height=48,framerate=100/1"
    with opened(f"gst://{pipeline}?retry_ms=20") as camera:
        frames = [frame_of(camera) for _ in range(8)]
        assert camera.health.reconnects == 2
        assert camera.health.last_error == "the pipeline has ended"
    triggers = [frame.trigger for frame in frames]
    assert triggers == sorted(set(triggers))


@needs_gst
@pytest.mark.parametrize(
    ("uri", "error", "words"),
    [
        ("gst://videotestsrk ! identity", CameraError, 'no element "videotestsrk"'),
        ("gst://filesrc location=/nowhere ! decodebin", CameraError, "/nowhere"),
        ("gst://v4l2src device=/dev/video77", CameraError, "/dev/video77"),
        ("gst://videotestsrc is-live=true?wachdog_ms=1", ConfigError, "did you mean 'watchdog_ms'?"),
        ("gst://audiotestsrc ! audio/x-raw,rate=8000", CameraError, "could not link"),
    ],
)
def test_a_wrong_pipeline_is_refused_in_one_line(uri: str, error: type[Exception], words: str) -> None:
    begin_s = time.monotonic()
    with pytest.raises(error) as caught, opened(uri):
        pass
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "cam" in str(caught.value)
    assert time.monotonic() - begin_s < 20


# RTSP


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def rtsp_server(port: int, *size: str) -> Iterator[subprocess.Popen[str]]:
    with running([sys.executable, str(HERE / "rtsp_server.py"), str(port), *size]) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield server


def is_accounted_for(frame: Frame, camera: Camera) -> bool:
    """Tell whether all numbers up to a frame's are those of frames; one that was cut short has a number, too."""
    return frame.trigger == camera.health.missed + camera.health.incomplete + camera.health.frames - 1


def gap(camera: Camera, longer_s: float, within_s: float = 10, timeout_s: float = 10) -> tuple[float, Frame]:
    """Read on until a pause of more than ``longer_s``; return it and the frame that ended it."""
    begin_s = last_s = time.monotonic()
    while last_s - begin_s < within_s:
        frame = frame_of(camera, timeout_s)
        now_s = time.monotonic()
        if now_s - last_s > longer_s:
            return now_s - last_s, frame
        last_s = now_s
    raise AssertionError(f"no pause of {longer_s} s within {within_s} s")


@needs_gst
def test_an_rtsp_camera_is_killed_and_hangs_and_comes_back_each_time() -> None:
    pytest.importorskip("av")
    port = free_port()
    uri = f"rtsp://me:secret@127.0.0.1:{port}/line?channel=1#watchdog_ms=1000&retry_ms=50&lag_ms=20000"
    with rtsp_server(port) as server, opened(uri) as camera:
        frames = [frame_of(camera) for _ in range(10)]
        assert frames[0].trigger == 0
        assert is_accounted_for(frames[-1], camera)
        assert frames[0].image.shape == (240, 320, 3)
        assert (frames[0].image[60, [23, 69, 115]] > 128).tolist() == [
            [True] * 3,
            [True, True, False],
            [False, True, True],
        ]

        server.kill()
        server.wait()
        with rtsp_server(port) as second:
            pause_s, frame = gap(camera, 0.2)
            assert pause_s < 30
            assert camera.health.reconnects >= 1
            assert camera.health.missed > 3
            assert is_accounted_for(frame, camera)
            before = camera.health.reconnects

            for _ in range(5):
                frame_of(camera)
            second.send_signal(signal.SIGSTOP)
            threading.Timer(2.5, second.send_signal, [signal.SIGCONT]).start()
            pause_s, frame = gap(camera, 1.2, within_s=30)
            assert pause_s < 30
            assert camera.health.reconnects > before
            assert is_accounted_for(frame, camera)
            assert "time-out" in str(camera.health.last_error)

        begin_s = time.monotonic()
        with pytest.raises(CameraError, match=r"camera 'cam' has vanished: it gave no frame for 0\.5 s") as caught:
            gap(camera, 0.5, timeout_s=0.5)
        assert time.monotonic() - begin_s < 30
        assert "secret" not in str(caught.value)


@needs_gst
def test_a_reader_slower_than_an_rtsp_camera_gets_fresh_frames() -> None:
    pytest.importorskip("av")
    port = free_port()
    with rtsp_server(port), opened(f"rtsp://127.0.0.1:{port}/line#lag_ms=200") as camera:
        for _ in range(12):
            frame = frame_of(camera)
        before = camera.health.missed
        time.sleep(1.5)  # 37 frames wait in the network
        for _ in range(100):  # a search for a fresh one ends after a fifth of a second, on a busy machine without one
            late = frame_of(camera)
            if time.monotonic() - late.captured_s < 0.35:
                break
        else:
            raise AssertionError(f"frames are {time.monotonic() - late.captured_s} s old")
        assert camera.health.missed - before > 15
        assert is_accounted_for(late, camera)
        assert (late.captured_s - frame.captured_s) / (late.trigger - frame.trigger) == pytest.approx(0.04, rel=0.4)


@needs_gst
def test_an_rtsp_camera_that_changes_its_size_ends_in_one_line() -> None:
    pytest.importorskip("av")
    port = free_port()
    with rtsp_server(port), opened(f"rtsp://127.0.0.1:{port}/line#width=320&height=240") as camera:
        frame_of(camera)
    with (
        rtsp_server(port, "640", "480"),
        opened(f"rtsp://127.0.0.1:{port}/line#width=320&height=240") as camera,
        pytest.raises(CameraError, match="gave a frame of 640x480 pixels; expected 320x240"),
    ):
        camera.read(20)


@pytest.mark.parametrize(
    ("rest", "error", "words"),
    [
        ("/line#transprt=udp", ConfigError, "unknown key 'transprt', did you mean 'transport'?"),
        ("/line#transport=tpc", ConfigError, "did you mean 'tcp'?"),
        ("/line#watchdog_ms=-1", ConfigError, "watchdog_ms"),
        ("/line", CameraError, "cannot be opened (Connection refused)"),
    ],
)
def test_a_wrong_rtsp_address_is_refused_in_one_line_without_its_password(
    rest: str, error: type[Exception], words: str
) -> None:
    pytest.importorskip("av")
    with pytest.raises(error) as caught, opened(f"rtsp://me:secret@127.0.0.1:{free_port()}{rest}"):
        pass
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


# Video4Linux: the kernel of continuous integration has no media support, so that only what fails can be tried.


@pytest.mark.parametrize(
    ("uri", "error", "words"),
    [
        (
            "v4l2:///dev/video77",
            CameraError,
            "/dev/video77 cannot be opened (No such file or directory); devices here: ",
        ),
        ("v4l2:///etc/hostname", CameraError, "/etc/hostname is no video device"),
        ("v4l2:///dev/null", CameraError, "/dev/null is no camera"),
        ("v4l2:///dev/video0?widht=9", ConfigError, "did you mean 'width'?"),
        ("v4l2:///dev/video0?format=jpeg", ConfigError, "format"),
    ],
)
def test_a_wrong_device_is_refused_in_one_line(
    capfd: pytest.CaptureFixture[str], uri: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught, opened(uri):
        pass
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


# GigE Vision, in a network namespace of its own: a discovery asks every network that it sees.


def gige_problem() -> str | None:
    if not has("Aravis") or not shutil.which("arv-fake-gv-camera-0.8"):
        return "Aravis and its fake camera are not installed"
    if os.geteuid() or not shutil.which("ip"):
        return "a network namespace needs root and iproute2"
    return None


needs_gige = pytest.mark.skipif(gige_problem() is not None, reason=str(gige_problem()))


@pytest.fixture(scope="module")
def inside() -> Iterator[Callable[..., list[dict[str, object]]]]:
    """Run tests/gige_client.py in the namespace; return the lines that it prints, as JSON."""
    enter = ["ip", "netns", "exec", NAMESPACE]
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        subprocess.run([*enter, "ip", "link", "set", "lo", "up"], check=True)

        def run(*arguments: str) -> list[dict[str, object]]:
            command = [*enter, sys.executable, str(HERE / "gige_client.py"), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            return [json.loads(line) for line in done.stdout.splitlines()]

        yield run
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=True)


Inside = Callable[..., list[dict[str, object]]]


@needs_gige
def test_a_gige_camera_runs_freely_dies_and_comes_back(inside: Inside) -> None:
    before, back, end = inside("killed", "gige://127.0.0.1?watchdog_ms=400&retry_ms=50")
    assert before["triggers"][0] == 0
    assert before["triggers"][-1] == sum(before["health"][name] for name in ("frames", "missed", "incomplete")) - 1
    assert before["shape"] == [512, 512, 3]
    assert back["pause_s"] < 30
    assert back["health"]["reconnects"] >= 1
    assert any("no complete frame for 0.4 s" in error or "cannot be opened" in error for error in back["errors"])
    assert back["trigger"] == sum(back["health"][name] for name in ("frames", "missed", "incomplete")) - 1
    assert back["health"]["missed"] > 10
    assert end["reconnects"] == 0  # control was given back: else the camera would refuse it until its own time-out
    assert end["reopened_s"] < 30


@needs_gige
def test_a_software_trigger_has_an_exposure_for_each_illumination(inside: Inside) -> None:
    (seen,) = inside("lights", "gige://127.0.0.1?trigger=software&exposure_us=500,8000&width=256&height=128&rate=8")
    assert seen["shape"] == [128, 256, 3]
    assert seen["slots"] == [[0, "dark"], [0, "bright"], [1, "dark"], [1, "bright"], [2, "dark"], [2, "bright"]]
    assert max(seen["means"][0::2]) < min(seen["means"][1::2])
    for number, captured_s in enumerate(seen["captured_s"][0::2]):
        assert number / 8 - 0.01 < captured_s - seen["begin_s"] < number / 8 + 10


@needs_gige
def test_buffers_with_packets_missing_are_no_frames(inside: Inside) -> None:
    (seen,) = inside("lossy", "gige://127.0.0.1?packet_size=1400")
    assert seen["health"]["incomplete"] > 2
    assert seen["health"]["transport"]["missing_packets"] >= seen["health"]["incomplete"]
    assert seen["last"] == seen["health"]["frames"] + seen["health"]["incomplete"] + seen["health"]["missed"] - 1


@needs_gige
def test_images_of_a_folder_travel_as_they_are_over_gige_vision(inside: Inside, tmp_path: Path) -> None:
    parts = [
        render("ceramic_tile", seed=4, part=part, view="face", illumination="oblique", defect="good", size=512).image
        for part in range(3)
    ]
    for number, part in enumerate(parts):
        grey = np.repeat(part[..., :1], 3, axis=2)
        write_png(tmp_path / "in" / f"{number}.png", grey)
    (tmp_path / "out").mkdir()
    inside("folder", "gige://GV09?trigger=software", str(tmp_path / "in"), str(tmp_path / "out"))
    sent = [read_image(tmp_path / "in" / f"{number}.png") for number in range(3)]
    seen = [read_image(tmp_path / "out" / f"{number}.png") for number in range(8)]
    order = [next((index for index, image in enumerate(sent) if np.array_equal(image, frame)), None) for frame in seen]
    first = order[0]
    assert first is not None
    assert order == [(first + number) % 3 for number in range(8)]


@needs_gige
@pytest.mark.slow
def test_a_camera_that_the_line_triggers_may_be_silent_but_not_gone(inside: Inside) -> None:
    silent, gone = inside("unplugged", "gige://127.0.0.1?trigger=Line0&watchdog_ms=0")
    assert silent["error"].endswith("it gave no frame for 0.5 s; check cable, power and trigger")
    assert gone["waited_s"] > 11
    assert "127.0.0.1 cannot be opened" in gone["error"]


@needs_gige
@pytest.mark.slow
def test_a_station_goes_on_over_the_death_of_a_camera(inside: Inside, tmp_path: Path) -> None:
    uri = (
        "gige://127.0.0.1?trigger=software&exposure_us=500,8000&rate=10&watchdog_ms=300&retry_ms=50&width=64&height=64"
    )
    (seen,) = inside("station", uri, str(tmp_path / "out"))
    report, camera = seen["report"], seen["report"]["cameras"]["cam"]
    verdicts = report["verdicts"]
    assert report["is_conserved"]
    assert camera["reconnects"] >= 1
    assert 0 <= camera["frames"] - report["frames"] - report["unused_frames"] <= 1  # one may come as it stops
    assert verdicts["MISSED"] >= 5  # it was away for a second at least
    assert verdicts["MISSED"] + verdicts["INCOMPLETE"] < 60
    assert verdicts["OK"] + verdicts["UNSURE"] + verdicts["NG"] >= 10
    assert seen["late_s"] < 20  # from the signal to the end, with control of the camera given back


@needs_gige
def test_what_a_gige_camera_does_not_have_is_refused_in_one_line(inside: Inside) -> None:
    wrong = {
        "gige://GV07": "no camera has the serial number 'GV07', did you mean 'GV01'?",
        "gige://127.0.0.1?pixel_format=Mono99": "'Mono99' not an entry",
        "gige://127.0.0.1?trigger=Line77": "'Line77' not an entry",
        "gige://127.0.0.1?exposure_us=1e12": "has no exposure_us of 1e+12; expected 10 to 1e+07",
    }
    seen = inside("wrong", *wrong)
    for line, words in zip(seen, wrong.values(), strict=True):
        assert words in line["error"]
        assert "\n" not in line["error"]


@needs_gige
def test_a_gige_address_that_contradicts_itself_is_refused() -> None:
    for query, words in (
        ("exposure_us=1,2", "need trigger=software"),
        ("rate=2", "need trigger=software"),
        ("trigger=software&exposure_us=1,2", "exposure_us has 2 values for 1 illuminations"),
        ("trigger=software&exposure_us=-5", "expected one above 0"),
        ("exposure_us=long", "exposure_us"),
        ("triger=off", "did you mean 'trigger'?"),
        ("trigger=soft", "trigger"),
        ("buffers=1", "buffers"),
    ):
        with pytest.raises(ConfigError) as caught, opened(f"gige://GV01?{query}"):
            pass
        assert words in str(caught.value)


@pytest.mark.parametrize("name", ["RGB8", "BGR8", "BayerRG8", "BayerGR8", "BayerGB8", "BayerBG8"])
def test_colours_of_a_camera_are_rgb(name: str) -> None:
    colour = np.array([200, 100, 30], np.uint8)
    if name.startswith("Bayer"):
        tile = {"R": 200, "G": 100, "B": 30}
        letters = {"RG": "RGGB", "GR": "GRBG", "GB": "GBRG", "BG": "BGGR"}[name[5:7]]
        data = np.tile(np.array([tile[letter] for letter in letters], np.uint8).reshape(2, 2), (4, 5))
    else:
        data = np.tile(colour if name == "RGB8" else colour[::-1], (8, 10, 1))
    image = to_rgb(data.tobytes(), name, 8, 10)
    assert image.shape == (8, 10, 3)
    assert (image == colour).all()


@pytest.mark.parametrize(("name", "bits"), [("Mono8", 8), ("Mono10", 10), ("Mono12", 12), ("Mono16", 16)])
def test_grey_levels_keep_their_high_byte(name: str, bits: int) -> None:
    levels = (np.arange(40) * 5).reshape(5, 8)
    data = (levels << (bits - 8)).astype("<u2" if bits > 8 else np.uint8)
    image = to_rgb(data.tobytes() + b"padding", name, 5, 8)
    assert np.array_equal(image, np.repeat(levels[..., None], 3, axis=2))
    with pytest.raises(CameraError, match="bytes for 8x5 pixels"):
        to_rgb(data.tobytes()[:-1], name, 5, 8)


# What is not installed, and the station


def test_gi_of_another_python_or_none_is_named_with_its_command(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from edgead.runtime import introspection\n"
        "sys.meta_path.insert(0, type('B', (), {'find_spec': staticmethod(lambda n, p=None, t=None: "
        "(_ for _ in ()).throw(ImportError('blocked')) if n == 'gi' else None)}))\n"
        "try: introspection.load(sys.argv[1], distribution=Path(sys.argv[2]))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )

    def said(namespace: str) -> str:
        command = [sys.executable, "-c", script, namespace, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout

    assert said("Aravis").endswith("apt-get install python3-gi gir1.2-aravis-0.8\n")
    (tmp_path / "gi").mkdir()
    (tmp_path / "gi" / "_gi.cpython-27-x86_64-linux-gnu.so").touch()
    assert "compiled for another Python (_gi.cpython-27" in said("Gst")
    assert said("Gst").startswith("MissingError ")
    assert said("Gst").endswith("/usr/bin/python3 -m venv .venv\n")


@needs_gst
def test_taking_gi_from_the_distribution_shows_nothing_else_of_it() -> None:
    script = (
        "import sys; from edgead.runtime import introspection; introspection.load('Gst')\n"
        "assert not any('dist-packages' in path for path in sys.path if '/usr/lib' in path) or sys.prefix == '/usr'\n"
        "import numpy; print(numpy.__file__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == np.__file__


@needs_gst
def test_a_station_reports_the_health_of_its_cameras(tmp_path: Path) -> None:
    pipeline = "gst://videotestsrc is-live=true num-buffers=4 ! video/x-raw,width=64,height=48,framerate=100/1"
    station = StationConfig.model_validate(
        {
            "bundle": "b",
            "output": str(tmp_path / "out"),
            "silence_ms": 1500,
            "cameras": [{"name": "cam", "uri": f"{pipeline}?retry_ms=60000&retry_max_ms=60000"}],
        }
    )
    threshold = Threshold(0.5, 0.75, "part", 2000, 0.95, 3000, 1000, 1500, "by hand")
    report = run_station(station, runner=FakeRunner((32, 32)), threshold=threshold)
    assert report.is_conserved
    # Of four frames a reader that a busy machine keeps waiting gets the newest.
    assert 1 <= report.cameras["cam"].frames == report.frames + report.unused_frames <= 4
    assert report.to_dict()["cameras"]["cam"]["last_error"] == "the pipeline has ended"
    assert any(
        "camera 'cam' has vanished: it gave no frame for 1.5 s (the pipeline has ended)" in problem
        for problem in report.problems
    )
