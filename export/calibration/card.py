"""The calibration card: what the ranges of an int8 model rest on, as plain JSON values for the bundle's record."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

import edgead
from edgead.errors import DataError
from export.calibration.listing import Listed
from export.calibration.methods import PERCENTILE
from export.calibration.ranges import Ranges

FORMAT = 1
_SHOWN = 10  # images and tensors in the short lists


def card(ranges: Ranges, listed: Listed, method: str, *, percentile: float = PERCENTILE) -> dict[str, JsonValue]:
    """Describe a calibration.

    ``ranges`` maps each tensor to ``amax`` (what int8's 127 stands for), ``peak``, ``spread`` (see ``Ranges.spread``),
    ``image`` (the one with the largest value, null where several share it, as behind a ReLU6) and ``stretch`` (that
    value against the median image's). ``stretching`` names the images that set the peak of most tensors, ``unstable``
    the tensors with the largest spread.

    Raises:
        ConfigError: an unknown method or a wrong percentile.
        DataError: the ranges are not of the images listed.
    """
    if ranges.images != len(listed.paths):
        raise DataError(
            f"ranges of {ranges.images} images cannot be described by a list of {len(listed.paths)}; "
            "calibrate again: edgead quantize RUN"
        )
    amax = ranges.amax(method, percentile=percentile)
    spread = ranges.spread(method, percentile=percentile)
    tensors = _tensors(ranges, listed, amax, spread)
    by_spread = sorted(spread, key=lambda name: -spread[name])
    unstable: dict[str, JsonValue] = {name: _short(spread[name]) for name in by_spread[:_SHOWN]}
    largest = max(ranges.peak, key=lambda name: ranges.peak[name])
    views, lights = listed.counts()["views"], listed.counts()["illuminations"]
    return {
        "format": FORMAT,
        "images": {
            "count": ranges.images,
            "list_sha256": listed.sha256,
            "dataset": listed.dataset,
            "category": listed.category,
            "choice": listed.method,
            "seed": listed.seed,
            "views": dict(views),
            "illuminations": dict(lights),
        },
        "method": {"name": method, "percentile": percentile} if method == "percentile" else {"name": method},
        "tools": {"edgead": edgead.__version__, **ranges.tools},
        "model_sha256": ranges.model_sha256,
        "tensors": {
            "count": len(amax),
            "zero": [name for name in amax if ranges.histograms[name].peak == 0],
            "seen": len(ranges.peak),
            "largest": {"name": largest, "peak": _short(ranges.peak[largest])},
        },
        "stability": {
            "median": _short(float(np.median(list(spread.values()))) if spread else 0.0),
            "unstable": unstable,
        },
        "stretching": _stretching(ranges, listed),
        "ranges": tensors,
    }


def _tensors(ranges: Ranges, listed: Listed, amax: dict[str, float], spread: dict[str, float]) -> dict[str, JsonValue]:
    tensors: dict[str, JsonValue] = {}
    for column, name in enumerate(amax):
        by_image = ranges.maxima[:, column]
        middle = float(np.median(by_image))
        tensors[name] = {
            "amax": amax[name],
            "peak": ranges.peak[name],
            "spread": _short(spread[name]),
            "image": None if (top := _stretcher(by_image)) is None else listed.paths[top],
            "stretch": _short(float(by_image.max()) / middle) if middle > 0 else None,
        }
    return tensors


def _stretching(ranges: Ranges, listed: Listed) -> list[JsonValue]:
    """Name the images that alone hold the largest value of most tensors."""
    tops = (_stretcher(by_image) for by_image in ranges.maxima.T)
    counts = Counter(top for top in tops if top is not None)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"image": listed.paths[image], "tensors": count} for image, count in ordered[:_SHOWN]]


def _stretcher(by_image: npt.NDArray[np.float32]) -> int | None:
    """Return the image that holds the largest value, None where it is not the only one."""
    top = np.flatnonzero(by_image == by_image.max())
    return int(top[0]) if len(top) == 1 else None


def _short(value: float) -> float:
    return float(f"{value:.4g}")
