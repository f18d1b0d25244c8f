"""Where the GPU's time goes: microseconds by kernel over one pass of a workload, and the share in which it ran at all.

The seconds that the engine counts as the device's are those from a step's launch to its values: they look full also
where the GPU waits for the host. Here its own clock tells.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from benchmarks.gpu.engine_run import Engine
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.workloads import CallTokens, Workload, build_calls

CALLS = {"seed": 512, "shared": 6, "long": 2, "single": 4}
"""Of each workload, enough for a picture: the profiler's own cost grows with events."""
NUM_KERNELS = 14
NAME_LEN = 70


def profile_workload(settings: Settings, engine: Engine, workload: Workload, vocab_size: int) -> dict[str, Any]:
    """Wall milliseconds, ``gpu_busy`` (share of them in which at least one kernel ran), and the largest kernels."""
    from torch.profiler import ProfilerActivity, profile

    _, calls = build_calls(workload, vocab_size)
    calls = calls[: CALLS[workload.name]]
    groups: list[list[CallTokens]] = [[call] for call in calls] if workload.name == "single" else [calls]
    engine.score(calls)
    settings.synchronize()
    with profile(activities=[ProfilerActivity.CUDA if settings.is_gpu else ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        for group in groups:
            engine.score(group)
        settings.synchronize()
        wall_s = time.perf_counter() - started
    events = [
        (event.name[:NAME_LEN], event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if not settings.is_gpu or str(event.device_type).endswith("CUDA")
    ]
    return {"wall_ms": wall_s * 1e3, **summary(events, wall_s)}


def summary(events: Iterable[tuple[str, float, float]], wall_s: float) -> dict[str, Any]:
    """Of (name, start, end) in microseconds: the union of the spans as a share of ``wall_s``, and time by name."""
    spent: Counter[str] = Counter()
    count: Counter[str] = Counter()
    busy, reached = 0.0, float("-inf")
    for name, start, end in sorted(events, key=lambda event: event[1]):
        spent[name] += end - start  # type: ignore[assignment]
        count[name] += 1
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    total = sum(spent.values()) or 1
    kernels = [
        {"name": name, "share": us / total, "launches": count[name], "us_each": us / count[name]}
        for name, us in spent.most_common(NUM_KERNELS)
    ]
    return {"gpu_busy": busy / 1e6 / wall_s, "launches": sum(count.values()), "kernels": kernels}
