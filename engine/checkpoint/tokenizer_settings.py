"""``tokenizer_config.json`` beside ``tokenizer.json``: what it says of the ids is followed, or refused by name.

transformers builds the tokenizer of some classes anew from these settings, whatever ``tokenizer.json`` holds, and cuts
texts that are too long where they say. A setting that says the same as ``tokenizer.json`` changes nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers

from engine.checkpoint.rebuilt_tokenizer import marks_otherwise
from engine.errors import ConfigError

logger = logging.getLogger(__name__)

FILE = "tokenizer_config.json"
_NORMALIZING = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Keys that BERT's normaliser knows, under its own names."""
_NORMALIZING_CLASSES = ("None", "BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer")
"""Classes that normalise by these keys; None: as the network's type has it."""
_WITHOUT_TYPES = (
    *("DistilBertTokenizer", "MPNetTokenizer", "RobertaTokenizer", "XLMRobertaTokenizer", "CamembertTokenizer"),
    *("GPT2Tokenizer", "TokenizersBackend"),
)
"""Classes whose pairs have no token types, whatever tokenizer.json holds."""
_PREFIX_CLASSES = ("RobertaTokenizer", "GPT2Tokenizer", "LongformerTokenizer", "BartTokenizer")
"""Classes that split texts by ``add_prefix_space``."""


def follow_settings(tokenizer: Tokenizer, stated: Mapping[str, Any]) -> list[str]:
    """Makes ``tokenizer`` normalise and split as ``stated`` (tokenizer_config.json) says; the keys that changed it."""
    changed: list[str] = []
    name = str(stated.get("tokenizer_class")).removesuffix("Fast")
    normalizer = tokenizer.normalizer
    if name in _NORMALIZING_CLASSES and isinstance(normalizer, normalizers.BertNormalizer):
        for key, name in _NORMALIZING.items():
            value = stated.get(key)
            if isinstance(value, bool) and value != _effective(normalizer, name):
                changed.append(key)
                setattr(normalizer, name, value)
        tokenizer.normalizer = normalizer
    splitter, prefix = tokenizer.pre_tokenizer, stated.get("add_prefix_space")
    by_prefix = name in _PREFIX_CLASSES and isinstance(prefix, bool)
    if by_prefix and isinstance(splitter, pre_tokenizers.ByteLevel) and prefix != splitter.add_prefix_space:
        changed.append("add_prefix_space")
        splitter.add_prefix_space = bool(prefix)
        tokenizer.pre_tokenizer = splitter
    return changed


def _effective(normalizer: normalizers.BertNormalizer, name: str) -> bool:
    """Accents are stripped with the case where nothing is said of them."""
    value = getattr(normalizer, name)
    return bool(normalizer.lowercase if value is None else value)


def tell(folder: Path, stated: Mapping[str, Any], changed: list[str]) -> None:
    """One warning for each key by which ``follow_settings`` changed the tokenizer."""
    for key in changed:
        logger.warning(
            "%s says %s = %s, and tokenizer.json does otherwise; the former counts, as in transformers.",
            folder / FILE,
            key,
            json.dumps(stated[key]),
        )


def check_settings(
    tokenizer: Tokenizer,
    folder: Path,
    stated: Mapping[str, Any],
    *,
    has_types: bool,
    encoder: object = None,
    ignored: tuple[str, ...] = (),
) -> None:
    """Raises ``ConfigError`` for a setting that gives texts other ids, or another end, than they get here.

    ``folder``: of the tokenizer. ``has_types``: the network reads pairs with token types. ``encoder``: its
    ``model_type``, where it is one: its head reads the marks. ``ignored``:
    ``--ignore-config-key``.
    """
    side = stated.get("truncation_side") or _stored_side(folder)
    if str(side).lower() == "left":
        _refuse(folder, ignored, "truncation_side", "left", "texts that are too long lose their end here")
    for entry in (stated.get("added_tokens_decoder") or {}).values():
        content = entry.get("content") if isinstance(entry, Mapping) and not entry.get("special") else None
        if isinstance(content, str) and tokenizer.token_to_id(content) is None:
            _refuse(folder, ignored, "added_tokens_decoder", content, "tokenizer.json does not have this token")
    if encoder is not None and (marks := marks_otherwise(tokenizer, stated, encoder)) is not None:
        _refuse(
            folder,
            ignored,
            "tokenizer_class",
            str(stated.get("tokenizer_class")),
            f"by it a pair is {marks}, which tokenizer.json makes otherwise (post_processor)",
        )
    if makes_types(stated) is None and has_types and _has_two_types(tokenizer):
        _refuse(
            folder,
            ignored,
            "tokenizer_class",
            "PreTrainedTokenizerFast",
            "without model_input_names transformers 4 gives a pair token types and transformers 5 gives none; say it "
            "with model_input_names. With the flag below they are made, as tokenizer.json has them",
        )


def makes_types(stated: Mapping[str, Any]) -> bool | None:
    """Whether pairs get token types; None where that depends on the version of transformers."""
    names, name = stated.get("model_input_names"), str(stated.get("tokenizer_class")).removesuffix("Fast")
    if isinstance(names, list):
        return "token_type_ids" in names
    return None if name == "PreTrainedTokenizer" else name not in _WITHOUT_TYPES


def _has_two_types(tokenizer: Tokenizer) -> bool:
    return len(set(tokenizer.encode("a", "a").type_ids)) > 1


def _stored_side(folder: Path) -> str:
    """``truncation.direction`` of tokenizer.json, which counts where nothing else is said."""
    path = folder / "tokenizer.json"
    try:
        saved = json.loads(path.read_bytes()).get("truncation") if path.is_file() else None
    except (ValueError, AttributeError, RecursionError):
        return ""
    return str(saved.get("direction") or "") if isinstance(saved, dict) else ""


def _refuse(folder: Path, ignored: tuple[str, ...], key: str, value: str, why: str) -> None:
    if key not in ignored:
        raise ConfigError(
            f"{folder / FILE} says {key} = {value}, and {why}: scores would be others than in transformers. "
            f"Correct the tokenizer's files, so that they agree; if it means nothing, pass --ignore-config-key {key}.",
            param="ignore_config_key",
        )
