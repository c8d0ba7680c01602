"""Run calibration images through the fp32 model and keep how its tensors are spread: one pass, bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.calibration.choice import refuse_too_few
from export.calibration.histogram import Histogram
from export.calibration.methods import PERCENTILE, amax_of, check_method
from export.calibration.probe import Probe

_REPLICATES = 40
_CANDIDATES = 64  # clipping points that a replicate tries: 40 replicates a tensor have to be quick


@dataclass(frozen=True)
class Ranges:
    """What the calibration images showed.

    Attributes:
        model_sha256: of the model that they ran through.
        images: number of images.
        peak: largest ``|x|`` of every float32 tensor of the graph, constants included.
        histograms: of the tensors asked for.
        maxima: largest ``|x|`` by image of the tensors asked for, float32 ``(images, tensors)``.
        means: mean of each channel ``(C,)`` of the tensors ``(N, C, H, W)`` asked for, over images and pixels.
        tools: versions of what computed it.
    """

    model_sha256: str
    images: int
    peak: dict[str, float]
    histograms: dict[str, Histogram]
    maxima: npt.NDArray[np.float32]
    means: dict[str, npt.NDArray[np.float64]]
    tools: dict[str, str]

    def amax(self, method: str, *, percentile: float = PERCENTILE) -> dict[str, float]:
        """Return the ``|x|`` that int8's 127 stands for, by tensor asked for; positive, and 1 for tensors of zeros.

        Args:
            method: ``"max"``, ``"percentile"``, ``"mse"`` or ``"entropy"``.
            percentile: of all values of a tensor, in percent, for that method.

        Raises:
            ConfigError: an unknown method or a wrong percentile.
        """
        check_method(method, percentile)
        return {
            name: amax_of(histogram.distribution(), method, percentile=percentile)
            for name, histogram in self.histograms.items()
        }

    def spread(self, method: str, *, percentile: float = PERCENTILE, seed: int = 0) -> dict[str, float]:
        """Return how far ``amax`` depends on which images were drawn, by tensor.

        A bootstrap: images are drawn anew with replacement, 40 times. The result is the width of the central 90 % of
        the ranges found, relative to the one that all images give; by MSE and entropy in steps of about 1.5 %. Beyond
        256 images they are drawn in fixed groups.

        Raises:
            ConfigError: an unknown method or a wrong percentile.
        """
        check_method(method, percentile)
        random = np.random.default_rng(seed)
        drawn = random.integers(0, self.images, (_REPLICATES, self.images))
        whole = self.amax(method, percentile=percentile)
        widths = {}
        for column, (name, histogram) in enumerate(self.histograms.items()):
            found = self._replicates(column, histogram, drawn, method, percentile)
            low, high = np.quantile(found, [0.05, 0.95])
            widths[name] = float((high - low) / whole[name])
        return widths

    def _replicates(
        self, column: int, histogram: Histogram, drawn: npt.NDArray[np.int64], method: str, percentile: float
    ) -> npt.NDArray[np.float64]:
        if method == "max":
            return np.asarray(self.maxima[:, column][drawn].max(axis=1), np.float64)
        slots = histogram.slots
        weights = np.stack([np.bincount(row % slots, minlength=slots) for row in drawn]).astype(np.float64)
        found = histogram.resampled(weights)
        return np.asarray([amax_of(some, method, percentile=percentile, candidates=_CANDIDATES) for some in found])


def collect(
    path: Path,
    images: Iterable[npt.NDArray[np.uint8]],
    tensors: Collection[str],
    *,
    threads: int = 0,
    progress: Callable[..., None] | None = None,
) -> Ranges:
    """Run the images through a model and keep how its tensors are spread.

    Images run one by one, whatever their batches: memory is that of one inference and 1.1 MB a tensor asked for.

    Args:
        path: the fp32 model of the whole inspection.
        images: batches of uint8 ``(N, H, W, 3)`` RGB.
        tensors: names of the tensors that int8 ranges are wanted for.
        threads: threads of one inference; 0 takes all cores that the process may use.
        progress: called with 1 after each image, as ``edgead.progress.task`` yields it.

    Raises:
        ArtefactError: no inspection model, no such tensor, or values that are NaN or infinite; names the tensor.
        DataError: fewer than 2 images, or images of another size.
        MissingError: onnx or onnxruntime is not installed.
    """
    probe = Probe(path, tensors, threads=threads)
    histograms = {name: Histogram() for name in dict.fromkeys(tensors)}
    columns = {name: index for index, name in enumerate(probe.computed)}
    asked = [columns[name] for name in histograms]
    peaks = np.zeros(len(probe.computed), np.float32)
    maxima: list[npt.NDArray[np.float32]] = []
    sums: dict[str, npt.NDArray[np.float64]] = {}
    for batch in images:
        for index in range(len(batch)):
            seen = probe.look(batch[index : index + 1], len(maxima) + 1)
            np.maximum(peaks, seen.peaks, out=peaks)
            maxima.append(seen.peaks[asked])
            for name, histogram in histograms.items():
                values = seen.values[name]
                histogram.add(values, float(seen.peaks[columns[name]]))
                if values.ndim == 4:
                    sums[name] = sums.get(name, 0) + values.mean((0, 2, 3), dtype=np.float64)
            if progress is not None:
                progress(1)
    refuse_too_few(len(maxima))
    return Ranges(
        model_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        images=len(maxima),
        peak={**probe.constant_peaks, **dict(zip(probe.computed, peaks.tolist(), strict=True))},
        histograms=histograms,
        maxima=np.stack(maxima),
        means={name: total / len(maxima) for name, total in sums.items()},
        tools={name: version(name) for name in ("numpy", "onnx", "onnxruntime")},
    )
