"""CUDA graphs for small steps, so that one call of few documents is not bound by some three hundred kernel launches.

A graph replays fixed kernels on fixed addresses, so there is one for each *bucket* of tokens, with room for a fixed
number of segments. A step is copied into the bucket's static tensors; what it does not fill is padding that reaches
nobody: padded tokens stand in no segment, padded attention tiles end at once, padded reads are cut off. Steps that are
too large, or that keep keys and values, run eagerly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from engine.backends.cuda.attention import AGREEMENT, CACHE, PreparedAttention, RangeForm
from engine.backends.kv_pool import KVPool
from engine.backends.packed_batch import PackedBatch
from engine.kernels.ops import AttentionMeta
from engine.kernels.triton.attention import tokens_per_tile

BUCKETS = (64, 128, 256, 512, 1024, 2048)
"""Tokens."""
MAX_SEGMENTS = 64
MAX_RANGES = 256


class GraphMismatchError(Exception):
    """A graph gives other values than the step that it was recorded from."""


Forward = Callable[[PackedBatch, KVPool], torch.Tensor]
Recorder = Callable[[Callable[[], None]], Callable[[], None]]
"""Records what a function does and returns a function that replays it."""


@dataclass(eq=False)
class StaticStep:
    """The tensors that a graph reads, and a batch made of them."""

    batch: PackedBatch

    @classmethod
    def like(cls, batch: PackedBatch, num_tokens: int, form: RangeForm, group: int) -> StaticStep:
        """Room for ``num_tokens`` tokens; everything else about the step is as in ``batch``."""
        device = batch.token_ids.device
        tile_tokens = tokens_per_tile(form.config, group)

        def rows(count: int) -> torch.Tensor:
            return torch.zeros(count, dtype=torch.int64, device=device)

        def meta(like: AttentionMeta, num_tiles: int) -> AttentionMeta:
            sizes = ((num_tiles, 2), (MAX_SEGMENTS, 6), (MAX_RANGES, 2))
            tables = [torch.zeros(size, dtype=torch.int32, device=device) for size in sizes]
            tables[0].fill_(-1)
            return replace(like, cache={CACHE: PreparedAttention(form, tables)})

        return cls(
            PackedBatch(
                token_ids=rows(num_tokens),
                positions=rows(num_tokens),
                attention=meta(batch.attention, num_tokens // tile_tokens + MAX_SEGMENTS),
                read_attention=meta(batch.read_attention, MAX_SEGMENTS),
                read_rows=rows(MAX_SEGMENTS),
                read_positions=rows(MAX_SEGMENTS),
                keep_rows=rows(0),
                keep_slots=rows(0),
                token_type_ids=None,
            )
        )

    def take(self, batch: PackedBatch) -> None:
        """Copy a step in. Stale rows of earlier steps stay behind it; only tiles must not."""
        mine = self.batch
        targets = [mine.token_ids, mine.positions, mine.read_rows, mine.read_positions]
        sources = [batch.token_ids, batch.positions, batch.read_rows, batch.read_positions]
        for static, step in ((mine.attention, batch.attention), (mine.read_attention, batch.read_attention)):
            static.cache[CACHE].tables[0].fill_(-1)
            targets += static.cache[CACHE].tables
            sources += step.cache[CACHE].tables
        heads = [target[: len(source)] for target, source in zip(targets, sources, strict=True)]
        torch._foreach_copy_(heads, sources)


class GraphedForward:
    """Calls ``forward`` or replays its graph. Before ``capture`` was called it always calls."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.num_replays = 0
        self._sample: tuple[PackedBatch, KVPool] | None = None
        self._form: RangeForm | None = None
        self._graphs: dict[int, tuple[StaticStep, list[torch.Tensor], Callable[[], None]]] = {}

    def __call__(self, batch: PackedBatch, pool: KVPool) -> torch.Tensor:
        bucket = self.bucket_of(batch)
        if bucket is None:
            if not self._graphs:
                self._sample = (batch, pool)
            return self.forward(batch, pool)
        static, outputs, replay = self._graphs[bucket]
        static.take(batch)
        replay()
        self.num_replays += 1
        return outputs[0][: batch.num_reads].clone()

    def bucket_of(self, batch: PackedBatch) -> int | None:
        """The smallest recorded bucket that holds the step; None if no graph can run it."""
        meta = batch.attention
        prepared = meta.cache.get(CACHE)
        if (
            prepared is None
            or prepared.form is not self._form
            or not 0 < batch.num_reads <= MAX_SEGMENTS
            or len(batch.keep_rows)
            or batch.token_type_ids is not None
            or len(meta.q_lens) > MAX_SEGMENTS
            or len(meta.context_ranges) > MAX_RANGES
        ):
            return None
        return next((bucket for bucket in sorted(self._graphs) if batch.num_tokens <= bucket), None)

    @torch.inference_mode()
    def capture(self, buckets: Sequence[int], form: RangeForm, group: int, record: Recorder) -> None:
        """Record ``buckets`` as they would run with ``form``, largest first so that they share memory.

        The first replay of each, of the last eager step where it fits, is compared with what that step gave; raises
        ``GraphMismatchError`` if they differ.
        """
        assert self._sample is not None, "capture needs an eager step first"
        batch, pool = self._sample
        self._sample, self._form = None, form
        expected = self.forward(batch, pool).float().clone()
        for bucket in sorted(buckets, reverse=True):
            static = StaticStep.like(batch, bucket, form, group)
            outputs: list[torch.Tensor] = []

            def run(static: StaticStep = static, outputs: list[torch.Tensor] = outputs) -> None:
                outputs[:] = [self.forward(static.batch, pool)]

            replay = record(run)
            if batch.num_tokens <= bucket:
                static.take(batch)
                replay()
                self._check(bucket, outputs[0][: batch.num_reads].float(), expected)
            self._graphs[bucket] = (static, outputs, replay)

    @staticmethod
    def _check(bucket: int, replayed: torch.Tensor, expected: torch.Tensor) -> None:
        relative = ((replayed - expected).abs() / (1.0 + expected.abs())).nan_to_num(nan=float("inf"))
        difference = relative.max().item() if relative.numel() else 0.0
        if difference > AGREEMENT:
            raise GraphMismatchError(f"the graph of {bucket} tokens is off by {difference:.2g} from the step itself")

    def forget(self) -> None:
        """Run eagerly from now on."""
        self._graphs.clear()
        self._form = None


class GraphRecorder:
    """Records after two plain runs, into one memory pool for all graphs.

    All on one stream: torch shares the memory of a pool among captures of the same stream only.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()

    @torch.inference_mode()
    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
            run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            run()
        return graph.replay
