"""Both ways to a GigE Vision camera, Aravis and viva-genicam, each against the fake camera of either."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gige_network import Inside, namespace, needs_gige

pytest.importorskip("viva_genicam")
pytestmark = [needs_gige, pytest.mark.filterwarnings("error")]
# By default through viva alone, for what Aravis does is also in test_live_cameras.py.
both = pytest.mark.parametrize("driver", [pytest.param("aravis", marks=pytest.mark.slow), "viva"])


@pytest.fixture(scope="module")
def inside() -> Iterator[Inside]:
    with namespace(f"edgead-drivers-{os.getpid()}", "gige_probe.py") as run:
        yield run


def test_viva_takes_the_place_of_aravis_where_that_is_not_installed() -> None:
    script = (
        "import sys; sys.modules['gi'] = None\n"
        "from pathlib import Path; from edgead.runtime import cameras, introspection\n"
        "introspection.load.__kwdefaults__['distribution'] = Path('/nowhere')\n"
        "from edgead.config import CameraConfig\n"
        "print(type(cameras._genicam('gige', CameraConfig(name='cam', uri='gige://GV01'))[0]).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "VivaSource\n"


@both
def test_an_exposure_for_each_illumination_by_software_trigger(inside: Inside, driver: str) -> None:
    options = f"trigger=software&exposure_us=500,8000&width=256&height=128&driver={driver}"
    (seen,) = inside("lights", f"gige://GV01?{options}")
    assert seen["shape"] == [128, 256, 3]
    assert seen["slots"] == [[0, "dark"], [0, "bright"], [1, "dark"], [1, "bright"], [2, "dark"], [2, "bright"]]
    assert max(seen["means"][0::2]) < min(seen["means"][1::2])
    assert seen["exposures_s"] == [0.0005, 0.008] * 3
    assert seen["health"]["triggers"] == "asked for by the station"


@both
@pytest.mark.parametrize("resend", ["resend", "no"])
def test_packets_that_are_dropped_are_sent_again_or_their_frames_left_out(
    inside: Inside, driver: str, resend: str
) -> None:
    (seen,) = inside("free", f"gige://127.0.0.1?driver={driver}", "Mono8", resend)
    health = seen["health"]
    assert seen["shape"] == [200, 320, 3]
    assert seen["is_grey"]
    assert seen["exposures_s"] == [0.005]
    assert health["incomplete"] == health["transport"]["failures"]
    assert len(seen["triggers"]) + health["incomplete"] + health["missed"] == seen["triggers"][-1] + 1
    if resend == "resend":  # an answer that comes too late leaves its frame incomplete
        assert health["transport"]["resent_packets"] + health["incomplete"] >= 2
        assert health["transport"]["resent_packets"] > 0
    else:
        assert health["incomplete"] >= 2
        assert health["transport"]["resent_packets"] == 0
        assert len({trigger % 3 for trigger in seen["triggers"]}) == 2  # each third one is missing


@pytest.mark.slow
@both
@pytest.mark.parametrize(("pixel_format", "is_grey"), [("RGB8", False), ("Mono16", True), ("BayerRG8", False)])
def test_drivers_convert_alike(inside: Inside, driver: str, pixel_format: str, is_grey: bool) -> None:
    (seen,) = inside("free", f"gige://127.0.0.1?driver={driver}", pixel_format, "resend")
    assert seen["shape"] == [200, 320, 3]
    assert seen["is_grey"] == is_grey
    assert -0.1 < seen["ages_s"][0] < 10
    (first,) = inside(
        "free", f"gige://127.0.0.1?driver={'viva' if driver == 'aravis' else 'aravis'}", pixel_format, "no"
    )
    assert seen["level"] == pytest.approx(first["level"], abs=0.01)


@both
def test_a_chunk_numbers_frames_over_those_that_came_incomplete(inside: Inside, driver: str) -> None:
    (seen,) = inside("chunks", "gige://127.0.0.1", driver)
    health = seen["health"]
    assert seen["triggers"][0] == 0
    assert health["incomplete"] >= 2
    assert len(seen["triggers"]) + health["incomplete"] + health["missed"] == seen["triggers"][-1] + 1


@both
def test_a_camera_whose_control_is_taken_or_that_is_gone_comes_back(inside: Inside, driver: str) -> None:
    revoked, stopped, end = inside("revoked", f"gige://127.0.0.1?driver={driver}&retry_ms=50&watchdog_ms=500")
    assert revoked["health"]["reconnects"] == 1
    assert "control of 127.0.0.1 is lost" in revoked["error"]
    assert stopped["health"]["reconnects"] >= 2
    for seen in (revoked, stopped):
        health = seen["health"]
        assert seen["trigger"] == health["missed"] + health["incomplete"] + health["frames"] - 1
    assert stopped["trigger"] < 1_000  # by the clock, not by the camera's, which began anew
    assert end["controller"] is None  # given back


@both
def test_a_camera_takes_the_triggers_of_the_stations_clock(inside: Inside, driver: str) -> None:
    (seen,) = inside("fired", f"gige://127.0.0.1?trigger=software&driver={driver}&late_ms=20000", "6")
    assert seen["slots"] == [[number, light] for number in (0, 1, 2, 4, 5) for light in ("dark", "bright")]
    assert all(seen["later"])
    assert seen["health"]["missed"] == 0


def test_one_trigger_of_the_clock_is_one_part_on_all_cameras(inside: Inside, tmp_path: Path) -> None:
    (seen,) = inside("clocked", str(tmp_path / "out"))
    report = seen["report"]
    verdicts, cameras = report["verdicts"], report["cameras"]
    assert report["is_conserved"]
    whole = verdicts["OK"] + verdicts["UNSURE"] + verdicts["NG"]
    assert whole >= 1  # all of them, but what a busy machine could not take in time is missed, and shifts no other part
    for camera in cameras.values():
        assert camera["triggers"] == "asked for by the station"
        assert 2 * whole <= camera["frames"] <= 2 * report["triggers"]
        # Each trigger was taken, missed, or fired as the station ended.
        assert 2 * report["triggers"] - 4 <= camera["frames"] + camera["missed"] + camera["incomplete"]
    assert verdicts["REJECTED"] == 0


def test_what_a_camera_does_not_have_is_refused_in_one_line_by_viva_too(inside: Inside) -> None:
    wrong = {
        "gige://GV01?driver=viva": "",
        "gige://GV07?driver=viva": "no camera has the serial number 'GV07', did you mean 'GV01'?",
        "gige://127.0.0.9?driver=viva": "no camera has the address '127.0.0.9', did you mean '127.0.0.1'?",
        "gige://127.0.0.1?driver=viva&pixel_format=Mono99": "no entry named Mono99",
        "gige://127.0.0.1?driver=viva&trigger=Line77": "no entry named Line77",
        "gige://127.0.0.1?driver=viva&exposure_us=1e12": "above the maximum 10000000",
        "gige://127.0.0.1?driver=viva&set=Nothing:1": "node not found: Nothing",
        "gige://127.0.0.1?driver=viva&trigger=Line0&counter=CounterValue": "does not tell its CounterValue",
        "gige://127.0.0.1?driver=viva&trigger=Line0&counter=ChunkCounterValue": "ChunkModeActive",
        "gige://127.0.0.1?driver=viva&iface=eth7": "eth7",
        "gige://127.0.0.1?driver=aravis&set=Nothing:1": "[Nothing] Not found",
        "gige://127.0.0.1?driver=aravis&trigger=Line0&counter=CounterValue": "has no feature CounterValue",
    }
    seen = inside("wrong", *wrong)
    for line, words in zip(seen, wrong.values(), strict=True):
        assert words in line["error"]
        assert "\n" not in line["error"]
        assert bool(words) == bool(line["error"])
