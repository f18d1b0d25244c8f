"""What /metrics tells. Own registry, own names (``engine_*``); totals of the core are read when somebody scrapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.entrypoints.serve.dialects.base import CallResult
from engine.messages import SchedulerStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_PAIR_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


class ServerMetrics:
    """Counters of the API process; the handlers update them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.calls = Counter("engine_calls", "Calls answered.", ["route", "dialect", "status"], registry=registry)
        self.errors = Counter("engine_errors", "Errors answered, by type.", ["type"], registry=registry)
        self.pairs = Counter("engine_pairs", "Pairs answered with a score.", registry=registry)
        self.failed_pairs = Counter("engine_failed_pairs", "Pairs answered with an error.", ["type"], registry=registry)
        self.truncated_pairs = Counter("engine_truncated_pairs", "Pairs that had to be cut.", registry=registry)
        self.cancelled = Counter("engine_cancelled", "Calls whose client went away.", registry=registry)
        self.unknown_fields = Counter("engine_unknown_fields", "Body fields that were ignored.", registry=registry)
        self.logical_tokens = Counter("engine_logical_tokens", "Tokens of answered calls.", registry=registry)
        self.computed_tokens = Counter(
            "engine_computed_tokens", "Tokens that had to be computed for them; the rest was shared.", registry=registry
        )
        self.running_calls = Gauge("engine_running_calls", "Calls inside.", registry=registry)
        self.queued_pairs = Gauge("engine_queued_pairs", "Pairs inside, without a score yet.", registry=registry)
        self.call_s = Histogram(
            "engine_call_seconds", "From the body to the last score.", buckets=_LATENCY_BUCKETS, registry=registry
        )
        self.queue_s = Histogram(
            "engine_queue_seconds", "From arrival to the first step.", buckets=_LATENCY_BUCKETS, registry=registry
        )
        self.encode_s = Histogram(
            "engine_encode_seconds", "Tokenisation of a call.", buckets=_LATENCY_BUCKETS, registry=registry
        )
        self.call_pairs = Histogram("engine_call_pairs", "Pairs of a call.", buckets=_PAIR_BUCKETS, registry=registry)

    def count_result(self, result: CallResult) -> None:
        """A finished call, whatever its dialect."""
        self.pairs.inc(len(result.in_order))
        for error in result.errors.values():
            self.failed_pairs.labels(error.type).inc()
        self.truncated_pairs.inc(result.truncated_documents)
        self.logical_tokens.inc(result.prompt_tokens)
        self.computed_tokens.inc(result.computed_tokens)
        self.call_s.observe(result.total_s)
        self.queue_s.observe(result.queue_s)
        self.encode_s.observe(result.encode_s)
        self.call_pairs.observe(result.call.num_pairs)

    def watch_core(self, stats: Callable[[], SchedulerStats | None]) -> None:
        self.registry.register(_CoreCollector(stats))

    def render(self) -> bytes:
        return generate_latest(self.registry)


class _CoreCollector(Collector):
    """The scheduler's own totals, as they stood in its last message."""

    def __init__(self, stats: Callable[[], SchedulerStats | None]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        if stats is None:
            return
        for name, help_text, total in (
            ("steps", "Steps executed.", stats.num_steps),
            ("scheduled_logical_tokens", "Tokens of scheduled pairs.", stats.logical_tokens),
            ("scheduled_computed_tokens", "Tokens computed for them.", stats.computed_tokens),
            ("finished_pairs", "Pairs finished by the core.", stats.finished_pairs),
            ("aborted_pairs", "Pairs given up before they ran.", stats.aborted_pairs),
            ("replayed_pairs", "Pairs run again after a worker died.", stats.replayed_pairs),
            ("device_seconds", "Seconds the device was busy.", stats.device_s),
            ("prefix_lookups", "Look-ups in the prefix store.", stats.prefix_lookups),
            ("prefix_hits", "Look-ups that found something.", stats.prefix_hits),
            ("worker_restarts", "Workers started again.", stats.worker_restarts),
        ):
            yield CounterMetricFamily(f"engine_core_{name}", help_text, value=total)
        for name, help_text, now in (
            ("waiting_calls", "Calls with pairs that have not run.", stats.num_waiting_calls),
            ("waiting_pairs", "Pairs that have not run.", stats.num_waiting_pairs),
            ("waiting_tokens", "Their tokens.", stats.num_waiting_tokens),
            ("step_fill", "Mean share of the token budget used.", stats.step_fill),
            ("prefix_store_tokens", "Tokens kept between calls.", stats.prefix_store_tokens),
            ("kv_used_tokens", "Tokens whose keys and values are held.", stats.kv_used_tokens),
        ):
            yield GaugeMetricFamily(f"engine_core_{name}", help_text, value=now)
