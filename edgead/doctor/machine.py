"""What the operating system says of processor and memory."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# What makes int8 and bfloat16 fast on a CPU, as Linux names it: Intel and AMD, then Arm.
_FEATURES: tuple[str, ...] = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
_FEATURES += ("asimddp", "i8mm", "bf16", "sve")


def cpu_model() -> str:
    """Return the name of the processor."""
    models = _cpuinfo("model name") or _cpuinfo("Model")
    return models or platform.processor() or platform.machine()


def cpu_features(flags: str | None = None) -> tuple[str, ...]:
    """Return which of the instructions for small numbers the CPU has.

    Args:
        flags: the words to look in; None asks the operating system.
    """
    words = (_cpuinfo("flags") or _cpuinfo("Features") if flags is None else flags).split()
    return tuple(feature for feature in _FEATURES if feature in words)


def memory_gib() -> float | None:
    """Return the machine's memory; None where the system does not tell."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1)


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo(key: str) -> str:
    """Return the first value of a key; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == key), "")
