"""The attention operators: packed (TND) for A2 and A3, padded (BNSD) for 310P."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import torch

from torch_npu._library import kernel
from torch_npu._state import require, state

HALVES = (torch.float16, torch.bfloat16)
_known_masks: dict[int, weakref.ref[torch.Tensor]] = {}
"""Masks that were compared once, by id; a comparison costs a millisecond."""


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, masked: torch.Tensor | None) -> Any:
    """(Sq, N, D), (Sk, M, D) -> (Sq, N, D) and the log-sum-exp (Sq, N); no keys give zeros."""
    group = q.shape[1] // k.shape[1]
    keys, values = k.float().repeat_interleave(group, 1), v.float().repeat_interleave(group, 1)
    scores = torch.einsum("qnd,knd->nqk", q.float(), keys) * scale
    if masked is not None:
        scores = scores.masked_fill(masked, float("-inf"))
    weights = torch.nan_to_num(torch.softmax(scores, -1)) if k.shape[0] else scores
    return torch.einsum("nqk,knd->qnd", weights, values).to(q.dtype), torch.logsumexp(scores, -1).T


def _check_lengths(op: str, cumulative: Any, num_tokens: int, most: int) -> list[int]:
    require(cumulative is not None and len(cumulative) > 0, op, "TND needs the cumulative lengths")
    require(len(cumulative) <= most, op, f"{len(cumulative)} sequences, at most {most} are supported")
    require(cumulative[0] > 0, op, "cumulative lengths have no leading zero")
    require(all(a <= b for a, b in itertools.pairwise(cumulative)), op, "lengths must not decrease")
    require(cumulative[-1] == num_tokens, op, f"the last cumulative length is {cumulative[-1]}, T is {num_tokens}")
    return [b - a for a, b in zip([0, *cumulative[:-1]], cumulative, strict=True)]


def _check_tensors(op: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    require(q.dim() == k.dim() == v.dim() == 3, op, "TND needs 3 dimensions")
    require(q.dtype == k.dtype == v.dtype and q.dtype in dtypes, op, f"dtypes {q.dtype}, {k.dtype}, {v.dtype}")
    require(k.shape == v.shape, op, "key and value must have one shape")
    require(all(t.is_contiguous() for t in (q, k, v)), op, "non-contiguous tensors are not supported")
    require(q.shape[1] <= 256 and q.shape[1] % k.shape[1] == 0, op, f"{q.shape[1]} query heads on {k.shape[1]}")


def _check_compressed_mask(op: str, mask: torch.Tensor | None, dtypes: tuple[torch.dtype, ...]) -> None:
    require(mask is not None, op, "sparse_mode 3 needs atten_mask")
    assert mask is not None
    require(tuple(mask.shape) == (2048, 2048), op, f"the compressed mask is 2048 x 2048, not {tuple(mask.shape)}")
    require(mask.dtype in dtypes, op, f"mask dtype {mask.dtype}")
    require(mask.is_contiguous(), op, "non-contiguous mask")
    known = _known_masks.get(id(mask))
    if known is None or known() is not mask:
        upper = torch.ones(2048, 2048, dtype=torch.bool).triu(1)
        require(torch.equal(mask.bool(), upper), op, "the mask must be 1 above the diagonal and 0 elsewhere")
        _known_masks[id(mask)] = weakref.ref(mask)


def _run_packed(q: Any, k: Any, v: Any, q_lens: list[int], kv_lens: list[int], scale: float, causal: bool) -> Any:
    outs, sums, q_at, kv_at = [], [], 0, 0
    for q_len, kv_len in zip(q_lens, kv_lens, strict=True):
        masked = torch.ones(q_len, kv_len, dtype=torch.bool).triu(kv_len - q_len + 1) if causal else None
        rows, keys = slice(q_at, q_at + q_len), slice(kv_at, kv_at + kv_len)
        out, lse = _attend(q[rows], k[keys], v[keys], scale, masked)
        outs.append(out)
        sums.append(lse)
        q_at, kv_at = q_at + q_len, kv_at + kv_len
    return torch.cat(outs), torch.cat(sums)


def _read_pages(
    op: str, cache: torch.Tensor, table: torch.Tensor, kv_lens: list[int], block_size: int, num_kv_heads: int
) -> torch.Tensor:
    """(num_blocks, block_size, M * D) and each sequence's blocks -> the keys of all sequences, (K, M, D)."""
    parts = [
        cache[table[index, : -(-kv_len // block_size)].long()].flatten(0, 1)[:kv_len]
        for index, kv_len in enumerate(kv_lens)
    ]
    return torch.cat(parts).unflatten(1, (num_kv_heads, -1))


def _check_pages(
    op: str, key: torch.Tensor, value: torch.Tensor, table: torch.Tensor, kv_lens: list[int], block_size: int
) -> None:
    """Paged attention in the layout (blocks, block size, heads * D): prompt_flash_attention_tiling.cpp, CheckPA*."""
    require(table.dim() == 2 and table.dtype == torch.int32, op, f"block_table is int32 of 2 dimensions, {table.dtype}")
    require(table.is_contiguous(), op, "non-contiguous block_table")
    require(128 <= block_size <= 512 and block_size % 128 == 0, op, f"block_size {block_size}: 128, 256, 384 or 512")
    require(key.dim() == 3 and key.shape[1] == block_size, op, f"keys of shape {tuple(key.shape)} in blocks")
    require(key.shape == value.shape and key.dtype == value.dtype, op, "key and value must agree")
    require(key.is_contiguous() and value.is_contiguous(), op, "non-contiguous tensors are not supported")
    require(key.shape[2] <= 65535, op, f"the h of key/value {key.shape[2]} should not > 65535 when PA enable")
    require(all(length >= 0 for length in kv_lens), op, "key lengths must not be negative")
    valid = sum(-(-length // block_size) for length in kv_lens)
    widest = max(-(-length // block_size) for length in kv_lens)
    require(widest > 0, op, "maxBlockNumPerBatch invalid, can not be 0")
    require(
        table.shape[0] == len(kv_lens) and table.shape[1] >= widest,
        op,
        f"block table shape should be [{len(kv_lens)}, >={widest}], now is {list(table.shape)} when PA enable",
    )
    require(
        key.shape[0] >= valid, op, f"the first dim of key({key.shape[0]}) should not less than valid block num({valid})"
    )
    require(bool(((table >= 0) & (table < key.shape[0])).all()), op, "block_table names a block that does not exist")


@kernel
def npu_fused_infer_attention_score(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    atten_mask: torch.Tensor | None = None,
    actual_seq_lengths: list[int] | None = None,
    actual_seq_lengths_kv: list[int] | None = None,
    block_table: torch.Tensor | None = None,
    block_size: int = 0,
    num_heads: int = 1,
    scale: float = 1.0,
    pre_tokens: int = 2147483647,
    next_tokens: int = 2147483647,
    input_layout: str = "BSH",
    num_key_value_heads: int = 0,
    sparse_mode: int = 0,
    inner_precise: int = 0,
    softmax_lse_flag: bool = False,
    **optional: Any,
) -> Any:
    op = "npu_fused_infer_attention_score"
    require(not state.is_310p, op, "TND is listed for A2 and A3 only")
    require(input_layout == "TND", op, f"only the layout TND is simulated, not {input_layout}")
    require(
        not any(isinstance(v, torch.Tensor) or v for v in optional.values()),
        op,
        "not supported with TND, or not simulated",
    )
    num_kv_heads = num_key_value_heads or num_heads
    require(query.dim() == 3 and query.is_contiguous(), op, "non-contiguous query, or not (T, N, D)")
    require(query.shape[1] == num_heads, op, f"num_heads is {num_heads}, query has {query.shape[1]}")
    require(num_heads % num_kv_heads == 0 and num_heads // num_kv_heads <= 64, op, "at most 64 query heads share one")
    _check_heads(op, query.dtype, num_heads, num_kv_heads, query.shape[2])
    q_lens = _check_lengths(op, actual_seq_lengths, query.shape[0], 4096)
    if block_table is None:
        _check_tensors(op, query, key, value, HALVES)
        require(key.shape[1] == num_kv_heads, op, f"num_key_value_heads {num_key_value_heads}")
        kv_lens = _check_lengths(op, actual_seq_lengths_kv, key.shape[0], 4096)
    else:
        require(query.dtype == key.dtype and query.dtype in HALVES, op, f"dtypes {query.dtype}, {key.dtype}")
        require(actual_seq_lengths_kv is not None, op, "actual seq length kv can't be null when blockTable is not null")
        kv_lens = list(actual_seq_lengths_kv or ())
        _check_pages(op, key, value, block_table, kv_lens, block_size)
        require(key.shape[2] == num_kv_heads * query.shape[2], op, f"num_key_value_heads {num_key_value_heads}")
        key, value = (_read_pages(op, t, block_table, kv_lens, block_size, num_kv_heads) for t in (key, value))
    require(max(query.shape[0], key.shape[0]) <= 1 << 20, op, "T is limited to 1M")
    require(len(q_lens) == len(kv_lens), op, "one query length for each key length")
    require(sparse_mode in (0, 3), op, f"sparse_mode {sparse_mode} is not simulated")
    if sparse_mode == 3:
        _check_compressed_mask(op, atten_mask, (torch.bool, torch.int8, torch.uint8))
        for index, (s1, s2) in enumerate(zip(q_lens, kv_lens, strict=True)):
            require(s1 <= s2, op, f"when layout is TND and sparse = 3, Batch[{index}], need s1[{s1}] <= s2[{s2}]")
    else:
        require(atten_mask is None, op, "full masks are not simulated")
    out, lse = _run_packed(query, key, value, q_lens, kv_lens, scale, sparse_mode == 3)
    return out, lse[..., None].contiguous() if softmax_lse_flag else torch.zeros(1)


def _check_heads(op: str, dtype: torch.dtype, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
    """From CANN 9.1 on, grouped queries run on a kernel for any head up to 256 in both halves
    (fused_infer_attention_score_tiling.cpp, IsUsingFAI). What does not, and all of it before, is
    prompt_flash_attention_tiling.cpp: "inputDataType should be bf16", "must be same equal 192/128/64"."""
    require(head_dim % 16 == 0, op, f"D of {head_dim}: multiples of 16")
    if state.cann >= (9, 1) and num_heads != num_kv_heads:
        require(head_dim <= 256, op, f"D is limited to 256, not {head_dim}")
        return
    if state.cann < (9, 1):
        require(dtype == torch.bfloat16, op, "When layout is TND, inputDataType should be bf16")
        require(head_dim in (64, 128), op, f"TND needs D = 64 or 128, not {head_dim}")
    else:
        require(head_dim == 128, op, f"TND without grouped queries needs D = 128, not {head_dim}")


@kernel
def npu_fusion_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    head_num: int,
    input_layout: str,
    pse: Any = None,
    padding_mask: Any = None,
    atten_mask: torch.Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = 2147483647,
    next_tockens: int = 2147483647,
    inner_precise: int = 0,
    prefix: Any = None,
    actual_seq_qlen: list[int] | None = None,
    actual_seq_kvlen: list[int] | None = None,
    sparse_mode: int = 0,
    *rest: Any,
    **optional: Any,
) -> Any:
    op = "npu_fusion_attention"
    require(not state.is_310p, op, "not listed for this product")
    require(input_layout == "TND", op, f"only the layout TND is simulated, not {input_layout}")
    require(pse is None and padding_mask is None and prefix is None and keep_prob == 1.0, op, "not simulated")
    _check_tensors(op, query, key, value, (*HALVES, torch.float32))
    require(query.shape[2] == key.shape[2] <= 768, op, "D is limited to 768")
    require(query.shape[1] == head_num, op, f"head_num is {head_num}, query has {query.shape[1]}")
    require(max(query.shape[0], key.shape[0]) <= 1 << 20, op, "T is limited to 1M")
    q_lens = _check_lengths(op, actual_seq_qlen, query.shape[0], 1024)
    kv_lens = _check_lengths(op, actual_seq_kvlen, key.shape[0], 1024)
    require(len(q_lens) == len(kv_lens), op, "one query length for each key length")
    require((sparse_mode, atten_mask is None) in {(0, True), (3, False)}, op, "only mode 0 without and 3 with a mask")
    if sparse_mode == 3:
        _check_compressed_mask(op, atten_mask, (torch.bool, torch.uint8))
    out, _ = _run_packed(query, key, value, q_lens, kv_lens, scale, sparse_mode == 3)
    aside = torch.full((*query.shape[:2], 8), float("nan"))
    return out, aside, aside.clone(), torch.empty(0), 0, 0, 0


@kernel
def npu_prompt_flash_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    atten_mask: torch.Tensor | None = None,
    num_heads: int = 1,
    scale_value: float = 1.0,
    pre_tokens: int = 2147483647,
    next_tokens: int = 0,
    input_layout: str = "BSH",
    num_key_value_heads: int = 0,
    sparse_mode: int = 0,
    **optional: Any,
) -> torch.Tensor:
    """As on 310P, the narrowest product."""
    op = "npu_prompt_flash_attention"
    require(input_layout == "BNSD", op, f"only the layout BNSD is simulated, not {input_layout}")
    require(not any(isinstance(v, torch.Tensor) or v for v in optional.values()), op, "not supported on this product")
    require(query.dtype == key.dtype == value.dtype == torch.float16, op, "float16 only on this product")
    require(all(t.is_contiguous() for t in (query, key, value)), op, "non-contiguous tensors are not supported")
    require(num_key_value_heads == 0 and sparse_mode == 0, op, "num_key_value_heads and sparse_mode must be 0 here")
    require(next_tokens in (0, 2147483647) and pre_tokens == 2147483647, op, "pre_tokens or next_tokens")
    require(query.shape[0] <= 128, op, f"{query.shape[0]} sequences, at most 128 on this product")
    require(max(query.shape[2], key.shape[2]) <= 65535, op, "S is limited to 65535")
    require(query.shape[1] == key.shape[1] == num_heads <= 256, op, "heads")
    b, _, q_len, kv_len = *query.shape[:3], key.shape[2]
    require(atten_mask is not None, op, "a padded batch needs a mask")
    assert atten_mask is not None
    require(tuple(atten_mask.shape) == (b, 1, q_len, kv_len), op, f"mask of shape {tuple(atten_mask.shape)}")
    require(atten_mask.dtype == torch.bool and atten_mask.is_contiguous(), op, "mask must be contiguous bool")
    require(next_tokens == 2147483647, op, "with a full mask next_tokens must not cut")
    require(
        not state.is_310p or (q_len == kv_len and q_len % 16 == 0),
        op,
        f"attention mask must be NULL, when Qs,Kvs is unAlign or Qs is not equal to Kvs, Qs = {q_len}, Kvs = {kv_len}",
    )
    require(not bool(atten_mask.all(-1).any()), op, "a row of the mask is 1 everywhere")
    scores = (query.float() @ key.float().transpose(-1, -2)) * scale_value
    weights = torch.softmax(scores.masked_fill(atten_mask, float("-inf")), -1)
    return (weights @ value.float()).to(query.dtype)
