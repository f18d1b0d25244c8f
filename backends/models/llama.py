"""Llama 2 and 3: the plain decoder, biases only where config.json says so."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.decoder_shape import DecoderShape
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model."


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    config = spec.config
    has_bias = config.get("attention_bias", False)
    shape = DecoderShape.of(spec, qkv_bias=has_bias, o_bias=has_bias, mlp_bias=config.get("mlp_bias", False))
    return Decoder(spec, shape, params)
