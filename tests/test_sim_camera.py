from __future__ import annotations

import itertools
import json
import math
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgead.config import CameraConfig, StationConfig
from edgead.errors import CameraError, ConfigError, EdgeadError
from edgead.images import resize, write_png
from edgead.runtime.cameras import open_cameras
from edgead.runtime.fake import FakeRunner
from edgead.runtime.frames import Frame
from edgead.runtime.parts import Slot
from edgead.runtime.report import StationReport
from edgead.runtime.runner import Prediction
from edgead.runtime.sim_camera import LineCamera
from edgead.runtime.sim_faults import Coming, FaultOptions, changed, coming
from edgead.runtime.stations import run_station
from edgead.thresholds import Threshold

SLOTS = (Slot("front", "ring"), Slot("front", "dome"))
TILE = "sim://ceramic_tile?size=32&cache=3"
CORE = "sim://magnetic_core?size=32&cache=3"


def camera(uri: str, name: str = "cam", **values: object) -> LineCamera:
    opened = open_cameras([CameraConfig.model_validate({"name": name, "uri": uri, **values})])[0]
    assert isinstance(opened, LineCamera)
    return opened


def all_frames(source: LineCamera, timeout_s: float = 5.0) -> list[Frame]:
    read = []
    while (frame := source.read(timeout_s)) is not None:
        read.append(frame)
    return read


def order(options: FaultOptions, slots: tuple[Slot, ...] = SLOTS) -> tuple[list[Coming], Counter[str]]:
    counts: Counter[str] = Counter()
    return list(coming(options, slots, counts)), counts


def assert_binomial(hits: int, tries: int, share: float) -> None:
    """Hold a count against its expectation: five standard deviations are one chance in two million."""
    deviation = math.sqrt(tries * share * (1 - share))
    assert abs(hits - tries * share) <= 5 * deviation, f"{hits} of {tries}, expected {tries * share:.0f}"


# The faults of a line


EVERYTHING = {
    "rate": 100,
    "jitter_ms": 4,
    "lost_share": 0.1,
    "late_share": 0.1,
    "late_ms": 35,
    "duplicated_share": 0.1,
    "swapped_share": 0.1,
    "overtriggered_share": 0.1,
    "black_share": 0.1,
    "fuzzed_share": 0.1,
    "ageing": 0.1,
    "flicker": 0.05,
}


def test_the_same_seed_gives_the_same_faults_in_the_same_order_and_another_seed_others() -> None:
    first = order(FaultOptions(seed=3, parts=300, **EVERYTHING))
    assert first == order(FaultOptions(seed=3, parts=300, **EVERYTHING))
    assert first != order(FaultOptions(seed=4, parts=300, **EVERYTHING))
    assert set(first[1]) == {"lost", "late", "duplicated", "swapped", "overtriggered", "black", "fuzzed"}


def test_the_same_seed_gives_the_same_bytes() -> None:
    uri = f"{CORE}&parts=40&seed=5&black_share=.1&flicker=.2&fuzzed_share=.2&swapped_share=.2&lost_share=.2"
    first, second = (all_frames(camera(uri, view="front")) for _ in range(2))
    assert len(first) == len(second) > 100
    for one, other in zip(first, second, strict=True):
        assert (one.trigger, one.slot, one.part) == (other.trigger, other.slot, other.part)
        assert (one.image.dtype, one.image.shape) == (other.image.dtype, other.image.shape)
        assert one.image.tobytes() == other.image.tobytes()


def test_a_frame_has_its_faults_whatever_else_its_camera_gives_or_is_asked_to_do() -> None:
    both, _ = order(FaultOptions(parts=400, lost_share=0.3, flicker=0.1))
    alone, _ = order(FaultOptions(parts=400, lost_share=0.3, flicker=0.1, swapped_share=0.5), SLOTS[1:])
    assert {(one.trigger, one.gain) for one in both if one.shot == 1} == {(one.trigger, one.gain) for one in alone}


def test_without_faults_all_frames_come_in_order() -> None:
    found, counts = order(FaultOptions(parts=50, rate=10))
    assert [(one.trigger, one.shot) for one in found] == [(part, shot) for part in range(50) for shot in range(2)]
    assert [one.arrives_s for one in found[::2]] == pytest.approx([part / 10 for part in range(50)])
    assert counts == {}
    assert FaultOptions(parts=9, seed=4, rate=2, queue=3).on == ()


