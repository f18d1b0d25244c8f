"""Mistral: Llama without biases; the first version looked back at 4096 tokens only."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.decoder_shape import DecoderShape
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model."


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    config = spec.config
    return Decoder(spec, DecoderShape.of(spec, window=config.get("sliding_window", 4096)), params)
