"""Classes of tokenizers that transformers 5 builds anew from the vocabulary: where their ids differ, it is said.

Such a class puts its own normaliser and splitter in the place of those in ``tokenizer.json``. Here ``tokenizer.json``
counts, with which transformers 4 trained and text-embeddings-inference serves.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from engine.prompts.compiled import settings_of

logger = logging.getLogger(__name__)
_Steps = tuple[Any, Any]
"""A normaliser, or none, and a splitter."""
_PROBES = ("a word, and  another ", "a line\nand\ta tab", " ﬁrst ｆｕｌｌ ①", "Case ÀÉ", "中文 e\u0301", "don't")
_OF_TYPE = {
    **dict.fromkeys(("bert", "electra", "mpnet", "distilbert"), "BertTokenizer"),
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "roberta": "RobertaTokenizer",
}
"""The class where tokenizer_config.json names none."""


def reads_otherwise(tokenizer: Tokenizer, stated: Mapping[str, Any], model_type: object) -> str | None:
    """A text that the class of ``stated`` (tokenizer_config.json) would give other ids; None where there is none."""
    other = rebuilt(tokenizer, stated, model_type)
    if other is None:
        return None
    try:
        return next((text for text in _PROBES if _ids(other, text) != _ids(tokenizer, text)), None)
    except Exception as error:  # the library has no narrower type
        logger.info("whether transformers 5 would tokenise otherwise is not known: its class fails here (%s)", error)
        return None


def marks_otherwise(tokenizer: Tokenizer, stated: Mapping[str, Any], model_type: object) -> str | None:
    """How the class of ``stated`` marks a pair, where ``tokenizer.json`` does otherwise; None where both agree."""
    name = stated.get("tokenizer_class") or _OF_TYPE.get(str(model_type))
    form = _FORMS.get(str(name).removesuffix("Fast"))
    if form is None:
        return None
    marks = [_text_of(stated.get(key), usual) if usual else key for key, usual in form]
    found = tokenizer.encode("a", "a")
    ours = ["A" if sequence == 0 else "B" for sequence in found.sequence_ids]
    ours = [
        str(tokenizer.id_to_token(one)) if sequence is None else mark
        for one, sequence, mark in zip(found.ids, found.sequence_ids, ours, strict=True)
    ]
    shown = [mark for mark, before in zip(ours, ["", *ours], strict=False) if mark not in "AB" or mark != before]
    return None if shown == marks else " ".join(marks)


def _text_of(token: Any, usual: str) -> str:
    found = token.get("content") if isinstance(token, Mapping) else token
    return found if isinstance(found, str) else usual


_CLS, _SEP, _BOS, _EOS = ("cls_token", "[CLS]"), ("sep_token", "[SEP]"), ("bos_token", "<s>"), ("eos_token", "</s>")
_A, _B = ("A", ""), ("B", "")
_FORMS: dict[str, tuple[tuple[str, str], ...]] = {
    **dict.fromkeys(("BertTokenizer", "ElectraTokenizer"), (_CLS, _A, _SEP, _B, _SEP)),
    "XLMRobertaTokenizer": (_BOS, _A, _EOS, _EOS, _B, _EOS),
}
"""By class: the marks of a pair, each a key of tokenizer_config.json with its usual text; A and B are the two texts."""


def rebuilt(tokenizer: Tokenizer, stated: Mapping[str, Any], model_type: object) -> Tokenizer | None:
    """The tokenizer as the class of ``stated`` makes it in transformers 5; None for a class that reads the file."""
    name = stated.get("tokenizer_class") or _OF_TYPE.get(str(model_type))
    steps = _CLASSES.get(str(name).removesuffix("Fast"))
    if steps is None:
        return None
    other = Tokenizer(tokenizer.model)
    normalizer, splitter = steps(tokenizer, stated)
    if normalizer is not None:
        other.normalizer = normalizer
    other.pre_tokenizer = splitter
    return other


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _bert(tokenizer: Tokenizer, stated: Mapping[str, Any]) -> _Steps:
    return normalizers.BertNormalizer(
        lowercase=stated.get("do_lower_case", True) is True,
        strip_accents=stated.get("strip_accents"),
        handle_chinese_chars=stated.get("tokenize_chinese_chars", True) is True,
    ), pre_tokenizers.BertPreTokenizer()


def _roberta(tokenizer: Tokenizer, stated: Mapping[str, Any]) -> _Steps:
    return None, pre_tokenizers.ByteLevel(add_prefix_space=stated.get("add_prefix_space", False) is True)


def _xlm_roberta(tokenizer: Tokenizer, stated: Mapping[str, Any]) -> _Steps:
    """Of the file's normaliser nothing but SentencePiece's table is kept."""
    kept = settings_of(tokenizer.normalizer)
    tables = [part for part in kept.get("normalizers", [kept]) if part.get("type") == "Precompiled"]
    scheme = "always" if stated.get("add_prefix_space", True) else "never"
    splitters: list[Any] = [
        pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme),
    ]
    table = base64.b64decode(tables[0]["precompiled_charsmap"]) if tables else None
    return normalizers.Precompiled(table) if table else None, pre_tokenizers.Sequence(splitters)


def _deberta(tokenizer: Tokenizer, stated: Mapping[str, Any]) -> _Steps:
    """SentencePiece's table is left out."""
    steps: list[Any] = [normalizers.Lowercase()] if stated.get("do_lower_case") else []
    spaces = normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " ")
    steps += [spaces, normalizers.NFC(), normalizers.Strip(left=False, right=True)]
    scheme = "always" if stated.get("add_prefix_space", True) else "first"
    splitters: list[Any] = [pre_tokenizers.Punctuation(behavior="isolated")] if stated.get("split_by_punct") else []
    splitters.append(pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme))
    return normalizers.Sequence(steps), pre_tokenizers.Sequence(splitters)


_CLASSES: dict[str, Callable[[Tokenizer, Mapping[str, Any]], _Steps]] = {
    **dict.fromkeys(("BertTokenizer", "ElectraTokenizer", "MPNetTokenizer", "DistilBertTokenizer"), _bert),
    **dict.fromkeys(("XLMRobertaTokenizer", "CamembertTokenizer"), _xlm_roberta),
    "DebertaV2Tokenizer": _deberta,
    "RobertaTokenizer": _roberta,
}
