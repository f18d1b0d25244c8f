"""The dashboard shows what there is: every metric it names is on /metrics, and nearly everything there is shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.entrypoints.cli import run
from engine.entrypoints.serve.metrics import ServerMetrics
from tests.serve.fakes import FakeCore

UNSHOWN = {
    "engine_info",  # labels only
    "engine_model_info",
    "engine_core_waiting_tokens",  # the pairs are shown
    "engine_core_step_fill",  # a mean since start; the dashboard shows the mean of its window
    "engine_core_prefix_store_tokens",  # shown as bytes
    "engine_core_finished_calls_total",  # shown as they were answered
    "engine_core_finished_pairs_total",
    "engine_logical_tokens_total",  # shown as they were scheduled
    "engine_computed_tokens_total",
    *(
        "engine_document_lookups_total",
        "engine_document_hits_total",
        "engine_document_store_bytes",
    ),  # one kind of model
}


FILE = Path(__file__).parents[2] / "entrypoints" / "assets" / "grafana.json"


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def exposed() -> set[str]:
    metrics = ServerMetrics()
    metrics.watch_core(FakeCore())
    names = set()
    for family in text_string_to_metric_families(metrics.render().decode()):
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


def queries() -> list[str]:
    found = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    return found + [
        variable["definition"] for variable in dashboard()["templating"]["list"] if "definition" in variable
    ]


def named() -> set[str]:
    return {name for query in queries() for name in re.findall(r"\bengine_\w+", query)}


def test_every_named_metric_exists() -> None:
    assert named() - exposed() == set()


def test_every_metric_is_shown_or_left_out_on_purpose() -> None:
    histograms = {name.removesuffix("_bucket") for name in exposed() if name.endswith("_bucket")}
    shown = {name for name in histograms if any(name + suffix in named() for suffix in ("_bucket", "_sum"))}
    plain = {name for name in exposed() if not any(name.startswith(f"{histogram}_") for histogram in histograms)}
    assert histograms - shown == set()
    assert plain - named() == UNSHOWN


def test_queries_are_whole() -> None:
    for query in queries():
        assert query.count("(") == query.count(")"), query
        assert "[]" not in query
        for metric, selector, window in re.findall(r"(engine_\w+)(\{[^}]*\})?(\[[^]]*\])?", query):
            is_rate = bool(re.search(rf"(rate|increase)\({metric}\b", query))
            assert bool(window) == is_rate, query
            assert selector, query


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids)) > 20


def test_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["assets", "grafana"]) == 0
    assert capsys.readouterr().out == FILE.read_text(encoding="utf-8")
