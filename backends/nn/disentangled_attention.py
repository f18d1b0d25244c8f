"""DeBERTa's attention (He et al. 2021, arXiv 2006.03654): scores of content with content, and of content with distance.

score(i, j) = (q_i . k_j + q_i . K[d(i, j)] + k_j . Q[d(i, j)]) / sqrt(3 H), where d is the distance i - j, exact when
small and in logarithmic buckets beyond, and K and Q are projections of one table of distance embeddings. They do not
depend on the text, so they are computed once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from engine.backends.loading.parameters import Parameters, Rows
from engine.backends.nn.encoder_layers import EncoderShape, Norm, SelfAttention
from engine.kernels.ops import Activation, AttentionMeta
from engine.kernels.padded_attention import attend_near


@dataclass(frozen=True, kw_only=True)
class DistanceShape:
    span: int
    """Distances beyond it count as it."""
    num_buckets: int
    """Buckets of distances on either side; 0: every distance is exact."""
    max_distance: int
    """The distance at which the logarithmic buckets end."""
    kinds: tuple[str, ...]
    """Of ``c2p`` (content with distance) and ``p2c`` (distance with content)."""
    shared: bool
    """Distances are projected like content; else by projections of their own."""


class Distances:
    """The model's table of distance embeddings, and which row stands for which distance. Shared by all layers."""

    def __init__(
        self, params: Parameters, shape: EncoderShape, distances: DistanceShape, *, normed: bool, max_len: int
    ):
        self.shape = distances
        self.table = params.table("encoder.rel_embeddings.weight", 2 * distances.span, shape.hidden)
        self.norm = Norm(params, "encoder.LayerNorm", shape.hidden, shape.eps) if normed else None
        self.max_len = max_len
        apart = torch.arange(1 - max_len, max_len)
        rows = bucketed(apart, distances.num_buckets, distances.max_distance) + distances.span
        self.rows = rows.clamp(0, 2 * distances.span - 1).to(params.device)

    def embeddings(self, dtype: torch.dtype) -> torch.Tensor:
        """(2 * span, D)."""
        table = self.table.to(dtype)
        return table if self.norm is None else self.norm(table)


def bucketed(distances: torch.Tensor, num_buckets: int, max_distance: int) -> torch.Tensor:
    """Distances up to half of ``num_buckets`` as they are, those up to ``max_distance`` in buckets that grow."""
    if num_buckets <= 0 or max_distance <= 0:
        return distances
    half = num_buckets // 2
    is_near = (distances < half) & (distances > -half)
    far = torch.where(is_near, torch.full_like(distances, half - 1), distances.abs()).float()
    steps = torch.ceil(torch.log(far / half) / math.log((max_distance - 1) / half) * (half - 1)) + half
    return torch.where(far <= half, distances.float(), steps * distances.sign()).long()


class DisentangledAttention(SelfAttention):
    def __init__(
        self, params: Parameters, shape: EncoderShape, index: int, *, reads_only: bool, distances: Distances
    ) -> None:
        super().__init__(params, shape, index, reads_only=reads_only)
        self.distances, self.dtype = distances, params.dtype
        prefix = f"{shape.layer.format(index)}.attention.self."
        self.own = {}
        if not distances.shape.shared:
            for kind, name in (("c2p", "pos_key_proj"), ("p2c", "pos_query_proj")):
                if kind in distances.shape.kinds:
                    rows = Rows(prefix + name, shape.hidden).part(params.tp_group, shape.num_heads)
                    self.own[kind] = params.linear([rows], shape.hidden, bias=True)
        self.projected: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def finish(self) -> None:
        """(N, H, 2 * span) fp32: distances as keys for ``c2p``, as queries for ``p2c``. N: this worker's heads."""
        embedded = self.distances.embeddings(self.dtype)
        size = self.num_heads * self.shape.head_dim
        if self.distances.shape.shared:
            columns = torch.cat([self.ops.linear(embedded, weight) for weight in self.projections], dim=1)
            found = {"p2c": columns[:, :size], "c2p": columns[:, size : 2 * size]}
        else:
            found = {kind: self.ops.linear(embedded, weight) for kind, weight in self.own.items()}
        scale = (self.shape.head_dim * self.shape.score_terms) ** -0.5
        for kind in self.distances.shape.kinds:
            heads = found[kind].float().view(len(embedded), self.num_heads, self.shape.head_dim)
            self.projected[kind] = (heads * scale).permute(1, 2, 0).contiguous()

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, meta: AttentionMeta, positions: torch.Tensor
    ) -> Activation:
        return attend_near(q, k, v, meta, positions, bias=self._bias)

    def _bias(self, queries: torch.Tensor, keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        columns = torch.arange(keys.shape[2], device=keys.device)
        rows = self.distances.rows[positions.unsqueeze(-1) - columns + self.distances.max_len - 1].unsqueeze(1)
        rows = rows.expand(-1, queries.shape[1], -1, -1)
        bias = torch.zeros((), device=keys.device)
        if "c2p" in self.projected:
            bias = bias + (queries @ self.projected["c2p"]).gather(3, rows)
        if "p2c" in self.projected:
            bias = bias + (keys @ self.projected["p2c"]).gather(3, rows.transpose(2, 3)).transpose(2, 3)
        return bias
