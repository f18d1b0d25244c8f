"""Gemma 2 (arXiv 2408.00118): Gemma with norms behind each branch, capped scores and logits, windows in every other
layer."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.decoder_shape import FULL, SLIDING, DecoderShape, layer_kinds
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model."


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    config = spec.config
    has_bias = config.get("attention_bias", False)
    usual = [FULL if layer % 2 else SLIDING for layer in range(config["num_hidden_layers"])]
    shape = DecoderShape.of(
        spec,
        qkv_bias=has_bias,
        o_bias=has_bias,
        hidden_act=config.get("hidden_activation", "gelu_pytorch_tanh"),
        norm_offset=1.0,
        branch_norms=True,
        embedding_scale=config["hidden_size"] ** 0.5,
        score_scale=config.get("query_pre_attn_scalar", 256) ** -0.5,
        score_cap=config.get("attn_logit_softcapping", 50.0),
        logit_cap=config.get("final_logit_softcapping", 30.0),
        window=config.get("sliding_window", 4096),
        kinds=layer_kinds(config, usual),
        tied=config.get("tie_word_embeddings", True),
    )
    return Decoder(spec, shape, params)
