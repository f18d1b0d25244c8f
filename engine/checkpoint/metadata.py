"""config_sentence_transformers.json: what sentence-transformers saves of a whole model, each key known or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.checkpoint.files import CheckpointFiles
from engine.errors import ConfigError, ModelLoadError

METADATA = "config_sentence_transformers.json"
_READ = ("model_type", "prompts", "default_prompt_name", "similarity_fn_name", "activation_fn")
_HARMLESS = ("__version__", "requirements", "keep_in_fp32_modules")
"""Versions, and a precision that heads have here in any case."""
_PYLATE = (
    *("query_prefix", "document_prefix", "query_length", "document_length", "do_query_expansion"),
    *("attend_to_expansion_tokens", "attend_to_mask_tokens", "skiplist_words"),
)
"""What PyLate saves here of a late-interaction model."""
_OTHER_TYPES = {"SparseEncoder": "a sparse model for the first stage of a search"}


def read_metadata(files: CheckpointFiles, ignored: tuple[str, ...] = ()) -> dict[str, Any]:
    """The file; empty where there is none. ``ignored``: ``--ignore-config-key``.

    Raises ``ConfigError`` for a kind of model that is no reranker, for a key that is not known, and for a default
    prompt that is none of the prompts.
    """
    found = files.json(METADATA) or {}
    stated = found.get("model_type")
    if stated in _OTHER_TYPES:
        raise ConfigError(
            f"{files.folder / METADATA} says that this is a {stated}, {_OTHER_TYPES[stated]}, which is not served "
            "here. Serve a cross-encoder or a bi-encoder.",
            param="model",
        )
    known = (*_READ, *_HARMLESS, *(_PYLATE if stated == "ColBERT" else ()), *ignored)
    for key, value in found.items():
        if key not in known and value is not None:
            raise ConfigError(
                f"{files.folder / METADATA} has {key} = {value!r}, which is not known here and may change scores. If "
                f"it means nothing, pass --ignore-config-key {key}.",
                param="ignore_config_key",
            )
    _check_prompts(files, found)
    return found


def without_modules(label: str, key: str, way_out: str) -> ConfigError:
    """The error for a statement of the file beside no ``modules.json``: sentence-transformers reads neither then."""
    return ConfigError(
        f"{METADATA} of {label} states {key}, and modules.json, with which it was saved, is missing: "
        f"sentence-transformers leaves the file out then. Download the whole checkpoint, or take the file away; or "
        f"{way_out}.",
        param="model",
    )


def _check_prompts(files: CheckpointFiles, metadata: Mapping[str, Any]) -> None:
    prompts, name = metadata.get("prompts") or {}, metadata.get("default_prompt_name")
    if not isinstance(prompts, dict):
        raise ModelLoadError(f"{files.folder / METADATA}: prompts must be an object, not {type(prompts).__name__}.")
    if name is not None and name not in prompts:
        there = f"there are {', '.join(map(repr, prompts))}" if prompts else "it has no prompts"
        raise ConfigError(
            f"{files.folder / METADATA} names the default prompt {name!r}, and {there}. Correct one of the two.",
            param="model",
        )
