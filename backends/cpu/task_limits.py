"""The size of a product's tasks: by the second-level cache, or by a search of a second where that is not the best.

The search multiplies with a matrix of the model's widest shape, a few sizes in turn, and keeps what it finds in the
cache folder for this processor, instruction set and shape. Scores do not depend on it: a task is a block of results,
and each result is summed in the same order in any of them.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from engine.backends.crash_records import cache_folder
from engine.kernels.cpu.ops import CpuOps

Limits = tuple[int, int]
"""Bytes of fp32 results, and columns, of the largest task."""
SEARCH_S = 1.0
NUM_ROWS = 512
"""Rows of a step's products; large steps are where the time goes."""
MIN_WEIGHTS, MAX_WEIGHTS = 1 << 21, 1 << 22
"""In a matrix: smaller models take too little time to be worth a second, and of larger matrices a part will do."""
MIN_ROUNDS = 3
MIN_GAIN = 1.05
"""How many times as fast as the sizes by the cache others must be, twice; less is noise."""


def choose_task_limits(ops: CpuOps, folder: Path | None = None) -> str | None:
    """Set the limits of ``ops``' tasks, from ``folder`` or by a search; return a line about it.

    Returns None where the products are too small to search, or the sizes by the cache are the best known.
    """
    out_features, in_features = ops.widest
    if out_features * in_features < MIN_WEIGHTS:
        return None
    by_cache = ops.runtime.task_limits
    file = (folder or cache_folder("cpu")) / "task-limits.json"
    key = f"{_processor()}, {ops.description}, {in_features} to {out_features}, {by_cache}"
    kept = _read(file)
    found = kept.get(key)
    if found is None:
        found = search(candidates(by_cache), _timer(ops))
        _write(file, {**_read(file), key: found})
    ops.runtime.task_limits = found
    if found == by_cache:
        return None
    return f"tasks of products have {found[0] >> 10} KiB and {found[1]} columns, as a search found best ({file})"


def candidates(by_cache: Limits) -> list[Limits]:
    """``by_cache`` first, then half and twice its bytes and columns."""
    num_bytes, cols = by_cache
    others = [(num_bytes * n // 4, cols * m // 4) for n in (2, 4, 8) for m in (2, 4, 8) if (n, m) != (4, 4)]
    return [by_cache, *others]


def search(limits: Sequence[Limits], timed: Callable[[Limits], float]) -> Limits:
    """The quickest by ``timed``, if it is quicker than the first by ``MIN_GAIN`` in a second trial as well.

    The first where a second is too short to tell.
    """
    best = _quickest(limits, timed, SEARCH_S * 0.7)
    return best if best == limits[0] else _quickest([limits[0], best], timed, SEARCH_S * 0.3)


def _quickest(limits: Sequence[Limits], timed: Callable[[Limits], float], seconds: float) -> Limits:
    """By the medians of rounds in which each is timed once."""
    rounds: list[list[float]] = []
    ends_s = time.perf_counter() + seconds
    while time.perf_counter() < ends_s:
        times = []
        for one in limits:
            times.append(timed(one))
            if not rounds and time.perf_counter() > ends_s:
                return limits[0]
        rounds.append(times)
    if len(rounds) < MIN_ROUNDS:
        return limits[0]
    medians = [statistics.median(taken) for taken in zip(*rounds, strict=True)]
    best = min(range(len(limits)), key=medians.__getitem__)
    return limits[best] if medians[0] >= MIN_GAIN * medians[best] else limits[0]


def _timer(ops: CpuOps) -> Callable[[Limits], float]:
    """A function that multiplies with the widest matrix of the model, or a part of it, and returns the seconds."""
    out_features, in_features = ops.widest
    out_features = min(out_features, max(1, MAX_WEIGHTS // in_features))
    weight = ops.new_linear(out_features, in_features)
    weight.load_rows(0, torch.zeros(out_features, in_features, dtype=torch.bfloat16))
    rows = torch.zeros(NUM_ROWS, in_features)

    def timed(limits: Limits) -> float:
        ops.runtime.task_limits = limits
        started = time.perf_counter()
        ops.linear(rows, weight)
        return time.perf_counter() - started

    return timed


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _read(file: Path) -> dict[str, Limits]:
    with suppress(OSError, ValueError, TypeError):
        return {str(key): (int(one), int(other)) for key, (one, other) in json.loads(file.read_text()).items()}
    return {}


def _write(file: Path, kept: dict[str, Limits]) -> None:
    """Where it cannot be written, the next start searches again."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{time.time_ns()}")
        part.write_text(json.dumps(kept, indent=1))
        part.replace(file)
