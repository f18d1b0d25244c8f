"""DeBERTa-v2 and -v3 (mxbai-rerank v1): distances instead of positions, in every score of every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.bert import BERT_NAMES
from engine.backends.nn.disentangled_attention import DisentangledAttention, Distances, DistanceShape
from engine.backends.nn.encoder import EmbeddingShape, Encoder
from engine.backends.nn.encoder_head import HeadNames
from engine.backends.nn.encoder_layers import EncoderShape, SelfAttention
from engine.errors import ModelLoadError
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "deberta."


def build(spec: ModelSpec, params: Parameters) -> Encoder:
    config = spec.config
    _check(spec.path, config)
    distances = distance_shape(config)
    shape = EncoderShape.of(
        spec,
        eps=config.get("layer_norm_eps", 1e-7),
        hidden_act=config.get("hidden_act", "gelu"),
        names=BERT_NAMES.with_qkv("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
        score_terms=1 + len(distances.kinds),
    )
    table = Distances(
        params,
        shape,
        distances,
        normed="layer_norm" in str(config.get("norm_rel_ebd", "none")),
        max_len=spec.max_model_len,
    )

    def attention(index: int, reads_only: bool) -> SelfAttention:
        return DisentangledAttention(params, shape, index, reads_only=reads_only, distances=table)

    positions = config["max_position_embeddings"] if config.get("position_biased_input", True) else 0
    return Encoder(
        spec,
        shape,
        EmbeddingShape(num_positions=positions),
        HeadNames(dense="pooler.dense", out="classifier", activation=config.get("pooler_hidden_act", "gelu")),
        params,
        attention=attention,
        adaptable=False,  # distances are projected once, with the base's weights
        unused=("pooler.", "lm_predictions.", "mask_predictions.", "cls.", "embeddings.position_embeddings."),
    )


def distance_shape(config: Mapping[str, Any]) -> DistanceShape:
    kinds = config.get("pos_att_type") or []
    kinds = kinds.lower().split("|") if isinstance(kinds, str) else kinds
    buckets = config.get("position_buckets", -1)
    longest = config.get("max_relative_positions", -1)
    longest = config["max_position_embeddings"] if longest < 1 else longest
    return DistanceShape(
        span=buckets if buckets > 0 else longest,
        num_buckets=max(0, buckets),
        max_distance=longest,
        kinds=tuple(kind for kind in ("c2p", "p2c") if kind in [name.strip() for name in kinds]),
        shared=config.get("share_att_key", False),
    )


def _check(path: str, config: Mapping[str, Any]) -> None:
    if not config.get("relative_attention", False):
        raise ModelLoadError(f"{path}: DeBERTa without relative_attention is not supported")
    if config.get("conv_kernel_size", 0):
        raise ModelLoadError(f"{path}: DeBERTa with a convolution (conv_kernel_size) is not supported")
    if config.get("embedding_size", config["hidden_size"]) != config["hidden_size"]:
        raise ModelLoadError(f"{path}: DeBERTa with an embedding_size other than hidden_size is not supported")
