"""The plain form of attention (gathered keys) against the reference, and the choice between forms."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from engine.backends.cuda.attention import (
    AGREEMENT,
    AttentionForm,
    GatherForm,
    Measured,
    RangeForm,
    choose_form,
    measure_forms,
    sample_step,
)
from engine.backends.cuda.tuning import SIZES
from engine.errors import DeviceError
from engine.kernels.ops import AttentionMeta
from engine.kernels.reference import ReferenceOps
from engine.kernels.triton.attention import AttentionConfig, candidate_configs
from engine.kernels.triton.launch import OutOfResources
from tests.cuda.test_attention import CASES, build

SMALL = RangeForm(AttentionConfig(16, 16, 1, 1))


def dense_flash(
    q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, dropout: float, causal: bool, debug: bool,
    *, scale: float,
) -> tuple[torch.Tensor]:  # fmt: skip
    """What the aten op does: each sequence alone, causal aligned at the end, key heads repeated."""
    assert dropout == 0.0
    assert debug is False
    assert {cu_q.dtype, cu_k.dtype} == {torch.int32}
    out = torch.empty_like(q)
    for (q0, q1), (k0, k1) in zip(cu_q.unfold(0, 2, 1).tolist(), cu_k.unfold(0, 2, 1).tolist(), strict=True):
        assert q1 - q0 <= max_q
        assert 0 < k1 - k0 <= max_k
        group = q.shape[1] // k.shape[1]
        keys, values = (x[k0:k1].float().repeat_interleave(group, dim=1).transpose(0, 1) for x in (k, v))
        logits = q[q0:q1].float().transpose(0, 1) @ keys.transpose(1, 2) * scale
        if causal:
            hidden = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool, device=q.device).triu(k1 - k0 - (q1 - q0) + 1)
            logits = logits.masked_fill(hidden, float("-inf"))
        out[q0:q1] = (logits.softmax(-1) @ values).transpose(0, 1).to(q.dtype)
    return (out,)


def on_device(form: GatherForm | RangeForm, meta: AttentionMeta, group: int) -> list[torch.Tensor]:
    return [torch.from_numpy(table).to(meta.device) for table in form.tables(meta, group)]


@pytest.mark.parametrize("name", CASES)
def test_gathered_keys_give_the_same_attention(name: str, device: torch.device) -> None:
    q, k, v, k_cache, v_cache, meta = build(CASES[name], torch.float32, device, 4, 2, 16)
    form = GatherForm(flash=dense_flash)
    out = form.attend(q, k, v, k_cache, v_cache, meta, on_device(form, meta, 2))
    expected = ReferenceOps().attention(q, k, v, k_cache, v_cache, meta)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_torchs_own_kernel_takes_the_call() -> None:
    """Its schema and its shape function, on tensors without data; the kernel itself needs a GPU."""
    q, k, v, k_cache, v_cache, meta = build(CASES["chain of three"], torch.bfloat16, torch.device("cpu"), 4, 2, 16)
    form = GatherForm()
    q, k, v, k_cache, v_cache = (x.to("meta") for x in (q, k, v, k_cache, v_cache))
    tables = [torch.from_numpy(table).to("meta") for table in form.tables(meta, 2)]
    out = form.attend(q, k, v, k_cache, v_cache, meta, tables)
    assert out.shape == (len(q), 64)
    assert out.dtype == torch.bfloat16


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA device")
@pytest.mark.parametrize("name", CASES)
def test_torchs_own_kernel_aligns_causality_at_the_end(name: str, device: torch.device) -> None:
    q, k, v, k_cache, v_cache, meta = build(CASES[name], torch.bfloat16, device, 4, 2, 64)
    form = GatherForm()
    out = form.attend(q, k, v, k_cache, v_cache, meta, on_device(form, meta, 2))
    expected = ReferenceOps(device, torch.bfloat16).attention(q, k, v, k_cache, v_cache, meta)
    torch.testing.assert_close(out, expected, rtol=AGREEMENT, atol=AGREEMENT)


def test_a_step_without_reads_has_no_tables() -> None:
    *_, meta = build(CASES["alone"], torch.float32, torch.device("cpu"), 2, 1, 16)
    empty = {name: getattr(meta, name)[:0] for name in ("q_starts", "q_lens", "own_starts", "own_lens", "context_ids")}
    nothing = AttentionMeta(
        **empty,
        context_indptr=meta.context_indptr,
        context_ranges=meta.context_ranges,
        kv_capacity=meta.kv_capacity,
        scale=1.0,
        causal=True,
    )
    assert GatherForm().tables(nothing, 2) == []
    assert len(SMALL.tables(nothing, 2)[0]) == 0


def host_seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def test_forms_are_timed_and_compared(device: torch.device) -> None:
    metas = [sample_step(5, [9, 3], device, 0.25)]
    forms: list[AttentionForm] = [GatherForm(flash=dense_flash), SMALL]
    rows = measure_forms(forms, metas, (4, 2, 16), dtype=torch.float32, seconds_of=host_seconds)
    assert [row.form for row in rows] == forms
    assert all(row.seconds > 0 for row in rows)
    assert rows[0].difference == 0.0
    assert 0.0 < rows[1].difference < 1e-4


@dataclass(frozen=True)
class Broken:
    """A form whose kernel does not fit the GPU, or does not compile, or whose values are wrong."""

    fits: bool
    name: str = "broken"
    error: Exception | None = None

    def tables(self, meta: AttentionMeta, group: int) -> list[np.ndarray]:
        return []

    def attend(self, q: Any, k: Any, v: Any, k_cache: Any, v_cache: Any, meta: Any, tables: Any) -> torch.Tensor:
        if not self.fits:
            raise self.error or OutOfResources(300_000, 200_000, "shared memory")
        return torch.full((len(q), q.shape[1] * q.shape[2]), float("nan"), device=q.device)


def test_forms_that_do_not_run_or_give_nan_are_not_chosen(device: torch.device) -> None:
    metas = [sample_step(5, [9, 3], device, 0.25)] * 2
    forms: list[AttentionForm] = [GatherForm(flash=dense_flash), Broken(fits=False), Broken(fits=True, name="nan")]
    rows = measure_forms(forms, metas, (4, 2, 16), dtype=torch.float32, seconds_of=host_seconds)
    form, note = choose_form(rows)
    assert form is forms[0]
    assert "broken does not fit this GPU" in note
    assert "nan is off by inf: not used" in note


def test_a_form_that_fails_costs_a_line_and_a_lost_device_the_start(device: torch.device) -> None:
    metas = [sample_step(5, [9, 3], device, 0.25)]
    broken = Broken(fits=False, error=RuntimeError("no such\n  instruction"))
    forms: list[AttentionForm] = [broken, SMALL]
    form, note = choose_form(measure_forms(forms, metas, (4, 2, 16), dtype=torch.float32, seconds_of=host_seconds))
    assert form is SMALL
    assert "broken fails (RuntimeError: no such instruction)" in note
    with pytest.raises(RuntimeError, match="no such"):
        measure_forms(
            forms, metas, (4, 2, 16), dtype=torch.float32, seconds_of=host_seconds, is_lost=lambda error: True
        )
    only_broken = measure_forms([broken], metas, (4, 2, 16), dtype=torch.float32, seconds_of=host_seconds)
    with pytest.raises(DeviceError, match="no form of attention works on this GPU: broken fails"):
        choose_form(only_broken)


def test_the_fastest_form_that_agrees_is_chosen() -> None:
    plain, slow, wrong = GatherForm(), SMALL, RangeForm(AttentionConfig(32, 16, 1, 1))
    form, note = choose_form([Measured(plain, 3e-6, 0.0), Measured(slow, 5e-6, 1e-3), Measured(wrong, 1e-6, 0.5)])
    assert form is plain
    assert "triton-32x16 is off by 0.5: not used" in note
    form, note = choose_form([Measured(plain, 3e-6, 0.0), Measured(slow, 2e-6, 1e-3)])
    assert form is slow
    assert "flash-gather 3 us, triton-16x16 2 us" in note


def test_candidates_fit_any_group_of_heads() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        for config in candidate_configs(dtype, 128):
            assert config.block_m >= 16
    assert sorted(SIZES) == list(SIZES)
