from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.station import measure_station
from edgead.config import CameraConfig, StationConfig, load_station
from edgead.datasets.simulated import OBJECTS, render
from edgead.errors import ArtefactError, CameraError, ConfigError
from edgead.images import read_image, write_png
from edgead.runtime.fake import FakeRunner
from edgead.runtime.frames import Frame, Health
from edgead.runtime.inspector import Inspector
from edgead.runtime.parts import Slot
from edgead.runtime.report import StationReport
from edgead.runtime.runner import Prediction
from edgead.runtime.sim_camera import defect_of
from edgead.runtime.stations import run_station
from edgead.thresholds import Threshold, Verdict


def threshold(unsure: float = 0.5, ng: float = 0.75) -> Threshold:
    return Threshold(
        unsure=unsure,
        ng=ng,
        unit="part",
        false_reject_ppm=2000,
        confidence=0.95,
        n_good=3000,
        guaranteed_ppm=1000,
        needed_good=1500,
        source="by hand",
    )


class SlowRunner(FakeRunner):
    """A runner that works for a while, and after some images fails if told so."""

    def __init__(self, busy_s: float, *, fails_after: int | None = None, size: int = 8) -> None:
        super().__init__((size, size), max_batch=4)
        self._busy_s = busy_s
        self._fails_after = fails_after

    def infer(self, images: np.ndarray) -> Prediction:
        if self._fails_after is not None and sum(self.batches) >= self._fails_after:
            raise ArtefactError("the engine is broken; build it again")
        time.sleep(self._busy_s)
        return super().infer(images)


def station(folder: Path, *uris: str, views: tuple[str, ...] = (), **values: Any) -> StationConfig:
    cameras = [
        CameraConfig(name=f"cam{index}", uri=uri, view=views[index] if views else None)
        for index, uri in enumerate(uris)
    ]
    return StationConfig(bundle=folder / "bundle", cameras=tuple(cameras), output=folder / "out", **values)


def lines(report: StationReport) -> list[dict[str, Any]]:
    """Read the verdicts, and hold what must always hold."""
    read = [json.loads(line) for line in report.verdict_file.read_text().splitlines()]
    assert report.is_conserved
    assert sorted(line["trigger"] for line in read) == list(range(report.triggers))
    assert len({line["event_id"] for line in read}) == len(read)
    assert Counter(line["verdict"] for line in read) == Counter(
        {name: count for name, count in report.verdicts.items() if count}
    )
    assert {line["schema"] for line in read} == {"edgead.verdict/1"}
    return read


def grey_parts(folder: Path, parts: dict[str, dict[str, int]]) -> Path:
    """Write one small image of one grey level for each part, view and light."""
    for part, shots in parts.items():
        for shot, level in shots.items():
            write_png(folder / f"{part}_{shot}.png", np.full((16, 16, 3), level, np.uint8))
    return folder


