"""What /metrics tells when several processes count: a front says what it counted, main adds it up.

Only what grows is summed (counters, histograms). Gauges are the state of the server, which main knows by itself. What a
front had counted when it ended stays in the sums; of one that was killed, that is what it last said, a second ago.
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


class FrontMetrics(ServerMetrics):
    """Of one front."""

    def watch_core(self, core: WatchedCore, model: str = "") -> None:
        """The cores are main's."""

    def counts(self) -> list[Count]:
        return [
            Count(metric.name, sample.name, sample.labels, sample.value)
            for metric in self.registry.collect()
            if metric.type in ("counter", "histogram")
            for sample in metric.samples
            if sample.value
        ]


class Sums(Collector):
    """Main's own metrics, with what the fronts counted added."""

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
    """One entry a sample, so that fronts that ended take no more room than one."""
    sums: dict[_Key, Count] = {}
    for count in counts:
        before = sums.get(_key(count.name, count.labels))
        sofar = before.value if before else 0.0
        sums[_key(count.name, count.labels)] = Count(count.family, count.name, count.labels, sofar + count.value)
    return list(sums.values())


def render(own: CollectorRegistry, counts: Iterable[Count]) -> bytes:
    return generate_latest(Sums(own, counts))


def _key(name: str, labels: dict[str, str]) -> _Key:
    return name, frozenset(labels.items())
