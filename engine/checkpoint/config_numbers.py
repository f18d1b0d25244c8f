"""The numbers of config.json within bounds, before anything is sized by them.

A checkpoint is somebody else's data: a billion layers, heads that do not divide, or a NaN must end in a sentence that
names the key, not in a hang, in a division by zero or in memory that is gone. The bounds lie far above what any
published model of these families has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from engine.checkpoint.families import FAMILIES, family_of
from engine.errors import ModelLoadError

MAX_POSITIONS = 2**22
"""Tokens of the longest text: tables of rotations have as many rows."""
_WHOLE: dict[str, tuple[int, int]] = {
    "hidden_size": (1, 2**17),
    "intermediate_size": (1, 2**20),
    "num_hidden_layers": (1, 1024),
    "num_attention_heads": (1, 4096),
    "num_key_value_heads": (1, 4096),
    "head_dim": (1, 4096),
    "vocab_size": (1, 2**24),
    "max_position_embeddings": (1, MAX_POSITIONS),
    "type_vocab_size": (0, 2**16),
    "num_labels": (1, 2**16),
    "sliding_window": (0, 2**31),
    "local_attention": (1, MAX_POSITIONS),
    "global_attn_every_n_layers": (1, 1024),
    "max_relative_positions": (-1, MAX_POSITIONS),
    "position_buckets": (-1, MAX_POSITIONS),
    "relative_attention_num_buckets": (1, 2**16),
    "embedding_size": (1, 2**17),
    "conv_kernel_size": (0, 1024),
    "pad_token_id": (-1, 2**24),
    "original_max_position_embeddings": (1, MAX_POSITIONS),
}
"""Least and most of what counts something."""
_REAL: dict[str, tuple[float, float]] = {
    "rms_norm_eps": (0.0, 1.0),
    "layer_norm_eps": (0.0, 1.0),
    "norm_eps": (0.0, 1.0),
    "rope_theta": (1.0, 1e15),
    "global_rope_theta": (1.0, 1e15),
    "local_rope_theta": (1.0, 1e15),
    "partial_rotary_factor": (0.0, 1.0),
    "factor": (1e-3, 1e6),
    "logit_mean": (-1e6, 1e6),
    "logit_sigma": (1e-9, 1e9),
}
"""Least and most of what measures something."""
_KINDS: dict[str, type[Any]] = {
    "rope_scaling": dict,
    "rope_parameters": dict,
    "quantization_config": dict,
    "compression_config": dict,
    "id2label": dict,
    "label2id": dict,
    "layer_types": list,
    "hidden_act": str,
    "hidden_activation": str,
}
_NAMES: dict[type[Any], str] = {dict: "an object", list: "a list", str: "a text"}
_MAX_ITEMS = 2**16
_MAX_DEPTH = 16


def check_config_numbers(label: str, config: Mapping[str, Any]) -> None:
    """Raises ``ModelLoadError`` for the first number of config.json, after overrides, that no network can have."""
    family = FAMILIES.get(str(config.get("model_type")))
    own_keys = {} if family is None else family.own_keys
    theirs = {ours: name for name, ours in own_keys.items() if ours == "logit_sigma"}  # a key of sentence-transformers
    for key, kind in _KINDS.items():
        value = config.get(key)
        if value is not None and not isinstance(value, kind):
            raise _wrong(label, key, value, f"must be {_NAMES[kind]}")
    for key, value in _numbers(label, config):
        _check_bounds(label, key, value, theirs.get(key, key))
    _check_heads(label, config)
    kinds = config.get("layer_types")
    if kinds and not (all(isinstance(kind, str) for kind in kinds) and len(kinds) >= config["num_hidden_layers"]):
        raise _wrong(label, "layer_types", f"{len(kinds)} items", "must name the kind of each layer")


def _numbers(label: str, config: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every key whose value is bounded, and every number inside the objects that are read, each by its whole name."""
    if depth > _MAX_DEPTH or len(config) > _MAX_ITEMS:
        raise _wrong(label, prefix.rstrip(".") or "config.json", f"{len(config)} keys", "is too large")
    for key, value in config.items():
        last = str(key)
        if isinstance(value, Mapping):
            if key in _KINDS or prefix:
                yield from _numbers(label, value, f"{prefix}{last}.", depth + 1)
        elif last in _WHOLE or last in _REAL or (prefix and isinstance(value, float)):
            yield f"{prefix}{last}", value
        elif prefix and isinstance(value, list):
            yield from ((f"{prefix}{last}", item) for item in value if isinstance(item, float))


def _check_bounds(label: str, key: str, value: Any, shown: str) -> None:
    """``shown``: what the file calls it."""
    last = key.rpartition(".")[2]
    if value is None:
        return
    if last in _WHOLE:
        least, most = _WHOLE[last]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _wrong(label, shown, value, f"must be a whole number from {least} to {most}")
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(label, shown, value, "must be a finite number")
    if last in _REAL:
        low, high = _REAL[last]
        if not low <= value <= high:
            raise _wrong(label, shown, value, f"must be from {low:g} to {high:g}")


def _check_heads(label: str, config: Mapping[str, Any]) -> None:
    """Heads divide the hidden size where none states their own, and key/value heads divide the heads."""
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if not heads or not hidden:
        return  # said by name where they are read
    stated = config.get("head_dim") or family_of(config["model_type"]).head_dim
    if not stated and hidden % heads:
        raise _wrong(label, "num_attention_heads", heads, f"must divide hidden_size = {hidden}")
    kv_heads = config.get("num_key_value_heads") or heads
    if heads % kv_heads:
        raise _wrong(label, "num_key_value_heads", kv_heads, f"must divide num_attention_heads = {heads}")


def _wrong(label: str, key: str, value: Any, rule: str) -> ModelLoadError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return ModelLoadError(f"config.json of {label} has no usable {key}: {shown}. It {rule}.")
