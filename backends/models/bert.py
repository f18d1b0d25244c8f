"""BERT (MiniLM and other ms-marco cross-encoders): token types, a pooler, a classifier."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.bert import build_bert
from engine.backends.nn.encoder import Encoder
from engine.backends.nn.encoder_head import HeadNames
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "bert."


def build(spec: ModelSpec, params: Parameters) -> Encoder:
    return build_bert(spec, params, HeadNames(dense="pooler.dense", out="classifier"), unused=("pooler.", "cls."))
