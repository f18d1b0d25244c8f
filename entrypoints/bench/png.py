"""Charts as one PNG, drawn by matplotlib without a display."""

from __future__ import annotations

import io
import math

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from engine.entrypoints.bench.charts import Chart


def to_png(charts: list[Chart]) -> bytes:
    columns = 2
    rows = max(1, math.ceil(len(charts) / columns))
    figure = Figure(figsize=(7 * columns, 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for index, chart in enumerate(charts):
        _draw(figure.add_subplot(rows, columns, index + 1), chart)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw(axes, chart: Chart) -> None:  # type: ignore[no-untyped-def]  # matplotlib has no types here
    for series in chart.series:
        xs, ys = [x for x, _ in series.points], [y for _, y in series.points]
        if chart.kind == "bars":
            lefts = [0.0, *xs[:-1]]
            widths = [right - left for left, right in zip(lefts, xs, strict=True)]
            axes.bar(lefts, ys, width=widths, align="edge", edgecolor="white", label=series.name)
        elif chart.kind == "scatter":
            axes.scatter(xs, ys, s=6, label=series.name)
        else:
            axes.plot(xs, ys, marker="o", markersize=3, label=series.name)
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    highest = max((y for series in chart.series for _, y in series.points), default=0.0)
    axes.set_ylim(0.0, 1.05 * highest or 1.0)
    axes.grid(alpha=0.3)
    if chart.x_names is not None:
        axes.set_xticks(range(len(chart.x_names)), chart.x_names)
    if len(chart.series) > 1:
        axes.legend(fontsize="small")
