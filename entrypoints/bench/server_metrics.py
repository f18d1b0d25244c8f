"""What the server says about the same run: its own counters, read from ``/metrics`` before and after."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from engine.entrypoints.bench.samples import Run

if TYPE_CHECKING:
    import aiohttp

STEP_HISTOGRAMS = ("engine_step_tokens", "vllm:iteration_tokens_total", "te_batch_next_tokens")

Readings = dict[str, float]
"""Counter or bucket -> value, labels summed up; a bucket is written ``name_bucket{le=BOUND}``."""


async def scrape(session: aiohttp.ClientSession, base_url: str) -> Readings | None:
    """All counters; None where the server has no (readable) metrics, which is no error."""
    import aiohttp

    try:
        async with session.get(base_url + "/metrics") as response:
            if response.status != 200:
                return None
            return parse(await response.text())
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None


def parse(text: str) -> Readings:
    readings: Readings = defaultdict(float)
    for family in text_string_to_metric_families(text):
        if family.type not in ("counter", "histogram"):
            continue
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue
            bound = sample.labels.get("le")
            readings[sample.name if bound is None else f"{sample.name}{{le={bound}}}"] += sample.value
    return dict(readings)


def growth(before: Readings | None, after: Readings | None, run: Run) -> None:
    """Enter into ``run`` by how much each counter grew, and the histogram of tokens a step."""
    if before is None or after is None:
        return
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    run.server_metrics = {name: value for name, value in grown.items() if "{le=" not in name and value}
    for histogram in STEP_HISTOGRAMS:
        steps = _histogram(grown, histogram)
        if steps:
            run.step_tokens = steps
            return


def _histogram(grown: Readings, name: str) -> list[tuple[float, float]]:
    """(upper bound, count within) of the buckets; Prometheus counts cumulatively."""
    start = f"{name}_bucket{{le="
    cumulative = sorted((float(key[len(start) : -1]), value) for key, value in grown.items() if key.startswith(start))
    counts, below = [], 0.0
    for bound, total in cumulative:
        counts.append((bound, total - below))
        below = total
    return counts if below else []
