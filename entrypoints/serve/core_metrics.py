"""The scheduler's own totals on /metrics, as they stood in its last message. With several replicas, one sample each;
with several models, each sample says whose it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
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

from engine.messages import STEP_TOKEN_BOUNDS, SchedulerStats
from engine.step import WorkerInfo
from engine.version import __version__

_COUNTERS = (
    ("steps", "Steps executed.", "num_steps"),
    ("scheduled_logical_tokens", "Tokens of pairs that the core finished, shared ones in each.", "logical_tokens"),
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
    """The part that the metrics use of the client of one core, or of several: then it has ``replica_stats`` too."""

    @property
    def info(self) -> WorkerInfo: ...

    @property
    def healthy(self) -> bool: ...

    @property
    def stats(self) -> SchedulerStats: ...


@dataclass(frozen=True)
class _Sample:
    """The totals of one replica of one model."""

    labels: list[str]
    stats: SchedulerStats
    info: WorkerInfo


class CoreMetrics(Collector):
    """Prometheus samples of the cores, read when somebody scrapes. ``cores`` is keyed by model; more may come later."""

    def __init__(self, cores: Mapping[str, WatchedCore]) -> None:
        self._cores = cores

    def collect(self) -> Iterable[Metric]:
        replicas = {model: _replica_stats(core) for model, core in self._cores.items()}
        has_replicas = any(len(each) > 1 for each in replicas.values())
        models = ["model"] if len(replicas) > 1 else []
        names = [*models, *(["replica"] if has_replicas else [])]
        samples = [
            _Sample([*([model] if models else []), *([str(i)] if has_replicas else [])], stats, self._cores[model].info)
            for model, each in replicas.items()
            for i, stats in enumerate(each)
        ]
        for name, help_text, field in _COUNTERS:
            counter = CounterMetricFamily(f"engine_core_{name}", help_text, labels=names)
            for sample in samples:
                counter.add_metric(sample.labels, getattr(sample.stats, field))
            yield counter
        for name, help_text, value_of in (*_gauges(), *_SIZES):
            gauge = GaugeMetricFamily(f"engine_core_{name}", help_text, labels=names)
            for sample in samples:
                gauge.add_metric(sample.labels, value_of(sample))
            yield gauge
        steps = HistogramMetricFamily("engine_step_tokens", "Tokens computed in a step.", labels=names)
        for sample in samples:
            steps.add_metric(sample.labels, _step_buckets(sample.stats), sum_value=sample.stats.computed_tokens)
        yield steps
        yield from self._of_models(models, replicas)

    def _of_models(self, names: list[str], replicas: Mapping[str, list[SchedulerStats]]) -> Iterable[Metric]:
        number = GaugeMetricFamily("engine_core_replicas", "Copies of the model that share the calls.", labels=names)
        healthy = GaugeMetricFamily("engine_core_healthy", "1 while a step can run.", labels=names)
        for model, core in self._cores.items():
            labels = [model] if names else []
            number.add_metric(labels, len(replicas[model]))
            healthy.add_metric(labels, int(core.healthy))
        yield number
        yield healthy
        files = InfoMetricFamily("engine_model", "The files that each model's workers loaded.", labels=["model"])
        for model, core in self._cores.items():
            files.add_metric([model], {"fingerprint": core.info.fingerprint})
        yield files
        info = next(iter(self._cores.values())).info
        yield InfoMetricFamily(
            "engine", "What runs here.", value={"version": __version__, "device": info.device, "dtype": info.dtype}
        )


def _replica_stats(core: WatchedCore) -> list[SchedulerStats]:
    return getattr(core, "replica_stats", None) or [core.stats]


def _gauges() -> Iterable[tuple[str, str, Callable[[_Sample], float]]]:
    for name, help_text, field in _GAUGES:
        yield name, help_text, partial(_stat, field)


def _stat(field: str, sample: _Sample) -> float:
    value: float = getattr(sample.stats, field)
    return value


_SIZES: tuple[tuple[str, str, Callable[[_Sample], float]], ...] = (
    ("token_budget", "Most tokens of a step.", lambda sample: sample.info.max_num_batched_tokens),
    ("weight_bytes", "Memory of the weights.", lambda sample: sample.info.weight_bytes),
    ("kv_capacity_tokens", "Room for keys and values, in tokens.", lambda sample: sample.info.kv_capacity),
    ("kv_capacity_bytes", "Its memory.", lambda sample: sample.info.kv_capacity * sample.info.kv_bytes_per_token),
    (
        "prefix_store_bytes",
        "Memory of the tokens kept between calls.",
        lambda sample: sample.stats.prefix_store_tokens * sample.info.kv_bytes_per_token,
    ),
)


def _step_buckets(stats: SchedulerStats) -> list[tuple[str, float]]:
    counts = stats.step_token_counts or [0] * (len(STEP_TOKEN_BOUNDS) + 1)
    bounds = [*(f"{bound}.0" for bound in STEP_TOKEN_BOUNDS), "+Inf"]
    return list(zip(bounds, map(float, accumulate(counts)), strict=True))
