"""Speed of peers beside our networks: all in one run, in turns, on ONNX Runtime and OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.speed import Images, measure, ratio
from edgead.bundle import Bundle, BundleInfo
from edgead.config import SIZES
from edgead.errors import DataError
from edgead.runtime.open import open_runner
from edgead.runtime.runner import Runner

ARTEFACTS = ("fp32", "int8")
BACKENDS = ("onnxruntime", "openvino")


def title(info: BundleInfo) -> str:
    """Name a method: its network, and the size of its images where it is not the network's own."""
    size = info.size_hw[0]
    return info.network if size == SIZES.get(info.network, size) else f"{info.network}-{size}"


def bundles(folder: Path, *more: Path) -> dict[str, Bundle]:
    """Open the peers of a folder, and further bundles, by their titles.

    Raises:
        DataError: the folder holds no bundle.
        ArtefactError: a damaged bundle.
    """
    paths = [*sorted(path.parent for path in folder.glob("*/bundle.json")), *more]
    found = {title(bundle.info): bundle for bundle in map(Bundle.open, paths)}
    if not found:
        raise DataError(f"{folder}: no peers kept there; measure their accuracy first, with --keep {folder}")
    return found


def measure_speed(
    known: Mapping[str, Bundle], images: Images, *, threads: int, seconds: float, backends: Sequence[str] = BACKENDS
) -> list[dict[str, Any]]:
    """Time every model of every bundle at batch 1.

    Returns:
        A row a method, artefact and backend, with ``times_ours``: frames per second as a multiple of the fastest
        of ours in the run, where there is one.

    Raises:
        ArtefactError: a model that cannot be opened or run.
    """
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}
        about: dict[str, dict[str, Any]] = {}
        for name, bundle in known.items():
            for artefact in (each for each in ARTEFACTS if each in bundle.artefacts):
                for backend in backends:
                    key = f"{name} {artefact} {backend}"
                    runners[key] = stack.enter_context(
                        open_runner(bundle, artefact, backend=backend, threads=threads, max_batch=1)
                    )
                    size = round(bundle.artefacts[artefact].size / 2**20, 1)
                    about[key] = {"method": name, "artefact": artefact, "backend": backend, "MiB": size}
        speeds = {each.runner: each for each in measure(runners, images, seconds=seconds)}
    ours = [speed for key, speed in speeds.items() if about[key]["method"].startswith("cfrg")]
    fastest = max(ours, key=lambda speed: speed.fps, default=None)
    rows = []
    for key, speed in speeds.items():
        figures = {"fps": 1e3 / speed.p50_ms, "p50_ms": speed.p50_ms, "iqr_ms": speed.iqr_ms, "n": speed.n}
        multiple = None if fastest is None else round(ratio(speed, fastest), 3)
        rows.append({**about[key], **{k: round(v, 3) for k, v in figures.items()}, "times_ours": multiple})
    return rows
