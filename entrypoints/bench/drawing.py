"""Charts drawn by matplotlib, without a display: each as SVG for the page, all together as one PNG."""

from __future__ import annotations

import io
import math
import re
from html import escape
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from engine.entrypoints.bench.charts import Chart

INK, GRID = "#1a1a1a", "#dddddd"
SERIES = ("#0b66c3", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#be185d")
VARIABLES = {INK: "--ink", GRID: "--grid"} | {colour: f"--c{index}" for index, colour in enumerate(SERIES)}
"""In SVG a colour is a variable of the page's style sheet, which has a dark form too."""
COLUMNS = 2
CHART_INCHES = (7, 3.6)
_STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a name may hold dollars
}


def to_png(charts: list[Chart]) -> bytes:
    """All charts, two in a row."""
    rows = max(1, math.ceil(len(charts) / COLUMNS))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(CHART_INCHES[0] * COLUMNS, CHART_INCHES[1] * rows), layout="constrained")
        FigureCanvasAgg(figure)
        for index, chart in enumerate(charts):
            _draw(figure.add_subplot(rows, COLUMNS, index + 1), chart)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def to_svg(chart: Chart) -> str:
    """One chart as an SVG element to stand in a page, with a text for screen readers."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": chart.title}):
        figure = Figure(figsize=CHART_INCHES, layout="constrained")
        FigureCanvasSVG(figure)
        _draw(figure.add_subplot(), chart)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), f"{chart.title}: {chart.y_label} against {chart.x_label}")


def _draw(axes: Any, chart: Chart) -> None:
    """``axes``: those of matplotlib, which has no types."""
    for index, series in enumerate(chart.series):
        xs, ys = [x for x, _ in series.points], [y for _, y in series.points]
        style = {"color": SERIES[index % len(SERIES)], "label": series.name}
        if chart.kind == "bars":
            lefts = [0.0, *xs[:-1]]
            widths = [0.9 * (right - left) for left, right in zip(lefts, xs, strict=True)]
            axes.bar(lefts, ys, width=widths, align="edge", **style)
        elif chart.kind == "scatter":
            axes.scatter(xs, ys, s=6, **style)
        else:
            axes.plot(xs, ys, marker="o", markersize=3, **style)
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    highest = max((y for series in chart.series for _, y in series.points), default=0.0)
    axes.set_ylim(0.0, 1.05 * highest or 1.0)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    if chart.x_names is not None:
        axes.set_xticks(range(len(chart.x_names)), chart.x_names)
    if len(chart.series) > 1:
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _inline(document: str, label: str) -> str:
    """The ``<svg>`` element of an SVG document, without what only a file needs, and with the page's colours."""
    text = document[document.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (xmlns(:\w+)?|width|height)="[^"]*"', "", text, count=4).replace("xlink:href", "href")
    used = set(re.findall(r"#([\w.-]+)[\")]", text))
    text = re.sub(r' id="([^"]*)"', lambda found: found.group(0) if found.group(1) in used else "", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    name = escape(label)
    return (
        text.strip()
        .replace("<svg", f'<svg role="img" aria-label="{name}"', 1)
        .replace(">", f"><title>{name}</title>", 1)
    )
