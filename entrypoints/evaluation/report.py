"""A comparison as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from engine.entrypoints.evaluation.bootstrap import Interval
from engine.entrypoints.evaluation.results import Comparison
from engine.entrypoints.terminal import Cell, counted, print_columns, wrapped

_STYLES = {"better": "green", "worse": "red", "no clear difference": "dim"}


def print_report(comparison: Comparison, setup: Mapping[str, Any], out: Console) -> None:
    dataset = comparison.dataset
    sizes = (
        counted(len(dataset.queries), "query", "queries"),
        counted(len(dataset.documents), "document"),
        counted(dataset.num_judgements, "judgement"),
    )
    out.print(wrapped(f"{dataset.name}: {', '.join(sizes)}"))
    out.print()
    _print_metrics(comparison, out)
    if comparison.differences:
        out.print()
        _print_differences(comparison, out)
    out.print()
    for line in _footnotes(comparison, setup):
        out.print(wrapped(line, "dim"))


def _print_metrics(comparison: Comparison, out: Console) -> None:
    rows = []
    for row in comparison.rows:
        speed = row.facts.get("pairs_per_s")
        cells = [f"{i.mean:.3f} [{_short(i.low)} {_short(i.high)}]" for i in row.metrics]
        rows.append([row.name, *cells, f"{speed:.0f}" if speed else ""])
    print_columns(out, ["", *comparison.metric_names, "pairs/s"], rows, right=("pairs/s",))


def _print_differences(comparison: Comparison, out: Console) -> None:
    rows: list[list[Cell]] = []
    for each in comparison.differences:
        cells = [Text(_difference(interval), _STYLES[interval.verdict]) for interval in each.metrics]
        rows.append([f"{each.system} - {each.baseline}", *cells])
    print_columns(out, ["difference", *comparison.metric_names], rows)


def _difference(interval: Interval) -> str:
    mark = "" if interval.verdict == "no clear difference" else " *"
    return f"{interval.mean:+.3f} [{_short(interval.low, '+')} {_short(interval.high, '+')}]{mark}"


def _short(value: float, sign: str = "") -> str:
    """Three decimals, without the zero before the point."""
    return f"{value:{sign}.3f}".replace("0.", ".", 1)


def _footnotes(comparison: Comparison, setup: Mapping[str, Any]) -> Sequence[str]:
    lines = [f"In brackets: 95 % intervals over queries, paired bootstrap of {setup['bootstrap_rounds']} draws."]
    if comparison.differences:
        lines[0] += " * marks a difference whose interval does not contain zero."
    if setup.get("ceiling") is not None:
        lines.append(
            f"{setup['ceiling']:.1%} of the relevant documents are among those that were reranked "
            f"({setup['num_candidates_per_query']:.1f} for each query): no order of them can find more."
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
