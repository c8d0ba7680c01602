"""Charts as inline SVG: axes with names and units, colours that colour-blind eyes tell apart, no scripts.

Colours are CSS variables of the page (``style.py``), so that charts follow light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.report.markup import Markup, Value, tag
from edgead.thresholds import Threshold

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 560.0, 330.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 14.0, 26.0, 50.0
_COLOURS = ("var(--good)", "var(--bad)", "var(--third)", "var(--fourth)")
_DASHES = (None, "7 4", "2 3", "9 3 2 3")  # so that lines differ in print, too


@dataclass(frozen=True)
class _Plot:
    """A rectangle of the drawing with its two scales."""

    x: tuple[float, float]
    y: tuple[float, float]
    counts_x: bool = False  # ticks at whole numbers only
    counts_y: bool = False

    def px(self, x: float) -> float:
        return round(_LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (_WIDTH - _LEFT - _RIGHT), 2)

    def py(self, y: float) -> float:
        share = (y - self.y[0]) / (self.y[1] - self.y[0])
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 2)

    def axes(self, x_label: str, y_label: str, *, mirrored: bool = False) -> Iterator[Markup]:
        """Draw grid, ticks and names; a mirrored y axis counts upward both ways."""
        bottom, left = self.py(self.y[0]), self.px(self.x[0])
        for y in ticks(*self.y, whole=self.counts_y):
            yield _line(left, self.py(y), self.px(self.x[1]), self.py(y), class_="grid")
            yield _text(left - 6, self.py(y) + 4, f"{abs(y) if mirrored else y:g}", text_anchor="end")
        for x in ticks(*self.x, whole=self.counts_x):
            yield _line(self.px(x), bottom, self.px(x), bottom + 4, class_="axis")
            yield _text(self.px(x), bottom + 18, f"{x:g}", text_anchor="middle")
        yield _line(left, bottom, self.px(self.x[1]), bottom, class_="axis")
        yield _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, x_label, text_anchor="middle", class_="name")
        middle = (_TOP + _HEIGHT - _BOTTOM) / 2
        turned = f"rotate(-90 15 {middle})"
        yield _text(15, middle, y_label, text_anchor="middle", transform=turned, class_="name")


def histogram(good: Sequence[float], bad: Sequence[float], threshold: Threshold | None, *, unit: str) -> Markup:
    """Draw Good scores upward and defective ones downward, over the bands that a threshold makes of the axis."""
    limits = [] if threshold is None else [threshold.unsure, threshold.ng]
    low, high = _span([*good, *bad, *limits])
    edges = np.linspace(low, high, 41)
    up, down = (np.histogram(values, edges)[0].tolist() for values in (good, bad))
    top = 1.18 * max(1, *up, *down)
    plot = _Plot((low, high), (-top if bad else 0.0, top if good else 0.0), counts_y=True)
    parts = list(_bands(plot, threshold)) if threshold else []
    parts += plot.axes("anomaly score", f"{unit}s", mirrored=True)
    for heights, sign, colour in ((up, 1, _COLOURS[0]), (down, -1, _COLOURS[1])):
        for height, left, right in zip(heights, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if height:
                x, y = plot.px(left), plot.py(height) if sign > 0 else plot.py(0)
                size = {"width": plot.px(right) - x - 0.7, "height": abs(plot.py(height) - plot.py(0))}
                parts.append(tag("rect", x=x, y=y, style=f"fill:{colour}", **size))
    parts.append(_line(plot.px(low), plot.py(0), plot.px(high), plot.py(0), class_="axis"))
    for x in dict.fromkeys(limits):
        parts.append(_line(plot.px(x), plot.py(plot.y[1]), plot.px(x), plot.py(plot.y[0]), class_="limit"))
    legend = [
        (f"Good ({len(good)}), upward", _COLOURS[0], None),
        (f"defective ({len(bad)}), downward", _COLOURS[1], None),
    ]
    return _figure(f"Scores of {len(good)} Good and {len(bad)} defective {unit}s", parts, legend)


def curves(
    lines: Mapping[str, Points],
    *,
    title: str,
    x_label: str,
    y_label: str,
    unit_square: bool = False,
    marks: Mapping[str, tuple[float, float]] | None = None,
) -> Markup:
    """Draw lines by name, and marked points; ``unit_square`` runs both axes from 0 to 1 with the diagonal of chance."""
    points = [point for line in lines.values() for point in line]
    x_span = (0.0, 1.0) if unit_square else _exact([x for x, _ in points])
    y_span = (0.0, 1.0) if unit_square else _exact([0.0, *(y for _, y in points)], above=0.05)
    plot = _Plot(x_span, y_span, counts_x=not unit_square and all(x == round(x) for x, _ in points))
    parts = list(plot.axes(x_label, y_label))
    if unit_square:
        parts.append(_line(plot.px(0), plot.py(0), plot.px(1), plot.py(1), class_="chance"))
    legend = []
    for index, (name, line) in enumerate(lines.items()):
        colour, dash = _COLOURS[index % 4], _DASHES[index % 4]
        path = " ".join(f"{plot.px(x)},{plot.py(y)}" for x, y in line)
        parts.append(tag("polyline", points=path, class_="curve", style=f"stroke:{colour}", stroke_dasharray=dash))
        if len(line) == 1:
            parts.append(tag("circle", cx=plot.px(line[0][0]), cy=plot.py(line[0][1]), r=3, style=f"fill:{colour}"))
        legend.append((name, colour, dash))
    for name, (x, y) in (marks or {}).items():
        parts.append(tag("circle", cx=plot.px(x), cy=plot.py(y), r=5, class_="mark"))
        right = x > (x_span[0] + x_span[1]) / 2
        side = {"x": plot.px(x) + (-10 if right else 10), "text_anchor": "end" if right else "start"}
        parts.append(tag("text", name, y=plot.py(y) + (16 if y > sum(y_span) / 2 else -8), class_="name", **side))
    return _figure(title, parts, legend)


def agreement(
    good: Points, bad: Points, limits: Sequence[float], *, names: tuple[str, str], apart: bool = False
) -> Markup:
    """Draw the score of one runner over that of another: across a limit the verdict flips.

    Args:
        limits: of the verdicts.
        names: of the runners.
        apart: draw the difference upward instead, which shows what the diagonal hides.
    """
    if apart:
        good, bad = ([(x, y - x) for x, y in points] for points in (good, bad))
    x_span = _span([*(x for x, _ in (*good, *bad)), *limits])
    y_span = _span([0.0, *(y for _, y in (*good, *bad))]) if apart else x_span
    plot = _Plot(x_span, y_span)
    parts = list(plot.axes(f"score by {names[0]}", "difference" if apart else f"score by {names[1]}"))
    ends = (0.0, 0.0) if apart else x_span
    parts.append(_line(plot.px(x_span[0]), plot.py(ends[0]), plot.px(x_span[1]), plot.py(ends[1]), class_="chance"))
    for limit in dict.fromkeys(limits):
        parts.append(_line(plot.px(limit), plot.py(y_span[0]), plot.px(limit), plot.py(y_span[1]), class_="limit"))
        if not apart:
            parts.append(_line(plot.px(x_span[0]), plot.py(limit), plot.px(x_span[1]), plot.py(limit), class_="limit"))
    for points, colour in ((good, _COLOURS[0]), (bad, _COLOURS[1])):
        for x, y in points:
            parts.append(tag("circle", cx=plot.px(x), cy=plot.py(y), r=3.2, style=f"fill:{colour};fill-opacity:.65"))
    legend = [(f"Good ({len(good)})", _COLOURS[0], None), (f"defective ({len(bad)})", _COLOURS[1], None)]
    title = f"{names[1]} less {names[0]}" if apart else f"{names[1]} over {names[0]}"
    return _figure(f"Score of every image: {title}", parts, legend)


def gauge(score: float, threshold: Threshold, span: tuple[float, float]) -> Markup:
    """Draw where a score lies between the limits of a threshold, on the scale that all scores share."""
    low, high = span

    def at(value: float) -> float:
        return round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 2)

    unsure, ng, here = at(threshold.unsure), at(threshold.ng), at(score)
    bands = ((0.0, unsure, "var(--ok)"), (unsure, ng, "var(--unsure)"), (ng, 100.0, "var(--ng)"))
    parts = [tag("rect", x=x, y=3, width=round(to - x, 2), height=4, style=f"fill:{fill}") for x, to, fill in bands]
    parts.append(tag("rect", x=min(max(0.0, here - 0.4), 99.2), y=0, width=0.8, height=10, class_="tick"))
    label = f"score {score:.4g}, NG above {threshold.ng:.4g}"
    return tag(
        "svg", *parts, class_="gauge", viewBox="0 0 100 10", preserveAspectRatio="none", role="img", aria_label=label
    )


def ticks(low: float, high: float, *, wanted: int = 6, whole: bool = False) -> list[float]:
    """Return round numbers from ``low`` to ``high``, about as many as wanted, all of them integers where ``whole``."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(power * factor for factor in factors if power * factor >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [round(step * index, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _bands(plot: _Plot, threshold: Threshold) -> Iterator[Markup]:
    low, high = plot.x
    for name, begin, end in (
        ("ok", low, threshold.unsure),
        ("unsure", threshold.unsure, threshold.ng),
        ("ng", threshold.ng, high),
    ):
        x, width = plot.px(begin), plot.px(end) - plot.px(begin)
        if width <= 0:
            continue
        box = {"y": _TOP, "width": round(width, 2), "height": _HEIGHT - _TOP - _BOTTOM}
        yield tag("rect", x=x, class_="band", style=f"fill:var(--{name})", **box)
        if width > 9 * len(name):
            yield _text(x + width / 2, _TOP + 14, name.upper(), text_anchor="middle", class_="band-name")


def _figure(title: str, parts: Sequence[Markup], legend: Sequence[tuple[str, str, str | None]]) -> Markup:
    keys = []
    for name, colour, dash in legend:
        key = tag("line", x1=0, y1=6, x2=26, y2=6, style=f"stroke:{colour};stroke-width:4", stroke_dasharray=dash)
        keys.append(tag("span", tag("svg", key, width=26, height=12, aria_hidden="true"), name))
    drawing = tag("svg", tag("title", title), *parts, viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", role="img", class_="chart")
    return tag("figure", tag("figcaption", title), tag("div", *keys, class_="legend"), drawing)


def _line(x1: float, y1: float, x2: float, y2: float, **attributes: Value) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def _text(x: float, y: float, words: str, **attributes: Value) -> Markup:
    return tag("text", words, x=round(x, 2), y=round(y, 2), **attributes)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return a range that holds all values with some air; never empty."""
    low, high = min(values), max(values)
    air = 0.03 * (high - low) or 0.05 * abs(high) or 1.0
    return low - air, high + air


def _exact(values: Sequence[float], *, above: float = 0.0) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high + above * (high - low)) if high > low else (low - 0.5, high + 0.5)
