"""GTE as transformers saves it."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.encoder import Encoder
from engine.backends.nn.gte import build_gte
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "gte."


def build(spec: ModelSpec, params: Parameters) -> Encoder:
    return build_gte(spec, params)
