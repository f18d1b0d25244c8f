"""Which head a checkpoint gets: rows of its language model head, or its own classifier, and the activation after it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from engine.checkpoint.embedding import embedding_head, is_embedding
from engine.checkpoint.families import Family, Recipe, Task
from engine.checkpoint.files import METADATA, CheckpointFiles
from engine.checkpoint.overrides import METHODS
from engine.errors import ConfigError, ModelLoadError
from engine.model_spec import Activation, HeadKind, HeadSpec

logger = logging.getLogger(__name__)

_POSITIVE = {"yes", "true", "1", "relevant"}
_NEGATIVE = {"no", "false", "0", "irrelevant"}
_TORCH_ACTIVATIONS: dict[str, Activation] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Softmax": "softmax",
}


@dataclass(frozen=True)
class Checkpoint:
    """What the decisions below look at."""

    files: CheckpointFiles
    tokenizer: Tokenizer
    config: dict[str, Any]
    """After overrides."""
    family: Family
    task: Task
    recipe: Recipe | None
    recipe_place: str
    has_weights: bool

    @property
    def recipe_is_a_guess(self) -> bool:
        """Only Sentence-Transformers' metadata told that this is a reranker: then they tell its activation too."""
        return self.recipe_place in METADATA

    @property
    def label(self) -> str:
        return self.files.name or self.files.folder.name


def resolve_head(checkpoint: Checkpoint) -> HeadSpec:
    """Token rows of the language model's head where tokens are known, the checkpoint's own classifier, or vectors."""
    config = checkpoint.config
    tokens = config.get("classifier_from_token")
    method = config.get("method")
    if config.get("is_original_qwen3_reranker"):
        method = method or "from_2_way_softmax"
        if tokens is None:
            raise ConfigError(
                'is_original_qwen3_reranker needs its two tokens: add "classifier_from_token": ["no", "yes"].',
                param="hf_overrides.classifier_from_token",
            )
    if tokens is not None:
        if method is None:
            raise ConfigError(
                f"classifier_from_token needs a method: {' or '.join(METHODS)} (or is_original_qwen3_reranker).",
                param="hf_overrides.method",
            )
        return _token_head(checkpoint, method, tokens)
    if method is not None:
        raise ConfigError(
            f"The method {method} needs classifier_from_token.", param="hf_overrides.classifier_from_token"
        )
    if is_embedding(checkpoint.files, checkpoint.task):
        return embedding_head(checkpoint.files, checkpoint.family, checkpoint.label)
    if checkpoint.task == "ForSequenceClassification" and not _overridden_to_classify(checkpoint):
        return _classifier_head(checkpoint)
    if checkpoint.files.logit_score is not None:
        return _logit_score_head(checkpoint, checkpoint.files.logit_score)
    if checkpoint.recipe is not None:
        return _token_head(checkpoint, checkpoint.recipe.method, checkpoint.recipe.tokens)
    raise ConfigError(_no_evidence(checkpoint), param="hf_overrides")


def _overridden_to_classify(checkpoint: Checkpoint) -> bool:
    """The files hold a language model, and only the override calls it a classifier."""
    stored = checkpoint.files.config.get("architectures") or [""]
    return str(stored[0]).endswith("ForCausalLM")


def _no_evidence(checkpoint: Checkpoint) -> str:
    body = checkpoint.family.body
    return (
        f"{checkpoint.label} is a language model ({body}ForCausalLM), and nothing in its name or files says that it is "
        "a reranker. If it is one, name the tokens of its answer, for example --hf_overrides "
        f'\'{{"architectures": ["{body}ForSequenceClassification"], "classifier_from_token": ["no", "yes"], '
        '"method": "from_2_way_softmax"}\'.'
    )


def _token_head(checkpoint: Checkpoint, method: HeadKind, tokens: Sequence[str]) -> HeadSpec:
    where = "hf_overrides.classifier_from_token"
    if method == "from_2_way_softmax" and len(tokens) != 2:
        raise ConfigError(
            f"from_2_way_softmax needs two tokens, [false, true], and classifier_from_token has {len(tokens)}.",
            param=where,
        )
    ids = [_token_id(checkpoint.tokenizer, token, where) for token in tokens]
    if method == "from_2_way_softmax":
        if ids[0] == ids[1]:
            raise ConfigError(f"Both tokens of classifier_from_token are {tokens[0]!r}.", param=where)
        if tokens[0].strip().lower() in _POSITIVE and tokens[1].strip().lower() in _NEGATIVE:
            logger.warning(
                "classifier_from_token is [%r, %r], but the order is [false, true]: "
                "as it stands, relevant documents get low scores.",
                *tokens,
            )
    num_labels = 1 if method == "from_2_way_softmax" else len(tokens)
    return HeadSpec(
        kind=method,
        token_ids=tuple(ids),
        tokens=tuple(tokens),
        num_labels=num_labels,
        pooling=checkpoint.family.pooling,
        activation=_activation(checkpoint, num_labels),
        logit_mean=float(checkpoint.config.get("logit_mean") or 0.0),
        logit_sigma=float(checkpoint.config.get("logit_sigma") or 1.0),
    )


