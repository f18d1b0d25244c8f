"""Two forms of the same attention: torch's own kernel on gathered keys, and the Triton kernel that gathers nothing.

The plain form puts each segment's context rows in front of its own keys and calls the variable-length FlashAttention
inside torch; the range form reads ranges where they are. Which one a model uses is measured at warm-up
(``choose_form``); the other one is what it is checked against.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from engine.errors import DeviceError
from engine.kernels.ops import AttentionMeta
from engine.kernels.ranges import expand_ranges
from engine.kernels.triton.attention import (
    AttentionConfig,
    AttentionTables,
    plan_tables,
    range_attention,
    tokens_per_tile,
)
from engine.kernels.triton.launch import OutOfResources

AGREEMENT = 2e-2
"""Largest difference of two forms in half precision, relative to 1 + the value: a few units in the last place."""


CACHE = "cuda"
"""Key of the step's ``PreparedAttention`` in ``AttentionMeta.cache``."""


class AttentionForm(Protocol):
    """``tables`` runs on the host once a step and meta; ``attend`` once a layer, with its arrays on the device."""

    @property
    def name(self) -> str: ...

    def tables(self, meta: AttentionMeta, group: int) -> list[np.ndarray]: ...

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor,
        meta: AttentionMeta, tables: Sequence[torch.Tensor],
    ) -> torch.Tensor: ...  # fmt: skip


@dataclass(frozen=True, eq=False)
class PreparedAttention:
    """A form and its tables for one step, on the device."""

    form: AttentionForm
    tables: list[torch.Tensor]


def step_tables(
    form: AttentionForm, metas: Sequence[AttentionMeta], group: int
) -> tuple[list[np.ndarray], list[list[int]]]:
    """The tables of all ``metas`` of a step, each array once, and for each meta which of them are its own.

    The metas of one step have the same ranges: what is one array goes up once.
    """
    tables: list[np.ndarray] = []
    numbers = [[_number_of(table, tables) for table in form.tables(meta, group)] for meta in metas]
    return tables, numbers


def _number_of(table: np.ndarray, tables: list[np.ndarray]) -> int:
    """Where ``table`` stands in ``tables``, at whose end it is put if it is not there."""
    for number, known in enumerate(tables):
        if known is table:
            return number
    tables.append(table)
    return len(tables) - 1


@dataclass(frozen=True)
class RangeForm:
    """The Triton kernel."""

    config: AttentionConfig

    @property
    def name(self) -> str:
        return f"triton-{self.config.block_m}x{self.config.block_n}"

    def tables(self, meta: AttentionMeta, group: int) -> list[np.ndarray]:
        return list(plan_tables(meta, tokens_per_tile(self.config, group)))

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor,
        meta: AttentionMeta, tables: Sequence[torch.Tensor],
    ) -> torch.Tensor:  # fmt: skip
        return range_attention(
            q,
            k,
            v,
            k_cache,
            v_cache,
            AttentionTables(*tables),
            kv_capacity=meta.kv_capacity,
            scale=meta.scale,
            causal=meta.causal,
            window=meta.window,
            score_cap=meta.score_cap,
            config=self.config,
        )


@dataclass(frozen=True)
class GatherForm:
    """FlashAttention on copies. The aten op is called directly: its Python wrapper differs between torch versions."""

    name: str = "flash-gather"
    flash: Callable[..., Any] = field(default=torch.ops.aten._flash_attention_forward, repr=False)

    def tables(self, meta: AttentionMeta, group: int) -> list[np.ndarray]:
        """cu_seqlens of queries and keys; then the source and target rows of keys, of the KV cache and of the step."""
        if not len(meta.q_lens):  # a step that scores nothing yet
            return []
        segments, starts, lengths = _key_parts(meta)
        k_lens = np.bincount(segments, lengths, minlength=len(meta.q_lens)).astype(np.int64)
        meta.cache["max_lens"] = int(meta.q_lens.max()), int(k_lens.max())
        source = expand_ranges(starts, lengths)
        target = np.arange(len(source))
        is_cached = source < meta.kv_capacity
        return [
            np.append(0, np.cumsum(meta.q_lens)).astype(np.int32),
            np.append(0, np.cumsum(k_lens)).astype(np.int32),
            source[is_cached].astype(np.int32),
            target[is_cached].astype(np.int32),
            (source[~is_cached] - meta.kv_capacity).astype(np.int32),
            target[~is_cached].astype(np.int32),
        ]

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor,
        meta: AttentionMeta, tables: Sequence[torch.Tensor],
    ) -> torch.Tensor:  # fmt: skip
        cu_q, cu_k, *gather = tables
        max_q, max_k = meta.cache["max_lens"]
        keys, values = _gather(k, k_cache, *gather), _gather(v, v_cache, *gather)
        out = self.flash(
            q.contiguous(), keys, values, cu_q, cu_k, max_q, max_k, 0.0, meta.causal, False, scale=meta.scale
        )[0]
        return out.flatten(1)


