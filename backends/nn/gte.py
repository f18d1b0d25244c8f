"""GTE, the encoder with rotary positions and a gated MLP that its authors published as code beside the weights.

``NewForSequenceClassification`` (gte-multilingual-reranker-base) and transformers' own ``GteForSequenceClassification``
are the same network with the same tensors; written here from what is published of it, no code of a checkpoint is run.
"""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder_layers import Rotary
from engine.backends.nn.encoder import EmbeddingShape, Encoder
from engine.backends.nn.encoder_head import HeadNames
from engine.backends.nn.encoder_layers import EncoderShape, LayerNames, SelfAttention
from engine.backends.nn.rotary import rope_tables
from engine.errors import ModelLoadError
from engine.model_spec import ModelSpec

_OUT_AND_MLP = {
    "out": "attention.o_proj",
    "attention_norm": "attn_ln",
    "up": "mlp.up_gate_proj",
    "down": "mlp.down_proj",
    "mlp_norm": "mlp_ln",
}
FUSED = LayerNames(qkv=("attention.qkv_proj",), **_OUT_AND_MLP)
SEPARATE = LayerNames(qkv=("attention.q_proj", "attention.k_proj", "attention.v_proj"), **_OUT_AND_MLP)
REQUIRED = {"layer_norm_type": "layer_norm", "logn_attention_scale": False}


def build_gte(spec: ModelSpec, params: Parameters) -> Encoder:
    """Builds a GTE encoder. Raises ``ModelLoadError`` for a setting that this network does not have."""
    config = spec.config
    for name, value in REQUIRED.items():
        if config.get(name, value) != value:
            raise ModelLoadError(f"{spec.path}: {name} {config[name]!r} is not supported; {value!r} is")
    shape = EncoderShape.of(
        spec,
        eps=config.get("layer_norm_eps", 1e-12),
        hidden_act=config.get("hidden_act", "gelu"),
        names=FUSED if config.get("pack_qkv", True) else SEPARATE,
        up_bias=False,
        gate=1,
    )
    is_rotary = config.get("position_embedding_type", "rope") == "rope"
    tables = rope_tables(config, shape.head_dim, spec.max_model_len, params.device) if is_rotary else None
    rotary = Rotary(*tables) if tables else None
    embedding = EmbeddingShape(num_positions=0 if is_rotary else config["max_position_embeddings"])
    return Encoder(
        spec,
        shape,
        embedding,
        HeadNames(dense="pooler.dense", out="classifier"),
        params,
        attention=lambda index, reads_only: SelfAttention(params, shape, index, reads_only=reads_only, rotary=rotary),
        graphable=True,
        unused=("pooler.", "lm_head."),
    )
