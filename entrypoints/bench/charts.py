"""Charts as data, and as SVG. The same ``Chart`` is drawn for the page here and for PNG by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 70, 16, 30, 46
NUM_COLOURS = 6
"""Colour classes ``c0`` to ``c5`` (marks) and ``s0`` to ``s5`` (legend) of the page's style sheet."""


@dataclass(frozen=True)
class Series:
    """Points of one line, one cloud, or the bars of a histogram (x is the upper bound)."""

    name: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    title: str
    x_label: str
    y_label: str
    series: list[Series]
    kind: Literal["line", "scatter", "bars"] = "line"
    x_names: list[str] | None = None
    """Names for x = 0, 1, 2, ... where x is no number."""


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from at or below ``low`` to at or above ``high``."""
    if high <= low:
        high = low + 1.0
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [index * step for index in range(first, last + 1)]


def number(value: float) -> str:
    """Short: 12000 -> 12k, 0.25 -> 0.25."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (abs(value) >= size and value % size == 0):
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"


def to_svg(chart: Chart) -> str:
    """One chart as an inline SVG element, with a tooltip (``title``) on every mark and a text for screen readers."""
    points = [point for series in chart.series for point in series.points]
    if not points:
        return f'<p class="empty">{escape(chart.title)}: nothing was measured.</p>'
    x_ticks = _x_ticks(chart, points)
    y_ticks = ticks(0.0, max(y for _, y in points))
    x = _scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
    y = _scale(0.0, y_ticks[-1], HEIGHT - BOTTOM, TOP)
    body = [*_axes(chart, x_ticks, y_ticks, x, y), *_marks(chart, x, y)]
    label = f"{chart.title}: {chart.y_label} against {chart.x_label}"
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>{''.join(body)}</svg>"
        f"<figcaption>{escape(chart.title)}{_legend(chart)}</figcaption></figure>"
    )


def _x_ticks(chart: Chart, points: list[tuple[float, float]]) -> list[float]:
    if chart.x_names is not None:
        return [-0.5, *(float(index) for index in range(len(chart.x_names))), len(chart.x_names) - 0.5]
    low = 0.0 if chart.kind == "bars" else min(x for x, _ in points)
    return ticks(min(0.0, low), max(x for x, _ in points))


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _axes(
    chart: Chart, x_ticks: list[float], y_ticks: list[float], x: Callable[[float], float], y: Callable[[float], float]
) -> list[str]:
    parts = []
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(_text("tick", LEFT - 6, y(tick) + 4, number(tick), "end"))
    named = x_ticks if chart.x_names is None else x_ticks[1:-1]
    for tick in named:
        name = number(tick) if chart.x_names is None else chart.x_names[int(tick)]
        parts.append(_text("tick", x(tick), HEIGHT - BOTTOM + 16, name, "middle"))
    parts.append(_text("label", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, chart.x_label, "middle"))
    parts.append(_text("label", LEFT, 16, chart.y_label))
    return parts


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _marks(chart: Chart, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    parts: list[str] = []
    for index, series in enumerate(chart.series):
        colour = f"c{index % NUM_COLOURS}"
        if chart.kind == "bars":
            parts += _bars(series, colour, x, y)
            continue
        if chart.kind == "line" and len(series.points) > 1:
            path = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in series.points)
            parts.append(f'<polyline class="{colour} line" points="{path}"/>')
        size = 3.5 if chart.kind == "line" else 2
        parts += [
            f'<circle class="{colour}" cx="{x(px):.1f}" cy="{y(py):.1f}" r="{size}">'
            f"<title>{escape(series.name)}: {number(px)}, {number(py)}</title></circle>"
            for px, py in series.points
        ]
    return parts


def _bars(series: Series, colour: str, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    parts, left = [], 0.0
    for bound, count in series.points:
        width, height = max(1.0, x(bound) - x(left) - 2), y(0.0) - y(count)
        parts.append(
            f'<rect class="{colour}" x="{x(left) + 1:.1f}" y="{y(count):.1f}" '
            f'width="{width:.1f}" height="{height:.1f}">'
            f"<title>{number(left)} to {number(bound)}: {number(count)}</title></rect>"
        )
        left = bound
    return parts


def _legend(chart: Chart) -> str:
    """Under the chart, as text: names of runs can be long."""
    if len(chart.series) < 2:
        return ""
    entries = (
        f'<li><i class="swatch s{index % NUM_COLOURS}"></i>{escape(series.name)}</li>'
        for index, series in enumerate(chart.series)
    )
    return f'<ul class="legend">{"".join(entries)}</ul>'
