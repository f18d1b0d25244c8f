"""Ministral: Mistral whose layers state one by one whether they have a window."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.decoder_shape import DecoderShape, layer_kinds
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model."


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    config = spec.config
    shape = DecoderShape.of(spec, window=config.get("sliding_window", 4096), kinds=layer_kinds(config, ()))
    return Decoder(spec, shape, params)
