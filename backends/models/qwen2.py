"""Qwen2 and 2.5 (mxbai-rerank-v2): biases on queries, keys and values, never on the output projection."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.decoder_shape import DecoderShape, qwen_kinds
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model."


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    config = spec.config
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    return Decoder(spec, DecoderShape.of(spec, qkv_bias=True, window=window, kinds=qwen_kinds(config)), params)