def test_simulated_parts_get_the_verdicts_that_their_images_deserve(tmp_path: Path) -> None:
    views, size, seed, share = ("front", "back"), 64, 3, 0.5
    uri = f"sim://magnetic_core?seed={seed}&parts=12&ng_share={share}&size={size}"
    spec = OBJECTS["magnetic_core"]
    scores = []
    for part in range(12):
        defect = defect_of(spec, seed=seed, part=part, ng_share=share)
        shots = [
            render("magnetic_core", seed=seed, part=part, view=view, illumination=light, defect=defect, size=size).image
            for view in views
            for light in spec.illuminations
        ]
        scores.append(max(float(shot.astype(np.float64).mean(axis=2).max()) / 255 for shot in shots))
    low, high = (float(value) for value in np.quantile(scores, (0.3, 0.6)) + 1e-4)
    config = station(tmp_path, uri, uri, views=views)
    report = run_station(config, runner=FakeRunner((size, size)), threshold=threshold(low, high))
    read = {line["trigger"]: line for line in lines(report)}
    assert report.problems == ()
    assert (report.triggers, report.frames, report.unused_frames) == (12, 12 * 8, 0)
    for part, score in enumerate(scores):
        expected = "NG" if score > high else "UNSURE" if score > low else "OK"
        assert read[part]["score"] == pytest.approx(score, abs=1e-6)
        assert (read[part]["verdict"], read[part]["part"]) == (expected, f"P{part:04d}")
        assert (read[part]["frames"], read[part]["missing"]) == (8, [])
    assert min(report.verdicts[name] for name in ("OK", "UNSURE", "NG")) >= 3
    assert {"admission", "resize", "queue", "engine", "publish", "part"} <= set(report.latency_ms)
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_folder_with_missing_images_makes_incomplete_parts_that_say_what_is_missing(tmp_path: Path) -> None:
    folder = grey_parts(
        tmp_path / "parts",
        {
            "P1": {"V1_L1": 10, "V1_L2": 10, "V2_L1": 140, "V2_L2": 20},
            "P2": {"V1_L1": 10, "V1_L2": 250, "V2_L1": 10},
            "P3": {"V1_L1": 10, "V1_L2": 10, "V2_L1": 10, "V2_L2": 250},
            "P4": {"V2_L1": 10, "V2_L2": 10},
        },
    )
    config = station(tmp_path, f"dir://{folder}", f"dir://{folder}", views=("1", "2"))
    report = run_station(config, runner=FakeRunner((8, 8)), threshold=threshold())
    read = {line["part"]: line for line in lines(report)}
    assert {part: line["verdict"] for part, line in read.items()} == {
        "P1": "UNSURE",
        "P2": "INCOMPLETE",
        "P3": "NG",
        "P4": "INCOMPLETE",
    }
    assert read["P2"]["missing"] == ["2/2"]
    assert read["P4"]["missing"] == ["1/1", "1/2"]
    assert read["P3"]["worst"] == "2/2"


def test_frames_are_resized_by_area_as_everywhere_else(tmp_path: Path) -> None:
    checks = np.zeros((64, 64, 3), np.uint8)
    checks[::2, ::2] = 252  # a quarter of the pixels: by area every target pixel is 63
    write_png(tmp_path / "parts" / "a.png", checks)
    report = run_station(
        station(tmp_path, f"dir://{tmp_path / 'parts'}"), runner=FakeRunner((8, 8)), threshold=threshold()
    )
    assert lines(report)[0]["score"] == pytest.approx(63 / 255, abs=1e-6)


def test_a_camera_that_vanishes_leaves_incomplete_parts_and_one_clear_line(tmp_path: Path) -> None:
    uri = "sim://magnetic_core?parts=30&cache=1&size=32&ng_share=0"
    config = station(tmp_path, uri, f"{uri}&vanish_after=42", views=("front", "back"))
    report = run_station(config, runner=FakeRunner((32, 32)), threshold=threshold(0.98, 0.99))
    read = {line["trigger"]: line for line in lines(report)}
    assert report.problems == ("camera 'cam1' has vanished after 42 frames; check its cable",)
    assert [read[part]["verdict"] for part in range(30)] == ["OK"] * 10 + ["INCOMPLETE"] * 20
    assert read[10]["missing"] == ["back/dome", "back/right"]
    assert all(len(read[part]["missing"]) == 4 for part in range(11, 30))


def test_a_folder_deleted_while_streaming_ends_the_station_with_one_clear_line(tmp_path: Path) -> None:
    folder = grey_parts(tmp_path / "parts", {f"P{part:03d}": {"V1_L1": 9, "V1_L2": 9} for part in range(150)})

    @contextmanager
    def delete(_title: str, total: int) -> Iterator[Any]:
        assert total == 150
        yield lambda _steps: shutil.rmtree(folder, ignore_errors=True)

    report = run_station(
        station(tmp_path, f"dir://{folder}", parts_in_flight=1),
        runner=SlowRunner(0.02),  # the folder is gone long before the engine is through
        threshold=threshold(),
        progress=delete,
    )
    read = lines(report)
    assert 0 < len(read) < 150
    assert len(report.problems) == 1
    assert report.problems[0].startswith("camera 'cam0' has vanished")
    assert {line["verdict"] for line in read} <= {"OK", "INCOMPLETE"}


