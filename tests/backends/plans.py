"""Plans made by hand: trees of segments, as the scheduler would write them, without the scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.config import DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine.model_spec import HeadSpec, ModelSpec
from engine.step import SchedulerOutput


@dataclass
class PlanBuilder:
    """Segments are added parents first. A context is a list of ("row", start, length) or ("slot", start, length)."""

    kv_capacity: int
    tokens: list[int] = field(default_factory=list)
    lens: list[int] = field(default_factory=list)
    context_ids: list[int] = field(default_factory=list)
    contexts: dict[tuple[tuple[str, int, int], ...], int] = field(default_factory=dict)
    keeps: list[tuple[int, int, int]] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)

    def add(
        self,
        tokens: list[int],
        context: list[tuple[str, int, int]] | None = None,
        *,
        read: bool = False,
        keep_at: int = -1,
    ) -> tuple[str, int, int]:
        """Returns the segment's own range, for the contexts of its children in this step."""
        start = len(self.tokens)
        key = tuple(context or ())
        self.context_ids.append(self.contexts.setdefault(key, len(self.contexts)) if key else -1)
        if read:
            self.reads.append(len(self.lens))
        if keep_at >= 0:
            self.keeps.append((start, keep_at, len(tokens)))
        self.tokens += tokens
        self.lens.append(len(tokens))
        return ("row", start, len(tokens))

    def build(self, step_id: int = 0) -> SchedulerOutput:
        ranges, indptr = [], [0]
        for context in self.contexts:
            ranges += [(start + (self.kv_capacity if kind == "row" else 0), length) for kind, start, length in context]
            indptr.append(len(ranges))

        def array(values: Any, *shape: int) -> np.ndarray:
            return np.array(values, np.int32).reshape(shape or -1)

        return SchedulerOutput(
            step_id=step_id,
            token_ids=array(self.tokens),
            segment_lens=array(self.lens),
            context_ids=array(self.context_ids),
            context_indptr=array(indptr),
            context_ranges=array(ranges, -1, 2),
            keep_ranges=array(self.keeps, -1, 3),
            read_segments=array(self.reads),
        )


def spec_of(folder: Path, *, head: HeadSpec | None = None, max_model_len: int = 4096, **changes: Any) -> ModelSpec:
    """A spec read off config.json, so that these tests need nothing of the code that understands checkpoints."""
    import json

    config = json.loads((folder / "config.json").read_text()) | changes
    architecture = config["architectures"][0]
    if head is None:
        is_lm = architecture.endswith("ForCausalLM")
        head = HeadSpec(kind="from_2_way_softmax" if is_lm else "classifier", token_ids=NO_YES if is_lm else ())
    return ModelSpec(
        name=folder.name,
        path=str(folder),
        tokenizer_path=str(folder),
        model_type=config["model_type"],
        config=config,
        head=head,
        causal=True,
        max_model_len=max_model_len,
        vocab_size=config["vocab_size"],
    )


NO_YES = (7, 11)
"""Any two tokens are as good as "no" and "yes" for random weights."""


def config_of(*, kv_cache_tokens: int | None = 8192, budget: int = 4096, **model: Any) -> EngineConfig:
    return EngineConfig(
        model=ModelConfig(**model),
        scheduler=SchedulerConfig(kv_cache_tokens=kv_cache_tokens, max_num_batched_tokens=budget),
        device=DeviceConfig(device="cpu", cpu_threads=1),
    )
