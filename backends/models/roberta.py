"""RoBERTa: positions count from the padding id plus one, and the classification head has a dense layer of its own."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.bert import build_bert
from engine.backends.nn.encoder import Encoder
from engine.backends.nn.encoder_head import HeadNames
from engine.backends.nn.encoder_layers import LayerNames
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "roberta."

JINA_NAMES = LayerNames(
    qkv=("mixer.Wqkv",),
    out="mixer.out_proj",
    attention_norm="norm1",
    up="mlp.fc1",
    down="mlp.fc2",
    mlp_norm="norm2",
)
"""jina-reranker-v2 is an XLM-RoBERTa saved by code of its own, under other names."""


def build(spec: ModelSpec, params: Parameters) -> Encoder:
    head = HeadNames(dense="classifier.dense", out="classifier.out_proj")
    first, unused = spec.config.get("pad_token_id", 1) + 1, ("pooler.", "lm_head.")
    if params.in_checkpoint("emb_ln.weight"):
        return build_bert(
            spec, params, head, first_position=first, unused=unused,
            names=JINA_NAMES, layer="encoder.layers.{}", embedding_norm="emb_ln",
        )  # fmt: skip
    return build_bert(spec, params, head, first_position=first, unused=unused)
