"""Granite 3 and 4 without experts (IBM): Llama with a factor for embeddings, scores, branches and logits."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.decoder_shape import DecoderShape
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model."


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    config = spec.config
    has_bias = config.get("attention_bias", False)
    shape = DecoderShape.of(
        spec,
        qkv_bias=has_bias,
        o_bias=has_bias,
        mlp_bias=config.get("mlp_bias", False),
        embedding_scale=float(config.get("embedding_multiplier", 1.0)),
        score_scale=float(config.get("attention_multiplier", 1.0)),
        branch_scale=float(config.get("residual_multiplier", 1.0)),
        logit_divisor=float(config.get("logits_scaling", 1.0)),
    )
    return Decoder(spec, shape, params)
