"""What /metrics tells. Own registry, own names (``engine_*``): what reranking costs, in its own words.

Counters and histograms here belong to the API process and follow the calls; what the scheduler counts is read when
somebody scrapes (``core_metrics.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from engine.entrypoints.serve.core_metrics import CoreMetrics, WatchedCore
from engine.entrypoints.serve.dialects.base import CallResult
from engine.scoring.document_store import DocumentStore

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_PAIR_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
_TOKEN_BUCKETS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_SCORE_BUCKETS = (
    *(-10, -5, -2, -1, 0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99),
    *(1, 2, 5, 10),  # beyond 0 and 1: models whose score is the logit
)

# Names and help texts that are longer than a line.
_UNSCORED_PAIRS = "engine_unscored_pairs", "Pairs that the deadline of their call left without a score."
_COMPUTED_TOKENS = "engine_computed_tokens", "Tokens that had to be computed for them; the rest was shared."
_DOCUMENT_STORE_BYTES = "engine_document_store_bytes", "Memory of the vectors kept, of one API server."
_API_SERVER_CALLS = "engine_api_server_calls", "Calls admitted, by API server, where there are several."
_QUEUE_WAIT = "engine_queue_wait_seconds", "How long what is queued will take, by the measured speed."
_PAIR_TOKENS = "engine_pair_tokens", "Length of a pair, template included, after cutting."
_SCORES = "engine_scores", "Scores as they were answered; logits that a call asked for do not count."


class ArrayHistogram(Collector):
    """A Prometheus histogram that counts all pairs of a call at once."""

    def __init__(self, name: str, help_text: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._help = help_text
        self._bounds = np.array(bounds, np.float64)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe(self, values: Sequence[float]) -> None:
        """Counts each value."""
        buckets = np.searchsorted(self._bounds, np.asarray(values, np.float64), side="left")
        self._counts += np.bincount(buckets, minlength=len(self._counts))
        self._sum += float(sum(values))

    def collect(self) -> Iterable[Metric]:
        # Written out: the library's own family leaves sum and count out where a bound is below zero.
        metric = Metric(self._name, self._help, "histogram")
        cumulative = np.cumsum(self._counts).tolist()
        for bound, count in zip((*map(floatToGoString, self._bounds), "+Inf"), cumulative, strict=True):
            metric.add_sample(f"{self._name}_bucket", {"le": bound}, count)
        metric.add_sample(f"{self._name}_count", {}, cumulative[-1])
        metric.add_sample(f"{self._name}_sum", {}, self._sum)
        yield metric


class ServerMetrics:
    """The metrics that the server counts itself, updated by the handlers. Its registry is its own."""

    def __init__(self) -> None:
        # A second sample beside every counter, which nobody reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._cores: dict[str, WatchedCore] = {}
        self.registry = registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        seconds = partial(Histogram, registry=registry, buckets=_LATENCY_BUCKETS)
        self.calls = counter("engine_calls", "Calls answered.", ["route", "dialect", "status"])
        self.errors = counter("engine_errors", "Errors answered, by type.", ["type"])
        self.pairs = counter("engine_pairs", "Pairs answered with a score.")
        self.failed_pairs = counter("engine_failed_pairs", "Pairs answered with an error.", ["type"])
        self.unscored_pairs = counter(*_UNSCORED_PAIRS)
        self.truncated_pairs = counter("engine_truncated_pairs", "Pairs that had to be cut.")
        self.unfamiliar_pairs = counter("engine_unfamiliar_pairs", "Pairs whose text the tokenizer hardly knows.")
        self.cancelled = counter("engine_cancelled", "Calls whose client went away.")
        self.unknown_fields = counter("engine_unknown_fields", "Body fields that were ignored.")
        self.logical_tokens = counter("engine_logical_tokens", "Tokens of answered calls.")
        self.computed_tokens = counter(*_COMPUTED_TOKENS)
        self.document_lookups = counter("engine_document_lookups", "Documents looked up in the store of vectors.")
        self.document_hits = counter("engine_document_hits", "Documents found there.")
        self.document_store_bytes = gauge(*_DOCUMENT_STORE_BYTES)
        self.api_servers = gauge("engine_api_servers", "API servers that take calls.")
        self.api_servers.set(1)
        self.api_server_calls = counter(*_API_SERVER_CALLS, ["api_server"])
        self.api_server_restarts = counter("engine_api_server_restarts", "API servers started again.")
        self.running_calls = gauge("engine_running_calls", "Calls in flight.")
        self.queued_pairs = gauge("engine_queued_pairs", "Pairs in flight, without a score yet.")
        self.queue_wait_s = gauge(*_QUEUE_WAIT)
        self.call_s = seconds("engine_call_seconds", "From the body to the last score.")
        self.queue_s = seconds("engine_queue_seconds", "From arrival to the first step.")
        self.encode_s = seconds("engine_encode_seconds", "Tokenisation of a call.")
        self.compute_s = seconds("engine_compute_seconds", "From the first step to the last score.")
        self.call_pairs = seconds("engine_call_pairs", "Pairs of a call.", buckets=_PAIR_BUCKETS)
        self.pair_tokens = ArrayHistogram(*_PAIR_TOKENS, _TOKEN_BUCKETS, registry)
        self.scores = ArrayHistogram(*_SCORES, _SCORE_BUCKETS, registry)

    @contextmanager
    def counted(self, store: DocumentStore) -> Iterator[None]:
        """Counts the look-ups that happen inside; on the event loop, where nothing else happens meanwhile."""
        lookups, hits = store.lookups, store.hits
        yield
        self.document_lookups.inc(store.lookups - lookups)
        self.document_hits.inc(store.hits - hits)
        self.document_store_bytes.set(store.num_bytes)

    def count_result(self, result: CallResult) -> None:
        """Counts a finished call, whatever its dialect."""
        self.pairs.inc(len(result.in_order))
        for error in result.errors.values():
            self.failed_pairs.labels(error.type).inc()
        self.unscored_pairs.inc(len(result.unscored))
        self.truncated_pairs.inc(result.truncated_documents)
        self.unfamiliar_pairs.inc(result.unfamiliar_documents)
        self.logical_tokens.inc(result.prompt_tokens)
        self.computed_tokens.inc(result.computed_tokens)
        self.call_s.observe(result.total_s)
        self.queue_s.observe(result.queue_s)
        self.encode_s.observe(result.encode_s)
        self.compute_s.observe(result.compute_s)
        self.call_pairs.observe(result.call.num_pairs)
        if not result.call.raw_scores:
            self.scores.observe([pair.score for pair in result.in_order])

    def watch_core(self, core: WatchedCore, model: str = "") -> None:
        """Adds the totals of a core to the page."""
        if not self._cores:
            self.registry.register(CoreMetrics(self._cores))
        self._cores[model] = core

    def render(self) -> bytes:
        """Prometheus text of everything."""
        return generate_latest(self.registry)
