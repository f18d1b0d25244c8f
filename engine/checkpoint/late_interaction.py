"""Late-interaction models (ColBERT): every token of a text gets a vector, and two texts are compared token by token.

Their files come in three layouts, and are read as sentence-transformers 6 reads them:

* Stanford: ``architectures: ["HF_ColBERT"]``, ``linear.weight`` beside the network, settings in ``artifact.metadata``;
* PyLate: modules Transformer and Dense, settings in ``config_sentence_transformers.json``;
* sentence-transformers: modules Transformer, Dense, MultiVectorMask, Normalize, each with its settings.
"""

from __future__ import annotations

import json
import logging
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from engine.checkpoint.chain import LateMask
from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.overrides import HEAD_KEYS
from engine.errors import ConfigError, ModelLoadError
from engine.model_spec import ActivationFn, Expansion, HeadModule, HeadSpec, LateTexts, SideForm

logger = logging.getLogger(__name__)

STANFORD, ARTIFACT, PROJECTION = "HF_ColBERT", "artifact.metadata", "linear.weight"
_USUAL_OUT, _USUAL_QUERY = 128, 32
_SIMILARITIES: dict[Any, ActivationFn] = {None: "max_sim", "maxsim": "max_sim", "meanmaxsim": "mean_max_sim"}


@dataclass(frozen=True)
class _Settings:
    """What the files say, whatever their layout."""

    query_prompt: str
    document_prompt: str
    marks_are_tokens: bool
    """A prompt that is one word of the vocabulary is that token, whether or not the tokenizer knows it in texts."""
    query_length: int | None
    document_length: int | None
    expansion: Mapping[str, Any] | None
    mask: LateMask


def late_head(checkpoint: Checkpoint) -> HeadSpec:
    """The projection of each token, and how vectors are compared. Raises ``ConfigError`` or ``ModelLoadError``."""
    label, chain = checkpoint.label, checkpoint.chain
    for key in HEAD_KEYS:
        if key in checkpoint.overrides:
            raise ConfigError(
                f"{label} is a late-interaction model, which compares vectors of tokens; --hf-overrides with {key} "
                "cannot give it another head. Leave it out.",
                param=f"hf_overrides.{key}",
            )
    if checkpoint.causal:
        raise ConfigError(
            f"{label} is a late-interaction model on a {checkpoint.family.body} decoder, which is not supported; "
            "supported are those on encoders, such as BERT and ModernBERT.",
            param="model",
        )
    if chain is not None:
        stated = checkpoint.metadata.get("similarity_fn_name")
        is_old = checkpoint.metadata.get("model_type") == "ColBERT"
        if stated not in _SIMILARITIES and not is_old:
            raise ConfigError(
                f"config_sentence_transformers.json of {label} compares vectors of tokens by {stated!r}, which is not "
                "supported; supported are maxsim and meanmaxsim.",
                param="model",
            )
        modules = chain.modules
        if is_old and not any(module.kind == "normalize" for module in modules):
            modules = (*modules, HeadModule(kind="normalize"))
        return HeadSpec(
            kind="late_interaction", pooling="tokens", modules=modules, activation=_SIMILARITIES.get(stated, "max_sim")
        )
    return _stanford_head(checkpoint)


def _stanford_head(checkpoint: Checkpoint) -> HeadSpec:
    """The head of a checkpoint in the layout of Stanford's ColBERT, which states none."""
    label = checkpoint.label
    hidden, out = int(checkpoint.config["hidden_size"]), _USUAL_OUT
    if checkpoint.has_weights:
        stored = checkpoint.files.tensors.get(PROJECTION)
        if stored is None or len(stored.shape) != 2 or stored.shape[1] != hidden:
            found = "none" if stored is None else str(tuple(stored.shape))
            raise ModelLoadError(
                f"{label} is a ColBERT of Stanford's layout, whose {PROJECTION} makes vectors of the network's "
                f"{hidden} numbers; its files have {found}. Download the whole checkpoint."
            )
        out = stored.shape[0]
    projection = HeadModule(kind="dense", bias=False, weight=PROJECTION, in_features=hidden, out_features=out)
    modules = (projection, HeadModule(kind="normalize"))
    return HeadSpec(kind="late_interaction", pooling="tokens", modules=modules, activation="max_sim")


def late_texts(checkpoint: Checkpoint, max_model_len: int) -> LateTexts:
    """How queries and documents become tokens. Raises ``ConfigError`` for a setting that is not supported."""
    found, tokenizer = _settings(checkpoint), checkpoint.tokenizer
    expansion = None
    if found.expansion is not None:
        expansion = _expansion(checkpoint, found.expansion)
        if expansion.length > max_model_len:
            raise ConfigError(
                f"{checkpoint.label} fills its queries up to {expansion.length} tokens, and the model's length is "
                f"{max_model_len}. Raise --max-model-len.",
                param="max_model_len",
            )
    query_length = min(found.query_length or max_model_len, max_model_len)
    if expansion is not None:
        query_length = expansion.length if expansion.is_fixed else max(query_length, expansion.length)
    skipped = _token_ids(checkpoint, found.mask.skiplist_words)
    tasks = found.mask.skiplist_tasks
    return LateTexts(
        query=_side(tokenizer, found.query_prompt, found, query_length, skipped if "query" in tasks else ()),
        document=_side(
            tokenizer,
            found.document_prompt,
            found,
            min(found.document_length or max_model_len, max_model_len),
            skipped if "document" in tasks else (),
        ),
        expansion=expansion,
    )


