"""Questions to drivers and heavy libraries, each asked in a process of its own: a broken one takes its caller down."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from typing import Any

_PROBE_S = 30


def gpus() -> dict[str, Any]:
    """Return ``cuda`` (version that the driver speaks), ``gpus`` and ``problem``."""
    found, problem = _ask("import edgead.doctor.probes as p; print(json.dumps(p.ask_driver()))", "the NVIDIA driver")
    return found if found is not None else {"cuda": None, "gpus": [], "problem": problem}


def tensorrt() -> dict[str, str]:
    """Return what is to be said of ``tensorrt`` and ``tensorrt-rtx``, by name."""
    code = "from edgead.runtime.tensorrt_library import found; print(json.dumps([each._asdict() for each in found()]))"
    found, problem = _ask(code, "TensorRT")
    if found is None:
        return {"tensorrt": problem}
    return {each["target"]: "; ".join(filter(None, (each["version"], each["problem"]))) for each in found}


def openvino() -> str:
    """Return OpenVINO's devices, each with what it computes in."""
    code = (
        "import openvino; core = openvino.Core(); print(json.dumps({device: [core.get_property(device, "
        "'FULL_DEVICE_NAME'), core.get_property(device, 'OPTIMIZATION_CAPABILITIES')] for device in "
        "core.available_devices}))"
    )
    found, problem = _ask(code, "OpenVINO")
    if found is None:
        return problem
    kinds = ("FP32", "FP16", "BF16", "INT8")
    told = [f"{device} ({name}: {' '.join(k for k in kinds if k in can)})" for device, (name, can) in found.items()]
    return "; ".join(told) or "no device"


def onnxruntime() -> str:
    """Return ONNX Runtime's providers."""
    found, problem = _ask(
        "import onnxruntime; print(json.dumps(onnxruntime.get_available_providers()))", "ONNX Runtime"
    )
    return problem if found is None else ", ".join(found)


def ask_driver() -> dict[str, Any]:
    """Ask the CUDA driver for its version and devices through its C interface, in this process."""
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


def _ask(code: str, whom: str) -> tuple[Any, str]:
    """Run code that prints JSON; returns that, or None and the problem in words."""
    command = [sys.executable, "-c", f"import json; {code}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_S, check=True)
        return json.loads(done.stdout), ""
    except subprocess.TimeoutExpired:
        return None, f"unknown: {whom} has not answered for {_PROBE_S} s; reboot"
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"it ended with {error.returncode}"])[-1]
        return None, f"unknown: asking {whom} failed ({last[:200]})"
    except (OSError, ValueError) as error:
        return None, f"unknown: asking {whom} failed ({error})"
