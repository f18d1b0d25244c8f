"""Qwen3 (Qwen3-Reranker): RMSNorm on each head of q and k, a head size of its own, grouped queries, SwiGLU."""

from __future__ import annotations

from engine.backends.decoder import Decoder
from engine.backends.layers import DecoderShape
from engine.backends.parameters import Parameters
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model."


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    config = spec.config
    has_bias = config.get("attention_bias", False)
    shape = DecoderShape(
        num_layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        head_dim=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        vocab_size=config["vocab_size"],
        eps=config.get("rms_norm_eps", 1e-6),
        activation=config.get("hidden_act", "silu"),
        qkv_bias=has_bias,
        o_bias=has_bias,
        head_norms=True,
        tied=config.get("tie_word_embeddings", False),
    )
    return Decoder(spec, shape, params)
