"""``--hf_overrides``: the keys of config.json that may be replaced, each with what it must hold.

An allow-list, because overrides may come from a file that somebody else wrote: nothing here can name code or a path.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from engine.errors import ConfigError

logger = logging.getLogger(__name__)

METHODS = ("from_2_way_softmax", "no_post_processing")
HEAD_KEYS = ("classifier_from_token", "method", "is_original_qwen3_reranker", "num_labels", "id2label", "problem_type")
"""Keys that say which head a model has, or what its range is."""
_PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
_HEAD_DTYPES = ("float32", "float", "model", "auto", "bfloat16", "float16", "half")
_REFUSED = ("auto_map", "custom_pipelines", "_name_or_path", "name_or_path", "tokenizer_class", "trust_remote_code")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


_BOOL = (lambda v: isinstance(v, bool), "true or false")
_COUNT = (lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0, "a positive integer")
_NUMBER = (_is_number, "a number")
_STRINGS = (_is_strings, "a list of strings")
_OBJECT = (lambda v: isinstance(v, dict), "an object")

_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "architectures": _STRINGS,
    "classifier_from_token": _STRINGS,
    "is_original_qwen3_reranker": _BOOL,
    "method": (lambda v: v in METHODS, " or ".join(METHODS)),
    "use_sep_token": _BOOL,
    "use_pad_token": _BOOL,
    "head_dtype": (lambda v: v in _HEAD_DTYPES, " or ".join(_HEAD_DTYPES)),
    "num_labels": _COUNT,
    "id2label": _OBJECT,
    "label2id": _OBJECT,
    "problem_type": (lambda v: v in _PROBLEMS, " or ".join(_PROBLEMS)),
    "classifier_pooling": (lambda v: v in ("cls", "mean", "last"), "cls, mean or last"),
    "max_position_embeddings": _COUNT,
    "rope_scaling": _OBJECT,
    "rope_parameters": _OBJECT,
    "rope_theta": _NUMBER,
    "tie_word_embeddings": _BOOL,
    "sentence_transformers": _OBJECT,
    "sbert_ce_default_activation_function": (lambda v: isinstance(v, str), "a string"),
    "logit_mean": _NUMBER,
    "logit_sigma": (lambda v: _is_number(v) and v > 0, "a number above 0"),
}


def apply_overrides(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with the overrides in it; objects are merged, everything else replaces. None takes a key away."""
    merged = dict(config)
    for key, value in overrides.items():
        _check(key, value)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict) and key not in ("id2label", "label2id"):
            merged[key] = {**merged[key], **value}
        else:
            merged[key] = value
    for key, other in (("rope_parameters", "rope_scaling"), ("rope_scaling", "rope_parameters")):
        if key in overrides and other not in overrides:  # two names of one thing: what the file has is replaced
            merged.pop(other, None)
    if "use_pad_token" in overrides:
        logger.warning("hf_overrides: use_pad_token is the old name of use_sep_token.")
        merged.setdefault("use_sep_token", merged["use_pad_token"])
    if merged.get("head_dtype") not in (None, "float32", "float", "auto"):
        logger.warning("hf_overrides: head_dtype %s is not used; the head always runs in fp32.", merged["head_dtype"])
    return merged


def _check(key: str, value: Any) -> None:
    where = f"hf_overrides.{key}"
    if key in _REFUSED:
        raise ConfigError(f"{where} is refused: overrides cannot name code or files.", param=where)
    if key not in _ALLOWED:
        near = difflib.get_close_matches(key, _ALLOWED, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{where} is not known.{hint} These exist: {', '.join(sorted(_ALLOWED))}.", param=where)
    accepts, expected = _ALLOWED[key]
    if value is not None and not accepts(value):
        raise ConfigError(f"{where} must be {expected}, not {value!r}.", param=where)
