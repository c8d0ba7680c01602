"""Speed of runners, measured side by side: one run alternates between them, so that a busy machine slows all alike."""

from __future__ import annotations

import math
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt

from edgead.doctor import cpu_model, memory_gib
from edgead.errors import DataError
from edgead.images import resize
from edgead.progress import task
from edgead.runtime.runner import Runner, usable_cores

Images = npt.NDArray[np.uint8]  # (N, H, W, 3) RGB

_MIN_ROUNDS = 5
# Thread pools keep spinning for a moment after a run and would take cores from the runner that comes next: it waits,
# and then runs untimed until it has them, at least once. On a line an engine runs again and again; here the first call
# of a turn took twice as long as the fourth (8.4 and 4.2 ms, cfrg-lite0 in int8 on OpenVINO, after ONNX Runtime).
_PAUSE_S = 0.02
_SETTLE_S = 0.03
_LIBRARIES = (
    "edgead",
    "numpy",
    "opencv-python-headless",
    "onnxruntime",
    "torch",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
)


@dataclass(frozen=True)
class Speed:
    """How long one runner takes for one batch.

    Attributes:
        runner: what the caller calls it.
        backend: the runner's own name.
        threads: CPU threads that it says it uses; None where it says nothing.
        n: batches timed, after ``warmup`` untimed ones.
        mean_ms, p50_ms, p95_ms, p99_ms: latency of a batch.
        iqr_ms: spread: 75th less 25th percentile.
        fps: images per second, from the mean.
        peak_rss_mib: largest memory of the whole process so far; it holds all runners of the run.
    """

    runner: str
    backend: str
    batch: int
    threads: int | None
    n: int
    warmup: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    iqr_ms: float
    fps: float
    peak_rss_mib: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def measure(
    runners: Mapping[str, Runner],
    images: Images,
    *,
    batch: int = 1,
    n: int | None = None,
    seconds: float = 10.0,
    warmup: int = 5,
) -> list[Speed]:
    """Time runners in turn, each once a round after untimed calls, the order reversed from round to round.

    Args:
        images: uint8 ``(N, H, W, 3)`` RGB, real ones; rounds walk through them. Runners of other sizes get them
            resized beforehand.
        n: rounds; None takes as many as fit in ``seconds``, but 5 at least.
        warmup: rounds before those that count, 1 at least.

    Raises:
        DataError: no runners or images, or a batch that a runner does not take.
    """
    if not len(images) or not runners:
        raise DataError(f"{len(runners)} runners and {len(images)} images to measure with; give at least one of each")
    if batch < 1 or warmup < 1 or (n is not None and n < 1):
        raise DataError(f"batch {batch}, warmup {warmup}, n {n}; expected 1 or more of each")
    own = {name: _resized(images, runner.size_hw) for name, runner in runners.items()}
    for index in range(warmup):
        last = _round(runners, own, index, batch)
    spent_ms = sum(1e3 * (_PAUSE_S + _SETTLE_S) + 2 * latency for latency in last.values())
    rounds = n or max(_MIN_ROUNDS, math.ceil(seconds * 1e3 / spent_ms))
    times: dict[str, list[float]] = {name: [] for name in runners}
    with task("Measuring speed", rounds) as advance:
        for index in range(warmup, warmup + rounds):
            for name, latency_ms in _round(runners, own, index, batch).items():
                times[name].append(latency_ms)
            advance(1)
    return [_speed(name, runners[name], np.array(times[name]), batch, warmup) for name in runners]


def ratio(fast: Speed, slow: Speed) -> float:
    """Return how many times faster one runner is than another, by the medians of one run."""
    return (slow.p50_ms / slow.batch) / (fast.p50_ms / fast.batch)


def machine() -> dict[str, Any]:
    """Describe this machine for a results file: processor, cores, memory, system and library versions."""
    libraries = {}
    for name in _LIBRARIES:
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_gib": memory_gib(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": libraries,
    }


def peak_rss_mib() -> float | None:
    """Return the largest resident memory of this process so far, MiB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def _resized(images: Images, size_hw: tuple[int, int]) -> Images:
    if images.shape[1:3] == size_hw:
        return images
    return np.stack([resize(image, size_hw) for image in images])


def _round(runners: Mapping[str, Runner], images: Mapping[str, Images], index: int, batch: int) -> dict[str, float]:
    """Let every runner settle on the same images and return the milliseconds of its last run."""
    times = {}
    for name in list(runners) if index % 2 else reversed(list(runners)):
        chosen = np.arange(index * batch, (index + 1) * batch) % len(images[name])
        some = np.ascontiguousarray(images[name][chosen])
        time.sleep(_PAUSE_S)
        settled = time.perf_counter() + _SETTLE_S
        runners[name].infer(some)
        while time.perf_counter() < settled:
            runners[name].infer(some)
        start = time.perf_counter()
        runners[name].infer(some)
        times[name] = (time.perf_counter() - start) * 1e3
    return times


def _speed(name: str, runner: Runner, times: npt.NDArray[np.float64], batch: int, warmup: int) -> Speed:
    p25, p50, p75, p95, p99 = np.percentile(times, [25, 50, 75, 95, 99]).tolist()
    mean = float(times.mean())
    return Speed(
        runner=name,
        backend=runner.name,
        batch=batch,
        threads=getattr(runner, "threads", None),
        n=len(times),
        warmup=warmup,
        mean_ms=mean,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        iqr_ms=p75 - p25,
        fps=batch * 1e3 / mean,
        peak_rss_mib=peak_rss_mib(),
    )
