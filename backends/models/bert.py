"""BERT (MiniLM and other ms-marco cross-encoders): token types, a pooler, a classifier."""

from __future__ import annotations

from engine.backends.bert import build_bert
from engine.backends.encoder import Encoder
from engine.backends.encoder_head import HeadNames
from engine.backends.parameters import Parameters
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "bert."


def build(spec: ModelSpec, params: Parameters) -> Encoder:
    return build_bert(spec, params, HeadNames(dense="pooler.dense", out="classifier"), unused=("pooler.", "cls."))
