"""Qwen2-VL (jina-reranker-m0): Qwen2 whose rotation has three axes, a run of frequencies each, and its vision tower.

jina-reranker-m0 reads a pair at its last token, through a dense layer and a ReLU. Written from what is published of it;
the code beside its weights is never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.decoder_shape import DecoderShape, qwen_kinds
from engine.backends.nn.encoder_head import HeadNames
from engine.backends.nn.pictures import Pictures
from engine.backends.nn.vision_tower import QUICK_GELU, ROPE_BASE, TowerNames, VisionShape
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model."
TOWER = "visual."
NAMES = TowerNames(mlp_up="mlp.fc1", mlp_down="mlp.fc2", norm="ln_q", up="mlp.0", down="mlp.2")
HEAD = HeadNames(dense="score.0", out="score.2", activation="relu")


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    """Builds the model, without its tower where no picture is to be read."""
    config = spec.config
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    shape = DecoderShape.of(spec, qkv_bias=True, window=window, kinds=qwen_kinds(config))
    pictures = None
    if spec.vision is not None:
        tower = tower_shape(config["vision_config"])
        pictures = Pictures(params, spec, shape.head_dim, TOWER, tower, interleaved=False)
    head = HEAD if spec.head.kind == "classifier" else None
    decoder = Decoder(spec, shape, params, head=head, pictures=pictures)
    params.skip(TOWER)
    return decoder


def tower_shape(config: Mapping[str, Any]) -> VisionShape:
    """The tower in numbers, with the defaults of transformers' ``Qwen2VLVisionConfig``.

    Raises ``ModelLoadError`` about what is not computed.
    """
    rope = config.get("rope_parameters") or {}
    hidden = config.get("embed_dim", 1280)
    shape = VisionShape(
        num_layers=config.get("depth", 32),
        hidden=hidden,
        intermediate=int(hidden * config.get("mlp_ratio", 4)),
        num_heads=config.get("num_heads", 16),
        hidden_act=config.get("hidden_act", QUICK_GELU),
        patch=config.get("patch_size", 14),
        frames=config.get("temporal_patch_size", 2),
        channels=config.get("in_channels", config.get("in_chans", 3)),
        merge=config.get("spatial_merge_size", 2),
        out=config.get("hidden_size", 3584),
        grid=0,
        deepstack=(),
        rope_base=rope.get("rope_theta", ROPE_BASE),
        patch_bias=False,
        names=NAMES,
    )
    return shape.checked(rope)
