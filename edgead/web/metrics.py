"""The numbers of a station for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

import edgead
from edgead.runtime.ledger import edges_s

if TYPE_CHECKING:
    from edgead.runtime.board import Board, BoardLayout, Numbers

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_EDGES_S = edges_s()
# Four a decade from 10 microseconds to 100 seconds: at edges of the ledger's bins, so the counts are exact.
_BOUNDS = [index for index in range(24, len(_EDGES_S), 25) if 0.9e-5 < _EDGES_S[index] < 101]
_CAMERA = {
    "frames": "Complete frames.",
    "incomplete": "Frames that came with parts missing, or could not be decoded.",
    "missed": "Frames known, or estimated, to have been taken and never come.",
    "reconnects": "Times that the camera was opened anew.",
}
_OUTPUT = {
    "delivered": "Verdicts that the receiver has acknowledged, in this run.",
    "refused": "Verdicts that the receiver will not have.",
    "dropped": "Verdicts that left a full outbox undelivered.",
    "errors": "Attempts that failed, connections that were lost.",
}


class Metrics:
    """What a station's board says, in Prometheus' text format; read when it is asked for.

    Args:
        beat_age_s: gives the seconds since the station showed that it lives.
        viewers: gives the number of browsers that look.
    """

    def __init__(
        self, board: Board, layout: BoardLayout, beat_age_s: Callable[[], float], viewers: Callable[[], int]
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_StationCollector(board, layout, beat_age_s, viewers))

    def text(self) -> bytes:
        """Return all metrics."""
        return generate_latest(self._registry)


def buckets(bins: Sequence[tuple[int, int]]) -> list[tuple[str, int]]:
    """Return upper bounds and running counts, as Prometheus has them, of the fine bins of a ledger."""
    counts = np.zeros(len(_EDGES_S), np.int64)
    for index, count in bins:
        counts[index] += count
    running = np.cumsum(counts)
    found = [(f"{_EDGES_S[index]:.4g}", int(running[index])) for index in _BOUNDS]
    return [*found, ("+Inf", int(running[-1]))]


class _StationCollector(Collector):
    def __init__(
        self, board: Board, layout: BoardLayout, beat_age_s: Callable[[], float], viewers: Callable[[], int]
    ) -> None:
        self._board, self._layout, self._beat_age_s, self._viewers = board, layout, beat_age_s, viewers

    def collect(self) -> Iterator[Metric]:
        """Read the board, and give each number a name."""
        numbers = self._board.numbers()
        yield from self._about()
        yield from self._parts(numbers)
        yield from self._stages(numbers)
        yield from self._per("camera", numbers.cameras, "edgead_camera", _CAMERA)
        yield self._seen(numbers)
        outputs = {str(one.get("name")): one for one in numbers.outputs}
        yield from self._per("output", outputs, "edgead_output", _OUTPUT)
        pending = self._labelled("edgead_output_pending", "Verdicts in the outbox, still to be delivered.", "output")
        for name, one in outputs.items():
            pending.add_metric([self._layout.station, name], one.get("pending", 0))
        yield pending

    def _about(self) -> Iterator[Metric]:
        layout = self._layout
        facts = {
            "station": layout.station,
            "artefact": layout.artefact,
            "backend": layout.backend,
            "runner": layout.runner,
            "fusion": layout.fusion,
            "version": edgead.__version__,
        }
        info = GaugeMetricFamily("edgead_info", "What the station runs; always 1.", labels=list(facts))
        info.add_metric([str(value) for value in facts.values()], 1)
        yield info
        limits = self._labelled("edgead_threshold", "Scores above are UNSURE, or NG.", "limit")
        limits.add_metric([layout.station, "unsure"], layout.unsure)
        limits.add_metric([layout.station, "ng"], layout.ng)
        yield limits
        if layout.takt_ms:
            yield self._gauge("edgead_takt_seconds", "Time between two triggers.", layout.takt_ms / 1e3)
        if layout.deadline_ms:
            yield self._gauge("edgead_deadline_seconds", "Longest time to a verdict.", layout.deadline_ms / 1e3)
        yield self._gauge("edgead_max_batch", "Frames that one inference takes at most.", layout.max_batch)
        yield self._gauge("edgead_page_viewers", "Browsers that look at the station's page.", self._viewers())

    def _parts(self, numbers: Numbers) -> Iterator[Metric]:
        parts = CounterMetricFamily("edgead_parts", "Parts by how they ended.", labels=["station", "outcome"])
        for outcome, count in numbers.counts.items():
            parts.add_metric([self._layout.station, outcome], count)
        yield parts
        unaccounted = numbers.triggers - numbers.open - sum(numbers.counts.values())
        yield self._counter("edgead_triggers", "Parts that were triggered.", numbers.triggers)
        yield self._gauge("edgead_parts_open", "Parts that are triggered and not yet decided.", numbers.open)
        yield self._gauge(
            "edgead_parts_unaccounted",
            "Triggers that are neither open nor ended; anything but 0 is a fault.",
            unaccounted,
        )
        yield self._counter("edgead_frames", "Frames judged.", numbers.frames)
        yield self._counter(
            "edgead_unused_frames", "Frames late, doubled, or of rejected parts.", numbers.unused_frames
        )
        yield self._counter("edgead_batches", "Inferences.", numbers.batches)
        if numbers.missed_takts is not None:
            yield self._counter(
                "edgead_takt_misses", "Parts whose verdict came late or not at all.", numbers.missed_takts
            )
        age_s = self._beat_age_s()
        yield self._gauge("edgead_heartbeat_age_seconds", "Time since the station showed that it lives.", age_s)
        yield self._gauge("edgead_ended", "1 when the station has ended its run.", int(numbers.ended))
        busy = self._labelled("edgead_busy_share", "Share of its time for which a resource is busy.", "resource")
        for resource, share in numbers.busy.items():
            busy.add_metric([self._layout.station, resource], share)
        yield busy

    def _stages(self, numbers: Numbers) -> Iterator[Metric]:
        family = HistogramMetricFamily("edgead_stage_seconds", "Time by stage.", labels=["station", "stage"])
        for stage, (bins, sum_s) in numbers.stages.items():
            family.add_metric([self._layout.station, stage], buckets(bins), sum_value=sum_s)
        yield family

    def _seen(self, numbers: Numbers) -> Metric:
        ages = self._labelled("edgead_camera_silence_seconds", "Time since the last frame of a camera.", "camera")
        for name, camera in numbers.cameras.items():
            if camera.get("seen_s"):
                ages.add_metric([self._layout.station, name], max(0.0, time.time() - camera["seen_s"]))
        return ages

    def _per(
        self, label: str, rows: Mapping[str, Mapping[str, Any]], prefix: str, counters: dict[str, str]
    ) -> Iterator[Metric]:
        for key, about in counters.items():
            family = CounterMetricFamily(f"{prefix}_{key}", about, labels=["station", label])
            for name, row in rows.items():
                family.add_metric([self._layout.station, name], row.get(key, 0))
            yield family

    def _labelled(self, name: str, about: str, label: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(name, about, labels=["station", label])

    def _gauge(self, name: str, about: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, about, labels=["station"])
        family.add_metric([self._layout.station], value)
        return family

    def _counter(self, name: str, about: str, value: float) -> Metric:
        family = CounterMetricFamily(name, about, labels=["station"])
        family.add_metric([self._layout.station], value)
        return family
