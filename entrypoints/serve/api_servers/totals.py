"""/metrics with several processes: each API server reports its counters, and the coordinator adds them up.

Only counters and histograms are summed. Gauges are the state of the whole server, which the coordinator knows itself.
The counters of an API server that ended stay in the sums; of one that was killed, its last report, up to a second old.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from engine.entrypoints.serve.api_servers.messages import Count
from engine.entrypoints.serve.core_metrics import WatchedCore
from engine.entrypoints.serve.metrics import ServerMetrics

_Key = tuple[str, frozenset[tuple[str, str]]]


class ApiServerMetrics(ServerMetrics):
    """The metrics that one API server counts."""

    def watch_core(self, core: WatchedCore, model: str = "") -> None:
        """Does nothing: the coordinator watches the cores."""

    def counts(self) -> list[Count]:
        """Every counter and histogram sample that is not zero."""
        return [
            Count(metric.name, sample.name, sample.labels, sample.value)
            for metric in self.registry.collect()
            if metric.type in ("counter", "histogram")
            for sample in metric.samples
            if sample.value
        ]


class Sums(Collector):
    """The coordinator's own metrics, with the counters of the API servers added."""

    def __init__(self, own: CollectorRegistry, counts: Iterable[Count]) -> None:
        self._own = own
        self._counts: dict[str, list[Count]] = {}
        for count in counts:
            self._counts.setdefault(count.family, []).append(count)

    def collect(self) -> Iterable[Metric]:
        for metric in self._own.collect():
            sums = {_key(sample.name, sample.labels): sample for sample in metric.samples}
            for count in self._counts.get(metric.name, ()):
                key = _key(count.name, count.labels)
                sofar = sums[key].value if key in sums else 0.0
                sums[key] = Sample(count.name, count.labels, sofar + count.value)
            metric.samples = list(sums.values())
            yield metric


def summed(counts: Iterable[Count]) -> list[Count]:
    """One entry for each sample, so that any number of ended API servers takes the room of one."""
    sums: dict[_Key, Count] = {}
    for count in counts:
        before = sums.get(_key(count.name, count.labels))
        sofar = before.value if before else 0.0
        sums[_key(count.name, count.labels)] = Count(count.family, count.name, count.labels, sofar + count.value)
    return list(sums.values())


def render(own: CollectorRegistry, counts: Iterable[Count]) -> bytes:
    """Prometheus text of the whole server."""
    return generate_latest(Sums(own, counts))


def _key(name: str, labels: dict[str, str]) -> _Key:
    return name, frozenset(labels.items())
