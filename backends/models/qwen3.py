"""Qwen3 (Qwen3-Reranker): RMSNorm on each head of q and k, a head size of its own, grouped queries, SwiGLU."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.decoder_shape import DecoderShape, qwen_kinds
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model."


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    config = spec.config
    has_bias = config.get("attention_bias", False)
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    shape = DecoderShape.of(
        spec, qkv_bias=has_bias, o_bias=has_bias, head_norms=True, window=window, kinds=qwen_kinds(config)
    )
    return Decoder(spec, shape, params)
