"""Packed attention with torch_npu: which operator, and how it finds its keys.

``npu_fused_infer_attention_score`` (FIA) is the operator of inference: no softmax statistics to write, GQA without
repeating keys, graphs. It takes float16 and bfloat16, heads up to 256 where queries are grouped and of 128 elsewhere,
and at most 4096 sequences. Everything else goes to ``npu_fusion_attention``: any head up to 768, float32, bidirectional
models, at most 1024 sequences of 1M tokens in all. It is the training operator: no block tables, no graphs.

The forms, best first; each computes the same, and a self-test at start decides (``forms.py``):

* FIA by **block table**: what is shared is read in place, lengths of keys are given segment by segment. Where every
  segment has as many queries as keys nothing is shared, and the keys are read in place, by cumulative lengths.
* FIA on **gathered** keys: contexts are copied in front of each segment's own keys, cumulative lengths.
* ``npu_fusion_attention`` on gathered keys.

Lengths are **host** lists; cumulative ones have no leading zero. A causal step uses ``sparse_mode`` 3: the triangle is
aligned at the bottom right, which is exactly "a context without mask, then its own tokens causally". The mask for it is
always the same 2048 x 2048 triangle (1 = hidden), whatever the lengths.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch_npu

from engine.kernels.npu.pages import BLOCK
from engine.kernels.npu.plan import AttentionPlan, Launch, Layout, gather, make_plan
from engine.kernels.ops import AttentionMeta

AttentionForm = Literal["block table", "gathered", "npu_fusion_attention", "npu_prompt_flash_attention", "plain torch"]
"""The first three are here; see ``attention_310p.py`` and ``reference_attention.py`` for the others."""
FIA_DTYPES = (torch.float16, torch.bfloat16)
FIA_MAX_HEAD_DIM = 256
FIA_HEAD_DIM_UNGROUPED = 128
FIA_MAX_SEGMENTS = 4096
FUSION_MAX_SEGMENTS = 1024
FUSION_MAX_HEAD_DIM = 768
MAX_TOKENS = 1 << 20
"""Of either operator."""
FULL, CAUSAL_RIGHT_DOWN = 0, 3
MASK_SIZE = 2048
PLAN = "npu"
"""Key of the plan in ``AttentionMeta.cache``; graphs put theirs there."""


class NotCapturableError(Exception):
    """This model's attention has no operator that graphs can hold."""


def compressed_mask(device: torch.device) -> torch.Tensor:
    return torch.ones(MASK_SIZE, MASK_SIZE, dtype=torch.bool).triu(1).to(device)


def can_use_fia(num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, *, causal: bool) -> bool:
    """Bidirectional models never do: FIA without a mask returned averages on some stacks (vllm-ascend #13699)."""
    grouped = num_heads != num_kv_heads and head_dim <= FIA_MAX_HEAD_DIM and head_dim % 16 == 0
    return causal and dtype in FIA_DTYPES and (grouped or head_dim == FIA_HEAD_DIM_UNGROUPED)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    meta: AttentionMeta,
    mask: torch.Tensor,
    form: AttentionForm,
) -> torch.Tensor:
    """See ``Ops.attention``; ``mask``: ``compressed_mask()``."""
    plan: AttentionPlan | None = meta.cache.get(PLAN)
    if plan is None:
        plan = meta.cache[PLAN] = make_plan(meta, paged=form == "block table")
    if plan.for_graph:
        plan.layers.append(plan)
    fia = form != "npu_fusion_attention"
    # Without a rotation between, queries are still views of the fused projection.
    q, keys, values = q.contiguous(), gather(k, k_cache, plan), gather(v, v_cache, plan)
    outs = []
    for launch in plan.launches_within(
        max_segments=FIA_MAX_SEGMENTS if fia else FUSION_MAX_SEGMENTS, max_tokens=MAX_TOKENS
    ):
        if plan.layout == Layout.PAGED:
            outs.append(_attend_pages(q[launch.q], keys, values, plan, launch, meta.scale, mask))
            continue
        parts = (q[launch.q], keys[launch.kv], values[launch.kv])
        if fia:
            outs.append(_fused_infer_attention(*parts, launch, meta.scale, mask))
        else:
            outs.append(_fusion_attention(*parts, launch, meta.scale, mask if meta.causal else None))
    return (outs[0] if len(outs) == 1 else torch.cat(outs)).flatten(1)


def _attend_pages(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    plan: AttentionPlan,
    launch: Launch,
    scale: float,
    mask: torch.Tensor,
) -> torch.Tensor:
    """q (Tq, N, H), keys and values (num_blocks, 128, M * H)."""
    assert plan.table is not None
    out, _ = torch_npu.npu_fused_infer_attention_score(
        q,
        keys,
        values,
        atten_mask=mask,
        block_table=plan.table[launch.segments],
        actual_seq_lengths=launch.q_ends,
        actual_seq_lengths_kv=launch.kv_lens,
        num_heads=q.shape[1],
        num_key_value_heads=keys.shape[2] // q.shape[2],
        scale=scale,
        input_layout="TND",
        block_size=BLOCK,
        sparse_mode=CAUSAL_RIGHT_DOWN,
    )  # the second output is a placeholder whose size is not even documented: never read it
    return out


def _fused_infer_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, launch: Launch, scale: float, mask: torch.Tensor
) -> torch.Tensor:
    out, _ = torch_npu.npu_fused_infer_attention_score(
        q,
        k,
        v,
        atten_mask=mask,
        actual_seq_lengths=launch.q_ends,
        actual_seq_lengths_kv=launch.kv_ends,
        num_heads=q.shape[1],
        num_key_value_heads=k.shape[1],
        scale=scale,
        input_layout="TND",
        sparse_mode=CAUSAL_RIGHT_DOWN,
    )
    return out


def _fusion_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, launch: Launch, scale: float, mask: torch.Tensor | None
) -> torch.Tensor:
    return torch_npu.npu_fusion_attention(
        q,
        k,
        v,
        head_num=q.shape[1],  # grouped queries are seen from the shapes
        input_layout="TND",
        atten_mask=mask,
        scale=scale,
        actual_seq_qlen=launch.q_ends,
        actual_seq_kvlen=launch.kv_ends,
        sparse_mode=FULL if mask is None else CAUSAL_RIGHT_DOWN,
    )[0]
