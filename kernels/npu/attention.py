"""Packed attention with torch_npu: which operator, and why.

``npu_fused_infer_attention_score`` (FIA) is the operator of inference: no softmax statistics to write, GQA without
repeating keys, graphs. In the TND layout its documentation promises heads of 128 and float16 or bfloat16, at most 4096
sequences (and, in older texts, 65536 tokens). Everything else goes to ``npu_fusion_attention``: any head up to 768,
float32, bidirectional models, at most 1024 sequences of 1M tokens in all. It is the training operator: no graphs.

Both take cumulative **host** lengths without a leading zero, and for a causal step ``sparse_mode`` 3: the triangle is
aligned at the bottom right, which is exactly "a context without mask, then its own tokens causally". The mask for it is
always the same 2048 x 2048 triangle (1 = hidden), whatever the lengths.
"""

from __future__ import annotations

import torch
import torch_npu

from engine.kernels.npu.plan import AttentionPlan, Call, gather, make_plan
from engine.kernels.ops import AttentionMeta

FIA_HEAD_DIM = 128
FIA_DTYPES = (torch.float16, torch.bfloat16)
FIA_MAX_TOKENS = 65536
FIA_MAX_SEGMENTS = 4096
FUSION_MAX_TOKENS = 1 << 20
FUSION_MAX_SEGMENTS = 1024
FULL, CAUSAL_RIGHT_DOWN = 0, 3
MASK_SIZE = 2048
PLAN = "npu"
"""Key of the plan in ``AttentionMeta.cache``; graphs put theirs there."""


class NotCapturableError(Exception):
    """This model's attention has no operator that graphs can hold."""


def compressed_mask(device: torch.device) -> torch.Tensor:
    return torch.ones(MASK_SIZE, MASK_SIZE, dtype=torch.bool).triu(1).to(device)


def can_use_fia(q: torch.Tensor, *, causal: bool) -> bool:
    return causal and q.shape[-1] == FIA_HEAD_DIM and q.dtype in FIA_DTYPES


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    pool_k: torch.Tensor,
    pool_v: torch.Tensor,
    meta: AttentionMeta,
    mask: torch.Tensor,
) -> torch.Tensor:
    """See ``Ops.attention``; ``mask``: ``compressed_mask()``."""
    fia = can_use_fia(q, causal=meta.causal)
    plan: AttentionPlan | None = meta.cache.get(PLAN)
    if plan is None:
        plan = meta.cache[PLAN] = make_plan(meta)
    if plan.for_graph:
        if not fia:
            raise NotCapturableError(f"heads of {q.shape[-1]} in {q.dtype} need npu_fusion_attention")
        plan.layers.append(plan)
    # Without a rotation between, queries are still views of the fused projection.
    q, keys, values = q.contiguous(), gather(k, pool_k, plan), gather(v, pool_v, plan)
    outs = []
    for call in plan.calls_within(
        max_segments=FIA_MAX_SEGMENTS if fia else FUSION_MAX_SEGMENTS,
        max_tokens=FIA_MAX_TOKENS if fia else FUSION_MAX_TOKENS,
    ):
        parts = (q[call.q], keys[call.kv], values[call.kv])
        # One pair beyond 65536 tokens does not fit FIA, whatever the split.
        if fia and call.num_keys <= FIA_MAX_TOKENS:
            outs.append(_fused_infer_attention(*parts, call, meta.scale, mask))
        else:
            outs.append(_fusion_attention(*parts, call, meta.scale, mask if meta.causal else None))
    return (outs[0] if len(outs) == 1 else torch.cat(outs)).flatten(1)


def _fused_infer_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, call: Call, scale: float, mask: torch.Tensor
) -> torch.Tensor:
    out, _ = torch_npu.npu_fused_infer_attention_score(
        q,
        k,
        v,
        atten_mask=mask,
        actual_seq_lengths=call.q_ends,
        actual_seq_lengths_kv=call.kv_ends,
        num_heads=q.shape[1],
        num_key_value_heads=k.shape[1],
        scale=scale,
        input_layout="TND",
        sparse_mode=CAUSAL_RIGHT_DOWN,
    )  # the second output is a placeholder whose size is not even documented: never read it
    return out


def _fusion_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, call: Call, scale: float, mask: torch.Tensor | None
) -> torch.Tensor:
    return torch_npu.npu_fusion_attention(
        q,
        k,
        v,
        head_num=q.shape[1],  # grouped queries are seen from the shapes
        input_layout="TND",
        atten_mask=mask,
        scale=scale,
        actual_seq_qlen=call.q_ends,
        actual_seq_kvlen=call.kv_ends,
        sparse_mode=FULL if mask is None else CAUSAL_RIGHT_DOWN,
    )[0]