def test_overload_rejects_whole_parts_and_completes_the_admitted(tmp_path: Path) -> None:
    uri = "sim://magnetic_core?parts=60&cache=1&size=32&ng_share=0"
    config = station(tmp_path, uri, uri, views=("front", "back"), takt_ms=5, timeout_ms=5000, parts_in_flight=1)
    report = run_station(config, runner=SlowRunner(0.01, size=16), threshold=threshold(0.98, 0.99))
    read = lines(report)
    assert report.triggers == 60
    assert report.verdicts["REJECTED"] >= 10
    assert report.verdicts["OK"] >= 1  # about ten, but on a busy machine most triggers come in a rush
    assert report.verdicts["OK"] + report.verdicts["REJECTED"] == 60
    assert report.unused_frames == 8 * report.verdicts["REJECTED"]
    assert report.frames == 8 * report.verdicts["OK"]
    assert all(line["part"] is None for line in read if line["verdict"] == "REJECTED")


def test_frames_that_come_too_late_make_incomplete_parts(tmp_path: Path) -> None:
    uri = "sim://magnetic_core?parts=12&cache=1&size=32&ng_share=0"
    slow = f"{uri}&rate=4"  # 250 ms a part where the takt is 100 ms
    views = ("front", "back")
    config = station(tmp_path, uri, slow, views=views, takt_ms=100, timeout_ms=500, parts_in_flight=16)
    report = run_station(config, runner=FakeRunner((16, 16)), threshold=threshold(0.98, 0.99))
    read = lines(report)
    assert report.triggers == 12
    assert report.verdicts["INCOMPLETE"] >= 4
    assert report.unused_frames >= 4
    waited = [line for line in read if line["frames"] == 4 and line["missing"][0].startswith("back/")]
    assert waited
    assert all(line["latency_ms"] >= 500 for line in waited)


def test_a_silent_camera_counts_as_vanished(tmp_path: Path) -> None:
    uri = "sim://magnetic_core?parts=3&cache=1&size=32&ng_share=0"
    config = station(tmp_path, uri, f"{uri}&rate=0.01", views=("front", "back"), silence_ms=100)
    report = run_station(config, runner=FakeRunner((16, 16)), threshold=threshold(0.98, 0.99))
    assert [line["verdict"] for line in lines(report)] == ["OK", "INCOMPLETE", "INCOMPLETE"]
    assert report.problems == ("camera 'cam1' gave no frame for 0.1 s; check its cable and its trigger",)


def test_triggers_without_any_frame_are_missed(tmp_path: Path) -> None:
    uri = "sim://ceramic_tile?parts=40&cache=1&size=32&ng_share=0&lost_share=0.4&seed=2"
    config = station(tmp_path, uri, takt_ms=2, timeout_ms=5000, parts_in_flight=64)
    report = run_station(config, runner=FakeRunner((16, 16)), threshold=threshold(0.98, 0.99))
    lines(report)
    assert 5 < report.verdicts["MISSED"] < 35
    assert report.verdicts["OK"] + report.verdicts["MISSED"] == 40


def test_recorded_sources_are_held_back_instead_of_rejected(tmp_path: Path) -> None:
    uri = "sim://magnetic_core?parts=25&cache=1&size=32&ng_share=0"
    config = station(tmp_path, uri, uri, views=("front", "back"), parts_in_flight=1)
    report = run_station(config, runner=SlowRunner(0.02, size=16), threshold=threshold(0.98, 0.99))
    assert report.verdicts["OK"] == 25
    assert report.mean_batch > 1.5  # greedy: what has come meanwhile is taken at once


def test_a_full_disk_loses_no_verdict_silently(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "verdicts.ndjson").symlink_to("/dev/full")
    uri = "sim://ceramic_tile?parts=100000&cache=1&size=32"  # the engine may be far ahead of the disk
    report = run_station(station(tmp_path, uri), runner=FakeRunner((16, 16)), threshold=threshold(0.98, 0.99))
    written = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert 0 < report.triggers < 100_000
    assert [line["trigger"] for line in written] == list(range(report.triggers))
    assert len(report.problems) == 1
    assert "No space left on device" in report.problems[0]
    assert "\n" not in report.problems[0]


