"""Models that embed a text: each side of a pair gets a vector, and the score is the similarity of the two.

A checkpoint is one if its architecture has no head, or if the chain of sentence-transformers ends with one vector.
"""

from __future__ import annotations

import logging
from typing import Any

from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.families import Task
from engine.errors import ConfigError
from engine.model_spec import ActivationFn, HeadSpec, Pooling

logger = logging.getLogger(__name__)

POOLING_KEY = "classifier_pooling"
_POOLINGS: dict[str, Pooling] = {
    "cls": "cls",
    "bos": "cls",
    "mean": "mean",
    "avg": "mean",
    "last": "last",
    "late": "late",
}
"""As config.json calls them."""
HEADLESS: tuple[Task, ...] = ("Model", "ForMaskedLM")
_PROMPT_NAMES = (("query",), ("document", "passage", "corpus"))
_SIMILARITIES: dict[Any, ActivationFn] = {None: "cosine", "cosine": "cosine", "dot": "dot", "dot_score": "dot"}


def embedding_head(checkpoint: Checkpoint) -> HeadSpec:
    """Pooling and modules as the chain has them, and how two vectors are compared."""
    chain, label = checkpoint.chain, checkpoint.label
    if chain is None or chain.pooling is None:
        pooling = stated_pooling(checkpoint)
        if POOLING_KEY not in checkpoint.config:
            logger.warning("%s: no file says how it pools its tokens; %s is taken, as is usual.", label, pooling)
    else:
        pooling = chain.pooling
        if chain.include_prompt is False and any(text_prompts(checkpoint)) and pooling == "mean":
            raise ConfigError(f"{label} leaves its prompts out of the mean, which is not supported.", param="model")
        if not chain.is_text:
            raise ConfigError(f"{label} embeds texts in a chat template, which is not supported.", param="model")
    if checkpoint.causal and pooling == "mean":
        raise ConfigError(f"{label} takes the mean over a decoder's tokens, which is not supported.", param="model")
    name = checkpoint.metadata.get("similarity_fn_name")
    if name not in _SIMILARITIES:
        raise ConfigError(
            f"config_sentence_transformers.json of {label} compares vectors by {name!r}, which is not supported; "
            "supported are cosine and dot.",
            param="model",
        )
    modules = chain.modules if chain else ()
    return HeadSpec(kind="embedding", pooling=pooling, modules=modules, activation=_SIMILARITIES[name])


def stated_pooling(checkpoint: Checkpoint) -> Pooling:
    """As config.json says, else as is usual in the family; ``ConfigError`` for a pooling that is not computed."""
    stated = checkpoint.config.get(POOLING_KEY)
    if stated is None or checkpoint.by_library:
        return checkpoint.family.pooling
    if stated not in _POOLINGS or (checkpoint.causal and _POOLINGS[stated] != "last"):
        known = ("last",) if checkpoint.causal else _POOLINGS
        raise ConfigError(
            f"config.json of {checkpoint.label} pools tokens by {stated!r}, which is not supported for this network; "
            f"supported are {', '.join(known)}.",
            param="model",
        )
    return _POOLINGS[stated]


def text_prompts(checkpoint: Checkpoint) -> tuple[str, str]:
    """What sentence-transformers puts before queries and before documents; the default prompt where it names none."""
    prompts, default = checkpoint.prompts(), checkpoint.default_prompt()
    query, document = (next((prompts[name] for name in names if name in prompts), default) for names in _PROMPT_NAMES)
    return query, document
