"""The CUDA backend on a CPU: the same ops, uploads, forms and graphs, with Triton's interpreter for the kernels.

What it replaces is only what needs a driver: the device, its memory, and the recording of graphs, where a replay runs
the recorded function again on the static tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from engine.backends.base import Capabilities, MemoryFacts
from engine.backends.cuda.attention import RangeForm
from engine.backends.cuda.backend import CudaBackend
from engine.config import DeviceConfig
from engine.kernels.ops import LayerShape
from engine.kernels.triton.attention import AttentionConfig
from engine.kernels.triton.launch import INTERPRETED

needs_interpreter = pytest.mark.skipif(not INTERPRETED, reason="the stand-in runs where there is no GPU")
FORM = RangeForm(AttentionConfig(16, 32, 1, 1))
GIB = 2**30


def replay_by_running(run: Callable[[], None]) -> Callable[[], None]:
    run()
    return run


class StandIn(CudaBackend):
    """``buckets``: sizes that get a "graph" at load."""

    def __init__(self, buckets: Sequence[int] = ()) -> None:
        super().__init__()
        self.buckets = buckets

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            dtypes=("float32", "bfloat16", "float16"),
            quantizations=("fp8", "int4"),
            keeps_groups={4: (None, "int4")},
            default_token_budget=256,
            warm_up_tokens=(8,),
            records_steps=True,
        )

    def why_unavailable(self) -> str | None:
        return None

    def compute_capability(self, device: torch.device) -> tuple[int, int]:
        return (9, 0)

    def device(self, rank: int) -> torch.device:
        return torch.device("cpu")

    def set_up(self, config: DeviceConfig, rank: int) -> tuple[str, ...]:
        self.config = config
        return ("stand-in",)

    def memory(self, device: torch.device) -> MemoryFacts:
        return MemoryFacts(GIB, GIB)

    def peak_memory_bytes(self, device: torch.device) -> int:
        return 0

    def synchronize(self, device: torch.device) -> None:
        return None

    def empty_cache(self, device: torch.device) -> None:
        return None

    def name_of(self, device: torch.device) -> str:
        return "the stand-in"

    def self_test(self, shape: LayerShape) -> tuple[str, ...]:
        """None: the interpreter takes seconds for it. ``test_self_test.py`` calls the real one."""
        return ()

    def tune(self, time_step: Callable[[Sequence[int]], float], largest: int) -> tuple[int, tuple[str, ...]]:
        assert self.ops is not None
        assert self.ops.head_shape is not None
        assert self.graphed is not None
        self.ops.small_form = self.ops.large_form = FORM
        self.ops.small_tokens = largest
        time_step([8, 4])
        heads, kv_heads, _ = self.ops.head_shape
        for size in sorted(self.buckets, reverse=True):
            self.graphed.capture(size, FORM, heads // kv_heads, replay_by_running)
        return largest, ()
