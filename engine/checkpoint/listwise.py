"""Listwise rerankers (jina-reranker-v3 and v3.5): a Qwen3 body, and a projector whose vectors are compared.

The projector is two linear layers without biases and a ReLU between them, kept beside the body as
``projector.0.weight`` and ``projector.2.weight``. Its prompt is part of what it is, so no flag can give it another one.
"""

from __future__ import annotations

from typing import Any

from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.families import body_sizes
from engine.checkpoint.overrides import HEAD_KEYS
from engine.errors import ConfigError, ModelLoadError
from engine.model_spec import HeadModule, HeadSpec

FIRST, SECOND = "projector.0.weight", "projector.2.weight"
_USUAL_OUT = 512


def listwise_head(checkpoint: Checkpoint) -> HeadSpec:
    """The projector as modules. Raises ``ConfigError`` or ``ModelLoadError`` for one of another form."""
    label, hidden = checkpoint.label, body_sizes(checkpoint.config["model_type"], checkpoint.config).hidden
    for key in HEAD_KEYS:
        if key in checkpoint.overrides:
            raise ConfigError(
                f"{label} is a listwise model ({checkpoint.architecture}), which compares vectors of its projector; "
                f"--hf-overrides with {key} cannot give it another head. Leave it out.",
                param=f"hf_overrides.{key}",
            )
    middle, out = hidden // 2, _USUAL_OUT
    if checkpoint.has_weights:
        middle, out = _stored_sizes(checkpoint, hidden)
    common: dict[str, Any] = {"kind": "dense", "bias": False}
    modules = (
        HeadModule(**common, weight=FIRST, in_features=hidden, out_features=middle, activation="relu"),
        HeadModule(**common, weight=SECOND, in_features=middle, out_features=out),
    )
    return HeadSpec(kind="listwise", pooling="tokens", modules=modules, activation="cosine")


def _stored_sizes(checkpoint: Checkpoint, hidden: int) -> tuple[int, int]:
    tensors, label = checkpoint.files.tensors, checkpoint.label
    found = {name: tensor.shape for name, tensor in tensors.items() if name.startswith("projector.")}
    missing = [name for name in (FIRST, SECOND) if name not in found]
    if missing:
        raise ModelLoadError(
            f"{label} is to be read as a listwise model ({checkpoint.architecture}), but its files hold no "
            f"{missing[0]}, of the projector that makes its scores. Download the whole checkpoint, in its PyTorch "
            "layout."
        )
    if other := sorted(set(found) - {FIRST, SECOND}):
        raise ConfigError(
            f"{label} has a projector with {other[0]}; supported are two linear layers without biases, {FIRST} and "
            f"{SECOND}.",
            param="model",
        )
    first, second = found[FIRST], found[SECOND]
    if len(first) != 2 or len(second) != 2 or first[1] != hidden or second[1] != first[0]:
        raise ModelLoadError(
            f"The projector of {label} does not fit: {FIRST} is {tuple(first)} and {SECOND} {tuple(second)}, and the "
            f"network's vectors have {hidden} numbers."
        )
    return first[0], second[0]
