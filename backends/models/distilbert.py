"""DistilBERT (ruri-reranker-small, cross-encoder-mmarco-german-distilbert-base): BERT without token types and pooler
(Sanh et al. 2019, arXiv 1910.01108)."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.bert import build_bert
from engine.backends.nn.encoder import Encoder
from engine.backends.nn.encoder_head import HeadNames
from engine.backends.nn.encoder_layers import LayerNames
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "distilbert."
NAMES = LayerNames(
    qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    out="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    mlp_norm="output_layer_norm",
)


def build(spec: ModelSpec, params: Parameters) -> Encoder:
    head = HeadNames(dense="pre_classifier", out="classifier", activation="relu")
    return build_bert(spec, params, head, names=NAMES, layer="transformer.layer.{}", unused=("vocab_",))
