"""Qwen3-MoE (arXiv 2505.09388): Qwen3 whose MLPs are a few of many experts."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.decoder_shape import DecoderShape, ExpertShape
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model."


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    config = spec.config
    has_bias = config.get("attention_bias", False)
    step, stated = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or ()
    dense = {layer for layer in range(config["num_hidden_layers"]) if (layer + 1) % step or layer in stated}
    experts = ExpertShape(
        num_experts=config.get("num_experts", 128),
        num_per_token=config.get("num_experts_per_tok", 8),
        intermediate=config.get("moe_intermediate_size", 768),
        normed=config.get("norm_topk_prob", False),
        dense_layers=frozenset(dense),
    )
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    shape = DecoderShape.of(spec, qkv_bias=has_bias, o_bias=has_bias, head_norms=True, window=window, experts=experts)
    return Decoder(spec, shape, params)
