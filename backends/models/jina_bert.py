"""JinaBERT (jina-reranker-v1-turbo-en, -tiny-en): BERT with ALiBi for positions and a gated MLP (Guenther et al. 2023,
arXiv 2310.19923).

Written from what is published of the network; the code beside its weights is never run.
"""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.distance_bias import BiasedAttention, DistanceBias, alibi
from engine.backends.nn.encoder import EmbeddingShape, Encoder
from engine.backends.nn.encoder_head import HeadNames
from engine.backends.nn.encoder_layers import EncoderShape, LayerNames, SelfAttention
from engine.errors import ModelLoadError
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "bert."
NAMES = LayerNames(
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="mlp.gated_layers",
    down="mlp.wo",
    mlp_norm="mlp.layernorm",
)
REQUIRED = {"position_embedding_type": "alibi", "feed_forward_type": "geglu"}


def build(spec: ModelSpec, params: Parameters) -> Encoder:
    """Builds a JinaBERT. Raises ``ModelLoadError`` for a setting that this network does not have."""
    config = spec.config
    for key, value in REQUIRED.items():
        if config.get(key) != value:
            raise ModelLoadError(f"{spec.path}: {key} {config.get(key)!r} of JinaBERT is not supported; {value!r} is")
    shape = EncoderShape.of(
        spec,
        eps=config.get("layer_norm_eps", 1e-12),
        hidden_act=config.get("hidden_act", "gelu"),
        names=NAMES,
        up_bias=False,
        gate=0,
    )
    bias = DistanceBias(params, shape, spec.max_model_len, alibi(shape.num_heads))

    def attention(index: int, reads_only: bool) -> SelfAttention:
        return BiasedAttention(params, shape, index, reads_only=reads_only, bias=bias)

    head = HeadNames(dense="pooler.dense", out="classifier")
    return Encoder(spec, shape, EmbeddingShape(), head, params, attention=attention, unused=("pooler.", "cls."))
