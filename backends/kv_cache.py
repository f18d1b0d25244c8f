"""Keys and values that outlive a step: one pair of tensors a layer, addressed by slots that the scheduler hands out.

There are no pages and no block tables: a segment's tokens lie in one run of slots. The tensors are made once and left
unwritten, so on a CPU the slots that nobody used cost no memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.backends.packed_batch import PackedBatch


@dataclass(frozen=True)
class KVShape:
    """The keys and values of one token: so many layers, heads and numbers a head."""

    num_layers: int
    num_kv_heads: int
    head_dim: int

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * dtype.itemsize


class KVCache:
    """``keys[layer]`` and ``values[layer]`` are (capacity, M, H); ``by_head`` lays out each head's slots together."""

    def __init__(
        self,
        shape: KVShape,
        capacity: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        by_head: bool = False,
        spare: bool = False,
    ) -> None:
        """``spare``: one slot more, which nothing reads; recorded steps write there what nobody keeps."""
        self.capacity = self.pad_slot = capacity
        capacity += spare
        num_heads, size = shape.num_kv_heads, shape.head_dim

        def slots() -> torch.Tensor:
            if by_head:
                return torch.empty(num_heads, capacity, size, dtype=dtype, device=device).transpose(0, 1)
            return torch.empty(capacity, num_heads, size, dtype=dtype, device=device)

        self.keys = [slots() for _ in range(shape.num_layers)]
        self.values = [slots() for _ in range(shape.num_layers)]

    def layer(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer; none, like those of the step, for a model that keeps none."""
        return (self.keys[layer], self.values[layer]) if self.keys else (k[:0], v[:0])

    def keep(self, layer: int, k: torch.Tensor, v: torch.Tensor, batch: PackedBatch) -> None:
        """Store the rows that the step keeps. Call it after the layer's attention: a slot may be read and reused."""
        if len(batch.keep_rows):
            self.keys[layer].index_copy_(0, batch.keep_slots, k.index_select(0, batch.keep_rows))
            self.values[layer].index_copy_(0, batch.keep_slots, v.index_select(0, batch.keep_rows))
