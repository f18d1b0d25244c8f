"""The scheduler's own totals on /metrics, as they stood in its last message. With several replicas, one sample each."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from engine import __version__
from engine.messages import STEP_TOKEN_BOUNDS, SchedulerStats
from engine.step import WorkerInfo

_COUNTERS = (
    ("steps", "Steps executed.", "num_steps"),
    ("scheduled_logical_tokens", "Tokens of scheduled pairs.", "logical_tokens"),
    ("scheduled_computed_tokens", "Tokens computed for them.", "computed_tokens"),
    ("finished_calls", "Calls finished by the core.", "finished_calls"),
    ("finished_pairs", "Pairs finished by the core.", "finished_pairs"),
    ("aborted_pairs", "Pairs given up before they ran.", "aborted_pairs"),
    ("replayed_pairs", "Pairs run again after a worker died.", "replayed_pairs"),
    ("device_seconds", "Seconds the device was busy.", "device_s"),
    ("prefix_lookups", "Look-ups in the prefix store.", "prefix_lookups"),
    ("prefix_hits", "Look-ups that found something.", "prefix_hits"),
    ("worker_restarts", "Workers started again.", "worker_restarts"),
)
_GAUGES = (
    ("waiting_calls", "Calls with pairs that have not run.", "num_waiting_calls"),
    ("waiting_pairs", "Pairs that have not run.", "num_waiting_pairs"),
    ("waiting_tokens", "Their tokens.", "num_waiting_tokens"),
    ("step_fill", "Mean share of the token budget used.", "step_fill"),
    ("prefix_store_tokens", "Tokens kept between calls.", "prefix_store_tokens"),
    ("kv_used_tokens", "Tokens whose keys and values are held.", "kv_used_tokens"),
)


class WatchedCore(Protocol):
    """A client of one core, or of several: then it has ``replica_stats`` too."""

    @property
    def info(self) -> WorkerInfo: ...

    @property
    def healthy(self) -> bool: ...

    @property
    def stats(self) -> SchedulerStats: ...


class CoreMetrics(Collector):
    def __init__(self, core: WatchedCore) -> None:
        self._core = core

    def collect(self) -> Iterable[Metric]:
        each: list[SchedulerStats] = getattr(self._core, "replica_stats", None) or [self._core.stats]
        names = ["replica"] if len(each) > 1 else []
        labels = [[str(i)] if names else [] for i in range(len(each))]
        for name, help_text, field in _COUNTERS:
            counter = CounterMetricFamily(f"engine_core_{name}", help_text, labels=names)
            for label, stats in zip(labels, each, strict=True):
                counter.add_metric(label, getattr(stats, field))
            yield counter
        for name, help_text, values in (
            *((name, text, [getattr(stats, field) for stats in each]) for name, text, field in _GAUGES),
            *((name, text, [value] * len(each)) for name, text, value in self._sizes()),
            (
                "prefix_store_bytes",
                "Memory of the tokens kept between calls.",
                [stats.prefix_store_tokens * self._core.info.kv_bytes_per_token for stats in each],
            ),
        ):
            gauge = GaugeMetricFamily(f"engine_core_{name}", help_text, labels=names)
            for label, value in zip(labels, values, strict=True):
                gauge.add_metric(label, value)
            yield gauge
        steps = HistogramMetricFamily("engine_step_tokens", "Tokens computed in a step.", labels=names)
        for label, stats in zip(labels, each, strict=True):
            steps.add_metric(label, _step_buckets(stats), sum_value=stats.computed_tokens)
        yield steps
        yield GaugeMetricFamily("engine_core_replicas", "Copies of the model that share the calls.", value=len(each))
        yield GaugeMetricFamily("engine_core_healthy", "1 while a step can run.", value=int(self._core.healthy))
        yield self._description()

    def _sizes(self) -> Iterable[tuple[str, str, float]]:
        info = self._core.info
        return (
            ("token_budget", "Most tokens of a step.", info.max_num_batched_tokens),
            ("weight_bytes", "Memory of the weights.", info.weight_bytes),
            ("kv_capacity_tokens", "Room for keys and values, in tokens.", info.kv_capacity),
            ("kv_capacity_bytes", "Its memory.", info.kv_capacity * info.kv_bytes_per_token),
        )

    def _description(self) -> Metric:
        info = self._core.info
        return InfoMetricFamily(
            "engine", "What runs here.", value={"version": __version__, "device": info.device, "dtype": info.dtype}
        )


def _step_buckets(stats: SchedulerStats) -> list[tuple[str, float]]:
    counts = stats.step_token_counts or [0] * (len(STEP_TOKEN_BOUNDS) + 1)
    bounds = [*(f"{bound}.0" for bound in STEP_TOKEN_BOUNDS), "+Inf"]
    return list(zip(bounds, map(float, accumulate(counts)), strict=True))