def test_a_disk_that_fills_up_leaves_whole_lines_and_the_rest_on_stderr(tmp_path: Path) -> None:
    program = f"""
import resource, sys
from edgead.config import load_station
from edgead.runtime.fake import FakeRunner
from edgead.runtime.frames import Frame, Health
from edgead.runtime.stations import run_station
from edgead.thresholds import Threshold
config = load_station(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))  # a real write that the system cuts short
report = run_station(config, runner=FakeRunner((16, 16)), threshold=Threshold.from_dict({threshold(2, 3).to_dict()!r}))
print(report.triggers, *report.problems)
"""
    yaml = tmp_path / "station.yaml"
    yaml.write_text(
        "bundle: b\noutput: out\ncameras: [{name: a, uri: 'sim://ceramic_tile?parts=100000&cache=1&size=32'}]\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(yaml)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    triggers, problem = done.stdout.split(" ", 1)
    assert problem.count("\n") == 1
    assert "verdicts.ndjson: cannot be written (File too large)" in problem
    on_disk = (tmp_path / "out" / "verdicts.ndjson").read_text()
    assert 0 < len(on_disk) <= 5000
    assert on_disk.endswith("\n")
    read = [json.loads(line)["trigger"] for line in [*on_disk.splitlines(), *done.stderr.splitlines()]]
    assert sorted(read) == list(range(int(triggers)))
    assert len(read) < 100_000


@pytest.mark.parametrize("target", ["out", "out/pictures", "out/verdicts.ndjson"])
def test_an_output_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path, target: str) -> None:
    path = tmp_path / target
    path.parent.mkdir(exist_ok=True)
    if target.endswith("ndjson"):
        path.mkdir()
    else:
        path.write_text("in the way")
    with pytest.raises(ConfigError, match=r"cannot be written .*choose a writable output folder"):
        run_station(station(tmp_path, "sim://ceramic_tile"), runner=FakeRunner(), threshold=threshold())


def test_pictures_of_ng_parts_are_kept_within_their_limit(tmp_path: Path) -> None:
    parts = {f"P{part}": {"V1_L1": 10, "V1_L2": 250 if part % 2 else 10, "V1_L3": 200} for part in range(10)}
    folder = grey_parts(tmp_path / "parts", parts)
    config = station(tmp_path, f"dir://{folder}", sinks={"pictures": {"limit": 6}})
    report = run_station(config, runner=FakeRunner((16, 16)), threshold=threshold(0.9, 0.95))
    assert (report.verdicts["NG"], report.pictures) == (5, 10)
    kept = sorted(path.name.split("-", 1)[1] for path in (tmp_path / "out" / "pictures").iterdir())
    assert kept == [f"{part}_P{part}_1+2_{kind}.png" for part in (5, 7, 9) for kind in ("image", "overlay")]
    image, drawn = (read_image(path) for path in sorted((tmp_path / "out" / "pictures").glob("*-9_*")))
    assert np.array_equal(image, np.full((16, 16, 3), 250))
    assert drawn.shape == image.shape
    assert not np.array_equal(drawn, image)
    # A second run counts what the first one left.
    run_station(config, runner=FakeRunner((16, 16)), threshold=threshold(0.9, 0.95))
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 6
    assert len(report.verdict_file.read_text().splitlines()) == 20


def test_pictures_that_cannot_be_written_cost_no_verdict(tmp_path: Path) -> None:
    folder = grey_parts(tmp_path / "parts", {f"P{part}": {"V1_L1": 250} for part in range(60)})

    @contextmanager
    def block(_title: str, _total: int) -> Iterator[Any]:
        shutil.rmtree(tmp_path / "out" / "pictures")
        (tmp_path / "out" / "pictures").write_text("in the way")
        yield lambda _steps: None

    report = run_station(
        station(tmp_path, f"dir://{folder}"), runner=FakeRunner((16, 16)), threshold=threshold(), progress=block
    )
    assert len(lines(report)) == report.verdicts["NG"] == 60
    assert len(report.problems) == 1
    assert "verdicts go on without pictures" in report.problems[0]


def test_an_engine_that_fails_ends_the_station_and_leaves_no_part_without_a_line(tmp_path: Path) -> None:
    uri = "sim://magnetic_core?parts=100&cache=1&size=32&ng_share=0"
    config = station(tmp_path, uri, uri, views=("front", "back"))
    with pytest.raises(ArtefactError, match="the engine is broken"):
        run_station(config, runner=SlowRunner(0, fails_after=40, size=16), threshold=threshold(0.98, 0.99))
    read = [json.loads(line) for line in (tmp_path / "out" / "verdicts.ndjson").read_text().splitlines()]
    assert sorted(line["trigger"] for line in read) == list(range(len(read)))
    outcomes = Counter(line["verdict"] for line in read)
    assert 1 <= outcomes["OK"] <= 5  # 40 images are 5 parts, less those that some warm-up took
    assert outcomes["INCOMPLETE"] >= 1
    assert set(outcomes) <= {"OK", "INCOMPLETE", "MISSED"}


