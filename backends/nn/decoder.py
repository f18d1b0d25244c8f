"""A decoder reranker: embedding, layers, and the score of each pair. Families are values of ``DecoderShape``.

A causal one reads a pair's last token. Where every token sees all of its pair (``spec.causal`` is false), nothing is
shared between pairs or kept, and a head may read the first token, or all of them and take the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from engine.backends.kv_cache import KVCache, KVShape
from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder_layers import DecoderLayer, LastDecoderLayer, Rotary
from engine.backends.nn.decoder_shape import ACTIVATIONS, DecoderShape
from engine.backends.nn.encoder_head import EncoderHead, HeadNames, mean_of_segments
from engine.backends.nn.mlp import Stream
from engine.backends.nn.parallel import WordTable
from engine.backends.nn.pictures import Pictures
from engine.backends.nn.rotary import rope_tables
from engine.backends.nn.score_head import ScoreHead
from engine.backends.packed_batch import PackedBatch
from engine.backends.tensor_parallel import TPGroup
from engine.errors import ModelLoadError
from engine.kernels.ops import LayerShape
from engine.kernels.reference import rms_norm_fp32
from engine.model_spec import ModelSpec

EMBEDDING = "embed_tokens.weight"
NOTHING: tuple[torch.Tensor, list[torch.Tensor]] = (torch.zeros(0, dtype=torch.int64), [])
"""Rows of pictures in a step without any."""


class Decoder:
    """Implements ``models.Model``."""

    adaptable = True

    def __init__(
        self,
        spec: ModelSpec,
        shape: DecoderShape,
        params: Parameters,
        *,
        rope: Mapping[str, Mapping[str, Any]] | None = None,
        head: HeadNames | None = None,
        pictures: Pictures | None = None,
    ) -> None:
        """``rope``: what the rotation of each kind of layer is made from, where config.json alone does not say it.
        ``head``: a classification head as encoders have it, instead of ``score.weight``. ``pictures``: of a model that
        reads them."""
        _check(spec, shape)
        self.spec, self.shape = spec, shape
        self.ops, self.dtype = params.ops, params.dtype
        self.layer_shape = layer = _layer_shape(shape, params.tp_group, causal=spec.causal)
        self.kv_shape: KVShape | None = None
        if spec.causal:
            self.kv_shape = KVShape(shape.num_layers, layer.num_kv_heads, shape.head_dim)
        self.scale = shape.scale
        self.reads_all = spec.head.pooling in ("mean", "late", "tokens")
        windows = [shape.window_of(layer, spec.max_model_len) for layer in range(shape.num_layers)]
        # Windows, caps and experts have no kernel that every device can record; means need tables of the host.
        special = any(windows) or shape.score_cap is not None or shape.experts is not None
        self.graphable = not (special or self.reads_all)
        self.rotary = self._rotary(params, rope)
        self.pictures = pictures
        self.embedding = WordTable(params, EMBEDDING, shape.vocab_size, shape.hidden)
        self.layers, self.last_layer = self._layers(params, windows)
        self.norm = params.scale("norm.weight", shape.hidden, offset=shape.norm_offset)
        self.head: ScoreHead | EncoderHead
        if head is not None:
            self.head = EncoderHead(params, spec, shape.hidden, shape.eps, head)
        else:
            self.head = ScoreHead(params, spec, shape, embedding=EMBEDDING)
        self.num_outputs = self.head.num_outputs

    def _layers(
        self, params: Parameters, windows: Sequence[int | None]
    ) -> tuple[list[DecoderLayer], LastDecoderLayer | None]:
        """The layers that compute all rows, and the one that computes read tokens only, if there is such a one."""
        shape, layers = self.shape, list[DecoderLayer]()
        for index in range(shape.num_layers):
            with params.using(params.ops.of_layer(index)):
                if index == shape.num_layers - 1 and not self.reads_all:
                    return layers, LastDecoderLayer(params, shape, index, windows[index])
                layers.append(DecoderLayer(params, shape, index, windows[index]))
        return layers, None

    def _rotary(self, params: Parameters, rope: Mapping[str, Mapping[str, Any]] | None) -> list[Rotary]:
        """Of each layer; layers of one kind share their tables."""
        shape, size = self.shape, self.shape.rotated or self.shape.head_dim
        kinds = [shape.kind(layer) for layer in range(shape.num_layers)] if rope else [""] * shape.num_layers
        found: dict[str, Rotary] = {}
        for kind in dict.fromkeys(kinds):
            config = rope[kind] if rope else self.spec.config
            tables = rope_tables(
                config, size, self.spec.max_model_len, params.device, partial=shape.rotated is not None
            )
            found[kind] = Rotary(*(_padded(table, shape.head_dim, i) for i, table in enumerate(tables)))
        return [found[kind] for kind in kinds]

    def finish(self) -> None:
        self.head.finish(self.spec.path)

    def forward(self, batch: PackedBatch, kv_cache: KVCache) -> torch.Tensor:
        hidden = self.embedding(batch.token_ids).to(self.dtype)
        if self.shape.embedding_scale != 1.0:
            hidden = hidden * torch.tensor(self.shape.embedding_scale, dtype=self.dtype)  # rounded as the dtype has it
        rotaries, added = self.rotary, NOTHING
        if self.pictures is not None and batch.axes is not None:
            batch, rotaries = self._on_axes(self.pictures, batch, batch.axes)
            hidden, added = _with_pictures(self.pictures, hidden, batch)
        stream: Stream = (None, hidden)
        for layer, rotary in zip(self.layers, rotaries, strict=False):
            stream = layer(stream, batch, kv_cache, rotary)
            if layer.index < len(added[1]):  # what is added behind the last layer reaches no word
                stream = stream[0], stream[1].index_add(0, added[0], added[1][layer.index])
        if self.last_layer is None:
            return self._score_all(stream, batch)
        read = self.last_layer(stream, batch, kv_cache, rotaries[-1])
        if read is None:
            return hidden.new_empty(0, self.num_outputs, dtype=torch.float32)
        if isinstance(self.head, EncoderHead):
            return self.head(self._normed(*read))
        if self.head.pools:
            return self.head.modules(self._normed(*read))
        return self.head.finished(self.ops.score(*read, self.norm, self.shape.eps, *self.head.state))

    def _on_axes(self, pictures: Pictures, batch: PackedBatch, axes: torch.Tensor) -> tuple[PackedBatch, list[Rotary]]:
        """The batch with a row of the tables for each of its tokens, and these tables."""
        turned = {id(rotary): pictures.rotary(rotary, axes) for rotary in self.rotary}
        places = torch.arange(len(axes), device=axes.device)
        batch = replace(batch, positions=places, read_positions=batch.read_rows)
        return batch, [turned[id(rotary)] for rotary in self.rotary]

    def _score_all(self, stream: Stream, batch: PackedBatch) -> torch.Tensor:
        """A head that reads all tokens of a pair: of their mean, or the mean of its logits."""
        if not batch.num_reads:
            return stream[1].new_empty(0, self.num_outputs, dtype=torch.float32)
        if self.spec.head.pooling == "tokens":
            delta, residual = (None if x is None else x.index_select(0, batch.read_rows) for x in stream)
            assert residual is not None
            return self.head.modules(self._normed(delta, residual))
        normed, is_late = self._normed(*stream), self.spec.head.pooling == "late"
        pooled = normed if is_late else mean_of_segments(normed, batch)
        if isinstance(self.head, EncoderHead):
            logits = self.head(pooled)
        elif self.head.pools:
            logits = self.head.modules(pooled)
        else:
            logits = self.head.finished(F.linear(pooled, *self.head.state))
        return mean_of_segments(logits, batch) if is_late else logits

    def _normed(self, delta: torch.Tensor | None, residual: torch.Tensor) -> torch.Tensor:
        """The final norm in fp32, in plain torch."""
        x = residual.float() if delta is None else residual.float() + delta.float()
        return rms_norm_fp32(x, self.norm, self.shape.eps)


def _with_pictures(
    pictures: Pictures, hidden: torch.Tensor, batch: PackedBatch
) -> tuple[torch.Tensor, tuple[torch.Tensor, list[torch.Tensor]]]:
    """(T, D) with features of pictures in the place of words; rows, and what is added there behind the first layers."""
    if not batch.pictures:
        return hidden, NOTHING
    rows, (first, *deeper) = pictures.features(batch)
    return hidden.index_copy(0, rows, first.to(hidden.dtype)), (rows, [level.to(hidden.dtype) for level in deeper])


def _padded(table: torch.Tensor, head_dim: int, filler: int) -> torch.Tensor:
    """(positions, half of a head): what does not rotate has the cosine 1 and the sine 0; ``filler`` is which table."""
    missing = head_dim // 2 - table.shape[1]
    return F.pad(table, (0, missing), value=1.0 - filler) if missing else table


def _check(spec: ModelSpec, shape: DecoderShape) -> None:
    if shape.hidden_act not in ACTIVATIONS:
        raise ModelLoadError(
            f"{spec.path}: activation {shape.hidden_act!r} is not supported; supported are {', '.join(ACTIVATIONS)}"
        )
    if shape.num_heads % shape.num_kv_heads:
        raise ModelLoadError(
            f"{spec.path}: {shape.num_heads} query heads cannot share {shape.num_kv_heads} key/value heads evenly"
        )
    if not spec.causal and any(shape.window_of(layer, spec.max_model_len) for layer in range(shape.num_layers)):
        raise ModelLoadError(
            f"{spec.path} sees both ways and limits attention to {shape.window} tokens (sliding_window), which is not "
            f"supported together; --max-model-len {shape.window} makes the limit irrelevant"
        )


def _layer_shape(shape: DecoderShape, group: TPGroup, *, causal: bool) -> LayerShape:
    """A layer as one worker of the group computes it."""
    return LayerShape(
        hidden=shape.hidden,
        intermediate=len(group.part(shape.intermediate)),
        num_heads=len(group.part(shape.num_heads)),
        num_kv_heads=len(group.part(shape.num_kv_heads)),
        head_dim=shape.head_dim,
        scale=shape.scale,
        causal=causal,
        gated=True,
        hidden_act=shape.hidden_act,
        rms_norm=True,
        eps=shape.eps,
    )
