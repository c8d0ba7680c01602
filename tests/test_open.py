"""Which backend opens which artefact, which of them a station trusts, and what the command line says of both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from test_runners import HW, images, tiny

from edgead.bundle import Bundle, BundleInfo
from edgead.cli import main
from edgead.config import CameraConfig, StationConfig
from edgead.engine_passport import Passport
from edgead.errors import ArtefactError, ConfigError, MissingError
from edgead.runtime.open import BACKENDS, backend_of, doubt, open_model, open_runner
from edgead.runtime.openvino_runner import OpenVINORunner
from edgead.runtime.stations import run_station
from edgead.thresholds import threshold_from_good

pytest.importorskip("openvino")

SIM = "sim://magnetic_core?parts=2&size=64&view=front"
PASSED, FAILED = {"passed": True}, {"passed": False}
PASSPORT: dict[str, Any] = Passport(
    target="tensorrt-rtx",
    version="1.7.1.116",
    precision="int8",
    rung="int8",
    source="int8-fp16",
    onnx="model.int8-fp16.onnx",
    made_from="0" * 64,
    gpu=None,
    compute_capabilities=("8.6",),
    driver=None,
    platform="linux-x86_64",
    max_batch=8,
    size_hw=HW,
).model_dump(mode="json")


def bundle_of(tmp_path: Path, *, passport: dict[str, Any] | None = PASSPORT) -> Bundle:
    """Make a bundle of a checkpoint and an engine that are only text, and of tiny models."""
    bundle = Bundle.create(tmp_path / "b", BundleInfo(network="tiny", category="tile", size_hw=HW))

    def text(path: Path) -> None:
        path.write_text("text")

    def model(path: Path) -> None:
        tiny(path)

    bundle.add("checkpoint", text, kind="checkpoint", precision="fp32", made_from=None, tools={})
    for name in ("fp32", "int8"):
        bundle.add(name, model, kind="onnx", precision=name, made_from="checkpoint", tools={})
    engine = "tensorrt-rtx-int8"
    bundle.add(engine, text, kind="engine", precision="int8", made_from="int8", tools={}, passport=passport)
    return bundle


@pytest.mark.parametrize(
    ("artefact", "backend", "word"),
    [
        ("checkpoint", None, "torch"),
        ("fp32", None, "onnxruntime"),
        ("int8", "openvino", "openvino"),
        ("fp32", "openvino-bf16", "openvino-bf16"),
        ("tensorrt-rtx-int8", None, "tensorrt-rtx"),
        ("tensorrt-rtx-int8", "tensorrt-rtx", "tensorrt-rtx"),
    ],
)
def test_each_kind_has_its_backend(tmp_path: Path, artefact: str, backend: str | None, word: str) -> None:
    assert backend_of(bundle_of(tmp_path), artefact, backend) == word
    assert word in BACKENDS


@pytest.mark.parametrize(
    ("artefact", "backend", "message"),
    [
        ("fp32", "openvno", "there is no backend 'openvno', did you mean 'openvino'?"),
        ("fp32", "", "there is no backend ''; valid: torch, onnxruntime, openvino"),
        ("fp32", "torch", "'fp32' is an ONNX model, which torch cannot open; use onnxruntime or openvino"),
        ("fp32", "tensorrt", "which tensorrt cannot open.*or build an engine from it: edgead build"),
        ("checkpoint", "openvino", "'checkpoint' is a checkpoint, which openvino cannot open; use torch"),
        ("tensorrt-rtx-int8", "openvino", "an engine of tensorrt-rtx, which openvino cannot open; use tensorrt-rtx"),
        ("tensorrt-rtx-int8", "tensorrt", "an engine of tensorrt-rtx, which tensorrt cannot open"),
    ],
)
def test_other_backends_are_refused_in_one_line(tmp_path: Path, artefact: str, backend: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_runner(bundle_of(tmp_path), artefact, backend=backend)
    assert "\n" not in str(caught.value)


def test_an_artefact_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"no artefact 'fp23', did you mean 'fp32'\?"):
        backend_of(bundle_of(tmp_path), "fp23")


@pytest.mark.parametrize(
    ("passport", "message"),
    [
        (None, "has no passport; build it: edgead build"),
        ({"target": "tensorrt-rtx"}, "the passport of 'tensorrt-rtx-int8': version: Field required; build it"),
        (PASSPORT | {"target": "tensorrt"}, "the passport of an engine 'tensorrt-int8'"),
    ],
)
def test_an_engine_without_a_sound_passport_is_refused(tmp_path: Path, passport: Any, message: str) -> None:
    with pytest.raises(ArtefactError, match=message) as caught:
        open_runner(bundle_of(tmp_path, passport=passport), "tensorrt-rtx-int8")
    assert "\n" not in str(caught.value)


def test_an_engine_that_is_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises((ArtefactError, MissingError)) as caught:  # no GPU, no library, or no engine
        open_runner(bundle_of(tmp_path), "tensorrt-rtx-int8")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("backend", "name"), [(None, "onnxruntime-cpu"), ("openvino", "openvino-cpu")])
def test_models_open_on_either_backend(tmp_path: Path, backend: str | None, name: str) -> None:
    with open_runner(bundle_of(tmp_path), "int8", backend=backend, threads=1, max_batch=2) as runner:
        assert (runner.name, runner.max_batch, runner.size_hw) == (name, 2, HW)
        np.testing.assert_allclose(runner.infer(images(2)).anomaly_map, images(2).mean(axis=3), rtol=1e-6)


def test_a_model_in_no_bundle_opens_where_models_do(tmp_path: Path) -> None:
    path = tiny(tmp_path / "m.onnx")
    with open_model(path, "openvino", threads=1) as runner:
        assert runner.name == "openvino-cpu"
    with pytest.raises(ConfigError, match="backend 'tensorrt' opens no ONNX models; valid: onnxruntime"):
        open_model(path, "tensorrt")


@pytest.fixture(scope="module")
def quantised(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A copy of the trained run with its fp16 and int8 models."""
    folder = tmp_path_factory.mktemp("quantised")
    run = shutil.copytree(trained, folder / "run")
    assert main(["quantize", str(run), "--images", "8", "--calibration-data", str(folder), "--threads", "1"]) == 0
    return Bundle.open(run)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("artefact", ["fp16", "int8", "int8-fp16"])