@pytest.mark.parametrize("share", [0.01, 0.2])
def test_shares_are_what_was_asked_for(share: float) -> None:
    parts = 4000
    found, counts = order(FaultOptions(parts=parts, lost_share=share))
    assert_binomial(counts["lost"], 2 * parts, share)
    assert len(found) == 2 * parts - counts["lost"]
    for name in ("duplicated", "black", "fuzzed"):
        found, counts = order(FaultOptions(seed=1, parts=parts, **{f"{name}_share": share}))
        assert_binomial(counts[name], 2 * parts, share)
        assert len(found) == 2 * parts + counts["duplicated"]
    found, counts = order(FaultOptions(parts=parts, overtriggered_share=share))
    assert_binomial(counts["overtriggered"] // 2, parts, share)
    assert Counter(Counter(one.trigger for one in found).values()) == {2: parts - counts["overtriggered"] // 2}
    _, counts = order(FaultOptions(parts=parts, rate=1000, late_share=share, late_ms=1))
    assert_binomial(counts["late"], 2 * parts, share)
    _, counts = order(FaultOptions(parts=parts, swapped_share=share))
    assert_binomial(counts["swapped"], 2 * parts, share / (1 + share))  # one that has changed places stays there


def test_extreme_shares_take_all_or_nothing() -> None:
    assert order(FaultOptions(parts=9, lost_share=1)) == ([], {"lost": 18})
    assert order(FaultOptions(parts=9, overtriggered_share=1)) == ([], {"overtriggered": 18})
    assert [one.trigger for one in order(FaultOptions(parts=3, duplicated_share=1), SLOTS[:1])[0]] == [0, 0, 1, 1, 2, 2]
    assert [one.trigger for one in order(FaultOptions(parts=5, swapped_share=1), SLOTS[:1])[0]] == [1, 0, 3, 2, 4]


def test_faults_are_independent_of_each_other() -> None:
    _, counts = order(FaultOptions(parts=20_000, lost_share=0.5, black_share=0.5))
    assert_binomial(counts["black"], 40_000 - counts["lost"], 0.5)


def test_late_frames_come_behind_those_that_were_faster_and_jitter_keeps_the_order() -> None:
    found, counts = order(FaultOptions(parts=2000, rate=100, late_share=0.05, late_ms=35), SLOTS[:1])
    assert [one.arrives_s for one in found] == sorted(one.arrives_s for one in found)
    behind = [one for before, one in itertools.pairwise(found) if one.trigger < before.trigger]
    assert 0.8 * counts["late"] < len(behind) <= counts["late"]  # two late ones in a row keep their order
    assert {round(one.arrives_s - one.taken_s, 6) for one in behind} == {0.035}

    found, _ = order(FaultOptions(parts=2000, rate=100, jitter_ms=40))
    delays = np.array([one.arrives_s - one.taken_s for one in found])
    assert [(one.trigger, one.shot) for one in found] == [(part, shot) for part in range(2000) for shot in range(2)]
    assert delays.min() >= 0
    assert delays.max() <= 0.04 + 1e-9
    assert np.ptp(delays) > 0.03


def test_a_frame_in_jitter_slower_than_its_line_is_spread_evenly() -> None:
    found, _ = order(FaultOptions(parts=5000, rate=10, jitter_ms=50), SLOTS[:1])
    delays = np.array([one.arrives_s - one.taken_s for one in found]) / 0.05
    assert delays.mean() == pytest.approx(0.5, abs=5 / math.sqrt(12 * 5000))
    assert np.histogram(delays, 4, (0, 1))[0].min() > 1100


def test_a_line_that_triggers_faster_than_its_camera_exposes_loses_whole_parts_without_a_trace() -> None:
    options = FaultOptions(parts=9, rate=20, exposure_ms=30)  # two frames take 60 ms, a trigger comes each 50
    found, counts = order(options)
    assert [one.trigger for one in found] == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8]
    assert counts == {"overtriggered": 8}
    assert [one.taken_s for one in found[:3]] == pytest.approx([0.03, 0.06, 0.13])
    exact, counts = order(FaultOptions(parts=9, rate=20, exposure_ms=25))
    assert len(exact) == 18
    assert not counts

    source = camera("sim://ceramic_tile?size=32&cache=1&parts=9&rate=200&exposure_ms=7", illuminations=("oblique",))
    read = all_frames(source)
    assert [frame.trigger for frame in read] == [0, 2, 4, 6, 8]
    assert {frame.exposure_s for frame in read} == {0.007}
    assert source.health.missed == 0  # nothing that a camera could know of
    assert source.health.transport == {"overtriggered": 4}


def test_lamps_age_and_flicker_and_black_frames_are_black() -> None:
    bright = np.full((4, 4, 3), 200, np.uint8)
    aged, _ = order(FaultOptions(parts=2001, ageing=0.1), SLOTS[:1])
    assert [aged[part].gain for part in (0, 1000, 2000)] == pytest.approx([1, 0.9, 0.81])
    assert changed(bright, aged[2000])[0, 0].tolist() == [162] * 3
    flickering, _ = order(FaultOptions(parts=4000, flicker=0.2), SLOTS[:1])
    gains = np.array([one.gain for one in flickering])
    assert gains.min() >= 0.8
    assert gains.max() <= 1.2
    assert gains.mean() == pytest.approx(1, abs=5 * 0.2 / math.sqrt(3 * 4000))
    assert changed(bright, Coming(0, 0, gain=2.0)).max() == 255  # it does not wrap round
    read = all_frames(camera(f"{TILE}&parts=5&black_share=1"))
    assert all(not frame.image.any() and frame.image.shape == (32, 32, 3) for frame in read)


def test_faults_do_not_reach_the_cached_images() -> None:
    plain = all_frames(camera(f"{TILE}&parts=3"))
    source = camera(f"{TILE}&parts=9&flicker=.5&black_share=.3&fuzzed_share=.1")
    assert len(all_frames(source)) == 9 * len(source.slots)
    for frame in plain:
        assert np.array_equal(source.image(Coming(frame.trigger, source.slots.index(frame.slot))), frame.image)


def test_fuzzed_frames_are_wrong_in_seven_ways() -> None:
    read = all_frames(camera(f"{TILE}&parts=200&fuzzed_share=1"))
    seen = {(frame.image.dtype.name, frame.image.shape) for frame in read}
    assert seen == {
        ("uint8", (16, 16, 3)),
        ("uint8", (32, 24, 3)),
        ("uint8", (32, 32)),
        ("uint8", (32, 32, 4)),
        ("uint16", (32, 32, 3)),
        ("float32", (32, 32, 3)),
        ("uint8", (0, 32, 3)),
    }


def test_a_camera_that_vanishes_gives_first_what_is_on_its_way() -> None:
    source = camera("sim://ceramic_tile?size=32&cache=1&parts=50&rate=1000&late_share=.5&late_ms=5&vanish_after=20")
    assert len([source.read(1) for _ in range(20)]) == 20
    for _ in range(2):
        with pytest.raises(CameraError, match="camera 'cam' has vanished after 20 frames"):
            source.read(1)
    assert source.health.frames == 20
    source.close()
    assert source.read(1) is None


def test_counters_say_what_came_what_is_missing_and_why() -> None:
    source = camera(f"{CORE}&parts=200&lost_share=.1&duplicated_share=.1&overtriggered_share=.1", view="front")
    read = all_frames(source)
    health, slots = source.health, len(source.slots)
    assert health.frames == len(read)
    assert health.missed == health.transport["lost"] > 0
    expected = 200 * slots - health.missed - health.transport["overtriggered"] + health.transport["duplicated"]
    assert len(read) == expected
    assert Counter(Counter((frame.trigger, frame.slot) for frame in read).values())[2] == health.transport["duplicated"]
    assert (health.incomplete, health.reconnects, health.last_error) == (0, 0, None)


# The clock


def test_a_line_that_runs_on_misses_what_finds_no_buffer_and_says_so() -> None:
    source = camera("sim://ceramic_tile?size=32&cache=1&parts=400&rate=1000&queue=5", illuminations=("oblique",))
    assert source.triggers is None  # as of any live camera
    time.sleep(0.1)
    early = [source.read(1) for _ in range(5)]
    assert all(early)
    triggers = [frame.trigger for frame in early if frame]
    assert triggers == [0, 1, 2, 3, 4]
    steps = np.diff([frame.captured_s for frame in early if frame])
    assert steps == pytest.approx(0.001, abs=1e-6)  # when they came, not when they were asked for
    read = [frame.trigger for frame in all_frames(source)]
    assert read[0] >= 90
    assert source.health.frames + source.health.missed == 400
    assert source.health.missed == source.health.transport["overflowed"] >= 85


def test_a_line_that_waits_for_its_station_loses_nothing() -> None:
    source = camera("sim://ceramic_tile?size=32&cache=1&parts=100&rate=1000")
    assert source.triggers == 100
    time.sleep(0.05)
    assert len(all_frames(source)) == 100 * len(source.slots)
    assert source.health.missed == 0


def test_frames_come_at_their_times() -> None:
    source = camera("sim://ceramic_tile?size=32&cache=1&parts=12&rate=50&queue=9", illuminations=("oblique",))
    begin_s = time.monotonic()
    read = all_frames(source)
    assert time.monotonic() - begin_s >= 11 / 50 - 0.02
    assert np.diff([frame.captured_s for frame in read]) == pytest.approx(1 / 50, abs=1e-6)
    assert all(frame.captured_s <= time.monotonic() for frame in read)


def test_a_line_can_begin_anew() -> None:
    source = camera(f"{TILE}&parts=6&lost_share=.3")
    first = [(frame.trigger, frame.slot) for frame in all_frames(source)]
    source.stop()
    assert source.read(1) is None
    source.begin()
    assert [(frame.trigger, frame.slot) for frame in all_frames(source)] == first


def test_a_cached_frame_without_faults_is_cheap() -> None:
    source = camera("sim://ceramic_tile?size=32&cache=4&parts=5000")
    begin_s = time.process_time()
    count = len(all_frames(source))
    assert (time.process_time() - begin_s) / count < 50e-6  # a few microseconds where nothing else runs


# The truth, and parts of data sets


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write twelve Good parts, two with a dent, two with a crack; two views with two lights each; all grey."""
    root = tmp_path_factory.mktemp("data")
    folders = ["Good"] * 12 + ["NG/dent"] * 2 + ["NG/crack"] * 2
    for part, folder in enumerate(folders):
        for shot, (view, light) in enumerate(itertools.product((1, 2), (1, 2))):
            image = np.full((8, 8, 3), 10 * part + shot, np.uint8)
            write_png(root / "nuts" / "Image" / folder / f"P{part}_V{view}_L{light}.png", image)
    return root


def test_the_truth_about_rendered_parts_can_be_asked_for() -> None:
    source = camera(f"{CORE}&parts=50&ng_share=.5")
    shown = [source.shown(part) for part in range(50)]
    assert [one.part for one in shown] == [f"P{part:04d}" for part in range(50)]
    assert [one.defect for one in shown[:3]] * 16 == [one.defect for one in shown[:48]]  # three are kept
    first = {frame.trigger: frame.image for frame in all_frames(source) if frame.slot == source.slots[0]}
    assert np.array_equal(first[0], first[3])


def test_a_dataset_camera_shows_the_parts_of_its_data_set_with_their_names(dataset: Path) -> None:
    uri = f"dataset://{dataset}?kind=sim&parts=60&ng_share=.4&show=all&seed=3"
    one, other = (camera(uri, name, view=view) for name, view in (("a", "1"), ("b", "2")))
    assert {slot.view for slot in one.slots} == {"1"}
    shots = {("1", "1"): 0, ("1", "2"): 1, ("2", "1"): 2, ("2", "2"): 3}
    for source in (one, other):
        for frame in all_frames(source):
            assert frame.part == source.shown(frame.trigger).part == one.shown(frame.trigger).part
            level = 10 * int(frame.part.removeprefix("P")) + shots[tuple(frame.slot)]
            assert (frame.image == level).all()
            assert frame.image.shape == (8, 8, 3)
    defects = [one.shown(part).defect for part in range(60)]
    for part in range(60):
        number = int(one.shown(part).part.removeprefix("P"))
        assert defects[part] == ("good" if number < 12 else "dent" if number < 14 else "crack")
    assert_binomial(sum(defect != "good" for defect in defects), 60, 0.4)


def test_the_mix_of_a_data_set_is_seeded_and_all_its_parts_take_their_turn(dataset: Path) -> None:
    def shown(**options: object) -> list[str]:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        source = camera(f"dataset://{dataset}?kind=sim&show=all&parts=2000&{query}")
        return [f"{source.shown(part).defect} {source.shown(part).part}" for part in range(2000)]

    first = shown(ng_share=0.25, seed=1)
    assert first == shown(ng_share=0.25, seed=1)
    assert first != shown(ng_share=0.25, seed=2)
    assert_binomial(sum(not one.startswith("good ") for one in first), 2000, 0.25)
    uses = Counter(one for one in first if one.startswith("good "))
    assert len(uses) == 12
    assert max(uses.values()) - min(uses.values()) <= 1
    assert all(one.startswith("good ") for one in shown(ng_share=0))
    assert not any(one.startswith("good ") for one in shown(ng_share=1))
    few = set(shown(ng_share=0.25, cache=4))
    assert len(few) == 4
    assert sum(one.startswith("good ") for one in few) == 3
    assert len(set(shown(ng_share=0.01, cache=1))) == 2  # one of each kind, or the mix would be another


def test_kept_images_of_a_data_set_are_decoded_once(dataset: Path) -> None:
    source = camera(f"dataset://{dataset}?kind=sim&show=all&parts=30&cache=4", view="1")
    read = all_frames(source)
    assert len({id(frame.image) for frame in read}) == 4 * len(source.slots)


def test_a_part_without_all_its_images_is_left_out(tmp_path: Path) -> None:
    for part in range(6):
        for light in (1, 2):
            if (part, light) != (2, 1):
                write_png(
                    tmp_path / "nuts" / "Image" / "Good" / f"P{part}_V1_L{light}.png",
                    np.full((8, 8, 3), 20 * part + light, np.uint8),
                )
    source = camera(f"dataset://{tmp_path}?kind=sim&show=all&ng_share=0&parts=50")
    assert source.slots == (Slot("1", "1"), Slot("1", "2"))
    assert {source.shown(part).part for part in range(50)} == {"P0", "P1", "P3", "P4", "P5"}
    assert all(
        frame.image[0, 0, 0] == 20 * int(frame.part[1:]) + int(frame.slot.illumination) for frame in all_frames(source)
    )


def test_a_manifest_with_columns_of_its_own_can_be_streamed(tmp_path: Path) -> None:
    rows = ["path,serial,defect"]
    for part in range(8):
        write_png(tmp_path / "x" / f"{part}.png", np.full((8, 8, 3), 10 * part, np.uint8))
        rows.append(f"x/{part}.png,S{part},{'dent' if part > 5 else 'good'}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    uri = f"dataset://{tmp_path}/list.csv?kind=manifest&columns=image:path,part_id:serial&show=all&ng_share=.5&parts=40"
    source = camera(uri)
    for frame in all_frames(source):
        number = int(frame.part.removeprefix("S"))
        assert frame.image[0, 0, 0] == 10 * number
        assert source.shown(frame.trigger).defect == ("dent" if number > 5 else "good")


def test_of_several_images_for_one_place_one_is_shown_that_tells_the_truth(tmp_path: Path) -> None:
    rows = ["image,part_id,defect"]
    for part in range(4):
        for take in range(3):
            write_png(tmp_path / f"{part}-{take}.png", np.full((8, 8, 3), 10 * part + take, np.uint8))
            rows.append(f"{part}-{take}.png,S{part},{'dent' if (part, take) in ((1, 1), (3, 2)) else 'good'}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    source = camera(f"dataset://{tmp_path}/list.csv?kind=manifest&show=all&ng_share=.5&parts=40&duplicates=drop")
    shown = {frame.part: int(frame.image[0, 0, 0]) for frame in all_frames(source)}
    assert {part: shown[part] for part in ("S1", "S3")} == {"S1": 11, "S3": 32}
    assert {source.shown(part) for part in range(40)} >= {("S1", "dent"), ("S3", "dent")}
    assert len(source.slots) == 1


def test_an_image_that_has_gone_ends_the_camera_in_one_line(tmp_path: Path) -> None:
    for part in range(3):
        write_png(tmp_path / "nuts" / "Image" / "Good" / f"P{part}_V1_L1.png", np.full((8, 8, 3), part, np.uint8))
    source = camera(f"dataset://{tmp_path}?kind=sim&show=all&ng_share=0")
    assert source.read(1) is not None
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    with pytest.raises(CameraError, match=r"camera 'cam' has vanished: .*png: ") as caught:
        source.read(1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("jitter=4", "unknown key 'jitter', did you mean 'jitter_ms'?"),
        ("lost_share=1.5", "lost_share: '1.5' is wrong"),
        ("lost_share=-0.1", "lost_share"),
        ("black_share=nan", "black_share"),
        ("flicker=2", "flicker"),
        ("ageing=1", "ageing"),
        ("queue=5", "queue needs a rate"),
        ("jitter_ms=5", "jitter_ms needs a rate"),
        ("late_share=.1&late_ms=5", "late_share needs a rate"),
        ("exposure_ms=5", "exposure_ms needs a rate"),
        ("rate=5&late_share=.1", "give both"),
        ("rate=5&late_ms=10", "give both"),
        ("rate=5&queue=0", "queue"),
        ("rate=0", "rate"),
        ("seed=-1", "seed"),
    ],
)
def test_a_wrong_fault_is_refused_in_one_line(query: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        camera(f"{TILE}&{query}")
    assert words in str(caught.value)
    assert str(caught.value).startswith("camera 'cam': ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "values", "words"),
    [
        ("{data}", {}, "the key 'kind' is missing"),
        ("{data}?kind=mvtek", {}, "did you mean 'mvtec'?"),
        ("{data}?kind=mvtec", {}, "no category of a 'mvtec' dataset found"),
        ("/nowhere?kind=sim", {}, "/nowhere: no such file or folder"),
        ("{data}?kind=sim&category=x", {}, "has no category 'x'"),
        ("{data}?kind=sim&show=tests", {}, "did you mean 'test'?"),
        ("{data}?kind=sim&show=train", {}, "there are no defective parts to show"),
        ("{data}?kind=sim&show=all&ng_share=2", {}, "ng_share"),
        ("{data}?kind=sim", {"view": "9"}, "has no view '9'; it has 1/1, "),
        ("{data}?kind=sim", {"view": "1", "illuminations": ("7",)}, "no view '1' with illumination '7'"),
        ("{data}?kind=sim&columns=image", {}, "columns"),
        ("{data}?kind=sim&pattern=(", {}, "is no regular expression"),
        ("{data}?kind=sim&parts=99000000", {}, "parts"),
        ("{data}?kind=sim&lost=1", {}, "unknown key 'lost'"),
    ],
)
def test_a_wrong_dataset_address_is_refused_in_one_line(
    dataset: Path, address: str, values: dict[str, object], words: str
) -> None:
    with pytest.raises(EdgeadError) as caught:
        camera(f"dataset://{address.replace('{data}', str(dataset))}", **values)
    assert words in str(caught.value)
    assert str(caught.value).startswith("camera 'cam': ")
    assert "\n" not in str(caught.value)


def test_a_dataset_address_counts_from_the_folder_of_its_file(dataset: Path, tmp_path: Path) -> None:
    from edgead.config import load_station

    (tmp_path / "data").symlink_to(dataset)
    (tmp_path / "station.yaml").write_text(
        "bundle: b\noutput: o\ncameras: [{name: a, uri: 'dataset://data?kind=sim'}]\n"
    )
    assert load_station(tmp_path / "station.yaml").cameras[0].uri == f"dataset://{tmp_path}/data?kind=sim"


# A station with everything that can go wrong


class SlowRunner(FakeRunner):
    def __init__(self, busy_s: float) -> None:
        super().__init__((16, 16), max_batch=4)
        self._busy_s = busy_s

    def infer(self, images: np.ndarray) -> Prediction:
        time.sleep(self._busy_s)
        return super().infer(images)


THRESHOLD = Threshold(0.71, 0.75, "part", 2000, 0.95, 3000, 1000, 1500, "by hand")
VIEWS = ("front", "back")


def deserved(uri: str, parts: int) -> list[tuple[str, float]]:
    """Return verdict and score of each part as its frames would give them if all came, and nothing were mixed up."""
    scores = np.zeros(parts)
    for view in VIEWS:
        source = camera(uri, view=view)
        images, _ = order(
            source.options.model_copy(update={"lost_share": 0.0, "overtriggered_share": 0.0}), source.slots
        )
        for one in images:
            small = resize(source.image(one), (16, 16)).astype(np.float64)
            scores[one.trigger] = max(scores[one.trigger], small.mean(axis=2).max() / 255)
    names = ["NG" if score > THRESHOLD.ng else "UNSURE" if score > THRESHOLD.unsure else "OK" for score in scores]
    return list(zip(names, scores.tolist(), strict=True))


def run(folder: Path, uri: str, runner: FakeRunner, **values: object) -> tuple[StationReport, list[dict[str, object]]]:
    cameras = [{"name": view, "uri": uri, "view": view} for view in VIEWS]
    config = StationConfig.model_validate({"bundle": "b", "output": folder / "out", "cameras": cameras, **values})
    report = run_station(config, runner=runner, threshold=THRESHOLD)
    lines = [json.loads(line) for line in report.verdict_file.read_text().splitlines()]
    assert report.is_conserved
    assert sorted(line["trigger"] for line in lines) == list(range(report.triggers))
    return report, lines


def assert_none_is_wrong(lines: list[dict[str, object]], expected: list[tuple[str, float]]) -> Counter[str]:
    seen: Counter[str] = Counter()
    for line in lines:
        seen[str(line["verdict"])] += 1
        if line["verdict"] in ("OK", "UNSURE", "NG"):
            verdict, score = expected[int(str(line["trigger"]))]
            assert line["score"] == pytest.approx(score, abs=1e-6)
            assert line["verdict"] == verdict
            assert line["part"] == f"P{line['trigger']:04d}"
    return seen


FAULTS = (
    "&lost_share=.03&duplicated_share=.05&swapped_share=.05&overtriggered_share=.05&black_share=.05&ageing=.2"
    "&flicker=.3"
)


def test_a_station_with_all_faults_gives_each_part_its_own_verdict_or_none(tmp_path: Path) -> None:
    uri = f"sim://magnetic_core?seed=7&parts=150&size=32&cache=9&rate=2000&jitter_ms=1&late_share=.03&late_ms=4{FAULTS}"
    report, lines = run(tmp_path, uri, FakeRunner((16, 16)))
    seen = assert_none_is_wrong(lines, deserved(uri, 150))
    assert report.triggers == 150
    assert min(seen[name] for name in ("OK", "NG", "INCOMPLETE", "MISSED")) >= 1
    assert seen["OK"] + seen["UNSURE"] + seen["NG"] >= 15
    assert report.unused_frames > 0
    for health in report.cameras.values():
        assert set(health.transport) >= {"lost", "late", "duplicated", "swapped", "overtriggered", "black"}
        assert health.missed == health.transport["lost"]
    came = sum(health.frames for health in report.cameras.values())
    assert report.frames + report.unused_frames == came


def test_a_line_that_runs_on_is_rejected_by_the_part_when_it_is_too_fast(tmp_path: Path) -> None:
    uri = f"sim://magnetic_core?seed=7&parts=200&size=32&cache=9&rate=200&queue=200{FAULTS}"
    report, lines = run(tmp_path, uri, SlowRunner(0.02), parts_in_flight=2, timeout_ms=400)
    seen = assert_none_is_wrong(lines, deserved(uri, 200))
    assert seen["REJECTED"] > 20
    assert seen["OK"] + seen["UNSURE"] + seen["NG"] >= 1  # how many depends on the machine
    came = sum(health.frames for health in report.cameras.values())
    assert report.frames + report.unused_frames == came


def test_a_line_that_keeps_the_takt_of_its_station_gets_a_verdict_for_each_whole_part(tmp_path: Path) -> None:
    uri = f"sim://magnetic_core?seed=7&parts=60&size=32&cache=9&rate=50&queue=32&jitter_ms=4{FAULTS}"
    report, lines = run(tmp_path, uri, FakeRunner((16, 16)), takt_ms=20, timeout_ms=300, parts_in_flight=16)
    seen = assert_none_is_wrong(lines, deserved(uri, 60))
    assert 58 <= report.triggers <= 75  # the clock runs until the last camera has ended
    assert seen["OK"] + seen["UNSURE"] + seen["NG"] >= 5


def test_a_fuzzed_frame_costs_no_other_part_its_verdict(tmp_path: Path) -> None:
    uri = "sim://magnetic_core?seed=7&parts=60&size=32&cache=9&flicker=.3&fuzzed_share=.02"
    report, lines = run(tmp_path, uri, FakeRunner((16, 16)))
    assert 1 <= report.triggers <= 60
    assert report.problems
    assert all("\n" not in problem for problem in report.problems)
    plain = deserved("sim://magnetic_core?seed=7&parts=60&size=32&cache=9&flicker=.3", 60)
    fuzzed = {
        one.trigger
        for view in VIEWS
        for one in order(camera(uri, view=view).options, camera(uri, view=view).slots)[0]
        if one.fuzz >= 0
    }
    assert_none_is_wrong([line for line in lines if line["trigger"] not in fuzzed], plain)
