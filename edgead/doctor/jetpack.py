"""Which JetPack a Jetson runs, and what that JetPack brings.

Sources: PyTorch-TensorRT's page on JetPack (6.1, 6.2), NVIDIA/TensorRT issue 3640 (6.0), jetson-containers issue 1677
(5.1), TensorRT-Edge-LLM's limitations (7.1), meta-tegra issue 2224 and roboflow/inference issue 2478 (7.2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class JetPack:
    """A JetPack, told from its L4T revision.

    Attributes:
        release: such as ``"6.1 or 6.2"``; ``"unknown"`` for one that is not in the table.
        l4t: such as ``"36.4.3"``.
        tensorrt: version that belongs to it; empty where the table does not know.
        cuda: CUDA version that belongs to it.
        python: of its Ubuntu, for which its TensorRT is built.
    """

    release: str
    l4t: str
    tensorrt: str = ""
    cuda: str = ""
    python: str = ""

    def __str__(self) -> str:
        return f"{self.release} (L4T {self.l4t})" if self.l4t else self.release

    @property
    def brings(self) -> str:
        """What belongs to it, in words; empty where the table does not know."""
        return f"TensorRT {self.tensorrt}, CUDA {self.cuda}, Python {self.python}" if self.tensorrt else ""


# From which L4T on: release, TensorRT, CUDA, Python.
_TABLE = {
    (32, 0): ("4", "", "", ""),
    (34, 0): ("5.0", "8.4", "11.4", "3.8"),
    (35, 0): ("5.1", "8.5.2", "11.4", "3.8"),
    (36, 0): ("6.0", "8.6.2", "12.2", "3.10"),
    (36, 4): ("6.1 or 6.2", "10.3.0", "12.6", "3.10"),
    (38, 0): ("7.0 or 7.1", "10.13.3", "13.0", "3.12"),
    (39, 0): ("7.2", "10.16.2", "13.2", "3.12"),
}


def read_jetpack(release: Path) -> JetPack | None:
    """Read ``/etc/nv_tegra_release``; None where there is no such file."""
    try:
        text = release.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    if not found:
        return JetPack(f"unknown ({text.splitlines()[0][:80] if text.strip() else 'empty file'})", "")
    major, minor = int(found[1]), int(found[2].partition(".")[0] or 0)
    since = [key for key in _TABLE if key[0] == major and key[1] <= minor]
    l4t = f"{major}.{found[2]}"
    return JetPack(_TABLE[max(since)][0], l4t, *_TABLE[max(since)][1:]) if since else JetPack("unknown", l4t)
