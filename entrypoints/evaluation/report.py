"""A comparison as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from engine.entrypoints.evaluation.bootstrap import Interval
from engine.entrypoints.evaluation.results import Comparison
from engine.entrypoints.terminal import plain, wrapped

_STYLES = {"better": "green", "worse": "red", "no clear difference": "dim"}


def print_report(comparison: Comparison, setup: Mapping[str, Any], out: Console) -> None:
    dataset = comparison.dataset
    out.print(
        plain(
            f"{dataset.name}: {len(dataset.queries)} queries, {len(dataset.documents)} documents, "
            f"{dataset.num_judgements} judgements"
        )
    )
    out.print()
    out.print(_metrics_table(comparison))
    if comparison.differences:
        out.print()
        out.print(_differences_table(comparison))
    out.print()
    for line in _footnotes(comparison, setup):
        out.print(plain(line, "dim"))


def _metrics_table(comparison: Comparison) -> Table:
    table = _table([row.name for row in comparison.rows], "", *comparison.metric_names, "pairs/s")
    for row in comparison.rows:
        speed = row.facts.get("pairs_per_s")
        cells = [f"{i.mean:.3f} [{_short(i.low)} {_short(i.high)}]" for i in row.metrics]
        table.add_row(wrapped(row.name), *cells, f"{speed:.0f}" if speed else "")
    return table


def _differences_table(comparison: Comparison) -> Table:
    names = [f"{each.system} - {each.baseline}" for each in comparison.differences]
    table = _table(names, "difference", *comparison.metric_names)
    for name, difference in zip(names, comparison.differences, strict=True):
        cells = [plain(_difference(interval), _STYLES[interval.verdict]) for interval in difference.metrics]
        table.add_row(wrapped(name), *cells)
    return table


def _table(rows: Sequence[str], *names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(names[0], min_width=min(max(map(len, rows)), 24))
    for name in names[1:]:
        table.add_column(name, no_wrap=True)
    return table


def _difference(interval: Interval) -> str:
    mark = "" if interval.verdict == "no clear difference" else " *"
    return f"{interval.mean:+.3f} [{_short(interval.low, '+')} {_short(interval.high, '+')}]{mark}"


def _short(value: float, sign: str = "") -> str:
    """Three decimals, without the zero before the point."""
    return f"{value:{sign}.3f}".replace("0.", ".", 1)


def _footnotes(comparison: Comparison, setup: Mapping[str, Any]) -> Sequence[str]:
    lines = [f"In brackets: 95 % intervals over queries, paired bootstrap of {setup['bootstrap_rounds']} draws."]
    if comparison.differences:
        lines[0] += " * marks a difference whose interval does not hold zero."
    if setup.get("ceiling") is not None:
        lines.append(
            f"Of the relevant documents {setup['ceiling']:.1%} are among the candidates "
            f"({setup['num_candidates_per_query']:.1f} a query): no order of them can find more."
        )
    for row in comparison.rows:
        if truncated := row.facts.get("num_truncated"):
            lines.append(f"{row.name}: {truncated} of {row.facts['num_pairs']} pairs were too long and cut.")
    lines += [f"Note: {note}." for note in setup.get("notes", ())]
    return lines


def as_json(comparison: Comparison, setup: Mapping[str, Any]) -> dict[str, Any]:
    dataset = comparison.dataset
    return {
        "dataset": {
            "name": dataset.name,
            "num_queries": len(dataset.queries),
            "num_documents": len(dataset.documents),
            "num_judgements": dataset.num_judgements,
        },
        **setup,
        "systems": [
            {"name": row.name, "metrics": _named(comparison, row.metrics), **row.facts} for row in comparison.rows
        ],
        "differences": [
            {
                "system": each.system,
                "baseline": each.baseline,
                "metrics": _named(comparison, each.metrics, verdict=True),
            }
            for each in comparison.differences
        ],
    }


def _named(comparison: Comparison, found: Sequence[Interval], *, verdict: bool = False) -> dict[str, Any]:
    return {
        name: {"mean": interval.mean, "low": interval.low, "high": interval.high}
        | ({"verdict": interval.verdict} if verdict else {})
        for name, interval in zip(comparison.metric_names, found, strict=True)
    }