def test_a_camera_that_cannot_be_opened_is_refused_before_anything_runs(tmp_path: Path) -> None:
    before = set(threading.enumerate())  # libraries that other tests have loaded keep threads of their own
    with pytest.raises(CameraError, match="is no folder"):
        run_station(station(tmp_path, "dir:///nowhere"), runner=FakeRunner(), threshold=threshold())
    assert set(threading.enumerate()) <= before


def test_no_thread_is_left_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    uri = "sim://magnetic_core?parts=5&cache=1&size=32"
    run_station(station(tmp_path, uri), runner=FakeRunner((16, 16)), threshold=threshold())
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_station_with_every_admitted_part_accounted_for(
    tmp_path: Path, number: signal.Signals
) -> None:
    program = f"""
import json, sys
from pathlib import Path
from edgead.config import load_station
from edgead.runtime.fake import FakeRunner
from edgead.runtime.frames import Frame, Health
from edgead.runtime.stations import run_station
from edgead.thresholds import Threshold
threshold = Threshold.from_dict({threshold().to_dict()!r})
report = run_station(load_station(sys.argv[1]), runner=FakeRunner((16, 16)), threshold=threshold)
print(json.dumps(report.to_dict()))
"""
    yaml = tmp_path / "station.yaml"
    yaml.write_text(
        "bundle: b\noutput: out\ncameras:\n"
        "- {name: a, uri: 'sim://magnetic_core?parts=100000&cache=1&size=32&rate=100', view: front}\n"
        "- {name: b, uri: 'sim://magnetic_core?parts=100000&cache=1&size=32&rate=90', view: back}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(yaml)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    verdicts = tmp_path / "out" / "verdicts.ndjson"
    deadline_s = time.monotonic() + 120
    while process.poll() is None and not (verdicts.exists() and verdicts.stat().st_size):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err == ""
    report = json.loads(out)
    assert report["is_conserved"]
    assert report["problems"] == ["stopped by a signal; what was admitted is judged"]
    read = [json.loads(line) for line in verdicts.read_text().splitlines()]
    assert sorted(line["trigger"] for line in read) == list(range(report["triggers"]))


def test_the_station_benchmark_counts_what_it_times() -> None:
    speed = measure_station(FakeRunner((32, 32)), object_name="chip_capacitor", image_size=48, frames=45, rounds=2)
    assert (speed.cameras, speed.parts, speed.frames, speed.rounds) == (3, 5, 45, 2)
    assert speed.station_over_engine > 0
    assert 1 <= speed.mean_batch <= 8
    shared = measure_station(FakeRunner((32, 32)), object_name="chip_capacitor", stations=3, frames=90, rounds=2)
    assert (shared.stations, shared.cameras, shared.parts, shared.frames) == (3, 9, 3 * 3, 3 * 3 * 9)
    json.dumps(speed.to_dict(), allow_nan=False)


def test_an_inspector_judges_images_of_any_size_in_their_order() -> None:
    runner = FakeRunner((8, 8), max_batch=2)
    images = [np.full((size, size + 3, 3), level, np.uint8) for size, level in ((5, 10), (64, 150), (8, 250))]
    inspections = Inspector(runner, threshold()).inspect(images)
    assert [inspection.verdict for inspection in inspections] == [Verdict.OK, Verdict.UNSURE, Verdict.NG]
    assert [inspection.score for inspection in inspections] == pytest.approx([10 / 255, 150 / 255, 250 / 255], abs=1e-6)
    assert inspections[0].anomaly_map.shape == (8, 8)
    assert runner.batches == [2, 1]
    assert Inspector(runner, threshold()).inspect([]) == []


def test_a_station_runs_from_its_files_alone(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from edgead.bundle import Bundle, BundleInfo

    def brightness(path: Path) -> None:
        node, helper = onnx.helper.make_node, onnx.helper
        image = helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["n", 16, 16, 3])
        anomaly_map = helper.make_tensor_value_info("anomaly_map", onnx.TensorProto.FLOAT, ["n", 16, 16])
        pred_score = helper.make_tensor_value_info("pred_score", onnx.TensorProto.FLOAT, ["n"])
        nodes = [
            node("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT),
            node("ReduceMean", ["pixels", "channel"], ["grey"], keepdims=0),
            node("Div", ["grey", "white"], ["anomaly_map"]),
            node("ReduceMax", ["anomaly_map", "both"], ["pred_score"], keepdims=0),
        ]
        constants = [
            onnx.numpy_helper.from_array(np.array([3], np.int64), "channel"),
            onnx.numpy_helper.from_array(np.array([1, 2], np.int64), "both"),
            onnx.numpy_helper.from_array(np.array(255, np.float32), "white"),
        ]
        graph = helper.make_graph(nodes, "brightness", [image], [anomaly_map, pred_score], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, str(path))

    bundle = Bundle.create(tmp_path / "bundle", BundleInfo(network="cfrg-lite0", category="parts", size_hw=(16, 16)))
    bundle.add("fp32", brightness, kind="onnx", precision="fp32", made_from=None, tools={"onnx": onnx.__version__})
    (tmp_path / "station.yaml").write_text(
        "bundle: bundle\noutput: out\nthreads: 1\ncameras: [{name: a, uri: 'dir://parts'}]\n"
    )
    grey_parts(tmp_path / "parts", {"P1": {"V1_L1": 250}, "P2": {"V1_L1": 10}})
    config = load_station(tmp_path / "station.yaml")
    with pytest.raises(ArtefactError, match="has no threshold"):
        run_station(config)
    bundle.set_threshold("fp32", threshold())
    report = run_station(config)
    assert [line["verdict"] for line in lines(report)] == ["NG", "OK"]
    assert report.runner == "onnxruntime-cpu"


class Fuzzed:
    """A camera whose frames are anything but what they should be, and sometimes right."""

    def __init__(self, name: str, parts: int) -> None:
        self.name, self.triggers, self.health = name, parts, Health()
        self.slots = (Slot(name, "0"),)
        self._draw, self._next = np.random.default_rng(0), 0

    def open(self) -> None: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...

    def read(self, timeout_s: float) -> Frame | None:  # noqa: ARG002
        if self._next == self.triggers:
            return None
        trigger, self._next = self._next, self._next + 1
        shapes = [(8, 8, 3), (8, 8), (0, 8, 3), (8, 8, 4), (8, 8, 1), (1, 1, 3), (2, 8, 8, 3), (), (9000, 1, 3)]
        kinds = [np.uint8, np.float32, np.uint16, np.bool_, object]
        shape = shapes[self._draw.integers(len(shapes))]
        image = np.full(shape, 1, kinds[self._draw.integers(len(kinds))])
        if self._draw.random() < 0.3:
            image = image.astype(np.float32) * np.nan
        if self._draw.random() < 0.3:
            image = np.full((8, 16, 3), 10, np.uint8)[:, ::2]  # right, with strides
        return Frame(image, self.name, self.slots[0], trigger, f"P{trigger}", time.monotonic())


@pytest.mark.parametrize("frames", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_frames_that_are_none_are_refused_and_the_station_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int
) -> None:
    right = Fuzzed("right", frames)
    right.read = lambda _timeout_s: (  # type: ignore[method-assign]
        None
        if right._next == frames
        else Frame(np.full((8, 8, 3), 20, np.uint8), "right", right.slots[0], next_of(right), "P", time.monotonic())
    )

    def next_of(camera: Fuzzed) -> int:
        camera._next += 1
        return camera._next - 1

    monkeypatch.setattr("edgead.runtime.station.open_cameras", lambda _configs: [Fuzzed("wrong", frames), right])
    config = station(tmp_path, "sim://chip_inductor?view=top", "sim://chip_inductor?view=side")
    report = run_station(config, runner=FakeRunner((8, 8), max_batch=16), threshold=threshold())
    read = lines(report)
    assert report.triggers == frames
    assert 0.2 * frames < report.verdicts["OK"] < 0.6 * frames
    assert report.verdicts["OK"] + report.verdicts["INCOMPLETE"] == frames
    assert {tuple(line["missing"]) for line in read} == {(), ("wrong/0",)}  # never one of the camera that is right
    *told, last = report.problems
    assert 1 <= len(told) <= 3
    assert all("expected uint8 (height, width, 3)" in problem for problem in told)
    assert last == f"camera 'wrong' gave {report.verdicts['INCOMPLETE']} frames that were of no use"
