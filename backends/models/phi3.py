"""Phi-3 and Phi-4 (arXiv 2404.14219, 2412.08905): Llama with fused projections; Phi-4-mini rotates part of a head."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.decoder_shape import SLIDING, DecoderShape
from engine.checkpoint.families import body_sizes, rope_of
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model."
OLD_NAMES = ("su", "yarn")
"""What ``longrope`` was called in the first files."""


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    config, rope = spec.config, dict(rope_of(spec.config))
    part = float(rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0)
    head_dim = body_sizes(spec.model_type, config).head_dim
    shape = DecoderShape.of(
        spec,
        fused=True,
        window=config.get("sliding_window"),
        rotated=None if part == 1.0 else int(head_dim * part),
        eps=config.get("rms_norm_eps", 1e-5),
    )
    if rope.get("rope_type", rope.get("type")) in OLD_NAMES:
        rope["rope_type"] = "longrope"
    return Decoder(spec, shape, params, rope={SLIDING: {**config, "rope_scaling": rope}})