def _token_id(tokenizer: Tokenizer, token: str, where: str) -> int:
    token_id: int | None = tokenizer.token_to_id(token)
    if token_id is None:
        ids = tokenizer.encode(token, add_special_tokens=False).ids
        if len(ids) != 1:  # one id: the text has another spelling inside the vocabulary, such as Ġyes for ' yes'
            raise ConfigError(
                f"classifier_from_token: {token!r} is not one token of the vocabulary but {len(ids)}.", param=where
            )
        token_id = int(ids[0])
    return token_id


def _logit_score_head(checkpoint: Checkpoint, ids: tuple[int | None, int]) -> HeadSpec:
    tokens = []
    for token_id in ids:
        token = None if token_id is None else checkpoint.tokenizer.id_to_token(token_id)
        if token is not None:
            tokens.append(token)
        elif token_id is not None:
            raise ModelLoadError(f"1_LogitScore/config.json names the token id {token_id}, which is no token here.")
    return _token_head(checkpoint, "no_post_processing" if ids[0] is None else "from_2_way_softmax", tokens)


def _classifier_head(checkpoint: Checkpoint) -> HeadSpec:
    num_labels = _num_labels(checkpoint)
    return HeadSpec(
        kind="classifier",
        num_labels=num_labels,
        pooling=checkpoint.config.get("classifier_pooling") or checkpoint.family.pooling,
        activation=_activation(checkpoint, num_labels),
        logit_mean=float(checkpoint.config.get("logit_mean") or 0.0),
        logit_sigma=float(checkpoint.config.get("logit_sigma") or 1.0),
    )


def _num_labels(checkpoint: Checkpoint) -> int:
    """What config.json says, or else the stored head: the library default of two would be a guess."""
    config, declared, field = checkpoint.config, None, ""
    if config.get("num_labels") is not None:
        declared, field = int(config["num_labels"]), "num_labels"
    elif isinstance(config.get("id2label"), dict):
        declared, field = len(config["id2label"]), "id2label"
    names = checkpoint.family.head_tensors
    tensors = checkpoint.files.tensors if checkpoint.has_weights else {}
    stored = next((tensors[name].shape[0] for name in names if name in tensors and tensors[name].shape), None)
    if checkpoint.has_weights and stored is None:
        raise ModelLoadError(
            f"{checkpoint.label} calls itself {checkpoint.config['architectures'][0]}, but its files hold no "
            f"{' or '.join(names)}. Is it an original checkpoint? Then its language model head can be used: "
            'give "classifier_from_token" and "method" in --hf_overrides.'
        )
    if declared is not None and stored is not None and declared != stored:
        raise ModelLoadError(
            f"config.json declares {declared} label(s) ({field}), but {names[0]} has {stored} row(s). "
            f"Correct it with --hf_overrides '{{\"num_labels\": {stored}}}'."
        )
    return stored or declared or 1


def _activation(checkpoint: Checkpoint, num_labels: int) -> Activation:
    """In order: the problem type, the metadata of config.json, the recipe, the metadata beside it, the default."""
    default: Activation = "sigmoid" if num_labels < 2 else "softmax"
    config = checkpoint.config
    problem = config.get("problem_type")
    if problem is not None:
        return {"regression": "identity", "multi_label_classification": "sigmoid"}.get(problem, default)  # type: ignore[return-value]
    metadata = config.get("sentence_transformers")
    for name in (
        metadata.get("activation_fn") if isinstance(metadata, dict) else None,
        config.get("sbert_ce_default_activation_function"),
    ):
        if name is not None:
            return _torch_activation(name)
    name = checkpoint.files.cross_encoder.get("activation_fn")
    if checkpoint.recipe is not None and num_labels == 1 and not (name and checkpoint.recipe_is_a_guess):
        return checkpoint.recipe.activation
    return default if name is None else _torch_activation(name)


def _torch_activation(name: Any) -> Activation:
    if name not in _TORCH_ACTIVATIONS:
        raise ConfigError(
            f"The model asks for the activation {name!r}. These are supported: {', '.join(_TORCH_ACTIVATIONS)}. "
            "Set another with hf_overrides.sentence_transformers.activation_fn.",
            param="hf_overrides.sentence_transformers",
        )
    return _TORCH_ACTIVATIONS[name]
