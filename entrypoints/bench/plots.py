"""Results -> charts -> one self-contained page (no script, no network) and one PNG."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from engine.entrypoints.bench.charts import Chart, number
from engine.entrypoints.bench.result_charts import Result, result_name, run_charts
from engine.entrypoints.bench.results import write_bytes
from engine.extras import pip_install

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --grid: #ddd;
  --c0: #0b66c3; --c1: #c2410c; --c2: #15803d; --c3: #7e22ce; --c4: #a16207; --c5: #be185d; }
@media (prefers-color-scheme: dark) { :root { --ink: #eaeaea; --paper: #16181c; --grid: #3a3d44;
  --c0: #6db3ff; --c1: #ff9a5c; --c2: #6ddb8f; --c3: #c99cff; --c4: #e6c35c; --c5: #ff8fc4; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 1340px; padding: 0 1rem; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 560px), 1fr)); gap: 1.5rem; }
svg { width: 100%; height: auto; }
table { border-collapse: collapse; margin: 1.5rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--grid); padding: .3rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
"""

COLUMNS = (
    ("rate", "request_rate"),
    ("concurrency", "max_concurrency"),
    ("calls", "completed"),
    ("failed", "failed"),
    ("calls/s", "request_throughput"),
    ("goodput/s", "request_goodput"),
    ("documents/s", "document_throughput"),
    ("tokens/s", "total_token_throughput"),
    ("median ms", "median_e2el_ms"),
    ("p99 ms", "p99_e2el_ms"),
)


def write_plots(results: list[Result], stem: Path, charts: list[Chart] | None = None) -> list[Path]:
    """``stem.html`` and ``stem.png``; without matplotlib only the page with its table, and a line that says so."""
    drawn = run_charts(results) if charts is None else charts
    page = stem.with_name(stem.name + ".html")
    try:
        from engine.entrypoints.bench.drawing import to_png, to_svg
    except ModuleNotFoundError:
        print(f"No charts: they need matplotlib ({pip_install('bench')}). The page has the table.")
        write_bytes(page, to_page(results, []).encode())
        return [page]
    figures = [
        f'<p class="empty">{escape(chart.title)}: nothing was measured.</p>' if chart.is_empty else to_svg(chart)
        for chart in drawn
    ]
    write_bytes(page, to_page(results, figures).encode())
    image = stem.with_name(stem.name + ".png")
    write_bytes(image, to_png(drawn))
    return [page, image]


def to_page(results: list[Result], figures: list[str]) -> str:
    """The page: a table of the runs, and the figures as they are."""
    heads = "".join(f'<th scope="col">{escape(title)}</th>' for title, _ in COLUMNS)
    rows = "".join(_row(result) for result in results)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Rerank benchmark</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        "<body><h1>Rerank benchmark</h1>"
        f'<table><thead><tr><th scope="col">run</th>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        f"<main>{''.join(figures)}</main></body></html>\n"
    )


def _row(result: Result) -> str:
    cells = "".join(f"<td>{_cell(result.get(key))}</td>" for _, key in COLUMNS)
    return f'<tr><th scope="row">{escape(result_name(result))}</th>{cells}</tr>'


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else escape(str(value or "–"))
