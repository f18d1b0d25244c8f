"""Models that embed a text: each side of a pair gets a vector, and the score is the cosine of the two.

A checkpoint is one if its architecture has no head, or if Sentence-Transformers' ``modules.json`` lists a pooling.
"""

from __future__ import annotations

import logging
from typing import Any

from engine.checkpoint.families import Family, Task
from engine.checkpoint.files import CheckpointFiles
from engine.errors import ConfigError
from engine.model_spec import HeadSpec, Pooling

logger = logging.getLogger(__name__)

HEADLESS: tuple[Task, ...] = ("Model", "ForMaskedLM")
_HARMLESS_MODULES = ("Transformer", "Pooling", "Normalize")
_POOLINGS: dict[str, Pooling] = {
    "cls": "cls",
    "mean": "mean",
    "lasttoken": "last",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
"""Names of the two forms of the pooling module's config."""
_PROMPT_NAMES = (("query",), ("document", "passage", "corpus"))


def is_embedding(files: CheckpointFiles, task: Task) -> bool:
    if task in HEADLESS:
        return True
    return task == "ForCausalLM" and files.logit_score is None and _module(files, "Pooling") is not None


def embedding_head(files: CheckpointFiles, family: Family, label: str) -> HeadSpec:
    for module in files.modules:
        if (kind := _kind(module)) not in _HARMLESS_MODULES:
            raise ConfigError(
                f"{label} embeds with a module {kind} behind the network, which is not supported; supported are "
                f"{', '.join(_HARMLESS_MODULES)}.",
                param="model",
            )
    pooling = _stored_pooling(files, label)
    if pooling is None:
        pooling = family.pooling
        logger.warning("%s: no file says how it pools its tokens; %s is taken, as is usual.", label, pooling)
    if family.causal and pooling == "mean":
        raise ConfigError(f"{label} takes the mean over a decoder's tokens, which is not supported.", param="model")
    return HeadSpec(kind="embedding", pooling=pooling, activation="cosine")


def text_prompts(files: CheckpointFiles) -> tuple[str, str]:
    """What Sentence-Transformers puts before queries and before documents."""
    prompts = files.cross_encoder.get("prompts")
    if not isinstance(prompts, dict):
        return "", ""
    found = [
        next((prompts[name] for name in names if isinstance(prompts.get(name), str)), "") for names in _PROMPT_NAMES
    ]
    return found[0], found[1]


def max_text_len(files: CheckpointFiles) -> int | None:
    length = (files.json("sentence_bert_config.json") or {}).get("max_seq_length")
    return length if isinstance(length, int) and length > 0 else None


def _stored_pooling(files: CheckpointFiles, label: str) -> Pooling | None:
    module = _module(files, "Pooling")
    if module is None:
        return None
    config = files.json(f"{module.get('path', '')}/config.json") or {}
    stated = config.get("pooling_mode")
    chosen = [stated] if isinstance(stated, str) else [name for name, is_on in config.items() if is_on is True]
    chosen = [name for name in chosen if name.startswith("pooling_mode") or name == stated]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        raise ConfigError(
            f"{label} pools its tokens by {' and '.join(chosen) or 'nothing'}, which is not supported; supported are "
            "cls, mean and lasttoken.",
            param="model",
        )
    if config.get("include_prompt") is False and any(text_prompts(files)) and _POOLINGS[chosen[0]] == "mean":
        raise ConfigError(f"{label} leaves its prompts out of the mean, which is not supported.", param="model")
    return _POOLINGS[chosen[0]]


def _module(files: CheckpointFiles, kind: str) -> dict[str, Any] | None:
    return next((module for module in files.modules if _kind(module) == kind), None)


def _kind(module: dict[str, Any]) -> str:
    return str(module.get("type", "")).rpartition(".")[2]
