"""ELECTRA (ms-marco-electra-base, monoelectra): BERT with narrow embeddings, and GELU in the head (Clark et al. 2020,
arXiv 2003.10555)."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.bert import build_bert
from engine.backends.nn.encoder import Encoder
from engine.backends.nn.encoder_head import HeadNames
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "electra."


def build(spec: ModelSpec, params: Parameters) -> Encoder:
    head = HeadNames(dense="classifier.dense", out="classifier.out_proj", activation="gelu")
    size = spec.config.get("embedding_size", 128)
    unused = ("generator_", "discriminator_")
    return build_bert(spec, params, head, embedding_size=size, unused=unused)
