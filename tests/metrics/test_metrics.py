"""What /metrics says about calls, and about one core or several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from engine.config import SchedulerConfig
from engine.core.replicas import ReplicaClient
from engine.entrypoints.serve.metrics import ArrayHistogram, ServerMetrics
from engine.messages import STEP_TOKEN_BOUNDS, EngineCoreRequest, SchedulerStats, decoder, encoder
from engine.scheduling.scheduler import Scheduler
from engine.step import ModelRunnerOutput
from tests.serve.conftest import running_server
from tests.serve.fakes import INFO, FakeCore, expected_score

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def buckets(found: Samples, name: str) -> dict[str, float]:
    """Upper bound -> count, cumulative."""
    return {dict(labels)["le"]: value for (key, labels), value in found.items() if key == f"{name}_bucket"}


async def scrape(server: Any) -> Samples:
    return samples((await server.client.get("/metrics")).text)


async def test_lengths_scores_and_cuts() -> None:
    documents = ["word " * 40, "short", "word " * 300]
    async with running_server() as server:
        body = {"query": "q", "documents": documents, "max_tokens_per_doc": 100}
        await server.client.post("/v1/rerank", json=body)
        await server.client.post("/v1/rerank", json={**body, "raw_scores": True})
        found = await scrape(server)
    lengths = buckets(found, "engine_pair_tokens")
    # A pair is five tokens longer than its document's words; the last one is cut to 100 of them.
    assert (lengths["32.0"], lengths["64.0"], lengths["128.0"], lengths["+Inf"]) == (2, 4, 6, 6)
    assert found["engine_pair_tokens_sum", ()] == 2 * (40 + 1 + 100 + 3 * 5)
    scores = [expected_score("q", " ".join(document.split()[:100])) for document in documents]
    for bound, count in buckets(found, "engine_scores").items():
        assert count == sum(score <= float(bound) for score in scores), bound
    assert found["engine_scores_count", ()] == 3  # the call that asked for logits does not count
    assert found["engine_truncated_pairs_total", ()] == 2
    assert found["engine_call_pairs_sum", ()] == 6
    assert found["engine_compute_seconds_count", ()] == 2
    assert found["engine_computed_tokens_total", ()] < found["engine_logical_tokens_total", ()]


async def test_deadlines_leave_a_trace() -> None:
    async with running_server(FakeCore(pairs_per_step=1, step_s=0.2)) as server:
        body = {"query": "q", "documents": ["a", "b", "c"], "timeout_ms": 50}
        answer = (await server.client.post("/v1/rerank", json=body)).json()
        assert len(answer["unscored"]) == 3
        assert (await scrape(server))["engine_unscored_pairs_total", ()] == 3


async def test_what_a_call_took() -> None:
    async with running_server(FakeCore(step_s=0.02)) as server:
        answer = (await server.client.post("/v1/rerank", json={"query": "q", "documents": ["a", "b"]})).json()
    cost = answer["cost"]
    assert cost["computed_tokens"] == answer["usage"]["prompt_tokens"] // 2
    assert (cost["steps"], cost["compute_ms"]) == (3, 2.0)
    assert cost["total_ms"] >= 20 > cost["encode_ms"] >= 0
    assert cost["queue_ms"] == pytest.approx(max(0.0, 1 - cost["encode_ms"]), abs=0.002)


async def test_sizes_of_the_core() -> None:
    core = FakeCore()
    core.info = type(INFO)(**{**{f: getattr(INFO, f) for f in INFO.__struct_fields__}, **SIZES})
    core.stats = SchedulerStats(prefix_store_tokens=10, num_steps=2, computed_tokens=300, replayed_pairs=4)
    async with running_server(core) as server:
        found = await scrape(server)
    for name, value in {
        "prefix_store_bytes": 10 * 512,
        "kv_capacity_tokens": 1000,
        "kv_capacity_bytes": 512_000,
        "weight_bytes": 77,
        "token_budget": 1024,
        "replicas": 1,
        "healthy": 1,
        "replayed_pairs_total": 4,
    }.items():
        assert found[f"engine_core_{name}", ()] == value, name
    ((labels, _),) = [(labels, value) for (name, labels), value in found.items() if name == "engine_info"]
    assert dict(labels)["device"] == "cpu"


SIZES = {"kv_capacity": 1000, "kv_bytes_per_token": 512, "weight_bytes": 77}


class _Replica:
    def __init__(self, stats: SchedulerStats) -> None:
        self.client = type("Client", (), {"info": INFO, "healthy": True, "stats": stats})()


def test_replicas_have_labels() -> None:
    counts = [0, 3] + [0] * (len(STEP_TOKEN_BOUNDS) - 1)
    each = [SchedulerStats(num_steps=5, aborted_pairs=1), SchedulerStats(num_steps=7, step_token_counts=counts)]
    client = ReplicaClient.__new__(ReplicaClient)
    client._replicas = [_Replica(stats) for stats in each]  # type: ignore[misc]
    client.info = INFO
    assert client.stats.num_steps == 12
    assert client.stats.step_token_counts == counts
    metrics = ServerMetrics()
    metrics.watch_core(client)
    found = samples(metrics.render().decode())
    assert found["engine_core_steps_total", (("replica", "0"),)] == 5
    assert found["engine_core_steps_total", (("replica", "1"),)] == 7
    assert found["engine_core_aborted_pairs_total", (("replica", "0"),)] == 1
    assert found["engine_step_tokens_bucket", (("le", "64.0"), ("replica", "1"))] == 3
    assert found["engine_step_tokens_bucket", (("le", "32.0"), ("replica", "1"))] == 0
    assert found["engine_core_replicas", ()] == 2


def test_the_scheduler_counts_steps_and_calls() -> None:
    scheduler = Scheduler(SchedulerConfig(max_num_batched_tokens=1024), INFO, None, False, 512, lambda: 0.0)
    rng = np.random.default_rng(0)
    lengths = np.array([100, 30, 500], np.int32)
    scheduler.add(EngineCoreRequest("a", rng.integers(0, 9000, lengths.sum()).astype(np.int32), lengths, 0.0))
    plan = scheduler.schedule()
    assert plan is not None
    assert plan.num_tokens == 630
    scheduler.update(ModelRunnerOutput(plan.step_id, np.zeros((3, 1), np.float32), 0.01))
    stats = decoder(SchedulerStats).decode(encoder().encode(scheduler.stats()))
    assert stats.finished_calls == 1
    assert dict(zip((*STEP_TOKEN_BOUNDS, 0), stats.step_token_counts, strict=True))[1024] == 1
    assert sum(stats.step_token_counts) == stats.num_steps == 1


def test_histogram_of_arrays() -> None:
    registry = CollectorRegistry()
    histogram = ArrayHistogram("sizes", "Sizes.", (1, 10), registry)
    histogram.observe([])
    histogram.observe([0.5, 1, 1.5, 10, 11, 1e9])
    (family,) = registry.collect()
    assert {s.labels["le"]: s.value for s in family.samples if "le" in s.labels} == {"1.0": 2, "10.0": 4, "+Inf": 6}
    assert {s.name: s.value for s in family.samples}["sizes_count"] == 6
