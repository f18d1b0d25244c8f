"""An encoder reranker (cross-encoder) or embedder: embeddings, layers, and the head on each pair's read token.

Every token attends to all of its pair, so nothing is shared between pairs and nothing outlives a step; pairs lie behind
one another without padding. Families are values of ``EncoderShape``, some with an attention of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.backends.kv_cache import KVCache, KVShape
from engine.backends.loading.parameters import Parameters, Rows
from engine.backends.nn.encoder_head import EncoderHead, HeadNames, mean_of_segments
from engine.backends.nn.encoder_layers import EncoderLayer, EncoderShape, Norm, SelfAttention
from engine.backends.nn.parallel import WordTable
from engine.backends.packed_batch import PackedBatch
from engine.backends.tensor_parallel import TPGroup
from engine.errors import ModelLoadError
from engine.kernels.ops import LayerShape
from engine.model_spec import ModelSpec

AttentionMaker = Callable[[int, bool], SelfAttention]
"""(layer, whether it computes the read tokens only) -> its attention."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingShape:
    """The tables that are added up for each token. Zero rows: there is no such table."""

    words: str = "embeddings.word_embeddings"
    norm: str = "embeddings.LayerNorm"
    num_positions: int = 0
    position_offset: int = 0
    """Row of the first token's position."""
    size: int | None = None
    """Of the vectors of the tables, which ``projection`` brings to the hidden size; None: they have it."""
    projection: str = "embeddings_project"


class Encoder:
    """Implements ``models.Model``."""

    kv_shape: KVShape | None = None

    def __init__(
        self,
        spec: ModelSpec,
        shape: EncoderShape,
        embedding: EmbeddingShape,
        head: HeadNames,
        params: Parameters,
        *,
        attention: AttentionMaker | None = None,
        graphable: bool = False,
        adaptable: bool = True,
        final_norm: str | None = None,
        unused: tuple[str, ...] = (),
    ) -> None:
        """``graphable``, ``adaptable``: the family's own ``attention`` is. ``unused``: how the names of tensors begin
        that checkpoints of this family may hold beside what is needed."""
        _check(spec, shape)
        self.adaptable = adaptable
        self.ops, self.shape, self.embedding, self.dtype = params.ops, shape, embedding, params.dtype
        self.scale = (shape.head_dim * shape.score_terms) ** -0.5
        self.layer_shape = _layer_shape(shape, params.tp_group, self.scale)
        self.reads_all, self.reads_tokens = spec.head.pooling in ("mean", "tokens"), spec.head.pooling == "tokens"
        # Means are taken with tables that the host builds for each step.
        self.graphable = (attention is None or graphable) and not self.reads_all
        make = attention or (lambda index, reads_only: SelfAttention(params, shape, index, reads_only=reads_only))
        self._make_tables(params)
        self.layers: list[EncoderLayer] = []
        for index in range(shape.num_layers):
            with params.using(params.ops.of_layer(index)):
                attention_of = make(index, index == shape.num_layers - 1 and not self.reads_all)
                self.layers.append(EncoderLayer(params, shape, index, attention_of))
        self.final_norm = (
            Norm(params, final_norm, shape.hidden, shape.eps, bias=shape.norm_bias) if final_norm else None
        )
        self.head = EncoderHead(params, spec, shape.hidden, shape.eps, head)
        self.num_outputs = self.head.num_outputs
        params.skip(*unused)

    def _make_tables(self, params: Parameters) -> None:
        shape, embedding = self.shape, self.embedding
        size = embedding.size or shape.hidden
        self.words = WordTable(params, f"{embedding.words}.weight", shape.vocab_size, size)
        self.positions = self.token_types = None
        if embedding.num_positions:
            name = "embeddings.position_embeddings.weight"
            self.positions = params.table(name, embedding.num_positions, size)
        if shape.num_token_types:
            name = "embeddings.token_type_embeddings.weight"
            self.token_types = params.table(name, shape.num_token_types, size)
        self.embedding_norm = Norm(params, embedding.norm, size, shape.eps, bias=shape.norm_bias)
        self.projection = None
        if size != shape.hidden:
            self.projection = params.linear([Rows(embedding.projection, shape.hidden)], size, bias=True)

    def finish(self) -> None:
        for layer in self.layers:
            layer.attention.finish()
        self.head.finish()

    def forward(self, batch: PackedBatch, kv_cache: KVCache) -> torch.Tensor:
        if not batch.num_reads:
            return self.words.table.new_empty(0, self.num_outputs, dtype=torch.float32)
        x = self._embed(batch)
        for layer in self.layers:
            x = layer(x, batch)
        if self.final_norm is not None:
            x = self.final_norm(x)
        if self.reads_tokens:
            return self.head(x.index_select(0, batch.read_rows))
        return self.head(mean_of_segments(x, batch) if self.reads_all else x)

    def _embed(self, batch: PackedBatch) -> torch.Tensor:
        x = self.words(batch.token_ids).to(self.dtype)
        if self.token_types is not None:
            types = batch.token_type_ids
            x = x + (self.token_types[0] if types is None else F.embedding(types, self.token_types)).to(self.dtype)
        if self.positions is not None:
            rows = batch.positions + self.embedding.position_offset
            x = x + F.embedding(rows, self.positions).to(self.dtype)
        x = self.embedding_norm(x)
        return x if self.projection is None else self.ops.linear(x, self.projection)


def _check(spec: ModelSpec, shape: EncoderShape) -> None:
    if shape.hidden_act not in shape.hidden_acts:
        raise ModelLoadError(
            f"{spec.path}: activation {shape.hidden_act!r} is not supported; supported are "
            f"{', '.join(shape.hidden_acts)}"
        )
    if shape.hidden % shape.num_heads:
        raise ModelLoadError(
            f"{spec.path}: a hidden size of {shape.hidden} does not divide into {shape.num_heads} heads"
        )


def _layer_shape(shape: EncoderShape, group: TPGroup, scale: float) -> LayerShape:
    """A layer as one worker of the group computes it."""
    num_heads = len(group.part(shape.num_heads))
    return LayerShape(
        hidden=shape.hidden,
        intermediate=len(group.part(shape.intermediate)),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=shape.head_dim,
        scale=scale,
        causal=False,
        gated=shape.is_gated,
        hidden_act=shape.hidden_act,
        rms_norm=False,
        eps=shape.eps,
    )
