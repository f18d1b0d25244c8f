"""Qwen3-VL (Qwen3-VL-Reranker): Qwen3 under another name, and a tower that makes rows of pictures.

A text has the same position on all three axes of the rotation, so without pictures its rotation is the usual one.
"""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.decoder_shape import DecoderShape
from engine.backends.nn.pictures import Pictures
from engine.backends.nn.vision_tower import VisionShape
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model.language_model."
TOWER, OLDER_TOWER = "model.visual.", "visual."
"""Where the tower's tensors are, in today's files and in older ones."""


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    """Builds the model, without its tower where no picture is to be read."""
    has_bias = spec.config.get("attention_bias", False)
    shape = DecoderShape.of(spec, qkv_bias=has_bias, o_bias=has_bias, head_norms=True)
    pictures = None
    if spec.vision is not None:
        is_older = params.in_checkpoint(f"{OLDER_TOWER}patch_embed.proj.weight")
        tower = VisionShape.of(spec.config["vision_config"])
        prefix = OLDER_TOWER if is_older else TOWER
        pictures = Pictures(params, spec, shape.head_dim, prefix, tower, interleaved=True)
    decoder = Decoder(spec, shape, params, pictures=pictures)
    params.skip(TOWER, OLDER_TOWER)
    return decoder
