"""Gemma 3, its text networks (arXiv 2503.19786): norms on each head, five layers with a window for one without, and a
rotation of its own for either kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.decoder_shape import FULL, SLIDING, DecoderShape, layer_kinds
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model."
EVERY = 6
BASES = {FULL: ("rope_theta", 1_000_000.0), SLIDING: ("rope_local_base_freq", 10_000.0)}


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    config = spec.config
    has_bias = config.get("attention_bias", False)
    every = config.get("sliding_window_pattern") or EVERY
    usual = [SLIDING if (layer + 1) % every else FULL for layer in range(config["num_hidden_layers"])]
    shape = DecoderShape.of(
        spec,
        qkv_bias=has_bias,
        o_bias=has_bias,
        hidden_act=config.get("hidden_activation", "gelu_pytorch_tanh"),
        head_norms=True,
        norm_offset=1.0,
        branch_norms=True,
        embedding_scale=config["hidden_size"] ** 0.5,
        score_scale=config.get("query_pre_attn_scalar", 256) ** -0.5,
        logit_cap=config.get("final_logit_softcapping"),
        window=config.get("sliding_window", 4096),
        kinds=layer_kinds(config, usual),
        tied=config.get("tie_word_embeddings", True),
    )
    return Decoder(spec, shape, params, rope={kind: rope_config(config, kind) for kind in (FULL, SLIDING)})


def rope_config(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Nested by kind (transformers 5); or bases apart, and a scaling that holds for full layers only (4)."""
    name, usual = BASES[kind]
    nested = (config.get("rope_parameters") or {}).get(kind)
    scaling = config.get("rope_scaling") if kind == FULL else None
    settings = {"rope_theta": config.get(name, usual), **(nested or {}), **(scaling or {})}
    return {"max_position_embeddings": config.get("max_position_embeddings"), "rope_parameters": settings}
