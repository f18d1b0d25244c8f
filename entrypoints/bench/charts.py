"""Charts as data; ``drawing.py`` draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Series:
    """Points of one line, one cloud, or the bars of a histogram (x is the upper bound)."""

    name: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """One picture: its series share both axes."""

    title: str
    x_label: str
    y_label: str
    series: list[Series]
    kind: Literal["line", "scatter", "bars"] = "line"
    x_names: list[str] | None = None
    """Names for x = 0, 1, 2, ... where x is no number."""

    @property
    def is_empty(self) -> bool:
        return not any(series.points for series in self.series)


def number(value: float) -> str:
    """A number in few characters: 12000 is 12k, 0.25 is 0.25."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (abs(value) >= size and value % size == 0):
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"
