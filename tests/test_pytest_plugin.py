"""``pytest --edgead-bundle``: the gates of a run as tests, in a pytest of its own, with no test files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

from edgead.bundle import Bundle
from edgead.onnx_graph import read_model, write_model

ROOT = Path(__file__).parents[1]


def pytest_in(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    # By its module, whether or not this edgead is installed with its entry point, which could not load it twice.
    command = [sys.executable, "-m", "pytest", "-p", "no:edgead", "-p", "benchmarks.pytest_plugin"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CI": "", "PYTEST_ADDOPTS": ""}
    return subprocess.run(
        [*command, "--rootdir", str(folder), *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A run with a sound fp32 artefact, and an int8 artefact that has noise for weights."""
    bundle = Bundle.open(shutil.copytree(trained, tmp_path / "run"))

    def write_damaged(path: Path) -> None:
        model, random = read_model(bundle.file("fp32")), np.random.default_rng(0)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.ndim == 4 and values.size > 500:
                noise = random.normal(0, 3 * values.std(), values.shape).astype(values.dtype)
                tensor.CopyFrom(onnx.numpy_helper.from_array(noise, tensor.name))
        write_model(model, path)

    bundle.add("int8", write_damaged, kind="onnx", precision="int8", made_from="fp32", tools={})
    return bundle.path


def test_gates_are_tests_and_a_damaged_artefact_fails_them(run: Path, tmp_path: Path) -> None:
    before = (run / "bundle.json").read_bytes()
    gates = tmp_path / "gates.yaml"
    gates.write_text("gates: {flips: 0, image_AUROC_drop: 1}\n")
    report = tmp_path / "report.xml"
    done = pytest_in(
        tmp_path / "empty",
        *("--edgead-bundle", run, "--edgead-backend", "onnxruntime", "--edgead-n", 6, "--edgead-threads", 1),
        *("--edgead-gates", gates, f"--junit-xml={report}"),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    outcomes = {
        (str(case.get("classname")).rpartition(".")[2], str(case.get("name"))): case.find("failure") is None
        for case in ElementTree.parse(report).iter("testcase")
    }
    fp32 = ["map_abs", "score_relative", "rank_correlation", "flips", "image_AUROC_drop"]
    fp32 += ["teacher", "student", "recovery", "segmentation"]
    assert [name for artefact, name in outcomes if artefact == "fp32-onnxruntime"] == fp32
    assert all(outcomes["fp32-onnxruntime", name] for name in fp32)
    int8 = {name: passed for (artefact, name), passed in outcomes.items() if artefact == "int8-onnxruntime"}
    assert list(int8) == ["flips", "image_AUROC_drop", "pixel_AUPRO_drop"]
    assert not int8["flips"]
    assert int8["image_AUROC_drop"]
    assert re.search(r"^int8 on onnxruntime: flips is [1-6], the limit is 0$", done.stdout, re.MULTILINE)
    assert re.search(r"^[1-6] flips? in 6: below [\d.]+ % at 95 %$", done.stdout, re.MULTILINE)
    assert f"edgead parity {run} --artefact int8 --backend onnxruntime" in done.stdout
    assert "Traceback" not in done.stdout
    assert (run / "bundle.json").read_bytes() == before
    assert not (run / "parity").exists()


def test_tests_can_be_chosen_and_stand_beside_others(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "test_own.py").write_text("def test_flips_of_their_own(): pass\ndef test_else(): pass\n")
    words = ("--edgead-bundle", run, "--edgead-artefact", "fp32", "--edgead-backend", "onnxruntime", "--edgead-n", 2)
    done = pytest_in(folder, *words, "-k", "flips", "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert "fp32-onnxruntime::flips PASSED" in done.stdout
    assert "test_own.py::test_flips_of_their_own PASSED" in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--edgead-bundle", "nowhere"], "nowhere/bundle.json: no bundle here"),
        (["--edgead-bundle", "RUN", "--edgead-artefact", "fp31"], "no artefact 'fp31', did you mean 'fp32'?"),
        (["--edgead-bundle", "RUN", "--edgead-backend", "tensorrt"], "no artefact runs on tensorrt"),
    ],
)
def test_wrong_use_is_one_line(trained: Path, tmp_path: Path, words: list[str], told: str) -> None:
    done = pytest_in(tmp_path / "empty", *(str(trained) if word == "RUN" else word for word in words))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout + done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_cannot_run_fails_every_test_in_a_line(run: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(run)
    bundle.file("checkpoint").write_bytes(b"x")
    done = pytest_in(
        tmp_path / "empty", "--edgead-bundle", run, "--edgead-artefact", "int8", "--edgead-backend", "onnxruntime"
    )
    assert done.returncode == 1
    assert "2 failed" in done.stdout
    assert "checkpoint.pt: has 1 bytes" in done.stdout
    assert "Traceback" not in done.stdout


LIGHT = """
import sys, pytest
code = pytest.main(["-p", "benchmarks.pytest_plugin", "-p", "no:cacheprovider", "--rootdir", sys.argv[1], sys.argv[1]])
heavy = {"numpy", "torch", "onnx", "onnxruntime", "pydantic", "cv2", "edgead"} & set(sys.modules)
raise SystemExit(f"imported {sorted(heavy)}" if heavy else int(code))
"""


def test_without_the_option_nothing_happens(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("def test_one(): pass\n")
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
