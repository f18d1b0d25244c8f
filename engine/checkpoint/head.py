"""The head of a checkpoint: token rows of its language model head, its own classifier, saved modules, or none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from engine.checkpoint.authority import Authority
from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.embedding import check_include_prompt, embedding_head, stated_pooling
from engine.checkpoint.head_source import WHERE, Tokens, stated_source, tokens_of
from engine.checkpoint.identity import README
from engine.checkpoint.labels import NEGATIVE, POSITIVE, rows_of_labels
from engine.checkpoint.late_interaction import late_head
from engine.checkpoint.library_model import library_labels
from engine.checkpoint.listwise import listwise_head
from engine.checkpoint.score_range import resolve_range
from engine.checkpoint.suggestions import how_to_say_it
from engine.errors import ConfigError, ModelLoadError, StartupError
from engine.model_spec import HeadSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Head:
    """The head, and who said which and what its range is."""

    spec: HeadSpec
    origin: str
    range_origin: str


def resolve_head(checkpoint: Checkpoint) -> Head:
    """The head by the strongest statement about it.

    Raises ``ConfigError`` with the flags to use where nothing states it, ``ModelLoadError`` for files that deny it.
    """
    if checkpoint.is_late:
        place = "modules.json" if checkpoint.chain else "config.json"
        return Head(late_head(checkpoint), place, place)
    if checkpoint.task == "ForRanking":
        return Head(listwise_head(checkpoint), "config.json", "its architecture")
    stated = stated_source(checkpoint)
    if stated is None:
        raise ConfigError(how_to_say_it(checkpoint), param="hf_overrides")
    if isinstance(stated.value, Tokens):
        if stated.authority is Authority.FILES:
            _check_name(checkpoint, stated.value, stated.origin)
        stored = checkpoint.files.tensors if checkpoint.has_weights else {}
        if any(name in stored for name in checkpoint.family.head_tensors):
            logger.warning(
                "%s: its files hold a classifier (%s), which is left out: by %s the language model answers.",
                checkpoint.label,
                checkpoint.family.head_tensors[0],
                stated.origin,
            )
        return _token_head(checkpoint, stated.value, stated.origin)
    if stated.value == "classifier":
        return _classifier_head(checkpoint, stated.origin)
    if stated.value == "modules":
        return _modules_head(checkpoint, stated.origin)
    return Head(embedding_head(checkpoint), stated.origin, stated.origin)


def _check_name(checkpoint: Checkpoint, tokens: Tokens, origin: str) -> None:
    """The checkpoint names a published model whose answer is another one than the files'.

    README.md was written about these files, so one of the two is wrong; a folder may be called anything.
    """
    identity = checkpoint.identity
    theirs = tokens_of(identity.model) if identity else None
    if identity is None or theirs is None:
        return
    ours_ids, their_ids = _ids(checkpoint.tokenizer, tokens.tokens, origin), _ids_or_none(checkpoint, theirs)
    if ours_ids == their_ids:
        return
    ours = " and ".join(repr(checkpoint.tokenizer.id_to_token(i)) for i in ours_ids)
    said = f"{origin} scores by {ours}, and {identity.origin} names {identity.id}, which scores by {theirs.names}"
    if README in identity.origin:
        raise ConfigError(
            f"{checkpoint.label} contradicts itself: {said}. Correct one of the two; or decide with --hf-overrides "
            "(classifier_from_token and method), or with --ignore-config-key base_model, which leaves README.md out.",
            param="model",
        )
    logger.warning("%s: its files say otherwise than its name, and they count: %s.", checkpoint.label, said)


def _ids_or_none(checkpoint: Checkpoint, tokens: Tokens) -> tuple[int, ...] | None:
    """None where the vocabulary has no such tokens."""
    try:
        return _ids(checkpoint.tokenizer, tokens.tokens, "")
    except StartupError:
        return None


def _token_head(checkpoint: Checkpoint, choice: Tokens, origin: str) -> Head:
    if not checkpoint.family.decoder:
        raise ConfigError(
            f"{checkpoint.architecture} predicts no next token, so {origin} cannot be its head.", param=WHERE
        )
    method, tokens = choice.kind, choice.tokens
    if method == "from_2_way_softmax" and len(tokens) != 2:
        raise ConfigError(
            f"from_2_way_softmax needs two tokens, [false, true], and classifier_from_token has {len(tokens)}.",
            param=WHERE,
        )
    ids = _ids(checkpoint.tokenizer, tokens, origin)
    texts = [
        str(checkpoint.tokenizer.id_to_token(i)) if isinstance(t, int) else t for t, i in zip(tokens, ids, strict=True)
    ]
    if method == "from_2_way_softmax":
        _check_two(texts, ids)
        if checkpoint.config.get("is_original_qwen3_reranker") and {*texts} != {"no", "yes"}:
            raise ConfigError(
                f"is_original_qwen3_reranker is a model that answers no or yes, and {origin} names {texts[0]!r} and "
                f"{texts[1]!r}. Leave the former out; the method from_2_way_softmax and --score-template say the rest.",
                param=WHERE,
            )
    if len(tokens) > 1 and method not in ("from_2_way_softmax", "expectation"):
        raise ConfigError(
            f"{checkpoint.label} gives {len(tokens)} values a pair ({', '.join(texts)}), and a score is one value. "
            "Name one token, or two with the method from_2_way_softmax.",
            param=WHERE,
        )
    stated = resolve_range(checkpoint)
    spec = HeadSpec(
        kind=method,
        token_ids=ids,
        tokens=tuple(texts),
        pooling=checkpoint.family.pooling,
        activation=stated.value.activation,
        logit_mean=stated.value.mean,
        logit_sigma=stated.value.sigma,
    )
    return Head(spec, origin, stated.origin)


def _check_two(texts: Sequence[str], ids: Sequence[int]) -> None:
    if ids[0] == ids[1]:
        raise ConfigError(f"Both tokens of classifier_from_token are {texts[0]!r}.", param=WHERE)
    if texts[0].strip().lower() in POSITIVE and texts[1].strip().lower() in NEGATIVE:
        logger.warning(
            "classifier_from_token is [%r, %r], but the order is [false, true]: "
            "as it stands, relevant documents get low scores.",
            *texts,
        )


def _ids(tokenizer: Tokenizer, tokens: Sequence[str | int], origin: str) -> tuple[int, ...]:
    return tuple(_token_id(tokenizer, token, origin) for token in tokens)


def _token_id(tokenizer: Tokenizer, token: str | int, origin: str) -> int:
    if isinstance(token, int):
        if tokenizer.id_to_token(token) is None:
            raise ModelLoadError(f"{origin} names the token id {token}, which is no token here.")
        return token
    token_id: int | None = tokenizer.token_to_id(token)
    if token_id is None:
        ids = tokenizer.encode(token, add_special_tokens=False).ids
        if len(ids) != 1:  # one id: the text has another spelling inside the vocabulary, such as Ġyes for ' yes'
            raise ConfigError(
                f"{origin}: {token!r} is not one token of the vocabulary but {len(ids)}.",
                param=WHERE,
            )
        token_id = int(ids[0])
    return token_id


def _classifier_head(checkpoint: Checkpoint, origin: str) -> Head:
    stored = _num_labels(checkpoint)
    rows = rows_of_labels(checkpoint, stored)
    stated = resolve_range(checkpoint, num_labels=1 if len(rows) == 1 else stored)
    spec = HeadSpec(
        kind="classifier",
        label_rows=rows,
        stored_labels=stored,
        pooling=stated_pooling(checkpoint),
        activation=stated.value.activation,
        logit_mean=stated.value.mean,
        logit_sigma=stated.value.sigma,
    )
    return Head(spec, origin, stated.origin)


def _modules_head(checkpoint: Checkpoint, origin: str) -> Head:
    chain = checkpoint.chain
    assert chain is not None
    assert chain.pooling is not None
    check_include_prompt(checkpoint, any(checkpoint.prompts().values()))
    if checkpoint.causal and chain.pooling != "last":
        raise ConfigError(
            f"{checkpoint.label} pools a decoder's tokens by {chain.pooling}, which is not supported; lasttoken is.",
            param="model",
        )
    sizes = [module.out_features for module in chain.modules if module.kind == "dense"]
    stored = sizes[-1] if sizes else 0
    if not chain.modules or chain.modules[-1].kind != "dense":
        raise ConfigError(
            f"modules.json of {checkpoint.label} makes scores of something else than a Dense.", param="model"
        )
    if stored > 1 and (chain.modules[-1].activation != "identity" or chain.modules[-1].residual != "no"):
        raise ConfigError(
            f"The last module of {checkpoint.label} gives {stored} values and has an activation of its own, so they "
            "cannot become one score.",
            param="model",
        )
    rows = rows_of_labels(checkpoint, stored)
    stated = resolve_range(checkpoint, num_labels=1 if len(rows) == 1 else stored)
    spec = HeadSpec(
        kind="modules",
        label_rows=rows,
        stored_labels=stored,
        modules=chain.modules,
        pooling=chain.pooling,
        activation=stated.value.activation,
        logit_mean=stated.value.mean,
        logit_sigma=stated.value.sigma,
    )
    return Head(spec, origin, stated.origin)


def _num_labels(checkpoint: Checkpoint) -> int:
    """What config.json says, or else the stored head: the library default of two would be a guess."""
    config, declared, field = checkpoint.config, None, ""
    if checkpoint.by_library:
        return library_labels(config)
    if config.get("num_labels") is not None:
        declared, field = int(config["num_labels"]), "num_labels"
    elif isinstance(config.get("id2label"), dict):
        declared, field = len(config["id2label"]), "id2label"
    names = checkpoint.family.head_tensors
    tensors = checkpoint.files.tensors if checkpoint.has_weights else {}
    stored = next((tensors[name].shape[0] for name in names if name in tensors and tensors[name].shape), None)
    if checkpoint.has_weights and stored is None:
        raise ModelLoadError(
            f"{checkpoint.label} is to be read as a classifier ({checkpoint.architecture}), but its files hold no "
            f"{' or '.join(names)}. Is it an original checkpoint? Then its language model head can be used: "
            'give "classifier_from_token" and "method" in --hf_overrides.'
        )
    if declared is not None and stored is not None and declared != stored:
        raise ModelLoadError(
            f"config.json declares {declared} label(s) ({field}), but {names[0]} has {stored} row(s). "
            f"Correct it with --hf-overrides '{{\"num_labels\": {stored}}}'."
        )
    return stored or declared or 1
