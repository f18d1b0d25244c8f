"""The range of the score: which activation follows the logit, and how the logit is calibrated before it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from engine.checkpoint.authority import Authority, Statement, strongest
from engine.checkpoint.chain_modules import torch_class
from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.metadata import without_modules
from engine.errors import ConfigError
from engine.model_spec import ActivationFn

logger = logging.getLogger(__name__)

_TORCH_ACTIVATIONS: dict[str, ActivationFn] = {
    "Identity": "identity",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softmax": "softmax",
}
_PROBLEMS: dict[str, ActivationFn | None] = {
    "regression": "identity",
    "multi_label_classification": "sigmoid",
    "single_label_classification": None,
}
"""None: as usual for this number of labels."""
ACTIVATION_KEYS = ("problem_type", "sentence_transformers", "sbert_ce_default_activation_function")


@dataclass(frozen=True)
class ScoreRange:
    """score = activation((logit - mean) / sigma)."""

    activation: ActivationFn
    mean: float = 0.0
    sigma: float = 1.0


def resolve_range(checkpoint: Checkpoint, *, num_labels: int = 1) -> Statement[ScoreRange]:
    """The range of scores of a head of ``num_labels`` rows, and who states it.

    ``problem_type`` comes after the keys of sentence-transformers, which never reads it; without any of them the table
    of published models counts, and then the sigmoid, as in sentence-transformers, TEI and vLLM.

    Raises ``ConfigError`` for a ``logit_sigma`` that is no number above 0.
    """
    usual: ActivationFn = "sigmoid" if num_labels < 2 else "softmax"
    metadata = _of_metadata(checkpoint, num_labels)
    stated = strongest(
        _of_config(checkpoint, checkpoint.overrides, Authority.FLAG, "--hf-overrides", usual, num_labels),
        metadata if checkpoint.chain is not None else None,
        _of_config(checkpoint, checkpoint.files.config, Authority.FILES, "config.json", usual, num_labels),
        _published(checkpoint),
        Statement(ScoreRange(usual), Authority.USUAL, "default"),
    )
    assert stated is not None
    _check_metadata(checkpoint, metadata, stated)
    _warn_of_assumed(checkpoint, stated)
    mean, sigma = checkpoint.config.get("logit_mean"), checkpoint.config.get("logit_sigma")
    if mean is None and sigma is None:
        return stated
    if not isinstance(sigma or 1.0, int | float) or (sigma is not None and sigma <= 0):
        raise ConfigError(
            f"config.json of {checkpoint.label} divides logits by {sigma!r} (logit_sigma, or temperature): it must "
            "be a number above 0.",
            param="hf_overrides.logit_sigma",
        )
    value = ScoreRange(stated.value.activation, float(mean or 0.0), float(sigma or 1.0))
    return Statement(value, stated.authority, f"{stated.origin}, calibrated by logit_mean and logit_sigma")


def _of_config(
    checkpoint: Checkpoint,
    config: dict[str, Any],
    authority: Authority,
    origin: str,
    usual: ActivationFn,
    num_labels: int,
) -> Statement[ScoreRange] | None:
    metadata = config.get("sentence_transformers")
    if isinstance(metadata, dict) and (unknown := sorted(set(metadata) - {"activation_fn", "version"})):
        raise ConfigError(
            f"{origin} of {checkpoint.label} has {unknown[0]} in sentence_transformers, which is not known and may "
            "change scores; known are activation_fn and version.",
            param="hf_overrides.sentence_transformers",
        )
    named = [("sbert_ce_default_activation_function", config.get("sbert_ce_default_activation_function"))]
    if isinstance(metadata, dict) and "activation_fn" in metadata:  # a null there leaves the older key unread
        named = [("sentence_transformers", metadata["activation_fn"])]
    for key, name in named:
        if name is not None:
            return Statement(ScoreRange(_torch_activation(checkpoint, name, num_labels)), authority, f"{origin}: {key}")
    problem = config.get("problem_type")
    if problem is None:
        return None
    if problem not in _PROBLEMS:
        raise ConfigError(
            f"{origin} of {checkpoint.label} has the problem_type {problem!r}; known are {', '.join(_PROBLEMS)}. "
            "Say which it is with --hf-overrides '{\"problem_type\": ...}'.",
            param="hf_overrides.problem_type",
        )
    return Statement(ScoreRange(_PROBLEMS[problem] or usual), authority, f"{origin}: problem_type {problem}")


def _of_metadata(checkpoint: Checkpoint, num_labels: int) -> Statement[ScoreRange] | None:
    """What sentence-transformers saved; for several labels it saves Identity, and leaves the softmax to its caller."""
    origin, name = "config_sentence_transformers.json", checkpoint.metadata.get("activation_fn")
    if name is not None:
        activation = _torch_activation(checkpoint, name, num_labels)
        if num_labels > 1 and activation == "identity":
            return None
        return Statement(ScoreRange(activation), Authority.FILES, origin)
    if checkpoint.chain is None or any(checkpoint.config.get(key) is not None for key in ACTIVATION_KEYS):
        return None
    usual = ScoreRange("sigmoid" if num_labels < 2 else "softmax")
    return Statement(usual, Authority.FILES, "the default of sentence-transformers")


def _check_metadata(
    checkpoint: Checkpoint, metadata: Statement[ScoreRange] | None, stated: Statement[ScoreRange]
) -> None:
    """Raises ``ConfigError`` where a file that sentence-transformers would leave out states another activation."""
    if checkpoint.chain is not None or metadata is None or stated.authority is Authority.FLAG:
        return
    if metadata.value.activation != stated.value.activation:
        raise without_modules(
            checkpoint.label,
            f"the activation {metadata.value.activation} (otherwise it is the {stated.value.activation})",
            'decide with --hf-overrides \'{"sentence_transformers": {"activation_fn": "torch.nn.Identity"}}\'',
        )


def _warn_of_assumed(checkpoint: Checkpoint, stated: Statement[ScoreRange]) -> None:
    """A fine-tune's range is taken from its base; where the prompt is too, ``prompt.py`` says both."""
    identity = checkpoint.identity
    if identity is None or stated.authority is not Authority.PUBLISHED:
        return
    if not identity.is_base or identity.model.template:
        return
    logger.warning(
        "%s: by %s it was made from %s, so that model's range (%s) is assumed to be its own. If it is another, say it "
        "with --hf-overrides (sentence_transformers.activation_fn).",
        checkpoint.label,
        identity.origin,
        identity.id,
        stated.value.activation,
    )


def _published(checkpoint: Checkpoint) -> Statement[ScoreRange] | None:
    identity = checkpoint.identity
    if identity is None:
        return None
    model = identity.model
    origin = f"what is published of {identity.id}"
    if model.sources:
        origin += f" ({model.sources})"
    return Statement(ScoreRange(model.activation, model.mean, model.sigma), Authority.PUBLISHED, origin)


def _torch_activation(checkpoint: Checkpoint, name: Any, num_labels: int) -> ActivationFn:
    found = _TORCH_ACTIVATIONS.get(torch_class(name) or "")
    if found is None or (found == "softmax" and num_labels < 2):
        why = "The softmax of one value is always 1. " if found else ""
        raise ConfigError(
            f"{checkpoint.label} asks for the activation {name!r}. {why}These are supported: "
            f"{', '.join(f'torch.nn.{known}' for known in _TORCH_ACTIVATIONS)}. "
            "Set another with hf_overrides.sentence_transformers.activation_fn.",
            param="hf_overrides.sentence_transformers",
        )
    return found
