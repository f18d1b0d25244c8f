"""What an executor adds to a step: the same small steps through uni, mp, and ray over sockets and over TCP.

One step at a time, so nothing is hidden behind the device; the overhead is the time from ``submit`` to the result less
what the worker says that the device was busy.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale_sim.real import make_model
from engine.checkpoint.resolve import resolve_model
from engine.config import DeviceConfig, EngineConfig, ExecutorName, ModelConfig, SchedulerConfig
from engine.executor import create_executor
from engine.step import SchedulerOutput

WARM_UP, STEPS = 20, 300
TOKENS = (16, 1024)
_ALONE: tuple[ExecutorName, ...] = ("uni", "mp")
NODES = {"ray, sockets": (2, None), "ray, TCP": (0, 2)}
"""Cores of the head, where this process is, and of a second node."""


def executors() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = EngineConfig(
            model=ModelConfig(model=str(make_model(Path(folder) / "model")), max_model_len=1024),
            scheduler=SchedulerConfig(max_num_batched_tokens=1024),
            device=DeviceConfig(device="cpu", cpu_threads=1),
        )
        found: dict[str, list[dict[str, float]]] = {}
        for turn in range(2):
            for name in _ALONE:
                found.setdefault(name, []).append(_measure(config, name))
            if turn == 0:
                for name, (head, second) in NODES.items():
                    with _cluster(head, second):
                        found[name] = [_measure(config, "ray")]
        return {"steps": STEPS, "overhead": found}


def _measure(config: EngineConfig, name: ExecutorName) -> dict[str, float]:
    executor = create_executor(
        replace(config, device=replace(config.device, executor=name)), resolve_model(config.model), automatic=name
    )
    found = {}
    for tokens in TOKENS:
        seconds = []
        for step_id in range(WARM_UP + STEPS // (1 if tokens < 100 else 10)):
            started = time.perf_counter()
            output = executor.submit(_plan(step_id + 1000 * tokens, tokens)).result()
            seconds.append(time.perf_counter() - started - output.device_s)
        seconds = sorted(seconds[WARM_UP:])
        found[f"{tokens} tokens, median us"] = 1e6 * statistics.median(seconds)
        found[f"{tokens} tokens, p95 us"] = 1e6 * seconds[int(0.95 * len(seconds))]
    executor.close()
    return found


def _plan(step_id: int, tokens: int) -> SchedulerOutput:
    def ints(*values: int) -> np.ndarray:
        return np.array(values, np.int32)

    nothing = np.zeros((0, 2), np.int32), np.zeros((0, 3), np.int32)
    return SchedulerOutput(
        step_id, np.arange(tokens, dtype=np.int32), ints(tokens), ints(-1), ints(0), *nothing, ints(0)
    )


@contextmanager
def _cluster(head: int, second: int | None) -> Iterator[None]:
    import ray
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": head, "include_dashboard": False})
    if second is not None:
        made.add_node(num_cpus=second)
    os.environ["RAY_ADDRESS"] = made.address
    try:
        yield
    finally:
        ray.shutdown()
        made.shutdown()
        del os.environ["RAY_ADDRESS"]
