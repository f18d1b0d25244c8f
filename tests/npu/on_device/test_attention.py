"""Attention through the packed operators equals the reference, whichever operator runs and however steps are split."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch_npu

from engine.kernels.npu import attention, pages
from engine.kernels.npu.ops import NpuOps
from engine.kernels.npu.pages import BLOCK
from engine.kernels.npu.plan import Layout, plan_on_host, split
from engine.kernels.npu.soc import Soc
from engine.kernels.ops import AttentionMeta
from engine.kernels.reference import ReferenceOps
from tests.npu.on_device.attention_cases import CASES, KV_CAPACITY, Case, make_case, random_inputs
from tests.npu.on_device.recording import recording

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
FIA, FUSION, PADDED = (
    "npu::npu_fused_infer_attention_score",
    "npu::npu_fusion_attention",
    "npu::npu_prompt_flash_attention",
)


def make_ops(dtype: torch.dtype) -> NpuOps:
    return NpuOps(torch.device("npu", 0), dtype, Soc(torch_npu.npu.get_device_name()))


def fresh(meta: AttentionMeta, device: str = "cpu") -> AttentionMeta:
    return dataclasses.replace(meta, device=torch.device(device), cache={})


def run_both(
    case: Case,
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    form: attention.AttentionForm | None = None,
) -> list[str]:
    """Compares with the reference; returns the operators that ran."""
    inputs = random_inputs(case, heads, kv_heads, head_dim, dtype)
    expected = ReferenceOps(dtype=dtype).attention(*inputs, fresh(case.meta))
    q, k, v, k_cache, v_cache = (tensor.to("npu") for tensor in inputs)
    ops = make_ops(dtype)
    ops.use(dataclasses.replace(ops.forms, attention=form))
    with recording() as log, torch.inference_mode():
        result = ops.attention(q, k, v, k_cache, v_cache, fresh(case.meta, "npu"))
    torch.testing.assert_close(result.cpu(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    return log


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_equals_reference(name: str, dtype: torch.dtype) -> None:
    log = run_both(CASES[name], 4, 2, 128, dtype)
    expected = FIA if CASES[name].meta.causal and dtype != torch.float32 else FUSION
    assert [op for op in log if op in (FIA, FUSION, PADDED)] == [expected]


@pytest.mark.parametrize("name", sorted(CASES))
def test_equals_reference_on_310p(name: str, monkeypatch: pytest.MonkeyPatch, simulator: Any) -> None:
    monkeypatch.setattr(simulator, "soc", "Ascend310P3")
    log = run_both(CASES[name], 4, 2, 32, torch.float16)
    assert PADDED in log
    assert FIA not in log


def test_310p_pads_queries_to_keys_where_that_is_little(monkeypatch: pytest.MonkeyPatch, simulator: Any) -> None:
    """The simulated operator refuses any other rectangle with a mask, as the real one does."""
    monkeypatch.setattr(simulator, "soc", "Ascend310P3")
    prefix = make_case([70, 30, 40], [[("row", 0, 70)]], [-1, 0, 0])
    log = run_both(prefix, 4, 2, 32, torch.float16)
    assert (log.count(PADDED), log.count("aten::_softmax")) == (1, 0)  # all three in one rectangle of 128
    reads = make_case([70, 30, 40], [[("row", 0, 70)]], [-1, 0, 0], [0, 1, 1])
    assert run_both(reads, 4, 2, 32, torch.float16).count(PADDED) == 1
    far = make_case([600, 3], [[("row", 0, 600)]], [-1, 0], [0, 3])
    log = run_both(far, 4, 2, 32, torch.float16)
    assert (log.count(PADDED), log.count("aten::_softmax")) == (0, 1)  # 3 queries are not padded to 608


@pytest.mark.parametrize("name", sorted(name for name, case in CASES.items() if case.meta.causal))
@pytest.mark.parametrize("form", ["block table", "gathered", "npu_fusion_attention", "plain torch"])
def test_every_form_equals_reference(name: str, form: attention.AttentionForm) -> None:
    log = run_both(CASES[name], 4, 2, 128, torch.float16, form)
    expected = {"npu_fusion_attention": [FUSION], "plain torch": []}.get(form, [FIA])
    assert [op for op in log if op.startswith("npu::")] == expected


@pytest.mark.parametrize("head_dim", [64, 256])
def test_grouped_heads_of_other_sizes_go_to_fia(head_dim: int) -> None:
    log = run_both(CASES["siblings"], 4, 2, head_dim, torch.bfloat16)
    assert [op for op in log if op in (FIA, FUSION)] == [FIA]


def test_heads_that_fia_does_not_document_go_to_fusion_attention() -> None:
    log = run_both(CASES["siblings"], 4, 4, 64, torch.bfloat16)
    assert FUSION in log
    assert FIA not in log


def test_a_step_without_contexts_copies_no_keys() -> None:
    log = run_both(CASES["packed"], 4, 2, 128, torch.bfloat16)
    assert "aten::index_select" not in log


def test_a_step_without_cached_rows_does_not_touch_the_kv_cache() -> None:
    log = run_both(CASES["siblings"], 4, 2, 128, torch.bfloat16)
    assert log.count("aten::index_select") == 2
    assert "aten::cat" not in log


def test_fusion_attention_is_split_at_1024_segments() -> None:
    case = make_case([1] * 1500, causal=False, head_dim=16)
    log = run_both(case, 1, 1, 16, torch.float32)
    assert log.count(FUSION) == 2


@pytest.mark.parametrize("form", ["block table", "gathered"])
def test_fia_is_split_at_4096_segments(form: attention.AttentionForm, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case([2] + [1] * 4100, [[("row", 0, 2)]], [-1, *[0] * 4100])
    log = run_both(case, 2, 1, 16, torch.float16, form)
    assert log.count(FIA) == 2


@pytest.mark.parametrize("form", ["block table", "gathered", "npu_fusion_attention"])
def test_a_step_is_split_at_the_token_limit(form: attention.AttentionForm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MAX_TOKENS", 12)
    case = make_case([4, 3, 2, 5], [[("row", 0, 4)]], [-1, 0, 0, 0])
    log = run_both(case, 2, 1, 128, torch.float16, form)
    assert log.count(FIA) + log.count(FUSION) == 3  # keys: 4 + 7, 6, 9


class TestPages:
    """What the blocks hold: shared rows once, and copies of nothing but the last, partly filled block of a context."""

    def long_case(self, prefix: int = 300, documents: tuple[int, ...] = (36, 200, 1)) -> Case:
        return make_case([prefix, *documents], [[("row", 0, prefix)]], [-1, *[0] * len(documents)])

    def test_equals_reference_beyond_one_block(self) -> None:
        run_both(self.long_case(), 4, 2, 128, torch.float16)
        chain = make_case(
            [130, 260, 7, 3],
            [[("row", 0, 130)], [("row", 0, 130), ("row", 130, 260)], [("slot", 2, 60)]],
            [-1, 0, 1, 2],
        )
        run_both(chain, 4, 2, 128, torch.float16)

    def test_whole_blocks_of_a_prefix_are_its_parents_own(self) -> None:
        host = plan_on_host(self.long_case().meta)
        laid = host.pages
        assert host.layout(paged=True) == Layout.PAGED
        tail = 300 % BLOCK
        # the parent's three blocks; each document's rows behind the tail of the prefix
        own = [-(-(tail + length) // BLOCK) for length in (36, 200, 1)]
        assert len(laid.rows) == (3 + sum(own)) * BLOCK
        assert (laid.table[:, :2] == laid.table[0, :2]).all()
        assert len(set(laid.table[1:, 2])) == 3
        assert laid.num_blocks == 3 + 3 * 2 + sum(own)  # what the operator wants to see, shared or not

    def test_rows_of_a_kept_prefix_are_laid_down_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pages, "BLOCK", 16)
        laid = plan_on_host(make_case([5, 6, 7], [[("slot", 0, 60)]], [0, 0, 0]).meta).pages
        assert len(laid.rows) == (60 // 16 + 3 * 2) * 16  # three whole blocks, and 12 rows before each document
        assert (laid.table[:, :3] == [0, 1, 2]).all()

    @pytest.mark.parametrize("block", [4, 8, 128])
    def test_every_segment_finds_its_keys(self, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pages, "BLOCK", block)
        for seed in range(20):
            host = plan_on_host(random_case(seed).meta)
            starts = np.cumsum(host.kv_lens) - host.kv_lens
            blocks = host.pages.rows.reshape(-1, block)
            for segment, (start, length) in enumerate(zip(starts, host.kv_lens, strict=True)):
                found = blocks[host.pages.table[segment]].ravel()[:length]
                assert np.array_equal(found, host.kv_rows[start : start + length])


def test_split_keeps_order_and_limits() -> None:
    rng = np.random.default_rng(0)
    q_lens = rng.integers(1, 9, 200)
    kv_lens = q_lens + rng.integers(0, 9, 200)
    calls = list(split(q_lens, kv_lens, max_segments=16, max_tokens=100))
    assert all(len(call.q_ends) <= 16 and call.q_ends[-1] <= 100 and call.kv_ends[-1] <= 100 for call in calls)
    assert calls[0].q.start == 0
    assert all(a.q.stop == b.q.start and a.kv.stop == b.kv.start for a, b in itertools.pairwise(calls))
    lens = [np.diff([0, *call.q_ends]) for call in calls]
    assert np.array_equal(np.concatenate(lens), q_lens)


def test_cached_rows_are_gathered_once_however_many_share_them() -> None:
    case = make_case([2] * 10, [[("slot", 0, 30)], [("slot", 0, 30), ("slot", 40, 5)]], [0, 1] * 5)
    host = plan_on_host(case.meta)
    assert len(host.cached_rows) == 35
    assert len(host.kv_rows) == 10 * 2 + 5 * 30 + 5 * 35


def random_case(seed: int) -> Case:
    """Segments of random lengths that see up to three ranges each, of the KV cache and of earlier rows of the step."""
    rng = np.random.default_rng(seed)
    own_lens = rng.integers(1, 9, rng.integers(2, 8)).tolist()
    rows_before = np.cumsum([0, *own_lens])
    contexts: list[list[tuple[str, int, int]]] = []
    for segment in range(1, len(own_lens)):
        ranges: list[tuple[str, int, int]] = []
        for _ in range(rng.integers(0, 4)):
            kind = "slot" if rng.random() < 0.5 else "row"
            limit = KV_CAPACITY if kind == "slot" else int(rows_before[segment])
            start = int(rng.integers(0, limit))
            ranges.append((kind, start, int(rng.integers(1, min(12, limit - start) + 1))))
        contexts.append(ranges)
    ids = [-1, *(i if contexts[i] and rng.random() < 0.8 else -1 for i in range(len(contexts)))]
    q_lens = [int(rng.integers(0, n + 1)) for n in own_lens] if seed % 2 else None
    if q_lens is not None and not any(q_lens):
        q_lens[0] = own_lens[0]
    return make_case(own_lens, contexts, ids, q_lens, head_dim=16)


@pytest.mark.parametrize("seed", range(12))
def test_random_steps(seed: int) -> None:
    run_both(random_case(seed), 2, 1, 16, torch.float32)
    run_both(random_case(seed), 2, 1, 16, torch.float16)


@pytest.mark.parametrize("seed", range(6))
def test_random_steps_on_310p(seed: int, monkeypatch: pytest.MonkeyPatch, simulator: Any) -> None:
    monkeypatch.setattr(simulator, "soc", "Ascend310P3")
    run_both(random_case(seed), 2, 1, 16, torch.float16)
