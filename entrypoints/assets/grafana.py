"""A Grafana dashboard of /metrics, as data: rows of panels, each with its queries.

``engine assets grafana`` prints it as JSON to import. Every metric it names is one that the server has; a test holds
the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WINDOW = "$__rate_interval"
SELECTOR = '{job=~"$job", instance=~"$instance"}'
WIDTH, HEIGHT = 8, 8
"""Of a panel; Grafana's grid has 24 columns."""


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    """(legend, PromQL); ``name[]`` stands for the metric with the dashboard's filters."""
    text: str = ""
    kind: str = "timeseries"


def rate(metric: str, by: str = "") -> str:
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({metric}[]))"


def total(metric: str) -> str:
    return f"sum({metric}[])"


def quantiles(histogram: str, *shares: float) -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"p{100 * share:g}", f"histogram_quantile({share}, {rate(f'{histogram}_bucket', 'le')})") for share in shares
    )


def heat(title: str, histogram: str, unit: str, text: str) -> Panel:
    query = f"sum by (le) (increase({histogram}_bucket[]))"
    return Panel(title, unit, (("{{le}}", query),), text, "heatmap")


LOGICAL, COMPUTED = "engine_core_scheduled_logical_tokens_total", "engine_core_scheduled_computed_tokens_total"
STEPS, DEVICE = "engine_core_steps_total", "engine_core_device_seconds_total"

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Calls",
        (
            Panel("Calls", "reqps", (("{{status}}", rate("engine_calls_total", "status")),)),
            Panel("Time of a call", "s", quantiles("engine_call_seconds", 0.5, 0.9, 0.99)),
            Panel(
                "Where it goes",
                "s",
                tuple(
                    (name, f"{rate(f'engine_{name}_seconds_sum')} / {rate(f'engine_{name}_seconds_count')}")
                    for name in ("encode", "queue", "compute")
                ),
                "Means. The queue is counted from the arrival, tokenisation included.",
            ),
            Panel("By dialect", "reqps", (("{{dialect}} {{route}}", rate("engine_calls_total", "dialect, route")),)),
            Panel(
                "Errors",
                "reqps",
                (
                    ("{{type}}", rate("engine_errors_total", "type")),
                    ("client left", rate("engine_cancelled_total")),
                ),
            ),
            Panel(
                "Queue",
                "short",
                (
                    ("calls inside", total("engine_running_calls")),
                    ("pairs inside", total("engine_queued_pairs")),
                    ("pairs waiting", total("engine_core_waiting_pairs")),
                    ("calls waiting", total("engine_core_waiting_calls")),
                ),
            ),
        ),
    ),
    (
        "Pairs",
        (
            Panel(
                "Pairs",
                "short",
                (
                    ("scored", rate("engine_pairs_total")),
                    ("failed, {{type}}", rate("engine_failed_pairs_total", "type")),
                    ("left by a deadline", rate("engine_unscored_pairs_total")),
                    ("cut", rate("engine_truncated_pairs_total")),
                ),
                "A second.",
            ),
            heat("Documents a call", "engine_call_pairs", "short", "How many pairs calls have."),
            heat("Length of a pair", "engine_pair_tokens", "short", "Tokens, template included, after cutting."),
            heat("Scores", "engine_scores", "short", "A shift means other data, another model or another template."),
            Panel(
                "Given up or run again",
                "short",
                (
                    ("aborted", rate("engine_core_aborted_pairs_total")),
                    ("replayed", rate("engine_core_replayed_pairs_total")),
                ),
                "Pairs a second.",
            ),
            Panel("Unknown body fields", "short", (("fields", rate("engine_unknown_fields_total")),), "A second."),
        ),
    ),
    (
        "Steps and sharing",
        (
            Panel(
                "Tokens",
                "short",
                (("logical", rate(LOGICAL)), ("computed", rate(COMPUTED))),
                "A second: what the pairs add up to, and what was really computed.",
            ),
            Panel("Shared tokens", "percentunit", (("shared", f"1 - {rate(COMPUTED)} / {rate(LOGICAL)}"),)),
            heat("Tokens of a step", "engine_step_tokens", "short", "Steps by what they computed."),
            Panel("Time of a step", "s", (("mean", f"{rate(DEVICE)} / {rate(STEPS)}"),)),
            Panel(
                "Fill of a step",
                "percentunit",
                (("fill", f"{rate(COMPUTED)} / {rate(STEPS)} / avg(engine_core_token_budget[])"),),
                "Share of the token budget.",
            ),
            Panel("Device busy", "percentunit", (("{{instance}} {{replica}}", rate(DEVICE, "instance, replica")),)),
        ),
    ),
    (
        "Memory and health",
        (
            Panel(
                "Keys and values",
                "short",
                (
                    ("used", total("engine_core_kv_used_tokens")),
                    ("room", total("engine_core_kv_capacity_tokens")),
                ),
                "Tokens.",
            ),
            Panel(
                "Memory",
                "bytes",
                (
                    ("weights", total("engine_core_weight_bytes")),
                    ("keys and values, all", total("engine_core_kv_capacity_bytes")),
                    ("kept between calls", total("engine_core_prefix_store_bytes")),
                ),
            ),
            Panel(
                "Prefix store",
                "percentunit",
                (("hits", f"{rate('engine_core_prefix_hits_total')} / {rate('engine_core_prefix_lookups_total')}"),),
            ),
            Panel(
                "Health",
                "short",
                (
                    ("healthy servers", total("engine_core_healthy")),
                    ("replicas", total("engine_core_replicas")),
                    ("workers restarted", total("engine_core_worker_restarts_total")),
                    ("API servers", total("engine_api_servers")),
                    ("API servers restarted", total("engine_api_server_restarts_total")),
                ),
            ),
            Panel(
                "By API server",
                "reqps",
                (("{{instance}} {{api_server}}", rate("engine_api_server_calls_total", "instance, api_server")),),
                "Calls admitted, where a server has several API servers.",
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(_place({"type": "row", "title": title, "collapsed": False, "panels": []}, 0, y, 24, 1))
        y += 1
        for i, panel in enumerate(row):
            panels.append(_place(_panel(panel), i % 3 * WIDTH, y + i // 3 * HEIGHT, WIDTH, HEIGHT))
        y += -(-len(row) // 3) * HEIGHT
    return {
        "title": "engine: reranking",
        "uid": "rerank-engine",
        "tags": ["rerank"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_data_source(), _variable("job"), _variable("instance", ', job=~"$job"')]},
        "panels": [{"id": number, **panel} for number, panel in enumerate(panels, 1)],
    }


def _place(panel: dict[str, Any], x: int, y: int, w: int, h: int) -> dict[str, Any]:
    return {**panel, "gridPos": {"x": x, "y": y, "w": w, "h": h}}


def _panel(panel: Panel) -> dict[str, Any]:
    is_heat = panel.kind == "heatmap"
    targets = [
        {
            "refId": chr(ord("A") + i),
            "expr": _with_filters(query),
            "legendFormat": legend,
            "format": "heatmap" if is_heat else "time_series",
        }
        for i, (legend, query) in enumerate(panel.queries)
    ]
    content = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "targets": targets,
    }
    if is_heat:
        return {**content, "options": {"calculate": False, "yAxis": {"unit": panel.unit}}}
    return {**content, "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []}}


def _with_filters(query: str) -> str:
    """Rates are over a window, sums are of what is now."""
    parts = query.split("[]")
    filled = ""
    for part in parts[:-1]:
        is_rate = part.rpartition("(")[0].endswith(("rate", "increase"))
        filled += part + SELECTOR + (f"[{WINDOW}]" if is_rate else "")
    return filled + parts[-1]


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable(name: str, more: str = "") -> dict[str, Any]:
    query = f"label_values(engine_core_replicas{{{more.lstrip(', ')}}}, {name})"
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }
