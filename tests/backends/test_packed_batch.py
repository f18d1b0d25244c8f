"""Plan -> tensors: positions, who reads where, what is kept."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from engine.backends.cpu.backend import CpuBackend
from engine.backends.kv_cache import KVCache, KVShape
from engine.backends.packed_batch import PackingRules, pack, upload_each
from tests.backends.plans import PlanBuilder


def rules(**changes) -> PackingRules:
    known = {"kv_capacity": 100, "scale": 0.5, "causal": True, "read_first": False, "device": torch.device("cpu")}
    return PackingRules(**(known | {"upload": CpuBackend().upload} | changes))


def plan():
    builder = PlanBuilder(kv_capacity=100)
    prefix = builder.add([1, 2, 3], keep_at=40)
    query = builder.add([4, 5], [("slot", 10, 20), prefix])
    builder.add([6, 7, 8, 9], [("slot", 10, 20), prefix, query], read=True, keep_at=0)
    builder.add([10], [("slot", 10, 20), prefix, query], read=True)
    builder.add([11, 12])
    return builder.build()


def test_positions_go_on_where_the_context_ends() -> None:
    batch = pack(plan(), rules())
    assert batch.token_ids.tolist() == list(range(1, 13))
    assert batch.positions.tolist() == [0, 1, 2, 23, 24, 25, 26, 27, 28, 25, 0, 1]
    assert batch.num_tokens == 12


def test_reads_are_last_tokens_with_all_their_keys() -> None:
    batch = pack(plan(), rules())
    assert batch.read_rows.tolist() == [8, 9]
    assert batch.read_positions.tolist() == [28, 25]
    meta = batch.read_attention
    assert (meta.q_starts.tolist(), meta.q_lens.tolist()) == ([0, 1], [1, 1])
    assert (meta.own_starts.tolist(), meta.own_lens.tolist()) == ([5, 9], [4, 1])
    assert meta.context_ids.tolist() == [1, 1]
    assert batch.attention.num_queries == 12
    assert meta.cache is not batch.attention.cache


def test_cls_pooling_reads_first_tokens() -> None:
    assert pack(plan(), rules(read_first=True)).read_rows.tolist() == [5, 9]


def test_kept_rows_and_their_slots() -> None:
    batch = pack(plan(), rules())
    assert batch.keep_rows.tolist() == [0, 1, 2, 5, 6, 7, 8]
    assert batch.keep_slots.tolist() == [40, 41, 42, 0, 1, 2, 3]
    kv_cache = KVCache(KVShape(1, 2, 4), 100, dtype=torch.float32, device=torch.device("cpu"))
    for tensor in (*kv_cache.keys, *kv_cache.values):
        tensor.zero_()
    k, v = torch.randn(12, 2, 4), torch.randn(12, 2, 4)
    kv_cache.keep(0, k, v, batch)
    assert torch.equal(kv_cache.keys[0][40:43], k[:3])
    assert torch.equal(kv_cache.values[0][:4], v[5:9])
    assert not kv_cache.keys[0][4:40].any()


def test_a_step_without_reads_or_keeps() -> None:
    builder = PlanBuilder(kv_capacity=100)
    builder.add([5, 6])
    batch = pack(builder.build(), rules())
    assert batch.num_reads == 0
    assert len(batch.keep_rows) == 0
    assert batch.token_type_ids is None


def test_token_types_travel_along() -> None:
    with_types = plan()
    with_types.token_type_ids = np.arange(12, dtype=np.int32) % 2
    assert pack(with_types, rules()).token_type_ids.tolist() == [0, 1] * 6


def test_bytes_per_token() -> None:
    assert KVShape(28, 8, 128).bytes_per_token(torch.bfloat16) == 112 * 1024


def test_arrays_of_a_message_are_packed_without_a_warning() -> None:
    """They are read-only; the rows are the plan's all the same."""
    sent = plan()
    for name in sent.__struct_fields__:
        if isinstance(value := getattr(sent, name), np.ndarray):
            value.setflags(write=False)
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            batch = pack(sent, rules(upload=upload_each))
    finally:
        torch.set_warn_always(False)
    assert batch.token_ids.tolist() == list(range(1, 13))
