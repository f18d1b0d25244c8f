"""``engine verify`` on a terminal and as JSON; the last line is the verdict."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from engine.entrypoints.inspection.agreement import Agreement
from engine.entrypoints.inspection.verify import VerifyReport
from engine.entrypoints.terminal import Cell, counted, print_columns, wrapped

COLUMNS = ("", "setting", "against", "logit diff", "score diff", "swaps", "tau", "same first", "bound")


def print_verify(report: VerifyReport, out: Console) -> None:
    out.print(wrapped(f"{report.model} on {report.device}, {counted(report.num_pairs, 'pair')}."))
    out.print(wrapped(f"Reference: {report.reference}."))
    out.print()
    rows: list[list[Cell]] = [
        [Text("ok", "green") if result.ok else Text("NOT OK", "bold red"), *_cells(result)]
        for result in agreements(report)
    ]
    print_columns(out, COLUMNS, rows, num_keys=2)
    for result in report.results:
        if not isinstance(result, Agreement):
            out.print(
                wrapped(f"{result.setting} {'failed' if result.failed else 'is not available here'}: {result.reason}")
            )
    out.print()
    for result in report.results:
        if isinstance(result, Agreement) and result.order is not None:
            out.print(wrapped(_bounds(result)))
    judged = [f"{r.setting} {r.right_top1:.1%}" for r in agreements(report) if r.right_top1 is not None]
    if judged:
        out.print(wrapped(f"Queries whose first document is a right one: {', '.join(judged)}."))
    out.print()
    out.print(wrapped(verdict(report), "bold green" if report.ok else "bold red"))


def agreements(report: VerifyReport) -> list[Agreement]:
    return [result for result in report.results if isinstance(result, Agreement)]


def _bounds(result: Agreement) -> str:
    """The bounds of a precision and their reason."""
    assert result.order is not None
    score = "" if result.score_bound is None else f"a score by {result.score_bound:g}, "
    first = int(result.order.top1_share * result.num_queries)
    return (
        f"{result.setting} may move a logit by {result.bound:.2g}, {score}the order to a Kendall tau of "
        f"{result.order.tau:g}, and {first} of {result.num_queries} first places: {result.order.reason}."
    )


def _cells(result: Agreement) -> list[str]:
    swaps = f"{result.num_swaps}" + (f" (gap {result.largest_swap:.2g})" if result.num_swaps else "")
    return [
        result.setting,
        result.against,
        f"{result.max_logit:.2e}",
        f"{result.max_score:.2e}",
        swaps,
        f"{result.kendall_tau:.3f}",
        f"{result.num_queries - result.num_top1}/{result.num_queries}",
        f"{'logit' if result.bounds_logit else 'score'} {result.bound:.1e}",
    ]


def verdict(report: VerifyReport) -> str:
    if report.problems:
        return f"VERDICT: NOT OK. {'; '.join(report.problems)}."
    tried = sum(isinstance(result, Agreement) for result in report.results)
    text = f"VERDICT: OK. {tried} comparisons, all within their bounds"
    if not any(result.num_ordered for result in agreements(report)):
        text += "; no query has two documents that differ, so no order was compared"
    return f"{text}." if report.has_reference else f"{text}, but without a reference: {report.reference}."


def as_json(report: VerifyReport) -> dict[str, Any]:
    results = [
        asdict(result) | ({"ok": result.ok} if isinstance(result, Agreement) else {}) for result in report.results
    ]
    return {
        "model": report.model,
        "device": report.device,
        "reference": report.reference,
        "has_reference": report.has_reference,
        "num_pairs": report.num_pairs,
        "results": results,
        "ok": report.ok,
        "verdict": verdict(report),
    }
