"""Models that embed a text: each side of a pair gets a vector, and the score is the similarity of the two.

A checkpoint is one if its architecture has no head, or if the chain of sentence-transformers ends with one vector.
"""

from __future__ import annotations

import logging
from typing import Any

from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.families import Task
from engine.checkpoint.metadata import METADATA, without_modules
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
_HEADS_WITH_POOLING = ("modernbert", "eurobert", "llama_bidirec")
"""Types whose classification head pools as config.json says."""
HEADLESS: tuple[Task, ...] = ("Model", "ForMaskedLM")
_PROMPT_NAMES = (("query",), ("document", "passage", "corpus"))
_SIMILARITIES: dict[Any, ActivationFn] = {None: "cosine", "cosine": "cosine", "dot": "dot", "dot_score": "dot"}


def embedding_head(checkpoint: Checkpoint) -> HeadSpec:
    """Pooling and modules as the chain has them, and how two vectors are compared.

    Raises ``ConfigError`` for a pooling, a similarity or a template that is not supported.
    """
    chain, label = checkpoint.chain, checkpoint.label
    if POOLING_KEY in checkpoint.overrides or chain is None or chain.pooling is None:
        pooling = _asked_pooling(checkpoint)
    else:
        pooling = chain.pooling
        check_include_prompt(checkpoint, any(text_prompts(checkpoint)))
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
    if chain is None and _SIMILARITIES[name] != "cosine":
        raise without_modules(label, f"similarity_fn_name {name!r}", "take that key out, and cosines are compared")
    modules = chain.modules if chain else ()
    return HeadSpec(kind="embedding", pooling=pooling, modules=modules, activation=_SIMILARITIES[name])


def _asked_pooling(checkpoint: Checkpoint) -> Pooling:
    """The pooling that a flag names: of a network alone config.json states at most that of a classifier."""
    if POOLING_KEY not in checkpoint.overrides:
        raise ConfigError(
            f"{checkpoint.label} is a {checkpoint.architecture} without modules.json, and nothing says how its tokens "
            "become one vector. Download the whole checkpoint, with modules.json and 1_Pooling; or say it with "
            f'--hf-overrides \'{{"{POOLING_KEY}": "mean"}}\' (cls, mean or last).',
            param="hf_overrides.classifier_pooling",
        )
    return stated_pooling(checkpoint)


def check_include_prompt(checkpoint: Checkpoint, has_prompts: bool) -> None:
    """Raises ``ConfigError`` for a pooling that leaves out the tokens of a prompt: the first token is one of them."""
    chain = checkpoint.chain
    if chain is not None and not chain.include_prompt and has_prompts and chain.pooling != "last":
        raise ConfigError(
            f"The Pooling module of {checkpoint.label} leaves the tokens of its prompt out (include_prompt is false), "
            "which is not supported here.",
            param="model",
        )


def stated_pooling(checkpoint: Checkpoint) -> Pooling:
    """The pooling by config.json, else by family; raises ``ConfigError`` for one that is not computed."""
    stated, family = checkpoint.config.get(POOLING_KEY), checkpoint.family
    if stated is None or checkpoint.by_library:
        return family.pooling
    reads_it = checkpoint.task in HEADLESS or checkpoint.config["model_type"] in _HEADS_WITH_POOLING
    if not reads_it and _POOLINGS.get(stated) != family.pooling:
        raise ConfigError(
            f"config.json of {checkpoint.label} has {POOLING_KEY} = {stated!r}, which the head of a "
            f"{checkpoint.architecture} does not read: its scores come from the {family.pooling} token. Take the key "
            "out, or correct the architecture.",
            param="model",
        )
    if stated not in _POOLINGS or (checkpoint.causal and _POOLINGS[stated] != "last"):
        known = ("last",) if checkpoint.causal else _POOLINGS
        raise ConfigError(
            f"config.json of {checkpoint.label} pools tokens by {stated!r}, which is not supported for this network; "
            f"supported are {', '.join(known)}.",
            param="model",
        )
    return _POOLINGS[stated]


def text_prompts(checkpoint: Checkpoint) -> tuple[str, str]:
    """The texts that sentence-transformers puts before queries and documents, or else its default prompt.

    Raises ``ConfigError`` for some that belong to a chain which is not there.
    """
    prompts, default = checkpoint.prompts(), checkpoint.default_prompt()
    query, document = (next((prompts[name] for name in names if name in prompts), default) for names in _PROMPT_NAMES)
    if checkpoint.chain is None and (query or document):
        raise without_modules(
            checkpoint.label, f"the prompts {query!r} and {document!r}", "leave them out with --score-template none"
        )
    if any((query, document)) and not {"query", "document"} <= set(prompts):
        logger.warning(
            "%s saves prompts, but not both of 'query' and 'document': %r is put before queries and %r before "
            "documents. sentence-transformers 6 takes neither passage and corpus nor the default prompt for them. If "
            "they are wrong, name those two in %s, or leave all out with --score-template none.",
            checkpoint.label,
            query,
            document,
            METADATA,
        )
    return query, document
