"""ModernBERT (gte-reranker-modernbert-base): rotary positions, gated MLP, most layers see a window of tokens only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder_layers import Rotary
from engine.backends.nn.encoder import EmbeddingShape, Encoder
from engine.backends.nn.encoder_head import HeadNames
from engine.backends.nn.encoder_layers import EncoderShape, LayerNames, SelfAttention, WindowedAttention
from engine.backends.nn.rotary import rope_tables
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model."
FULL, LOCAL = "full_attention", "sliding_attention"
NAMES = LayerNames(
    qkv=("attn.Wqkv",), out="attn.Wo", attention_norm="attn_norm", up="mlp.Wi", down="mlp.Wo", mlp_norm="mlp_norm"
)


def build(spec: ModelSpec, params: Parameters) -> Encoder:
    config = spec.config
    mlp_bias = config.get("mlp_bias", False)
    shape = EncoderShape.of(
        spec,
        eps=config.get("norm_eps", 1e-5),
        hidden_act=config.get("hidden_activation", "gelu"),
        names=NAMES,
        layer="layers.{}",
        pre_norm=True,
        norm_bias=config.get("norm_bias", False),
        attention_bias=config.get("attention_bias", False),
        up_bias=mlp_bias,
        down_bias=mlp_bias,
        gate=0,
    )
    kinds = layer_kinds(config)
    rotary = {
        kind: Rotary(*rope_tables(rope_config(config, kind), shape.head_dim, spec.max_model_len, params.device))
        for kind in set(kinds)
    }

    def attention(index: int, reads_only: bool) -> SelfAttention:
        kind = kinds[index]
        if kind == FULL:
            return SelfAttention(params, shape, index, reads_only=reads_only, rotary=rotary[kind])
        window = config.get("local_attention", 128) // 2
        return WindowedAttention(params, shape, index, reads_only=reads_only, rotary=rotary[kind], window=window)

    embedding = EmbeddingShape(words="embeddings.tok_embeddings", norm="embeddings.norm")
    return Encoder(
        spec,
        shape,
        embedding,
        _head_names(config),
        params,
        attention=attention,
        final_norm="final_norm",
        unused=("head.", "decoder."),
    )


def _head_names(config: Mapping[str, Any]) -> HeadNames:
    return HeadNames(
        dense="head.dense",
        dense_bias=config.get("classifier_bias", False),
        activation=config.get("classifier_activation", "gelu"),
        norm="head.norm",
        norm_bias=config.get("norm_bias", False),
        out="classifier",
    )


def layer_kinds(config: Mapping[str, Any]) -> list[str]:
    """Stated for each layer (transformers 5), or every so-manieth sees all tokens (4)."""
    every = config.get("global_attn_every_n_layers", 3)
    stated = config.get("layer_types")
    return stated or [LOCAL if index % every else FULL for index in range(config["num_hidden_layers"])]


def rope_config(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    name, usual = ("global_rope_theta", 160_000.0) if kind == FULL else ("local_rope_theta", 10_000.0)
    stated = (config.get("rope_parameters") or {}).get(kind) or {}
    return {
        "max_position_embeddings": config.get("max_position_embeddings"),
        "rope_parameters": {"rope_theta": config.get(name, usual), **stated},
    }
