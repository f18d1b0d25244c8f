"""Ministral 3: Mistral with YaRN. Behind the original length its queries are scaled by their position, which is not
written here, so inputs end there (``families.position_limit``)."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.decoder_shape import DecoderShape
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model."


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    config = spec.config
    shape = DecoderShape.of(spec, window=config.get("sliding_window"), eps=config.get("rms_norm_eps", 1e-5))
    return Decoder(spec, shape, params)
