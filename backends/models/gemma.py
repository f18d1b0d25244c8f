"""Gemma (bge-reranker-v2-gemma): norms stored minus one, scaled embeddings, GeGLU, the embedding as the head."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.decoder_shape import DecoderShape
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model."


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    config = spec.config
    has_bias = config.get("attention_bias", False)
    activation = config.get("hidden_act") or "gelu_pytorch_tanh"
    shape = DecoderShape.of(
        spec,
        qkv_bias=has_bias,
        o_bias=has_bias,
        # Published configs say "gelu" and mean its tanh form.
        hidden_act="gelu_pytorch_tanh" if activation == "gelu" else activation,
        norm_offset=1.0,
        embedding_scale=config["hidden_size"] ** 0.5,
        tied=config.get("tie_word_embeddings", True),
    )
    return Decoder(spec, shape, params)
