"""GTE as transformers saves it."""

from __future__ import annotations

from engine.backends.encoder import Encoder
from engine.backends.gte import build_gte
from engine.backends.parameters import Parameters
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "gte."


def build(spec: ModelSpec, params: Parameters) -> Encoder:
    return build_gte(spec, params)
