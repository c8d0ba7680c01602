"""What the doctor tells of machines that are sound, sick, or not at hand: their probes' answers are made up."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgead.doctor
from edgead.cli import main
from edgead.doctor import probes
from edgead.doctor.advice import Advice, Facts, advise
from edgead.doctor.jetpack import read_jetpack
from edgead.doctor.machine import cpu_features

ROOT = Path(__file__).parents[1]
PIP = "pip install -c constraints.txt"
CUDA12, CUDA13 = "onnx 'cuda-bindings>=12,<13'", "onnx 'cuda-bindings>=13,<14'"
PC = Facts("x86_64", None, None, (), ())


def doctor(capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert main(["doctor", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_tells_what_is_there_and_how_to_get_what_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    document = doctor(capsys)
    parts = {part["name"]: part for part in document["parts"]}
    assert parts["numpy"]["version"] == np.__version__
    assert parts["tensorrt"]["remedy"] == f"{PIP} '.[tensorrt]'"
    assert all(part["purpose"] for part in parts.values())
    assert "CPUExecutionProvider" in document["machine"]["onnxruntime_providers"]
    assert document["machine"]["gpu"]
    assert document["machine"]["resize"].startswith(("native (", "OpenCV; "))
    assert document["advice"]["why"]
    assert main(["doctor"]) == 0
    assert "numpy" in capsys.readouterr().out


def test_it_tells_devices_of_openvino(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino")
    assert re.match(r"CPU \(.+: FP32 .*INT8\)", doctor(capsys)["machine"]["openvino_devices"])


def test_it_tells_of_tensorrt_rtx(capsys: pytest.CaptureFixture[str]) -> None:
    version = pytest.importorskip("tensorrt_rtx").__version__
    assert doctor(capsys)["machine"]["tensorrt_rtx"].startswith(version)


def test_it_installs_what_pyproject_offers() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for known in edgead.doctor._PARTS:
        assert not known.extra or re.search(rf"^{known.extra} = \[", text, re.MULTILINE), known


def test_it_imports_nothing_but_pythons_own_library() -> None:
    code = (
        "import sys\nbefore = set(sys.modules)\nimport edgead.doctor\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "['edgead']\n"


@pytest.mark.parametrize(
    ("text", "told", "brings"),
    [
        (
            "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
            "6.1 or 6.2 (L4T 36.4.3)",
            "TensorRT 10.3.0, CUDA 12.6, Python 3.10",
        ),
        ("# R36 (release), REVISION: 3.0, GCID: 1\n", "6.0 (L4T 36.3.0)", "TensorRT 8.6.2, CUDA 12.2, Python 3.10"),
        ("# R36 (release), REVISION: 5.0\n", "6.1 or 6.2 (L4T 36.5.0)", "TensorRT 10.3.0, CUDA 12.6, Python 3.10"),
        ("# R35 (release), REVISION: 4.1, GCID: 33958178\n", "5.1 (L4T 35.4.1)", "TensorRT 8.5.2"),
        ("# R38 (release), REVISION: 2.0\n", "7.0 or 7.1 (L4T 38.2.0)", "TensorRT 10.13.3, CUDA 13.0, Python 3.12"),
        ("# R39 (release), REVISION: 2.0\n", "7.2 (L4T 39.2.0)", "TensorRT 10.16.2, CUDA 13.2, Python 3.12"),
        ("# R32 (release), REVISION: 7.1\n", "4 (L4T 32.7.1)", ""),
        ("# R99 (release), REVISION: 1\n", "unknown (L4T 99.1)", ""),
        ("", "unknown (empty file)", ""),
        ("nothing of note", "unknown (nothing of note)", ""),
    ],
)
def test_jetpack_is_told_from_l4t(tmp_path: Path, text: str, told: str, brings: str) -> None:
    path = tmp_path / "nv_tegra_release"
    path.write_text(text)
    found = read_jetpack(path)
    assert found is not None
    assert (str(found), found.brings[: len(brings)]) == (told, brings)
    assert bool(found.brings) == bool(brings)
    assert edgead.doctor.jetpack_of(path) == told


def test_off_a_jetson_there_is_no_jetpack(tmp_path: Path) -> None:
    assert edgead.doctor.jetpack_of(tmp_path / "nowhere") is None


def test_features_of_a_processor() -> None:
    assert cpu_features("fpu avx2 avx512_vnni amx_int8 amx_tile amx_bf16") == (
        "avx2",
        "avx512_vnni",
        "amx_int8",
        "amx_bf16",
    )
    assert cpu_features("fp asimd asimddp i8mm") == ("asimddp", "i8mm")
    assert cpu_features("") == ()


@pytest.mark.parametrize(
    ("cuda", "capabilities", "commands"),
    [
        ("13.0", ("8.9",), (f"{PIP} '.[stations,tensorrt-rtx]' {CUDA13}",)),
        ("13.2", ("12.0", "8.6"), (f"{PIP} '.[stations,tensorrt-rtx]' {CUDA13}",)),
        ("12.4", ("7.5",), (f"{PIP} '.[stations]' tensorrt-rtx-cu12 {CUDA12}",)),
        ("13.0", ("9.0",), (f"{PIP} '.[stations,tensorrt]' {CUDA13}",)),
        ("14.0", ("10.0",), (f"{PIP} '.[stations,tensorrt]' {CUDA13}",)),
        ("12.2", ("8.0",), (f"{PIP} '.[stations]' tensorrt-cu12 {CUDA12}",)),
        ("13.0", ("8.6", "9.0"), (f"{PIP} '.[stations,tensorrt]' {CUDA13}",)),
        ("12.4", ("6.1",), (f"{PIP} '.[stations,openvino]'",)),
        ("11.4", ("8.6",), ()),
        ("13.0", (), (f"{PIP} '.[stations,openvino]'",)),
    ],
)
def test_a_pc_gets_what_fits_its_gpu_and_driver(cuda: str, capabilities: tuple[str, ...], commands: Any) -> None:
    assert advise(dataclasses.replace(PC, cuda=cuda, capabilities=capabilities)).commands == commands


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (dataclasses.replace(PC, cuda="11.4", capabilities=("8.6",)), "install NVIDIA driver 535 or newer"),
        (dataclasses.replace(PC, cuda="12.4", capabilities=("6.1",)), "needs compute capability 7.5, this GPU has 6.1"),
        (PC, "no NVIDIA GPU: OpenVINO, which ran int8 faster"),
        (dataclasses.replace(PC, installed={"openvino"}), "OpenVINO is there"),
        (dataclasses.replace(PC, architecture="aarch64"), "ONNX Runtime, which is in every installation"),
        (
            Facts("x86_64", None, "13.0", ("8.9",), {"tensorrt-rtx", "cuda-bindings"}),
            "tensorrt-rtx and a CUDA binding are there",
        ),
    ],
)
def test_the_reason_is_told(facts: Facts, why: str) -> None:
    assert why in advise(facts).why


def jetson(folder: Path, l4t: str, *installed: str) -> Advice:
    major, _, revision = l4t.partition(".")
    release = folder / "nv_tegra_release"
    release.write_text(f"# R{major} (release), REVISION: {revision}, GCID: 1\n")
    return advise(Facts("aarch64", read_jetpack(release), None, (), installed))


@pytest.mark.parametrize(("l4t", "bindings"), [("36.4.3", CUDA12), ("38.2.0", CUDA13), ("39.2.0", CUDA13)])
def test_a_jetson_takes_tensorrt_from_its_jetpack(tmp_path: Path, l4t: str, bindings: str) -> None:
    assert jetson(tmp_path, l4t).commands == (
        "sudo apt-get install -y python3-libnvinfer python3-venv",
        "python3 -m venv --system-site-packages .venv",
        ". .venv/bin/activate",
        f"{PIP} '.[stations]' {bindings}",
    )
    assert jetson(tmp_path, l4t, "tensorrt", "pycuda").commands == ()


@pytest.mark.parametrize(("l4t", "why"), [("35.4.1", "Python 3.8, edgead needs 3.10"), ("99.1", "not known here")])
def test_a_jetson_that_is_too_old_or_too_new_is_told_so(tmp_path: Path, l4t: str, why: str) -> None:
    advice = jetson(tmp_path, l4t)
    assert why in advice.why
    assert advice.commands == ()


SICK = {
    "crashes": "import os; os.abort()",
    "raises": "raise RuntimeError('two\\nlines')",
    "chatters": "print('no JSON')",
    "hangs": "import time; time.sleep(60)",
}


@pytest.mark.parametrize("code", SICK.values(), ids=SICK)
def test_a_sick_library_takes_nothing_down(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_PROBE_S", 2)
    found, problem = probes._ask(code, "the oracle")
    assert found is None
    assert problem.startswith("unknown: ")
    assert "the oracle" in problem
    assert "\n" not in problem


def test_a_sick_machine_is_told_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(probes, "_ask", lambda _code, whom: (None, f"unknown: asking {whom} failed"))
    machine = doctor(capsys)["machine"]
    assert machine["gpu"] == "unknown: asking the NVIDIA driver failed"
    assert machine["onnxruntime_providers"] == "unknown: asking ONNX Runtime failed"


def test_the_commands_of_a_machine_with_a_gpu_are_printed_one_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = {"name": "NVIDIA H200", "compute_capability": "9.0", "memory_gib": 139.8}
    monkeypatch.setattr(probes, "gpus", lambda: {"cuda": "13.0", "gpus": [gpu], "problem": ""})
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "NVIDIA H200, compute capability 9.0, 139.8 GiB" in out
    assert "speaks CUDA 13.0" in out
    assert f"  {PIP} '.[stations,tensorrt]' {CUDA13}\n" in out
