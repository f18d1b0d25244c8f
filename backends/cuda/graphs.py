"""CUDA graphs: a step's some 250 launches at once, for steps in which launching takes longer than the GPU does.

A graph reads static tensors: one buffer for each recorded size, with a place for every array of a step. A step that
fits goes up straight into the buffer of the smallest graph that holds it, in the one copy that it needs anyway; what it
does not fill is padding that reaches nobody: padded tokens stand in no segment, padded attention tiles end at once,
padded reads are cut off, and keys that are kept for nobody go to a slot that nothing reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from engine.backends.cuda.attention import AGREEMENT, CACHE, PreparedAttention, RangeForm, step_tables
from engine.backends.cuda.transfer import Layout
from engine.backends.kv_cache import KVCache
from engine.backends.packed_batch import PackedBatch
from engine.kernels.ops import AttentionMeta
from engine.kernels.triton.attention import tokens_per_tile

BUCKETS = tuple(
    size
    for low, high, stride in (
        (0, 1024, 64), (1024, 2048, 128), (2048, 4096, 256), (4096, 8192, 512), (8192, 16_384, 1024)
    )
    for size in range(low + stride, high + 1, stride)
)  # fmt: skip
"""Tokens: eight to a doubling, so that padding is under 5 % on average."""
MIN_SEGMENTS, MAX_SEGMENTS = 64, 1024
TOKENS_A_SEGMENT = 16
RANGES_A_SEGMENT = 4
MIN_KEPT, TOKENS_A_KEPT = 64, 8

GRAPH = "cuda graph"
"""Key of the ``StaticStep`` that a step went up into, in ``AttentionMeta.cache``."""

NUM_ROWS, NUM_TABLES = 6, 5
"""Of a step that a graph can run: token ids, positions, read rows and positions, kept rows and slots; then attention's
tiles, segments and ranges, and the tiles and segments of the reads, whose ranges are the same."""
KEPT_SLOTS, TILES, READ_TILES = 5, NUM_ROWS, NUM_ROWS + 3
"""Numbers of arrays that are not filled up with zeros."""


class GraphMismatchError(Exception):
    """A graph gives other values than the step that it was recorded from."""


Forward = Callable[[PackedBatch, KVCache], torch.Tensor]
Recorder = Callable[[Callable[[], None]], Callable[[], None]]
"""Records what a function does and returns a function that replays it."""


@dataclass(frozen=True, eq=False)
class StaticStep:
    """The tensors that a graph reads: views of ``buffer``, laid out as ``layout`` says, and the batch made of them."""

    form: RangeForm
    layout: Layout
    buffer: torch.Tensor
    batch: PackedBatch

    @classmethod
    def like(cls, batch: PackedBatch, num_tokens: int, form: RangeForm, group: int, pad_slot: int) -> StaticStep:
        """Room for ``num_tokens`` tokens and as many segments as such a step may have; the rest is as in ``batch``."""
        segments = min(MAX_SEGMENTS, max(MIN_SEGMENTS, num_tokens // TOKENS_A_SEGMENT))
        kept = max(MIN_KEPT, num_tokens // TOKENS_A_KEPT)
        tiles = num_tokens // tokens_per_tile(form.config, group) + segments
        layout = Layout.fitting(
            (num_tokens, num_tokens, segments, segments, kept, kept),
            (2 * tiles, 6 * segments, 2 * RANGES_A_SEGMENT * segments, 2 * segments, 6 * segments),
            {KEPT_SLOTS: pad_slot, TILES: -1, READ_TILES: -1},
        )
        buffer = torch.zeros(layout.num_bytes, dtype=torch.uint8, device=batch.token_ids.device)
        tokens, positions, reads, read_positions, rows, slots, *tables = layout.split(buffer)
        tiles_, segments_, ranges, read_tiles, read_segments = (
            table.view(-1, 6 if number in (1, 4) else 2) for number, table in enumerate(_whole_rows(tables))
        )

        def meta(like: AttentionMeta, tables: list[torch.Tensor]) -> AttentionMeta:
            return replace(like, cache={CACHE: PreparedAttention(form, tables)})

        static = PackedBatch(
            token_ids=tokens,
            positions=positions,
            attention=meta(batch.attention, [tiles_, segments_, ranges]),
            read_attention=meta(batch.read_attention, [read_tiles, read_segments, ranges]),
            read_rows=reads,
            read_positions=read_positions,
            keep_rows=rows,
            keep_slots=slots,
            token_type_ids=None,
        )
        return cls(form, layout, buffer, static)

    def holds(self, rows: Sequence[np.ndarray], tables: Sequence[np.ndarray]) -> bool:
        sizes = (*self.layout.rows, *self.layout.tables)
        return all(array.size <= size for array, size in zip((*rows, *tables), sizes, strict=True))

    def take(self, rows: Sequence[np.ndarray], tables: Sequence[np.ndarray]) -> None:
        """Fill the buffer from the host. Serving steps are uploaded into it instead."""
        host = np.empty(self.layout.num_bytes, np.uint8)
        self.layout.write(host, rows, tables)
        self.buffer.copy_(torch.from_numpy(host))


def _whole_rows(tables: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Without the few numbers at the end that only round a table of six columns up to the alignment."""
    return [table[: len(table) // 6 * 6] if number in (1, 4) else table for number, table in enumerate(tables)]


@dataclass(frozen=True, eq=False)
class _Sample:
    """An eager step, which every graph is compared with at its first replay."""

    batch: PackedBatch
    kv_cache: KVCache
    expected: torch.Tensor


class GraphedForward:
    """Calls ``forward``, or replays a graph of it for a step that went up into a graph's buffer."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.num_replays = 0
        self._last: tuple[PackedBatch, KVCache] | None = None
        self._sample: _Sample | None = None
        self._graphs: dict[int, tuple[StaticStep, list[torch.Tensor], Callable[[], None]]] = {}

    def __call__(self, batch: PackedBatch, kv_cache: KVCache) -> torch.Tensor:
        static: StaticStep | None = batch.attention.cache.get(GRAPH)
        if static is None:
            if not self._graphs and not self._sample:
                self._last = (batch, kv_cache)
            return self.forward(batch, kv_cache)
        _, outputs, replay = self._graphs[static.batch.num_tokens]
        replay()
        self.num_replays += 1
        return outputs[0][: batch.num_reads].clone()

    @property
    def sizes(self) -> list[int]:
        """Tokens of the recorded steps."""
        return sorted(self._graphs)

    def static_for(self, form: object, rows: Sequence[np.ndarray], tables: Sequence[np.ndarray]) -> StaticStep | None:
        """The smallest recorded step that holds this one and runs the same form of attention; it is uploaded there."""
        if len(rows) != NUM_ROWS or len(tables) != NUM_TABLES or not rows[2].size:
            return None
        num_tokens = rows[0].size
        for size in self.sizes:
            if size >= num_tokens:
                static = self._graphs[size][0]
                if static.form is form and static.holds(rows, tables):
                    return static
        return None

    @torch.inference_mode()
    def capture(self, num_tokens: int, form: RangeForm, group: int, record: Recorder) -> None:
        """Record a step of ``num_tokens`` tokens as it would run with ``form``. Call it for the largest first.

        The first replay, of the last eager step before the first capture where it fits, is compared with what that step
        gave; raises ``GraphMismatchError`` if they differ.
        """
        sample = self._sample or self._take_sample()
        static = StaticStep.like(sample.batch, num_tokens, form, group, sample.kv_cache.pad_slot)
        outputs: list[torch.Tensor] = []

        def run() -> None:
            outputs[:] = [self.forward(static.batch, sample.kv_cache)]

        replay = record(run)
        rows, tables = _on_host(sample.batch, form, group)
        if static.holds(rows, tables):
            static.take(rows, tables)
            replay()
            self._check(num_tokens, outputs[0][: sample.batch.num_reads].float(), sample.expected)
        self._graphs[static.batch.num_tokens] = (static, outputs, replay)

    def _take_sample(self) -> _Sample:
        assert self._last is not None, "capture needs an eager step first"
        batch, kv_cache = self._last
        self._last = None
        self._sample = _Sample(batch, kv_cache, self.forward(batch, kv_cache).float().clone())
        return self._sample

    @staticmethod
    def _check(num_tokens: int, replayed: torch.Tensor, expected: torch.Tensor) -> None:
        relative = ((replayed - expected).abs() / (1.0 + expected.abs())).nan_to_num(nan=float("inf"))
        difference = relative.max().item() if relative.numel() else 0.0
        if difference > AGREEMENT:
            raise GraphMismatchError(
                f"the graph of {num_tokens} tokens is off by {difference:.2g} from the step itself"
            )

    def drop(self, num_tokens: int) -> None:
        """Steps of that size run eagerly, or in a larger graph."""
        self._graphs.pop(num_tokens, None)

    def forget(self) -> None:
        """Run eagerly from now on."""
        self._graphs.clear()
        self._sample = None


def _on_host(batch: PackedBatch, form: RangeForm, group: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rows = [batch.token_ids, batch.positions, batch.read_rows, batch.read_positions, batch.keep_rows, batch.keep_slots]
    tables, _ = step_tables(form, (batch.attention, batch.read_attention), group)
    return [row.cpu().numpy() for row in rows], tables


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
