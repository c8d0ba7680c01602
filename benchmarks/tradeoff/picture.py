"""The picture of a trade-off: frames a second against accuracy, the Pareto front drawn through what leads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgead.errors import require

if TYPE_CHECKING:
    from benchmarks.tradeoff import Point

_METRICS = (("image_AUROC", "front_AUROC", "image AUROC"), ("pixel_AUPRO", "front_AUPRO", "AUPRO (30 %)"))
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def draw(points: Sequence[Point], path: Path) -> None:
    """Write a PNG: measured points, a panel a metric; and the speeds projected for boards, in bars of their own.

    Raises:
        MissingError: matplotlib is not installed.
    """
    require("matplotlib", extra="train")
    from matplotlib.figure import Figure

    real = [point for point in points if not point.projected]
    projected = [point for point in points if point.projected]
    figure = Figure(figsize=(21 if projected else 14, 7.5), layout="constrained")
    panels = figure.subplots(1, len(_METRICS) + bool(projected), squeeze=False)[0]
    for axes, (metric, front, title) in zip(panels, _METRICS, strict=False):
        _measured(axes, real, metric, front)
        axes.set_title(f"{title}, measured")
    if projected:
        _projected(panels[-1], projected)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(temporary, dpi=110, format="png")
    temporary.replace(path)


def _measured(axes: Any, points: Sequence[Point], metric: str, front: str) -> None:
    """Draw frames a second against a metric; what leads is numbered, and named below."""
    from matplotlib.ticker import LogLocator

    shown = [point for point in points if getattr(point, metric) is not None]
    runs = list(dict.fromkeys(point.run for point in points))
    for number, run in enumerate(runs):
        own = [point for point in shown if point.run == run]
        values = [getattr(point, metric) for point in own]
        axes.scatter([point.fps for point in own], values, marker=_MARKS[number % len(_MARKS)], s=42, label=run)
    leading = sorted((point for point in shown if getattr(point, front)), key=lambda point: point.fps)
    values = [getattr(point, metric) for point in leading]
    axes.plot([point.fps for point in leading], values, color="0.5", lw=1, zorder=0, label="Pareto front")
    for number, point in enumerate(leading, 1):
        place = (point.fps, getattr(point, metric))
        axes.annotate(f"{number}", place, textcoords="offset points", xytext=(0, 7), ha="center", fontsize=9)
        name = f"{point.run} {point.artefact}@{point.backend}, batch {point.batch}, {point.threads} threads"
        axes.plot([], [], ls="", marker=f"${number}$", color="black", label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("images a second")
    axes.grid(True, which="both", alpha=0.25)
    axes.margins(0.12)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)


def _projected(axes: Any, points: Sequence[Point]) -> None:
    """Draw the speeds that data sheets promise, a bar a board, run and artefact."""
    ordered = sorted(points, key=lambda point: (point.where, point.run, point.artefact), reverse=True)
    kinds = list(dict.fromkeys((point.run, point.artefact) for point in reversed(ordered)))
    colours = [f"C{kinds.index((point.run, point.artefact)) % 10}" for point in ordered]
    bars = axes.barh(range(len(ordered)), [point.fps for point in ordered], color=colours, alpha=0.6, hatch="//")
    axes.bar_label(bars, [f"{point.fps:.0f}" for point in ordered], padding=3, fontsize=7)
    names = [f"{point.where}: {point.run} {point.artefact}" for point in ordered]
    axes.set_yticks(range(len(ordered)), names, fontsize=7)
    axes.set_xlabel("images a second at batch 1")
    axes.margins(x=0.12)
    axes.set_title("Projected from data sheets, not measured")
