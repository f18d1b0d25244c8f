"""Workers on the simulated device, and the plans that tests give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.backends.worker import Worker
from engine.config import DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine.step import SchedulerOutput
from tests.backends.plans import PlanBuilder, spec_of

CAPACITY = 1024
BUDGET = 1024


def load_worker(
    folder: Path,
    *,
    spec: dict[str, Any] | None = None,
    graphs: bool = False,
    skip_self_test: bool = False,
    **model: Any,
) -> Worker:
    config = EngineConfig(
        model=ModelConfig(**model),
        scheduler=SchedulerConfig(kv_cache_tokens=CAPACITY, max_num_batched_tokens=BUDGET),
        device=DeviceConfig(device="npu", enforce_eager=not graphs, skip_self_test=skip_self_test),
    )
    worker = Worker(config, spec_of(folder, **{"max_model_len": CAPACITY, **(spec or {})}))
    worker.info = worker.load()  # type: ignore[attr-defined]
    return worker


def probabilities(worker: Worker, plan: SchedulerOutput) -> np.ndarray:
    logits = worker.execute(plan).values[:, 0].astype(np.float64)
    return 1 / (1 + np.exp(-logits))


def whole_pairs(prefix: list[int], documents: list[list[int]]) -> SchedulerOutput:
    plan = PlanBuilder(CAPACITY)
    for document in documents:
        plan.add(prefix + document, read=True)
    return plan.build()


def shared_prefix(prefix: list[int], documents: list[list[int]]) -> SchedulerOutput:
    plan = PlanBuilder(CAPACITY)
    context = [plan.add(prefix)]
    for document in documents:
        plan.add(document, context, read=True)
    return plan.build()


def kept_prefix(prefix: list[int], slot: int = 17) -> SchedulerOutput:
    plan = PlanBuilder(CAPACITY)
    plan.add(prefix, keep_at=slot)
    return plan.build()


def after_kept_prefix(prefix: list[int], documents: list[list[int]], slot: int = 17) -> SchedulerOutput:
    plan = PlanBuilder(CAPACITY)
    for document in documents:
        plan.add(document, [("slot", slot, len(prefix))], read=True)
    return plan.build()


def random_texts(seed: int = 1) -> tuple[list[int], list[list[int]]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 400, 30).tolist(), [rng.integers(0, 400, n).tolist() for n in (1, 7, 36, 12, 36, 60)]
