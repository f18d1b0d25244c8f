"""A decoder reranker: embedding, layers, and the score of each read token. Families are values of ``DecoderShape``."""

from __future__ import annotations

import torch

from engine.backends.kv_pool import KVPool, KVShape
from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder_layers import ACTIVATIONS, DecoderLayer, DecoderShape, LastDecoderLayer, Rotary
from engine.backends.nn.parallel import WordTable
from engine.backends.nn.rotary import rope_tables
from engine.backends.nn.score_head import ScoreHead
from engine.backends.packed_batch import PackedBatch
from engine.errors import ModelLoadError
from engine.kernels.ops import LayerShape
from engine.model_spec import ModelSpec

EMBEDDING = "embed_tokens.weight"


class Decoder:
    """Implements ``models.Model``."""

    graphable = True
    adaptable = True

    def __init__(self, spec: ModelSpec, shape: DecoderShape, params: Parameters) -> None:
        _check(spec, shape)
        self.spec, self.shape = spec, shape
        self.ops, self.dtype = params.ops, params.dtype
        num_kv_heads = len(params.group.part(shape.num_kv_heads))
        self.kv_shape: KVShape | None = KVShape(shape.num_layers, num_kv_heads, shape.head_dim)
        self.scale = shape.scale
        self.layer_shape = LayerShape(
            hidden=shape.hidden,
            intermediate=len(params.group.part(shape.intermediate)),
            num_heads=len(params.group.part(shape.num_heads)),
            num_kv_heads=num_kv_heads,
            head_dim=shape.head_dim,
            scale=shape.scale,
            causal=True,
            gated=True,
            activation=shape.activation,
            rms_norm=True,
            eps=shape.eps,
        )
        self.rotary = Rotary(*rope_tables(spec.config, shape.head_dim, spec.max_model_len, params.device))
        self.embedding = WordTable(params, EMBEDDING, shape.vocab_size, shape.hidden)
        self.layers = [DecoderLayer(params, shape, index) for index in range(shape.num_layers - 1)]
        self.last_layer = LastDecoderLayer(params, shape, shape.num_layers - 1)
        self.norm = params.scale("norm.weight", shape.hidden, offset=shape.norm_offset)
        self.head = ScoreHead(
            params, spec, hidden=shape.hidden, vocab_size=shape.vocab_size, embedding=EMBEDDING, tied=shape.tied
        )
        self.num_outputs = self.head.num_outputs

    def finish(self) -> None:
        self.head.finish(self.spec.path)

    def forward(self, batch: PackedBatch, pool: KVPool) -> torch.Tensor:
        hidden = self.embedding(batch.token_ids).to(self.dtype)
        if self.shape.embedding_scale != 1.0:
            hidden = hidden * torch.tensor(self.shape.embedding_scale, dtype=self.dtype)  # rounded as the dtype has it
        stream: tuple[torch.Tensor | None, torch.Tensor] = (None, hidden)
        for layer in self.layers:
            stream = layer(stream, batch, pool, self.rotary)
        read = self.last_layer(stream, batch, pool, self.rotary)
        if read is None:
            return hidden.new_empty(0, self.num_outputs, dtype=torch.float32)
        if self.head.pools:
            return self.head.modules(self._pooled(*read))
        return self.ops.score(*read, self.norm, self.shape.eps, *self.head.state)

    def _pooled(self, delta: torch.Tensor | None, residual: torch.Tensor) -> torch.Tensor:
        """The final norm in fp32: a few rows a step, so plain torch will do."""
        x = residual.float() if delta is None else residual.float() + delta.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.shape.eps) * self.norm.float()


def _check(spec: ModelSpec, shape: DecoderShape) -> None:
    if shape.activation not in ACTIVATIONS:
        raise ModelLoadError(
            f"{spec.path}: activation {shape.activation!r} is not supported; supported are {', '.join(ACTIVATIONS)}"
        )
    if shape.num_heads % shape.num_kv_heads:
        raise ModelLoadError(
            f"{spec.path}: {shape.num_heads} query heads cannot share {shape.num_kv_heads} key/value heads evenly"
        )
    if shape.window is not None and spec.max_model_len > shape.window:
        raise ModelLoadError(
            f"{spec.path} limits attention to the last {shape.window} tokens (sliding_window), which is not supported "
            f"for pairs of {spec.max_model_len} tokens; --max-model-len {shape.window} makes the limit irrelevant"
        )
