"""The core by itself: tree, plan, pack, update, in microseconds of processor time a pair; calls are token ids."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.host.device import InstantExecutor
from benchmarks.host.workloads import LARGE, SINGLE, SMALL, Calls, token_calls
from engine.config import EngineConfig
from engine.core.core import EngineCore
from engine.messages import EngineCoreRequest
from engine.model_spec import HeadSpec, ModelSpec

MAX_LEN = 8192
STAGES = {"tree": "add", "plan": "schedule", "update": "update"}
"""Stage -> method of the scheduler."""


def spec() -> ModelSpec:
    head = HeadSpec(kind="classifier", activation="sigmoid", pooling="last")
    return ModelSpec(
        name="instant", path="", tokenizer_path="", model_type="qwen3",
        head=head, causal=True, max_model_len=MAX_LEN, vocab_size=150_000,
    )  # fmt: skip


class TimedCore:
    """A core whose scheduler's methods are timed."""

    def __init__(self, constant_prefix: np.ndarray) -> None:
        self.executor = InstantExecutor.new()
        self.core = EngineCore(EngineConfig(), spec(), constant_prefix, self.executor)
        self.seconds = dict.fromkeys(STAGES, 0.0)
        for stage, method in STAGES.items():
            setattr(self.core.scheduler, method, self._timed(stage, getattr(self.core.scheduler, method)))

    def _timed(self, stage: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            started = time.thread_time()
            result = method(*args)
            self.seconds[stage] += time.thread_time() - started
            return result

        return timed

    def score(self, requests: list[EngineCoreRequest]) -> int:
        """All calls at once, until the last pair is answered; returns the pairs."""
        for request in requests:
            self.core.add(request)
        answered = 0
        while self.core.has_work:
            answered += sum(len(output.indices) for output in self.core.poll().outputs)
        return answered


def requests_of(calls: list[list[np.ndarray]], number: int) -> list[EngineCoreRequest]:
    made = []
    for index, prompts in enumerate(calls):
        lens = np.array([len(prompt) for prompt in prompts], np.int32)
        tokens = np.concatenate(prompts)
        made.append(EngineCoreRequest(f"{number}-{index}", tokens, lens, time.monotonic()))
    return made


def measure(kind: Calls, seconds: float) -> dict[str, Any]:
    constant_prefix, calls = token_calls(kind)
    timed = TimedCore(constant_prefix)
    timed.score(requests_of(calls, 0))
    timed.seconds = dict.fromkeys(STAGES, 0.0)
    timed.executor.pack_s, timed.executor.num_steps = 0.0, 0
    pairs, rounds, spent, began = 0, 0, 0.0, time.perf_counter()
    per_round = []
    while rounds < 3 or time.perf_counter() - began < seconds:
        rounds += 1
        requests = requests_of(calls, rounds)
        started = time.thread_time()
        done = timed.score(requests)
        per_round.append((time.thread_time() - started) * 1e6 / done)
        spent += per_round[-1] * done / 1e6
        pairs += done
    stages = {stage: total * 1e6 / pairs for stage, total in timed.seconds.items()}
    stages["pack"] = timed.executor.pack_s * 1e6 / pairs
    total = spent * 1e6 / pairs
    return {
        "us_a_pair": total,
        "us_a_pair_median_round": float(np.median(per_round)),
        "us_a_pair_best_round": min(per_round),
        "us_a_call": total * kind.documents,
        "pairs_a_second_and_core": 1e6 / total,
        "stages_us_a_pair": {**stages, "rest": total - sum(stages.values())},
        "steps": timed.executor.num_steps,
        "pairs": pairs,
        "packing": timed.executor.info.notes[0],
    }


def run(seconds: float) -> dict[str, Any]:
    return {kind.name: measure(kind, seconds) for kind in (SMALL, LARGE, SINGLE)}