def _key_parts(meta: AttentionMeta) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(segment, start, length) of every range that a segment sees, its own last; starts count from ``kv_capacity``."""
    num_ranges = np.diff(meta.context_indptr)
    has_context = meta.context_ids >= 0
    context = np.where(has_context, meta.context_ids, 0)
    counts = np.append(num_ranges, 0)[context] * has_context
    first = np.append(meta.context_indptr, 0)[context]
    ranges = meta.context_ranges.reshape(-1, 2)[expand_ranges(first, counts)]
    segments = np.concatenate([np.repeat(np.arange(len(counts)), counts), np.arange(len(counts))])
    starts = np.concatenate([ranges[:, 0], meta.own_starts + meta.kv_capacity]).astype(np.int64)
    lengths = np.concatenate([ranges[:, 1], meta.own_lens]).astype(np.int64)
    order = np.argsort(segments, kind="stable")
    return segments[order], starts[order], lengths[order]


def _gather(
    step: torch.Tensor, cache: torch.Tensor, from_cache: torch.Tensor, to_cached: torch.Tensor,
    from_step: torch.Tensor, to_step: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Rows in front of each other as the plain form wants them."""
    if not len(from_cache):
        return step.index_select(0, from_step)
    rows = step.new_empty(len(from_cache) + len(from_step), *step.shape[1:])
    rows.index_copy_(0, to_cached.long(), cache.index_select(0, from_cache))
    rows.index_copy_(0, to_step.long(), step.index_select(0, from_step))
    return rows


def sample_step(prefix: int, lengths: Sequence[int], device: torch.device, scale: float) -> AttentionMeta:
    """A step like a real one: one shared parent, then children of these lengths."""
    own_lens = np.array([prefix, *lengths])
    starts = np.cumsum(own_lens) - own_lens
    return AttentionMeta(
        q_starts=starts,
        q_lens=own_lens,
        own_starts=starts,
        own_lens=own_lens,
        context_ids=np.array([-1, *np.zeros(len(lengths), np.int64)]),
        context_indptr=np.array([0, 1]),
        context_ranges=np.array([[0, prefix]]),
        kv_capacity=0,
        scale=scale,
        causal=True,
        device=device,
    )


@dataclass(frozen=True)
class Measured:
    form: AttentionForm
    seconds: float
    difference: float
    """From the first form of the list, at most."""
    failure: str = ""
    """What stopped it: it does not compile, or does not fit this GPU."""

    @property
    def agrees(self) -> bool:
        return not self.failure and self.difference <= AGREEMENT


def measure_forms(
    forms: Sequence[AttentionForm],
    metas: Sequence[AttentionMeta],
    shape: tuple[int, int, int],
    *,
    dtype: torch.dtype,
    seconds_of: Callable[[Callable[[], Any]], float],
    is_lost: Callable[[BaseException], bool] = lambda error: False,
) -> list[Measured]:
    """Each form on random tensors; ``shape`` is (query heads, key heads, head size). Compared with the first form that
    runs. ``seconds_of`` times one call on the device. A form that fails is not used, unless the failure ``is_lost``:
    then the device is gone, and with it the start."""
    heads, kv_heads, head_dim = shape
    seconds, difference, failures = [0.0] * len(forms), [0.0] * len(forms), [""] * len(forms)
    for meta in metas:
        qkv = torch.randn(int(meta.own_lens.sum()), heads + 2 * kv_heads, head_dim, dtype=dtype, device=meta.device)
        q, k, v = qkv.split([heads, kv_heads, kv_heads], dim=1)
        cache = qkv.new_empty(0, kv_heads, head_dim)
        expected = None
        for index, form in enumerate(forms):
            try:
                tables = [torch.from_numpy(table).to(meta.device) for table in form.tables(meta, heads // kv_heads)]
                out = form.attend(q, k, v, cache, cache, meta, tables)
                seconds[index] += seconds_of(partial(form.attend, q, k, v, cache, cache, meta, tables))
            except Exception as error:
                if is_lost(error):
                    raise
                seconds[index], failures[index] = math.inf, _in_words(error)
                continue
            expected = out.float() if expected is None else expected
            relative = (out.float() - expected).abs() / (1.0 + expected.abs())
            difference[index] = max(difference[index], relative.nan_to_num(nan=math.inf).max().item())
    return [Measured(*row) for row in zip(forms, seconds, difference, failures, strict=True)]


def _in_words(error: Exception) -> str:
    if isinstance(error, OutOfResources):  # a tile that needs more shared memory than this GPU has
        return "does not fit this GPU"
    return f"fails ({type(error).__name__}: {' '.join(str(error).split())[:200]})"


def choose_form(measured: Sequence[Measured]) -> tuple[AttentionForm, str]:
    """The fastest form that agrees with the first one (the plain one), and why, for the log.

    Raises ``DeviceError`` where no form works.
    """
    agreeing = [row for row in measured if row.agrees]
    if not agreeing:
        raise DeviceError("no form of attention works on this GPU: " + "; ".join(map(_refusal, measured)))
    best = min(agreeing, key=lambda row: row.seconds)
    listed = ", ".join(f"{row.form.name} {row.seconds * 1e6:.0f} us" for row in measured)
    refused = [_refusal(row) for row in measured if not row.agrees]
    return best.form, "; ".join([f"attention {best.form.name}, measured per layer: {listed}", *refused])


def _refusal(row: Measured) -> str:
    return f"{row.form.name} " + (row.failure or f"is off by {row.difference:.2g}: not used")
