"""Results -> charts -> one self-contained page (no script, no network) and one PNG."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from engine.entrypoints.bench.charts import Chart, number, to_svg
from engine.entrypoints.bench.result_charts import Result, result_name, run_charts
from engine.entrypoints.bench.results import write_bytes

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --grid: #ddd;
  --c0: #0b66c3; --c1: #c2410c; --c2: #15803d; --c3: #7e22ce; --c4: #a16207; --c5: #be185d; }
@media (prefers-color-scheme: dark) { :root { --ink: #eaeaea; --paper: #16181c; --grid: #3a3d44;
  --c0: #6db3ff; --c1: #ff9a5c; --c2: #6ddb8f; --c3: #c99cff; --c4: #e6c35c; --c5: #ff8fc4; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 1340px; padding: 0 1rem; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 560px), 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; text-align: center; }
svg { width: 100%; height: auto; } .grid { stroke: var(--grid); } .line { fill: none !important; stroke-width: 2; }
.tick { font-size: 12px; fill: var(--ink); } .label { font-size: 13px; fill: var(--ink); }
table { border-collapse: collapse; margin: 1.5rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--grid); padding: .3rem .7rem; text-align: right; }
.legend { list-style: none; margin: .3rem 0; padding: 0; font-weight: 400; font-size: 13px; }
.legend li { display: inline-block; margin: 0 .7rem; } .swatch { display: inline-block; width: 11px; height: 11px;
  margin-right: .35rem; }
th:first-child, td:first-child { text-align: left; }
""" + "".join(
    f".c{i} {{ fill: var(--c{i}); stroke: var(--c{i}); }} .s{i} {{ background: var(--c{i}); }}\n" for i in range(6)
)

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
    """``stem.html``, and ``stem.png`` where matplotlib is installed; says so where it is not."""
    drawn = run_charts(results) if charts is None else charts
    page = stem.with_name(stem.name + ".html")
    write_bytes(page, to_page(results, drawn).encode())
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError:
        print("No PNG: it needs matplotlib, pip install 'rerank-engine[bench]'. The page has the same charts.")
        return [page]
    from engine.entrypoints.bench.png import to_png

    image = stem.with_name(stem.name + ".png")
    write_bytes(image, to_png(drawn))
    return [page, image]


def to_page(results: list[Result], charts: list[Chart]) -> str:
    heads = "".join(f'<th scope="col">{escape(title)}</th>' for title, _ in COLUMNS)
    rows = "".join(_row(result) for result in results)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Rerank benchmark</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        "<body><h1>Rerank benchmark</h1>"
        f'<table><thead><tr><th scope="col">run</th>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        f"<main>{''.join(to_svg(chart) for chart in charts)}</main></body></html>\n"
    )


def _row(result: Result) -> str:
    cells = "".join(f"<td>{_cell(result.get(key))}</td>" for _, key in COLUMNS)
    return f'<tr><th scope="row">{escape(result_name(result))}</th>{cells}</tr>'


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else escape(str(value or "–"))
