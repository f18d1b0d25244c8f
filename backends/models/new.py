"""GTE as its authors saved it (gte-multilingual-reranker-base), under the model type of their own code."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.encoder import Encoder
from engine.backends.nn.gte import build_gte
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "new."


def build(spec: ModelSpec, params: Parameters) -> Encoder:
    return build_gte(spec, params)
