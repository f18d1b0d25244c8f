"""Attention whose scores get a number that depends on the distance of the two tokens alone, one for each head.

The numbers are a table over all distances that a model can meet, made once; attention is that of
``kernels/padded_attention.py``, in plain torch. N heads of this worker, L the longest input.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.encoder_layers import EncoderShape, SelfAttention
from engine.kernels.ops import Activation, AttentionMeta
from engine.kernels.padded_attention import attend_near


class DistanceBias:
    """Added to the scaled scores; shared by all layers. ``of``: distances (2L - 1,) -> (2L - 1, heads of the model)."""

    def __init__(
        self, params: Parameters, shape: EncoderShape, max_len: int, of: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        self.max_len, self.device, self.of = max_len, params.device, of
        self.heads = params.tp_group.part(shape.num_heads)
        self.table: torch.Tensor | None = None

    def finish(self) -> None:
        """Makes the table after the last tensor was read; each layer calls it, and the first makes it."""
        if self.table is None:
            values = self.of(torch.arange(1 - self.max_len, self.max_len))
            self.table = values.float()[:, self.heads.start : self.heads.stop].T.contiguous().to(self.device)

    def __call__(self, queries: torch.Tensor, keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """As ``padded_attention.Bias``: (n, N, Q, K)."""
        assert self.table is not None
        columns = torch.arange(keys.shape[2], device=keys.device)
        rows = positions.unsqueeze(-1) - columns + self.max_len - 1
        return self.table[:, rows].transpose(0, 1)


class BiasedAttention(SelfAttention):
    """Every token sees all of its pair, nearer ones more or less than farther ones."""

    def __init__(
        self, params: Parameters, shape: EncoderShape, index: int, *, reads_only: bool, bias: DistanceBias
    ) -> None:
        super().__init__(params, shape, index, reads_only=reads_only)
        self.bias = bias

    def finish(self) -> None:
        self.bias.finish()

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, meta: AttentionMeta, positions: torch.Tensor
    ) -> Activation:
        return attend_near(q, k, v, meta, positions, bias=self.bias)


def alibi(num_heads: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """-slope |distance|, symmetric as JinaBERT has it (Press et al. 2021, arXiv 2108.12409).

    Slopes are a geometric series from 2^(-8 / n) for n heads, a power of two; others take every second slope of twice
    as many heads for those that are missing.
    """
    nearest = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8 * (i + 1) / nearest) for i in range(nearest)]
    slopes += [2.0 ** (-4 * (i + 1) / nearest) for i in range(0, 2 * (num_heads - nearest), 2)]
    return lambda distances: -distances.abs().float().unsqueeze(1) * torch.tensor(slopes)


def t5_buckets(distances: torch.Tensor, num_buckets: int = 32, max_distance: int = 128) -> torch.Tensor:
    """The bucket of query minus key (Raffel et al. 2019, arXiv 1910.10683): near distances exactly, far ones in
    buckets that grow, keys behind the query in the second half of the buckets."""
    half = num_buckets // 2
    exact = half // 2
    apart = distances.abs()
    grown = torch.log(apart.float() / exact) / math.log(max_distance / exact) * (half - exact)
    far = torch.clamp(exact + grown.clamp(min=0).long(), max=half - 1)
    return (distances < 0).long() * half + torch.where(apart < exact, apart, far)