def _settings(checkpoint: Checkpoint) -> _Settings:
    chain = checkpoint.chain
    if chain is None:
        return _of_artifact(checkpoint)
    metadata, transformer = checkpoint.metadata, chain.transformer
    if metadata.get("model_type") != "ColBERT":
        prompts = checkpoint.prompts()
        return _Settings(
            prompts.get("query", ""),
            prompts.get("document", ""),
            False,
            transformer.query_length,
            transformer.document_length,
            transformer.query_expansion,
            chain.late or LateMask(),
        )
    expansion = None
    query_length = _length(checkpoint, "query_length", metadata.get("query_length"))
    if metadata.get("do_query_expansion") is not False:
        attend = metadata.get("attend_to_expansion_tokens", metadata.get("attend_to_mask_tokens"))
        length = query_length or _USUAL_QUERY
        expansion, query_length = {"strategy": "fixed", "attend": bool(attend), "length": length}, None
    words = metadata.get("skiplist_words")
    return _Settings(
        _marked(checkpoint, "query"),
        _marked(checkpoint, "document"),
        True,
        query_length,
        _length(checkpoint, "document_length", metadata.get("document_length")),
        expansion,
        LateMask(tuple(string.punctuation) if words is None else tuple(map(str, words)), ("document",)),
    )


def _marked(checkpoint: Checkpoint, side: str) -> str:
    """PyLate's mark of a side, and the prompt behind it."""
    mark = str(checkpoint.metadata.get(f"{side}_prefix") or "")
    return mark + checkpoint.prompts().get(side, "").removeprefix(mark)


def _of_artifact(checkpoint: Checkpoint) -> _Settings:
    path = Path(checkpoint.files.folder) / ARTIFACT
    stored: Any = {}
    if path.is_file():
        try:
            stored = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ModelLoadError(f"{path} is not valid JSON: {error}.") from error
        if not isinstance(stored, dict):
            raise ModelLoadError(f"{path} must hold a JSON object, not {type(stored).__name__}.")
    else:
        logger.warning("%s has no %s: the settings of ColBERTv2 are taken.", checkpoint.label, ARTIFACT)
    length = _length(checkpoint, "query_maxlen", stored.get("query_maxlen")) or _USUAL_QUERY
    attend = bool(stored.get("attend_to_mask_tokens"))
    words = tuple(string.punctuation) if stored.get("mask_punctuation", True) else ()
    return _Settings(
        f"{stored.get('query_token_id') or '[unused0]'} ",
        f"{stored.get('doc_token_id') or '[unused1]'} ",
        True,
        None,
        _length(checkpoint, "doc_maxlen", stored.get("doc_maxlen")),
        {"strategy": "fixed", "attend": attend, "length": length},
        LateMask(words, ("document",)),
    )


def _length(checkpoint: Checkpoint, name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 4:
        raise ModelLoadError(f"{checkpoint.label} states {name} = {value!r}; a number of tokens from 4 on is expected.")
    return value


def _expansion(checkpoint: Checkpoint, stated: Mapping[str, Any]) -> Expansion:
    known = ("strategy", "attend", "token", "length")
    strategy, length = stated.get("strategy"), _length(checkpoint, "query_expansion.length", stated.get("length"))
    if set(stated) - set(known) or strategy not in ("fixed", "min") or length is None:
        raise ConfigError(
            f"{checkpoint.label} expands its queries by {dict(stated)!r}, which is not understood: expected are "
            f"{', '.join(known)}, and fixed or min as the strategy.",
            param="model",
        )
    config, tokenizer = checkpoint.files.tokenizer_config, checkpoint.tokenizer
    names = [stated.get("token")] if stated.get("token") else [config.get("mask_token"), config.get("eos_token")]
    texts = [name.get("content") if isinstance(name, dict) else name for name in names]
    token_id = next((tokenizer.token_to_id(text) for text in texts if isinstance(text, str)), None)
    if token_id is None:
        raise ConfigError(
            f"{checkpoint.label} fills its queries up with a token that its tokenizer lacks: {names[0]!r}.",
            param="model",
        )
    return Expansion(
        token_id=token_id, length=length, is_fixed=strategy == "fixed", attends=bool(stated.get("attend", False))
    )


def _side(tokenizer: Tokenizer, prompt: str, found: _Settings, length: int, skipped: tuple[int, ...]) -> SideForm:
    """A prompt that begins with one token of the vocabulary is that token and the text behind it."""
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for mark in (prompt, prompt.split(None, 1)[0] if prompt.split() else ""):
        token_id = tokenizer.token_to_id(mark) if mark and (found.marks_are_tokens or mark in added) else None
        if token_id is not None:
            return SideForm(mark_id=token_id, prompt=prompt[len(mark) :], length=length, skipped_ids=skipped)
    return SideForm(mark_id=None, prompt=prompt, length=length, skipped_ids=skipped)


def _token_ids(checkpoint: Checkpoint, words: Sequence[str]) -> tuple[int, ...]:
    """Those that are one token each; any other would stand for the unknown token, which documents may really hold."""
    ids = {word: checkpoint.tokenizer.token_to_id(word) for word in words}
    if missing := [word for word, token_id in ids.items() if token_id is None]:
        logger.warning(
            "%s leaves words out of its scores that are no tokens of its vocabulary: %s. They are not left out.",
            checkpoint.label,
            " ".join(missing),
        )
    return tuple(sorted(token_id for token_id in ids.values() if token_id is not None))
