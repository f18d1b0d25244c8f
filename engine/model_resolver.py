"""From a configured model to a ``ModelSpec``: what the checkpoint is, which head it gets, how its prompts look.

No flags are needed: an original Qwen3-Reranker is stored as a plain language model, and is recognised by its name and
files. Where the evidence is missing the load stops and says what to pass, since a reranker with the wrong head or
without its template gives scores that look like scores. Everything is checked before any weight is read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from engine.checkpoint_files import CheckpointFiles, load_tokenizer
from engine.config import ModelConfig
from engine.errors import ConfigError, ModelLoadError
from engine.families import FAMILIES, TASKS, Family, Recipe, Task, find_recipe, supported
from engine.hf_overrides import METHODS, apply_overrides
from engine.hub import resolve_folder
from engine.model_spec import Activation, HeadKind, HeadSpec, ModelSpec

logger = logging.getLogger(__name__)

_POSITIVE = {"yes", "true", "1", "relevant"}
_NEGATIVE = {"no", "false", "0", "irrelevant"}
_UNLIMITED = 10**9
_TORCH_ACTIVATIONS: dict[str, Activation] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Softmax": "softmax",
}


@dataclass(frozen=True)
class _Checkpoint:
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
    def label(self) -> str:
        return self.files.name or self.files.folder.name


def resolve_model(config: ModelConfig) -> ModelSpec:
    """Understand the checkpoint, or say in one sentence why not."""
    folder = resolve_folder(config.model, config.revision)
    tokenizer_folder = resolve_folder(config.tokenizer, config.tokenizer_revision) if config.tokenizer else folder
    files = CheckpointFiles(folder, config.model)
    has_weights = config.load_format != "dummy"
    if has_weights:
        files.check_weights()
    hf_config = apply_overrides(files.config, config.hf_overrides)
    family, task, architecture = _family(hf_config, folder)
    recipe, place = find_recipe(hf_config["model_type"], files.evidence) or (None, "")
    tokenizer = load_tokenizer(tokenizer_folder)
    checkpoint = _Checkpoint(files, tokenizer, hf_config, family, task, recipe, place, has_weights)

    vocab_size = _vocab_size(checkpoint)
    head = _head(checkpoint)
    template = _template(checkpoint, config.score_template)
    max_model_len = _max_model_len(checkpoint, config.max_model_len)
    spec = ModelSpec(
        name=config.model or folder.name,
        path=str(folder),
        tokenizer_path=str(tokenizer_folder),
        model_type=hf_config["model_type"],
        architecture=architecture,
        config=hf_config,
        head=head,
        causal=family.causal,
        template=template,
        use_sep_token=_use_sep_token(checkpoint, head),
        max_model_len=max_model_len,
        vocab_size=vocab_size,
        decision=_decision(checkpoint, architecture, head, template, max_model_len),
    )
    logger.info("%s", spec.decision)
    return spec


def _family(config: dict[str, Any], folder: Path) -> tuple[Family, Task, str]:
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise ModelLoadError(f'{folder / "config.json"} names no architecture ("architectures": [...]).')
    architecture: str = architectures[0]
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    task = next((task for task in TASKS if architecture.endswith(task)), None)
    if family is None or task is None or architecture != f"{family.body}{task}":
        raise ConfigError(
            f"The architecture {architecture} (model_type {model_type}) is not supported. These are: {supported()}.",
            param="model",
        )
    if not family.causal and task == "ForCausalLM":
        raise ConfigError(f"{architecture} is not a reranker: it has no classification head.", param="model")
    return family, task, architecture


def _head(checkpoint: _Checkpoint) -> HeadSpec:
    """Token rows of the language model's head where tokens are known, else the checkpoint's own classifier."""
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
    if checkpoint.task == "ForSequenceClassification" and not _overridden_to_classify(checkpoint):
        return _classifier_head(checkpoint)
    if checkpoint.files.logit_score is not None:
        return _logit_score_head(checkpoint, checkpoint.files.logit_score)
    if checkpoint.recipe is not None:
        return _token_head(checkpoint, checkpoint.recipe.method, checkpoint.recipe.tokens)
    raise ConfigError(_no_evidence(checkpoint), param="hf_overrides")


def _overridden_to_classify(checkpoint: _Checkpoint) -> bool:
    """The files hold a language model, and only the override calls it a classifier."""
    stored = checkpoint.files.config.get("architectures") or [""]
    return str(stored[0]).endswith("ForCausalLM")


def _no_evidence(checkpoint: _Checkpoint) -> str:
    body = checkpoint.family.body
    return (
        f"{checkpoint.label} is a language model ({body}ForCausalLM), and nothing in its name or files says that it is "
        "a reranker. If it is one, name the tokens of its answer, for example --hf_overrides "
        f'\'{{"architectures": ["{body}ForSequenceClassification"], "classifier_from_token": ["no", "yes"], '
        '"method": "from_2_way_softmax"}\'.'
    )


def _token_head(checkpoint: _Checkpoint, method: HeadKind, tokens: Sequence[str]) -> HeadSpec:
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


def _logit_score_head(checkpoint: _Checkpoint, ids: tuple[int | None, int]) -> HeadSpec:
    tokens = []
    for token_id in ids:
        token = None if token_id is None else checkpoint.tokenizer.id_to_token(token_id)
        if token is not None:
            tokens.append(token)
        elif token_id is not None:
            raise ModelLoadError(f"1_LogitScore/config.json names the token id {token_id}, which is no token here.")
    return _token_head(checkpoint, "no_post_processing" if ids[0] is None else "from_2_way_softmax", tokens)


def _classifier_head(checkpoint: _Checkpoint) -> HeadSpec:
    num_labels = _num_labels(checkpoint)
    return HeadSpec(
        kind="classifier",
        num_labels=num_labels,
        pooling=checkpoint.family.pooling,
        activation=_activation(checkpoint, num_labels),
        logit_mean=float(checkpoint.config.get("logit_mean") or 0.0),
        logit_sigma=float(checkpoint.config.get("logit_sigma") or 1.0),
    )


def _num_labels(checkpoint: _Checkpoint) -> int:
    """What config.json says, or else the stored head: the library default of two would be a guess."""
    config, declared, field = checkpoint.config, None, ""
    if config.get("num_labels") is not None:
        declared, field = int(config["num_labels"]), "num_labels"
    elif isinstance(config.get("id2label"), dict):
        declared, field = len(config["id2label"]), "id2label"
    names = checkpoint.family.head_tensors
    shapes = [checkpoint.files.shape_of(name) for name in names] if checkpoint.has_weights else []
    stored = next((shape[0] for shape in shapes if shape), None)
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


def _activation(checkpoint: _Checkpoint, num_labels: int) -> Activation:
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
    if checkpoint.recipe is not None and num_labels == 1:
        return checkpoint.recipe.activation
    name = checkpoint.files.cross_encoder.get("activation_fn")
    return default if name is None else _torch_activation(name)


def _torch_activation(name: Any) -> Activation:
    if name not in _TORCH_ACTIVATIONS:
        raise ConfigError(
            f"The model asks for the activation {name!r}. These are supported: {', '.join(_TORCH_ACTIVATIONS)}. "
            "Set another with hf_overrides.sentence_transformers.activation_fn.",
            param="hf_overrides.sentence_transformers",
        )
    return _TORCH_ACTIVATIONS[name]


def _template(checkpoint: _Checkpoint, score_template: str) -> str | None:
    if score_template not in ("auto", "none"):
        if not checkpoint.family.causal:
            raise ConfigError(
                f"{checkpoint.config['architectures'][0]} encodes pairs with its tokenizer and takes no template.",
                param="score_template",
            )
        path = Path(score_template).expanduser()
        if not path.is_file():
            raise ConfigError(
                f"--score-template is auto, none or the path of a file, and there is no file {score_template}.",
                param="score_template",
            )
        return f"file:{path.resolve()}"
    if score_template == "none" or not checkpoint.family.causal:
        return None
    if checkpoint.recipe is None:
        logger.warning(
            "%s: no template is known for this model, so query and document are joined as they are. "
            "If it was trained with one, give it with --score-template.",
            checkpoint.label,
        )
        return None
    return checkpoint.recipe.template


def _use_sep_token(checkpoint: _Checkpoint, head: HeadSpec) -> bool:
    if not checkpoint.family.causal:
        return True
    stated = checkpoint.config.get("use_sep_token")
    return bool(stated) if stated is not None else head.kind == "classifier"


def _max_model_len(checkpoint: _Checkpoint, asked: int | None) -> int:
    limit = _position_limit(checkpoint)
    if asked is None:
        return limit
    if not 1 <= asked <= limit:
        raise ConfigError(
            f"--max-model-len {asked} is not possible: {checkpoint.label} was made for 1 to {limit} tokens.",
            param="max_model_len",
        )
    return asked


def _position_limit(checkpoint: _Checkpoint) -> int:
    config, family = checkpoint.config, checkpoint.family
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions <= family.position_offset:
        raise ModelLoadError(f"config.json of {checkpoint.label} has no usable max_position_embeddings: {positions!r}.")
    limit = positions - family.position_offset
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if scaling.get("rope_type", scaling.get("type")) in ("yarn", "linear", "dynamic"):
        original = scaling.get("original_max_position_embeddings") or positions
        limit = max(limit, int(original * float(scaling.get("factor") or 1)))
    if not family.causal:  # a decoder's tokenizer states the length of its largest sibling
        stated = checkpoint.files.tokenizer_config.get("model_max_length")
        if isinstance(stated, int | float) and 0 < stated < _UNLIMITED:
            limit = min(limit, int(stated))
    return limit


def _vocab_size(checkpoint: _Checkpoint) -> int:
    """Rows of the embedding; every id that the tokenizer can give must be one of them."""
    size = checkpoint.config.get("vocab_size")
    if not isinstance(size, int) or size < 1:
        raise ModelLoadError(f"config.json of {checkpoint.label} has no usable vocab_size: {size!r}.")
    largest = max(checkpoint.tokenizer.get_vocab().values(), default=-1)
    if largest >= size:
        raise ModelLoadError(
            f"The tokenizer of {checkpoint.label} gives ids up to {largest}, but the model's vocabulary has {size} "
            "entries: the two do not belong together."
        )
    return size


def _decision(
    checkpoint: _Checkpoint, architecture: str, head: HeadSpec, template: str | None, max_model_len: int
) -> str:
    how = {
        "from_2_way_softmax": "head = lm_head[{1!r}] - lm_head[{0!r}]",
        "no_post_processing": "head = lm_head rows of " + ", ".join(repr(token) for token in head.tokens),
        "classifier": f"head = its own classifier of {head.num_labels} label(s)",
    }[head.kind].format(*head.tokens)
    ids = f" (ids {', '.join(map(str, head.token_ids))})" if head.token_ids else ""
    known = f", recognised as {checkpoint.recipe.name} by {checkpoint.recipe_place}" if checkpoint.recipe else ""
    prompt = template or ("pairs by the tokenizer" if _use_sep_token(checkpoint, head) else "query and document joined")
    return (
        f"{checkpoint.label}: {architecture}{known}; {how}{ids}, {head.activation}; "
        f"prompt {prompt}; up to {max_model_len} tokens."
    )
