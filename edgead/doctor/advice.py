"""What to install so that a machine inspects at its best: the commands of the README, chosen for what was found.

Which GPU takes which TensorRT: the support matrices of TensorRT 11.4 (compute capability 7.5 and newer) and
TensorRT-RTX 1.5 (7.5, 8.6, 8.9, 12.0, 12.1). Pip packages come for CUDA 12 (driver 535 or newer) and CUDA 13 (580).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from edgead.doctor.jetpack import JetPack

_RTX = ("7.5", "8.6", "8.9", "12.0", "12.1")
_OLDEST = (7, 5)
_PYTHON = (3, 10)
_PIP = "pip install -c constraints.txt"
# What running an engine and building one take beside TensorRT itself, by the CUDA that the driver speaks.
_BESIDE = {12: "onnx 'cuda-bindings>=12,<13'", 13: "onnx 'cuda-bindings>=13,<14'"}


@dataclass(frozen=True)
class Facts:
    """What decides about the installation.

    Attributes:
        architecture: such as ``"x86_64"`` or ``"aarch64"``.
        jetpack: None off a Jetson.
        cuda: version that the NVIDIA driver speaks; None without a driver.
        capabilities: compute capability of each GPU.
        installed: names of parts that are there.
    """

    architecture: str
    jetpack: JetPack | None
    cuda: str | None
    capabilities: tuple[str, ...]
    installed: Collection[str]


@dataclass(frozen=True)
class Advice:
    """Commands to type in edgead's folder, one a line; none where all is there or nothing helps.

    Attributes:
        why: what they bring, or what stands in the way.
    """

    why: str
    commands: tuple[str, ...] = ()


def advise(facts: Facts) -> Advice:
    """Choose what makes the most of a machine."""
    if facts.jetpack is not None:
        return _jetson(facts, facts.jetpack)
    if facts.cuda is not None and facts.capabilities:
        return _gpu(facts, facts.cuda)
    return _cpu(facts, "no NVIDIA GPU")


def _jetson(facts: Facts, jetpack: JetPack) -> Advice:
    python = tuple(int(number) for number in jetpack.python.split(".") if number)
    if python and python < _PYTHON:
        return Advice(f"JetPack {jetpack.release} has Python {jetpack.python}, edgead needs 3.10: flash JetPack 6 or 7")
    cuda = _major(facts.cuda) or _major(jetpack.cuda)
    if cuda not in _BESIDE:
        return Advice(f"JetPack {jetpack}: not known here; look at README.md, A station with a GPU")
    if "tensorrt" in facts.installed and _has_cuda(facts):
        return Advice("TensorRT and a CUDA binding are there")
    return Advice(
        "TensorRT from JetPack itself, which no pip package replaces, in an environment that sees it",
        (
            "sudo apt-get install -y python3-libnvinfer python3-venv",
            "python3 -m venv --system-site-packages .venv",
            ". .venv/bin/activate",
            f"{_PIP} '.[stations]' {_BESIDE[cuda]}",
        ),
    )


def _gpu(facts: Facts, cuda: str) -> Advice:
    major = _major(cuda)
    if major < min(_BESIDE):
        return Advice(f"the driver speaks CUDA {cuda} only: install NVIDIA driver 535 or newer, then ask again")
    major = min(major, max(_BESIDE))
    if all(_pair(capability) < _OLDEST for capability in facts.capabilities):
        return _cpu(facts, f"TensorRT needs compute capability 7.5, this GPU has {', '.join(facts.capabilities)}")
    is_rtx = all(capability in _RTX for capability in facts.capabilities) and facts.architecture == "x86_64"
    name = "tensorrt-rtx" if is_rtx else "tensorrt"
    if name in facts.installed and _has_cuda(facts):
        return Advice(f"{name} and a CUDA binding are there")
    what = f"'.[stations,{name}]'" if major == 13 else f"'.[stations]' {name}-cu{major}"
    return Advice(
        f"{name}, for GPUs of compute capability {', '.join(facts.capabilities)} and a driver that speaks CUDA {cuda}",
        (f"{_PIP} {what} {_BESIDE[major]}",),
    )


def _cpu(facts: Facts, reason: str) -> Advice:
    if facts.architecture not in ("x86_64", "AMD64"):
        return Advice(f"{reason}: ONNX Runtime, which is in every installation, serves this processor")
    if "openvino" in facts.installed:
        return Advice(f"{reason}: OpenVINO is there")
    why = f"{reason}: OpenVINO, which ran int8 faster than ONNX Runtime where both were measured"
    return Advice(why, (f"{_PIP} '.[stations,openvino]'",))


def _has_cuda(facts: Facts) -> bool:
    return "cuda-bindings" in facts.installed or "pycuda" in facts.installed


def _major(version: str | None) -> int:
    return int(version.partition(".")[0]) if version else 0


def _pair(capability: str) -> tuple[int, ...]:
    return tuple(int(number) for number in capability.split("."))
