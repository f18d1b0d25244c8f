"""A step as tensors. This is the only place where the scheduler's arrays become tensors.

Rows are the step's tokens, segment after segment, without padding. A token's position is the length of its segment's
context plus its index in the segment, so a shared prefix is computed once and every pair keeps the positions it would
have alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.kernels.ops import AttentionMeta
from engine.kernels.ranges import expand_ranges
from engine.step import SchedulerOutput


@dataclass(frozen=True, eq=False)
class PackedPicture:
    """A picture and the rows of the step that are its features, n of them."""

    key: str
    """As ``StepPicture`` has it."""
    pixels: torch.Tensor
    """(height, width, 3) uint8."""
    rows: torch.Tensor
    """(n,) int64 rows of the step ..."""
    features: torch.Tensor
    """(n,) int64 ... and which rows of the picture's features they are."""


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Variable-length batch of one step. T tokens, R read tokens, K kept tokens."""

    token_ids: torch.Tensor
    """(T,) int64."""
    positions: torch.Tensor
    """(T,) int64."""
    attention: AttentionMeta
    """Queries are all tokens."""
    read_attention: AttentionMeta
    """Queries are the read tokens only, in the order of the step's ``read_segments``. Without queries in a step with
    ``read_offsets``: a model whose head reads several tokens of a prompt computes all rows through the last layer."""
    read_rows: torch.Tensor
    """(R,) int64 rows whose hidden states are scored."""
    read_positions: torch.Tensor
    """(R,) int64."""
    keep_rows: torch.Tensor
    """(K,) int64 rows whose keys and values outlive the step ..."""
    keep_slots: torch.Tensor
    """(K,) int64 ... and the slots of the KV cache they go to."""
    token_type_ids: torch.Tensor | None
    """(T,) int64."""
    axes: torch.Tensor | None = None
    """(T, 3) int64: positions in time, height and width, in a step with pictures before or among its tokens."""
    pictures: tuple[PackedPicture, ...] = ()

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_reads(self) -> int:
        return len(self.read_rows)


def upload_each(
    arrays: Sequence[np.ndarray], metas: Sequence[AttentionMeta], device: torch.device
) -> list[torch.Tensor]:
    """One array after the other as int64, for devices where a copy costs nothing.

    Arrays that came in a message are read-only, and torch warns of sharing their memory, so those are copied.
    """
    own = (array if array.flags.writeable else array.copy() for array in arrays)
    return [torch.from_numpy(array).to(device, torch.int64) for array in own]


@dataclass(frozen=True, kw_only=True)
class PackingRules:
    """The facts of the model and the KV cache that packing needs; the same for every step."""

    kv_capacity: int
    scale: float
    causal: bool
    read_first: bool
    """Read each segment's first token (CLS pooling), not its last."""
    device: torch.device
    upload: Callable[[Sequence[np.ndarray], Sequence[AttentionMeta], torch.device], list[torch.Tensor]] = upload_each
    """``Backend.upload``."""


def pack(scheduler_output: SchedulerOutput, rules: PackingRules) -> PackedBatch:
    attention = _attention(scheduler_output, rules)
    read = scheduler_output.read_segments
    read_attention = attention.for_reads(read if scheduler_output.read_offsets is None else read[:0])
    positions = expand_ranges(attention.seen_before, attention.q_lens)
    read_rows = _read_rows(scheduler_output, attention, read_first=rules.read_first)
    keep = scheduler_output.keep_ranges.reshape(-1, 3)
    arrays = [
        scheduler_output.token_ids,
        positions,
        read_rows,
        positions[read_rows],
        expand_ranges(keep[:, 0], keep[:, 2]),
        expand_ranges(keep[:, 1], keep[:, 2]),
        *([] if scheduler_output.token_type_ids is None else [scheduler_output.token_type_ids]),
    ]
    tensors = rules.upload(arrays, (attention, read_attention), rules.device)
    token_ids, position_ids, rows, row_positions, keep_rows, keep_slots, *token_types = tensors
    return PackedBatch(
        token_ids=token_ids,
        positions=position_ids,
        attention=attention,
        read_attention=read_attention,
        read_rows=rows,
        read_positions=row_positions,
        keep_rows=keep_rows,
        keep_slots=keep_slots,
        token_type_ids=token_types[0] if token_types else None,
        **_seen(scheduler_output, positions, rules.device),
    )


def _attention(scheduler_output: SchedulerOutput, rules: PackingRules) -> AttentionMeta:
    own_lens, key_lens = scheduler_output.segment_lens.astype(np.int64), scheduler_output.key_lens
    own_starts = own_lens.cumsum() - own_lens
    return AttentionMeta(
        q_starts=own_starts,
        q_lens=own_lens,
        own_starts=own_starts,
        own_lens=own_lens if key_lens is None else key_lens.astype(np.int64),
        context_ids=scheduler_output.context_ids,
        context_indptr=scheduler_output.context_indptr,
        context_ranges=scheduler_output.context_ranges.reshape(-1, 2),
        kv_capacity=rules.kv_capacity,
        scale=rules.scale,
        causal=rules.causal,
        device=rules.device,
    )


def _read_rows(scheduler_output: SchedulerOutput, attention: AttentionMeta, *, read_first: bool) -> np.ndarray:
    """(R,) rows of the step whose hidden states become scores."""
    read, offsets = scheduler_output.read_segments, scheduler_output.read_offsets
    starts = attention.q_starts[read]
    if offsets is not None:
        return starts + offsets
    return starts if read_first else starts + attention.q_lens[read] - 1


def _seen(scheduler_output: SchedulerOutput, positions: np.ndarray, device: torch.device) -> dict[str, Any]:
    """What only a step with pictures has. It is copied apart: what else is copied has its usual form."""
    shifts, rows = scheduler_output.position_shifts, scheduler_output.picture_rows
    if shifts is None or rows is None:
        return {}
    (axes,) = upload_each([positions[:, None] + shifts], (), device)
    pictures = []
    for number, picture in enumerate(scheduler_output.pictures):
        own = rows[rows[:, 1] == number]
        on_device = upload_each([own[:, 0].copy(), own[:, 2].copy()], (), device)
        pictures.append(PackedPicture(picture.key, torch.from_numpy(picture.pixels.copy()).to(device), *on_device))
    return {"axes": axes, "pictures": tuple(pictures)}
