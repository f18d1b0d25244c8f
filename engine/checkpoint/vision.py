"""Whether a checkpoint reads pictures, and how they become rows of its prompts.

The network's side is ``vision_config`` of config.json; sizes and colours are those of preprocessor_config.json (or of
``image_processor`` in processor_config.json, where newer files have them).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.checkpoint.checkpoint import Checkpoint
from engine.errors import ConfigError
from engine.model_spec import VisionSpec

logger = logging.getLogger(__name__)
TOWER = "visual."


@dataclass(frozen=True)
class _Usual:
    """What holds where a checkpoint's own files say nothing."""

    patch: int
    published_areas: tuple[int, int]
    """Least and most pixels of a picture in the code that the family's reranker was published with."""
    family_areas: tuple[int, int]
    """What the files of the whole family say, which that code does not use."""
    mean: list[float]
    std: list[float]


_USUAL = {
    "qwen3_vl": _Usual(16, (4 * 32**2, 1800 * 32**2), (65_536, 16_777_216), [0.5] * 3, [0.5] * 3),
    "qwen2_vl": _Usual(
        14,
        (4 * 28**2, 768 * 28**2),
        (3136, 12_845_056),
        [0.48145466, 0.4578275, 0.40821073],
        [0.26862954, 0.26130258, 0.27577711],
    ),
}
_START, _END = "<|vision_start|>", "<|vision_end|>"
_IDS = {"vision_start_token_id": 151_652, "vision_end_token_id": 151_653, "image_token_id": 151_655}
"""Where config.json says nothing."""


def vision_of(checkpoint: Checkpoint, max_images: int) -> VisionSpec | None:
    """The picture processor, or None where only texts are read. Raises ``ConfigError`` for one of another kind."""
    config = checkpoint.config
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping) or checkpoint.by_library or not max_images or not checkpoint.causal:
        return None
    if checkpoint.has_weights and not any(TOWER in name for name in checkpoint.files.tensors):
        logger.info("%s reads texts only: its files hold no tensors of a vision tower.", checkpoint.label)
        return None
    start, end = (
        _token(checkpoint, *names) for names in ((_START, "vision_start_token_id"), (_END, "vision_end_token_id"))
    )
    if start is None or end is None:
        logger.info("%s reads texts only: its tokenizer has no %s.", checkpoint.label, _START)
        return None
    processor, usual = _processor(checkpoint), _USUAL[str(config["model_type"])]
    patch, merge = vision.get("patch_size", usual.patch), vision.get("spatial_merge_size", 2)
    _check(checkpoint, processor, {"patch_size": patch, "merge_size": merge})
    least, most = _areas(processor, usual)
    return VisionSpec(
        block=patch * merge,
        min_pixels=least,
        max_pixels=most,
        mean=_colours(checkpoint, processor, "image_mean", usual.mean),
        std=_colours(checkpoint, processor, "image_std", usual.std),
        before=(start,),
        behind=(end,),
        image_id=config.get("image_token_id", _IDS["image_token_id"]),
        max_images=max_images,
    )


def _token(checkpoint: Checkpoint, text: str, key: str) -> int | None:
    """The tokenizer's id of a mark, else that of config.json, if it is one of the vocabulary."""
    found = checkpoint.tokenizer.token_to_id(text)
    stated = checkpoint.config.get(key, _IDS[key]) if found is None else found
    return int(stated) if 0 <= stated < checkpoint.config.get("vocab_size", 0) else None


def _processor(checkpoint: Checkpoint) -> dict[str, Any]:
    own = checkpoint.files.json("preprocessor_config.json")
    if own is None:
        own = (checkpoint.files.json("processor_config.json") or {}).get("image_processor")
    return dict(own) if isinstance(own, Mapping) else {}


def _check(checkpoint: Checkpoint, processor: Mapping[str, Any], network: Mapping[str, int]) -> None:
    known = {
        **network,
        "temporal_patch_size": checkpoint.config["vision_config"].get("temporal_patch_size", 2),
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": 3,
    }
    for key, value in known.items():
        if processor.get(key, value) != value:
            raise ConfigError(
                f"The picture processor of {checkpoint.label} says {key} = {processor[key]!r}; {value!r} is supported. "
                "--max-images-per-pair 0 serves the model for texts only.",
                param="max_images_per_pair",
            )
    if abs(processor.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
        raise ConfigError(
            f"The picture processor of {checkpoint.label} says rescale_factor = {processor['rescale_factor']!r}; 1/255 "
            "is supported. --max-images-per-pair 0 serves the model for texts only.",
            param="max_images_per_pair",
        )


def _areas(processor: Mapping[str, Any], usual: _Usual) -> tuple[int, int]:
    """Least and most pixels: of the published code, unless the files say something of their own."""
    size = processor.get("size") or {}
    least = processor.get("min_pixels") or size.get("shortest_edge") or usual.family_areas[0]
    most = processor.get("max_pixels") or size.get("longest_edge") or usual.family_areas[1]
    return usual.published_areas if (least, most) == usual.family_areas else (int(least), int(most))


def _colours(
    checkpoint: Checkpoint, processor: Mapping[str, Any], key: str, usual: list[float]
) -> tuple[float, float, float]:
    values = processor.get(key, usual)
    is_known = isinstance(values, list) and len(values) == 3 and all(isinstance(v, int | float) for v in values)
    if not is_known or (key == "image_std" and not all(values)):
        raise ConfigError(
            f"The picture processor of {checkpoint.label} says {key} = {values!r}; three numbers are expected.",
            param="max_images_per_pair",
        )
    red, green, blue = map(float, values)
    return red, green, blue
