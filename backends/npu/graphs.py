"""ACL graphs: a small step as one launch instead of a few hundred.

A graph is bound to shapes and addresses, so a step is laid into the buffers of the smallest graph that holds it. Its
unused rows become dummy segments of at least one token each (``graph_shapes.py``): lists keep their length, no
sequence is empty, and the cumulative lengths end exactly at the tensors' sizes, as the attention operator wants. Nobody
sees the dummies, so real rows cannot notice them. Keys are read by block table, as without a graph.

The attention's **host lengths are baked in** at capture; ``NPUGraph.update`` replaces them behind each replay, while
the device computes what comes before the first attention. It works on a stream of its own, so it must not run while an
earlier replay still has to read the old ones. Steps that keep keys run as they are (their writes have no fixed shape),
and so does a shape when it is met for the first time.

Graphs are an addition: whatever goes wrong while one is captured or replayed is logged, the step runs as it is, and so
do all later ones. The first replay of each graph is compared with the same step run without, and both are timed: a
shape whose replay is not faster stays without.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
import torch_npu
from torch.utils._python_dispatch import _get_current_dispatch_mode

from engine.backends.kv_cache import KVCache
from engine.backends.npu.faults import first_line, lost_code
from engine.backends.npu.graph_shapes import TOKEN_BUCKETS, GraphShape
from engine.backends.npu.transfer import host_buffer
from engine.backends.packed_batch import PackedBatch
from engine.kernels.npu.attention import PLAN, NotCapturableError
from engine.kernels.npu.pages import BLOCK
from engine.kernels.npu.plan import AttentionPlan, HostPlan, Layout, plan_on_host
from engine.kernels.ops import AttentionMeta

logger = logging.getLogger(__name__)
MAX_GRAPHS = 24
STEPS_BEFORE_CAPTURE = 2
TIMING_ROUNDS = 3
REPLAY_TOLERANCE = 0.05
"""Of the logits of a graph's first replay, relative to the larger of 1 and the logit: the kernels are the same, so what
differs more is another computation."""

Forward = Callable[[PackedBatch, KVCache], torch.Tensor]


class WrongReplayError(Exception):
    """A replay gave other values than the step without the graph."""


def host_plan(meta: AttentionMeta) -> HostPlan:
    """Usually made when the step was uploaded."""
    if PLAN not in meta.cache:
        return plan_on_host(meta)
    host: HostPlan = meta.cache[PLAN].host
    return host


class CapturedStep:
    """One graph with its buffers. ``replay`` may be called any number of times."""

    def __init__(
        self, shape: GraphShape, forward: Forward, batch: PackedBatch, kv_cache: KVCache, memory: object
    ) -> None:
        self.shape = shape
        device = batch.token_ids.device
        longs = 2 * (shape.tokens + shape.segments)
        per_plan = [shape.blocks * BLOCK, shape.segments * shape.width]
        num_rows = shape.cached_rows + 2 * sum(per_plan)
        self._buffer = torch.zeros(longs + num_rows, dtype=torch.int64, device=device)
        self._tokens, self._positions, self._reads, self._read_positions, self._rows = self._buffer.split(
            [shape.tokens, shape.tokens, shape.segments, shape.segments, num_rows]
        )
        self._host_rows = host_buffer((num_rows,), torch.int64)
        cached_rows, rows, table, read_rows, read_table = self._rows.split([shape.cached_rows, *per_plan, *per_plan])
        self._tables = (table, read_table)
        self._order: list[AttentionPlan] = []
        self._plans = [
            AttentionPlan(
                host_plan(meta),
                Layout.PAGED,
                cached_rows if shape.cached_rows else None,
                rows_of_plan,
                num_blocks=shape.given_blocks,
                for_graph=True,
                layers=self._order,
            )
            for meta, rows_of_plan in ((batch.attention, rows), (batch.read_attention, read_rows))
        ]
        self._done = torch_npu.npu.Event()
        self._graph = torch_npu.npu.NPUGraph()
        self._capture(forward, batch, kv_cache, memory)

    def _capture(self, forward: Forward, batch: PackedBatch, kv_cache: KVCache, memory: object) -> None:
        self._fill(batch)
        # Libraries choose kernels and workspaces outside of the capture; and its values are what a replay must give.
        self._expected = forward(self._static(batch), kv_cache).clone()
        self._order.clear()
        torch_npu.npu.synchronize()
        # Only this thread's waiting would break the capture; another may be waiting for an earlier step's values.
        recording = torch_npu.npu.graph(
            self._graph, pool=memory, auto_dispatch_capture=True, capture_error_mode="thread_local"
        )
        with _restored(self._graph), recording:
            self._output = forward(self._static(batch), kv_cache)
        self._done.record()

    def replay(self, batch: PackedBatch) -> torch.Tensor:
        self._done.synchronize()  # the replay before may still have to read its lengths
        self._fill(batch)
        lengths = {
            id(plan): {"actual_seq_lengths": plan.launches[0].q_ends, "actual_seq_lengths_kv": plan.launches[0].kv_lens}
            for plan in self._plans
        }
        self._graph.replay()  # the device begins while the host updates; each layer's attention waits for its lengths
        self._graph.update(cpu_update_input=[lengths[id(plan)] for plan in self._order])
        self._done.record()
        return self._output[: batch.num_reads].clone()  # the next replay overwrites it

    def check(self, batch: PackedBatch) -> None:
        """Replays the step that was captured. Raises ``WrongReplayError`` unless it gives what it gave without."""
        got, expected = self.replay(batch).float().cpu(), self._expected[: batch.num_reads].float().cpu()
        apart = (got - expected).abs() / expected.abs().clamp_min(1.0)
        if not bool((apart <= REPLAY_TOLERANCE).all()):  # NaN is not less than anything
            raise WrongReplayError(
                f"a logit of the first replay is {float(apart.max()):.3g} away from the step without"
            )

    def _fill(self, batch: PackedBatch) -> None:
        """Lay the step into the buffers; what is left of an earlier step behind it is as good as any padding."""
        self._tokens[: batch.num_tokens].copy_(batch.token_ids)
        self._positions[: batch.num_tokens].copy_(batch.positions)
        self._reads[: batch.num_reads].copy_(batch.read_rows)
        self._read_positions[: batch.num_reads].copy_(batch.read_positions)
        shape, hosts = self.shape, [host_plan(batch.attention), host_plan(batch.read_attention)]
        cached_rows = np.zeros(shape.cached_rows, np.int64)
        cached_rows[: len(hosts[0].cached_rows)] = hosts[0].cached_rows
        parts = [cached_rows]
        for plan, host, num_queries in zip(self._plans, hosts, (shape.tokens, shape.segments), strict=True):
            rows, table = shape.rows_and_table(host)
            parts += [rows, table.ravel()]
            plan.launches = [shape.launch(host, num_queries)]
        np.concatenate(parts, out=self._host_rows.numpy())  # its last copy is done: the replay behind it was waited for
        self._rows.copy_(self._host_rows, non_blocking=True)  # a copy that blocks would wait for the whole stream

    def _static(self, batch: PackedBatch) -> PackedBatch:
        """A batch on the buffers. Its tensors are new objects, by which the ops know a new step."""
        nothing = self._buffer[:0]
        for plan, table in zip(self._plans, self._tables, strict=True):
            plan.table = table.view(self.shape.segments, self.shape.width).to(torch.int32)
        return PackedBatch(
            token_ids=self._tokens,
            positions=self._positions[:],
            attention=replace(batch.attention, cache={PLAN: self._plans[0]}),
            read_attention=replace(batch.read_attention, cache={PLAN: self._plans[1]}),
            read_rows=self._reads,
            read_positions=self._read_positions[:],
            keep_rows=nothing,
            keep_slots=nothing,
            token_type_ids=None,
        )


@contextmanager
def _restored(graph: torch_npu.npu.NPUGraph) -> Iterator[None]:
    """What ``torch_npu.npu.graph`` forgets when the end of a capture fails: the stream, and its dispatch mode.

    Left on, the mode makes each attention call wait for an event that nobody records.
    """
    before = torch_npu.npu.current_stream()
    try:
        yield
    except BaseException:
        torch_npu.npu.set_stream(before)
        mode = _get_current_dispatch_mode()
        if mode is not None and mode == getattr(graph, "graph_dispatch_mode", None):
            mode.__exit__(None, None, None)
        raise


def is_faster(replay: Callable[[], object], without: Callable[[], object]) -> bool:
    """Whether a replay is done sooner than the step as it is: the best of a few rounds, in turn."""
    best = [float("inf")] * 2
    for _ in range(TIMING_ROUNDS):
        for index, run in enumerate((replay, without)):
            torch_npu.npu.synchronize()
            started = time.perf_counter()
            run()
            torch_npu.npu.synchronize()
            best[index] = min(best[index], time.perf_counter() - started)
    return best[0] < best[1]


class StepGraphs:
    """A model's forward function with graphs for the small steps that come often."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.graphs: OrderedDict[GraphShape, CapturedStep] = OrderedDict()
        self._num_seen: Counter[GraphShape] = Counter()
        self._slower: set[GraphShape] = set()
        """Shapes whose replay took longer than the step without."""
        self._memory: object = None
        self._why_disabled: str | None = None
        self.num_replays = 0

    def __call__(self, batch: PackedBatch, kv_cache: KVCache) -> torch.Tensor:
        shape = self._shape(batch)
        if shape is None:
            return self.forward(batch, kv_cache)
        try:
            values = self._replay(shape, batch, kv_cache)
        except NotCapturableError as reason:
            self._why_disabled = str(reason)
        except Exception as error:
            # Whatever it is, the step can do without the graph; only a lost device cannot.
            if lost_code(error) is not None:
                raise
            self._disable(error)
        else:
            if values is not None:
                return values
        return self.forward(batch, kv_cache)

    def note(self) -> str:
        if self._why_disabled is not None:
            return f"no ACL graphs: {self._why_disabled}"
        slower = f", {len(self._slower)} shapes faster without" if self._slower else ""
        return f"ACL graphs for steps up to {TOKEN_BUCKETS[-1]} tokens, {len(self.graphs)} made at start{slower}"

    def _shape(self, batch: PackedBatch) -> GraphShape | None:
        if not batch.attention.causal:
            self._why_disabled = "npu_fusion_attention, which bidirectional models need, cannot be captured"
        plain = len(batch.keep_rows) == 0 and batch.token_type_ids is None
        if not (self._why_disabled is None and plain and batch.num_reads and batch.num_tokens <= TOKEN_BUCKETS[-1]):
            return None
        return GraphShape.for_step(host_plan(batch.attention))

    def _replay(self, shape: GraphShape, batch: PackedBatch, kv_cache: KVCache) -> torch.Tensor | None:
        """The step's values; None if its shape is not worth a graph yet."""
        if shape in self._slower:
            return None
        if shape not in self.graphs:
            self._num_seen[shape] += 1
            if self._num_seen[shape] < STEPS_BEFORE_CAPTURE:
                return None
            self._capture(shape, batch, kv_cache)
            if shape in self._slower:
                return None
        self.graphs.move_to_end(shape)
        self.num_replays += 1
        return self.graphs[shape].replay(batch)

    def _capture(self, shape: GraphShape, batch: PackedBatch, kv_cache: KVCache) -> None:
        if self._memory is None:
            self._memory = torch_npu.npu.graph_pool_handle()
        captured = CapturedStep(shape, self.forward, batch, kv_cache, self._memory)
        captured.check(batch)
        if not is_faster(lambda: captured.replay(batch), lambda: self.forward(batch, kv_cache)):
            self._slower.add(shape)
            return
        self.graphs[shape] = captured
        if len(self.graphs) > MAX_GRAPHS:
            self.graphs.popitem(last=False)

    def _disable(self, error: Exception) -> None:
        """Run every step as it is from now on."""
        self._why_disabled = f"capture or replay failed ({first_line(error)}); --enforce-eager starts without"
        logger.warning("no ACL graphs from here on: %s", self._why_disabled)
        self.graphs.clear()
        self._num_seen.clear()
