"""What BERT and those that descend from it have in common: absolute positions, norms behind each half of a layer."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.encoder import EmbeddingShape, Encoder
from engine.backends.nn.encoder_head import HeadNames
from engine.backends.nn.encoder_layers import EncoderShape, LayerNames
from engine.errors import ModelLoadError
from engine.model_spec import ModelSpec

BERT_NAMES = LayerNames(
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    mlp_norm="output.LayerNorm",
)


def build_bert(
    spec: ModelSpec,
    params: Parameters,
    head: HeadNames,
    *,
    first_position: int = 0,
    names: LayerNames = BERT_NAMES,
    layer: str = "encoder.layer.{}",
    embedding_norm: str = "embeddings.LayerNorm",
    embedding_size: int | None = None,
    unused: tuple[str, ...] = (),
) -> Encoder:
    """Builds a BERT; ``embedding_size`` of the embeddings' vectors where it is not the hidden size.

    Raises ``ModelLoadError`` for positions that are not absolute.
    """
    config = spec.config
    positions = config.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        raise ModelLoadError(f"{spec.path}: position_embedding_type {positions!r} is not supported; absolute is")
    shape = EncoderShape.of(
        spec,
        eps=config.get("layer_norm_eps", 1e-12),
        hidden_act=config.get("hidden_act", "gelu"),
        names=names,
        layer=layer,
    )
    embedding = EmbeddingShape(
        norm=embedding_norm,
        num_positions=config["max_position_embeddings"],
        position_offset=first_position,
        size=embedding_size,
    )
    return Encoder(spec, shape, embedding, head, params, unused=unused)