def test_smaller_precisions_stay_near_on_both_backends(
    quantised: Bundle, smooth_images: npt.NDArray[np.uint8], artefact: str, backend: str
) -> None:
    with open_runner(quantised, "fp32", threads=1) as exact:
        wanted = exact.infer(smooth_images[:8]).anomaly_map
    with open_runner(quantised, artefact, backend=backend, threads=1) as runner:
        found = runner.infer(smooth_images[:8]).anomaly_map
        if artefact != "fp16" and isinstance(runner, OpenVINORunner):
            assert sum(precision in ("i8", "u8") for precision in runner.layers().values()) > 100
    # Optimised by ONNX Runtime, int8-fp16 is off by more than this.
    assert np.abs(found - wanted).mean() < (0.001 if artefact == "fp16" else 0.02) * np.abs(wanted).mean()


# ---- what a station trusts


@pytest.mark.parametrize(
    ("artefact", "backend", "certificate", "trusted"),
    [
        ("checkpoint", "torch", None, True),
        ("fp32", "onnxruntime", None, True),
        ("fp32", "openvino", None, True),
        ("fp32", "openvino", FAILED, False),
        ("fp32", "openvino", {}, False),
        ("fp32", "openvino-bf16", None, False),
        ("fp32", "openvino-bf16", PASSED, True),
        ("int8", "openvino", None, False),
        ("int8", "openvino", FAILED, False),
        ("int8", "openvino", PASSED, True),
        ("tensorrt-rtx-int8", "tensorrt-rtx", None, False),
        ("tensorrt-rtx-int8", "tensorrt-rtx", PASSED, True),
    ],
)
def test_what_is_trusted(
    tmp_path: Path, artefact: str, backend: str, certificate: dict[str, Any] | None, trusted: bool
) -> None:
    bundle = bundle_of(tmp_path)
    if certificate is not None:
        bundle.set_parity(artefact, backend, certificate)
    told = doubt(bundle, artefact, backend)
    assert (told is None) == trusted
    if told is not None:
        assert f"edgead parity {bundle.path} --artefact {artefact} --backend {backend}" in told
        assert ("missed a gate" in told) == (certificate is not None)


