"""Qwen3-VL (Qwen3-VL-Reranker), its text network: Qwen3 under another name. Pictures are not read.

A text has the same position on all three axes of the rotation, so its rotation is the usual one.
"""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.decoder_shape import DecoderShape
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model.language_model."


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    has_bias = spec.config.get("attention_bias", False)
    shape = DecoderShape.of(spec, qkv_bias=has_bias, o_bias=has_bias, head_norms=True)
    decoder = Decoder(spec, shape, params)
    params.skip("model.visual.", "visual.")
    return decoder
