"""This engine, offline: texts in, its own tokenisation, planning and sharing included in the time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cpu.contenders.base import Contender
from benchmarks.cpu.workloads import Workload
from engine.entrypoints.offline.llm import LLM


class Engine(Contender):
    batch_sizes = (0,)

    def __init__(self, model: Path, num_threads: int, quantization: str | None = None, **settings: Any) -> None:
        super().__init__(model, num_threads)
        self.llm = LLM(str(model), quantization=quantization, cpu_threads=num_threads, **settings)

    def prompts(self, workload: Workload) -> list[list[int]]:
        """What the others are given: the very tokens that this engine scores."""
        outputs = self.llm.score(workload.queries, workload.documents, use_tqdm=False)
        return [output.prompt_token_ids for output in outputs]

    def score(self, workload: Workload, prompts: Sequence[Sequence[int]], batch_size: int) -> list[float]:
        outputs = self.llm.score(workload.queries, workload.documents, use_tqdm=False)
        return [output.outputs.logit for output in outputs]
