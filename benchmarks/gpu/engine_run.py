"""The engine on a workload: core, scheduler, executor and model as they serve, without sockets and text."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.gpu.settings import Settings
from benchmarks.gpu.shapes import SHAPES, Shape
from benchmarks.gpu.workloads import WORKLOADS, CallTokens, Workload, build_calls, logical_tokens, num_pairs
from engine.config import DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine.core.core import EngineCore
from engine.executor import create_executor
from engine.messages import EngineCoreRequest
from engine.model_spec import ModelSpec

NEVER = 1 << 30
PROFILED = ("shared", "seed", "single")
Save = Callable[[dict[str, Any]], None]
MAX_LEN = 4096


@dataclass
class Engine:
    """One core in this process, driven by this thread."""

    core: EngineCore

    @classmethod
    def start(
        cls, settings: Settings, spec: ModelSpec, constant_prefix: np.ndarray, *, sharing: bool, dummy: bool = True
    ) -> Engine:
        model = ModelConfig(
            model=spec.name,
            dtype=settings.dtype_name,
            quantization=settings.quantization,
            load_format="dummy" if dummy else "safetensors",
        )
        scheduler = SchedulerConfig() if sharing else SchedulerConfig(prefix_cache="off", min_shared_tokens=NEVER)
        device = DeviceConfig(device=settings.device, enforce_eager=settings.enforce_eager)
        config = EngineConfig(model=model, scheduler=scheduler, device=device)
        executor = create_executor(config, spec, automatic="uni")
        try:
            return cls(EngineCore(config, spec, constant_prefix, executor))
        except BaseException:
            executor.close()
            raise

    def score(self, calls: list[CallTokens]) -> tuple[list[np.ndarray], list[float]]:
        """Logits of every call, and the second at which each was complete, all being there at the start."""
        started = time.perf_counter()
        for index, call in enumerate(calls):
            lens = np.array([len(prompt) for prompt in call.prompts], np.int32)
            ends = np.full(len(lens), call.query_end, np.int32)
            tokens = np.concatenate(call.prompts).astype(np.int32)
            self.core.add(EngineCoreRequest(str(index), tokens, lens, time.monotonic(), query_lens=ends))
        values = [np.full(len(call.prompts), np.nan, np.float32) for call in calls]
        missing, done_s = [len(call.prompts) for call in calls], [0.0] * len(calls)
        while any(missing):
            outputs = self.core.poll().outputs
            for output in outputs:
                if output.errors:
                    raise RuntimeError(f"call {output.call_id} failed: {next(iter(output.errors.values())).rebuilt()}")
                index = int(output.call_id)
                values[index][output.indices] = output.values[:, 0]
                missing[index] -= len(output.indices)
                done_s[index] = time.perf_counter() - started
            if not outputs:
                self.core.wait(None)
        return values, done_s

    def close(self) -> None:
        self.core.close()


def measure_engine(
    settings: Settings, sharing: bool, scale: int = 1, save: Save = lambda result: None
) -> dict[str, Any]:
    """All workloads on one loaded model, then where the GPU's time goes in three of them.

    ``scale`` divides their sizes, to try the command. ``save`` is given what there is after each workload.
    """
    from benchmarks.gpu.profile import profile_workload

    shape = SHAPES[settings.model]
    workloads = [w if scale == 1 else w.scaled(3, scale) for w in WORKLOADS.values()]
    constant_prefix, _ = build_calls(workloads[0], shape.vocab_size)
    started = time.perf_counter()
    engine = Engine.start(settings, shape.spec(MAX_LEN), constant_prefix, sharing=sharing)
    try:
        info = engine.core.info
        result: dict[str, Any] = {
            "model": shape.name,
            "quantization": settings.quantization,
            "sharing": sharing,
            "load_s": time.perf_counter() - started,
            "token_budget": info.max_num_batched_tokens,
            "kv_capacity": info.kv_capacity,
            "weight_gb": info.weight_bytes / 1e9,
            "notes": list(info.notes),
            "eager": settings.enforce_eager,
            "workloads": {},
            "profile": {},
        }
        for workload in workloads:
            result["workloads"][workload.name] = _measure_workload(settings, engine, shape, workload)
            save(result)
        for workload in workloads:
            if workload.name in PROFILED:
                result["profile"][workload.name] = profile_workload(settings, engine, workload, shape.vocab_size)
                save(result)
        return result
    finally:
        engine.close()


def _measure_workload(settings: Settings, engine: Engine, shape: Shape, workload: Workload) -> dict[str, Any]:
    _, calls = build_calls(workload, shape.vocab_size)
    is_single = workload.name == "single"
    engine.score(calls[:2])
    before, started, rounds = _counters(engine), time.perf_counter(), 0
    latencies: list[float] = []
    while rounds == 0 or time.perf_counter() - started < settings.seconds / 2:
        if is_single:
            latencies += [engine.score([call])[1][0] for call in calls]
        else:
            engine.score(calls)
        rounds += 1
    seconds = time.perf_counter() - started
    computed, steps, device_s = _counters(engine) - before
    pairs = rounds * num_pairs(calls)
    result = {
        "title": workload.title,
        "rounds": rounds,
        "seconds": seconds,
        "pairs_per_s": pairs / seconds,
        "logical_tokens_per_s": rounds * logical_tokens(calls) / seconds,
        "computed_tokens_per_s": computed / seconds,
        "linear_tflops": shape.linear_flops(int(computed), pairs) / seconds / 1e12,
        "steps": int(steps),
        "device_busy": device_s / seconds,
    }
    if not is_single:
        started = time.perf_counter()
        while len(latencies) < 2 or time.perf_counter() - started < settings.seconds / 4:
            latencies.append(engine.score([calls[len(latencies) % len(calls)]])[1][0])
    result["call_latency_ms"] = percentiles(latencies)
    return result


def _counters(engine: Engine) -> np.ndarray:
    """Totals since start: computed tokens, steps, seconds of device time."""
    stats = engine.core.stats()
    return np.array([stats.computed_tokens, stats.num_steps, stats.device_s])


def percentiles(seconds: list[float]) -> dict[str, float]:
    """In milliseconds, of calls made one after the other."""
    values = np.percentile(np.array(seconds) * 1e3, [50, 90, 99])
    return {"p50": float(values[0]), "p90": float(values[1]), "p99": float(values[2]), "count": len(seconds)}
