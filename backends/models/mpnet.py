"""MPNet (Song et al. 2020, arXiv 2004.09297): RoBERTa's positions, and a bias of every score by the distance."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.distance_bias import BiasedAttention, DistanceBias, t5_buckets
from engine.backends.nn.encoder import EmbeddingShape, Encoder
from engine.backends.nn.encoder_head import HeadNames
from engine.backends.nn.encoder_layers import EncoderShape, LayerNames, SelfAttention
from engine.errors import ModelLoadError
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "mpnet."
NAMES = LayerNames(
    qkv=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    out="attention.attn.o",
    attention_norm="attention.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    mlp_norm="output.LayerNorm",
)
BUCKETS = 32
"""transformers computes with these whatever ``relative_attention_num_buckets`` says."""
FIRST_POSITION = 2


def build(spec: ModelSpec, params: Parameters) -> Encoder:
    """Builds an MPNet. Raises ``ModelLoadError`` for another number of relative positions."""
    config = spec.config
    if config.get("relative_attention_num_buckets", BUCKETS) != BUCKETS:
        raise ModelLoadError(f"{spec.path}: relative_attention_num_buckets other than {BUCKETS} is not supported")
    shape = EncoderShape.of(
        spec, eps=config.get("layer_norm_eps", 1e-12), hidden_act=config.get("hidden_act", "gelu"), names=NAMES
    )
    table = params.table("encoder.relative_attention_bias.weight", BUCKETS, shape.num_heads)
    bias = DistanceBias(params, shape, spec.max_model_len, lambda distances: table.cpu()[t5_buckets(distances)])

    def attention(index: int, reads_only: bool) -> SelfAttention:
        return BiasedAttention(params, shape, index, reads_only=reads_only, bias=bias)

    return Encoder(
        spec,
        shape,
        EmbeddingShape(num_positions=config["max_position_embeddings"], position_offset=FIRST_POSITION),
        HeadNames(dense="classifier.dense", out="classifier.out_proj"),
        params,
        attention=attention,
        unused=("pooler.", "lm_head."),
    )