def test_a_certificate_counts_for_its_backend_alone(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    bundle.set_parity("int8", "onnxruntime", PASSED)
    assert doubt(bundle, "int8", "onnxruntime") is None
    assert doubt(bundle, "int8", "openvino") is not None


def station(tmp_path: Path, bundle: Bundle, **values: Any) -> StationConfig:
    cameras = (CameraConfig(name="cam", uri="sim://magnetic_core?parts=2&size=32&view=front"),)
    return StationConfig(bundle=bundle.path, cameras=cameras, output=tmp_path / "out", threads=1, **values)


def test_a_station_refuses_what_is_unproven_and_leaves_nothing(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    bundle.set_threshold("int8", threshold_from_good([0.1, 0.2], unit="part", source="two"))
    config = station(tmp_path, bundle, artefact="int8", backend="openvino")
    with pytest.raises(ArtefactError, match=r"'int8' on openvino has not been held.*'unproven: true' in station.yaml"):
        run_station(config)
    assert not config.output.exists()


def test_the_brave_are_told_in_the_report(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    bundle.set_threshold("int8", threshold_from_good([0.1, 0.2], unit="part", source="two"))
    report = run_station(station(tmp_path, bundle, artefact="int8", backend="openvino", unproven=True))
    assert report.runner == "openvino-cpu"
    (problem,) = report.problems
    assert problem.startswith("unproven: 'int8' on openvino has not been held against its checkpoint")
    assert report.triggers == 2
    bundle.set_parity("int8", "openvino", PASSED)
    assert run_station(station(tmp_path, bundle, artefact="int8", backend="openvino", unproven=True)).problems == ()


# ---- the command line


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def answer(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> Any:
    capsys.readouterr()
    assert main([str(word) for word in [*words, "--json"]]) == code
    out, err = capsys.readouterr()
    return json.loads(out) if code == 0 else err


def test_verbs_take_a_backend(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choice = ["--backend", "openvino", "--threads", "1"]
    told = answer(capsys, "threshold", copied, *choice, "--false-reject-ppm", "50000")
    assert told["backend"] == "openvino"
    assert told["threshold"]["source"].endswith(" on openvino")
    assert Bundle.open(copied).threshold("fp32").source == told["threshold"]["source"]
    assert answer(capsys, "evaluate", copied, *choice)["backend"] == "openvino"
    assert json.loads((copied / "evaluation.fp32@openvino.json").read_text())["backend"] == "openvino"
    answer(capsys, "evaluate", copied, "--threads", "1")
    assert {file.name for file in copied.glob("evaluation.*")} == {
        "evaluation.fp32@onnxruntime.json",
        "evaluation.fp32@openvino.json",
    }


def test_bench_takes_a_backend_for_each_artefact(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--n", "2", "--threads", "1"]
    names = "checkpoint,fp32,fp32@onnxruntime"
    told = answer(capsys, "bench", copied, "--artefacts", names, "--backend", "openvino", *few)
    rows = {row["runner"]: row["backend"] for row in told["rows"]}
    assert rows == {"checkpoint": "torch-cpu", "fp32": "openvino-cpu", "fp32@onnxruntime": "onnxruntime-cpu"}
    assert set(told["conditions"]["sha256"]) == {"checkpoint", "fp32"}
    assert "did you mean 'openvino'?" in answer(capsys, "bench", copied, "--artefacts", "fp32@openvno", *few, code=2)
    assert "there is no backend ''" in answer(capsys, "bench", copied, "--artefacts", "fp32@", *few, code=2)
    assert "no artefact 'fp23'" in answer(capsys, "bench", copied, "--artefacts", "fp23@openvino", *few, code=2)


def test_a_backend_that_does_not_exist_is_one_line(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values: dict[str, Any] = {"bundle": "run", "output": "out", "cameras": [{"name": "cam", "uri": SIM}]}
    (tmp_path / "station.yaml").write_text(yaml.safe_dump({**values, "backend": "openvno"}))
    for words in (
        ["stream", tmp_path / "station.yaml"],
        ["evaluate", copied, "--backend", "openvno"],
        ["threshold", copied, "--backend", "openvno"],
        ["bench", copied, "--artefacts", "fp32", "--backend", "openvno"],
    ):
        told = answer(capsys, *words, code=2)
        assert told == f"edgead {words[0]}: there is no backend 'openvno', did you mean 'openvino'?\n"
    assert not (tmp_path / "out").exists()


def test_stream_takes_a_backend(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values: dict[str, Any] = {"bundle": "run", "output": "out", "cameras": [{"name": "cam", "uri": SIM}]}
    path = tmp_path / "station.yaml"
    path.write_text(yaml.safe_dump(values))
    assert answer(capsys, "stream", path)["runner"] == "onnxruntime-cpu"
    assert answer(capsys, "stream", path, "--backend", "openvino")["runner"] == "openvino-cpu"
    path.write_text(yaml.safe_dump({**values, "backend": "openvino"}))
    assert answer(capsys, "stream", path)["runner"] == "openvino-cpu"
    Bundle.open(copied).set_parity("fp32", "openvino", FAILED)
    told = answer(capsys, "stream", path, code=2)
    assert "'fp32' on openvino missed a gate of parity" in told
    assert told.count("\n") == 1
    path.write_text(yaml.safe_dump({**values, "backend": "openvino", "unproven": True}))
    assert answer(capsys, "stream", path)["problems"][0].startswith("unproven: 'fp32' on openvino missed a gate")
