"""NomicBERT (Nussbaum et al. 2024, arXiv 2402.01613): BERT with rotary positions and SwiGLU, as transformers saves it
and as Nomic's own code did; that code is never run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder_layers import Rotary
from engine.backends.nn.encoder import EmbeddingShape, Encoder
from engine.backends.nn.encoder_head import HeadNames
from engine.backends.nn.encoder_layers import EncoderShape, LayerNames, SelfAttention
from engine.backends.nn.rotary import rope_tables
from engine.errors import ModelLoadError
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "nomic_bert."
NAMES = LayerNames(
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out="self_attn.o_proj",
    attention_norm="post_attention_layernorm",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    mlp_norm="post_mlp_layernorm",
)
OWN_NAMES = LayerNames(
    qkv=("attn.Wqkv",), out="attn.out_proj", attention_norm="norm1",
    gate="mlp.fc12", up="mlp.fc11", down="mlp.fc2", mlp_norm="norm2",
)  # fmt: skip
"""Of Nomic's own code, where ``fc12`` goes through the activation."""
REQUIRED: Mapping[str, tuple[Any, ...]] = {
    "prenorm": (False,),
    "rotary_emb_fraction": (1.0,),
    "rotary_emb_interleaved": (False,),
    "rotary_scaling_factor": (None,),
    "use_rms_norm": (None, False),
    "parallel_block": (None, False),
    "qkv_proj_bias": (False,),
    "mlp_fc1_bias": (False,),
    "mlp_fc2_bias": (False,),
    "num_experts": (None, 0),
    "moe_every_n_layers": (None, 0, -1),
}


def build(spec: ModelSpec, params: Parameters) -> Encoder:
    """Builds a NomicBERT. Raises ``ModelLoadError`` for a setting that this network does not have."""
    config, is_own = spec.config, params.in_checkpoint("emb_ln.weight")
    for key, values in REQUIRED.items():
        if config.get(key, values[0]) not in values:
            raise ModelLoadError(f"{spec.path}: {key} {config[key]!r} of NomicBERT is not supported; {values[0]!r} is")
    shape = EncoderShape.of(
        spec,
        eps=config.get("layer_norm_eps", 1e-12),
        hidden_act="silu" if (name := config.get("hidden_act", "silu")) == "swiglu" else name,
        names=OWN_NAMES if is_own else NAMES,
        layer="encoder.layers.{}" if is_own else "layers.{}",
        attention_bias=False,
        up_bias=False,
        down_bias=False,
    )
    rope = {"rope_theta": 1000.0, **config}
    rotary = Rotary(*rope_tables(rope, shape.head_dim, spec.max_model_len, params.device))
    return Encoder(
        spec,
        shape,
        EmbeddingShape(norm="emb_ln" if is_own else "embeddings.LayerNorm"),
        HeadNames(dense="pooler.dense", out="classifier"),
        params,
        attention=lambda index, reads_only: SelfAttention(params, shape, index, reads_only=reads_only, rotary=rotary),
        graphable=True,
        unused=("pooler.", "cls."),
    )
