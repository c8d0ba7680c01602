"""Speed of the resize that training, evaluation and stations share, beside OpenCV's, in one thread.

    python -m benchmarks.resize                 print the table
    python -m benchmarks.resize --save FILE     write the measurements, too

Both fill the same preallocated slot, in turns, the order reversed from round to round: a busy machine slows them alike.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.results import save
from edgead import _native
from edgead.errors import EdgeadError, MissingError
from edgead.images import Image, resize

# Height and width, from and to. Halves are left to OpenCV, and the last is a copy.
SIZES = (
    ((1080, 1920), (256, 256)),
    ((480, 640), (256, 256)),
    ((1024, 1024), (256, 256)),
    ((2160, 3840), (256, 256)),
    ((3000, 4000), (512, 512)),
    ((1080, 1920), (540, 960)),
    ((256, 256), (256, 256)),
)


def measure(from_hw: tuple[int, int], to_hw: tuple[int, int], *, seconds: float) -> dict[str, Any]:
    """Time one change of size: medians, and quartile distances as the spread, in microseconds.

    Raises:
        MissingError: the native kernel is not built.
    """
    if not _native.VERSIONS:
        raise MissingError(f"the native resize is not there; {_native.in_use().partition('; ')[2]}")
    image, slot = _picture(from_hw), np.zeros((*to_hw, 3), np.uint8)
    ways: dict[str, Callable[[], object]] = {
        "opencv": lambda: cv2.resize(image, to_hw[::-1], dst=slot, interpolation=cv2.INTER_AREA),
        "native": lambda: resize(image, to_hw, out=slot),
    }
    if from_hw != to_hw:  # the versions for lesser processors
        for version, name in enumerate(_native.VERSIONS[:-1]):
            ways[name] = partial(_native.shrink, image, slot, version=version)
    times = _in_turns(ways, seconds)
    low, median, high = ({name: float(np.percentile(t, q)) for name, t in times.items()} for q in (25, 50, 75))
    row: dict[str, Any] = {"from": f"{from_hw[1]}x{from_hw[0]}", "to": f"{to_hw[1]}x{to_hw[0]}"}
    for name in ("opencv", "native"):
        row |= {f"{name}_us": median[name], f"{name}_iqr_us": high[name] - low[name]}
    row |= {"ratio": median["opencv"] / median["native"], "n": len(times["native"])}
    row |= {f"ratio_{name}": median["opencv"] / median[name] for name in list(ways)[2:]}
    return row


def _in_turns(ways: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Call each way once a round; microseconds of all rounds but the first three."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + seconds
    for index in range(1_000_000):
        for name in list(ways) if index % 2 else reversed(list(ways)):
            begin = time.perf_counter()
            ways[name]()
            times[name].append((time.perf_counter() - begin) * 1e6)
        if time.perf_counter() > end and index >= 8:
            break
    return {name: spent[3:] for name, spent in times.items()}


def _picture(size_hw: tuple[int, int]) -> Image:
    """Return a smooth picture with noise, as a camera gives it."""
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.uniform(20, 235, (9, 16, 3)), size_hw[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255), np.uint8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the resize of this machine beside OpenCV's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resize", description=main.__doc__)
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the measurements as JSON")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each size (default 3)")
    given = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    load = os.getloadavg()[0]
    print(f"{_native.in_use()}; load {load:.2f} before")
    try:
        rows = []
        for from_hw, to_hw in SIZES:
            row = measure(from_hw, to_hw, seconds=given.seconds)
            rows.append(row)
            print(
                f"{row['from']:>9} to {row['to']}: OpenCV {row['opencv_us']:6.0f} us (IQR {row['opencv_iqr_us']:.0f}), "
                f"native {row['native_us']:5.0f} us (IQR {row['native_iqr_us']:.0f}), {row['ratio']:.1f} times as fast"
            )
        if given.save is not None:
            conditions = {"threads": 1, "version": _native.VERSIONS[-1], "load_before": load}
            command = f"python -m benchmarks.resize --save {given.save}"
            save(given.save, command=command, conditions=conditions, rows=rows)
    except EdgeadError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
