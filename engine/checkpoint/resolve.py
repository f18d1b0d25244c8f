"""From a configured model to a ``ModelSpec``: what the checkpoint is, which head it gets, how its prompts look.

No flags are needed: an original Qwen3-Reranker is stored as a plain language model, and is recognised by its name and
files. Where the evidence is missing the load stops and says what to pass, since a reranker with the wrong head or
without its template gives scores that look like scores. Everything is checked before any weight is read.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from engine.checkpoint.embedding import max_text_len, text_prompts
from engine.checkpoint.families import FAMILIES, TASKS, Family, Task, find_recipe, position_limit, supported
from engine.checkpoint.files import CheckpointFiles, load_tokenizer
from engine.checkpoint.head import Checkpoint, resolve_head
from engine.checkpoint.hub import resolve_folder
from engine.checkpoint.overrides import apply_overrides
from engine.checkpoint.saved_template import SAVED, has_saved_template, load_saved
from engine.config import ModelConfig
from engine.errors import ConfigError, ModelLoadError
from engine.model_spec import HeadSpec, ModelSpec
from engine.prompts.published import TEMPLATES

logger = logging.getLogger(__name__)

_UNLIMITED = 10**9


def resolve_model(config: ModelConfig) -> ModelSpec:
    """Understand the checkpoint, or say in one sentence why not."""
    _check_adapters(config)
    folder = resolve_folder(config.model, config.revision)
    tokenizer_folder = resolve_folder(config.tokenizer, config.tokenizer_revision) if config.tokenizer else folder
    files = CheckpointFiles(folder, config.model)
    has_weights = config.load_format != "dummy"
    if has_weights and not files.tensors:
        raise ModelLoadError(f"{folder}: its safetensors files hold no tensors.")
    hf_config = apply_overrides(files.config, config.hf_overrides)
    family, task, architecture = _family(hf_config, folder)
    recipe, place = find_recipe(hf_config["model_type"], files.evidence) or (None, "")
    tokenizer = load_tokenizer(tokenizer_folder)
    checkpoint = Checkpoint(files, tokenizer, hf_config, family, task, recipe, place, has_weights)

    vocab_size = _vocab_size(checkpoint)
    head = resolve_head(checkpoint)
    _check_scorable(checkpoint, head)
    is_embedding = head.kind == "embedding"
    template = None if is_embedding else _template(checkpoint, config.score_template)
    max_model_len = _max_model_len(checkpoint, config.max_model_len)
    spec = ModelSpec(
        name=config.model or folder.name,
        path=str(folder),
        tokenizer_path=str(tokenizer_folder),
        model_type=hf_config["model_type"],
        config=hf_config,
        head=head,
        causal=family.causal,
        template=template,
        text_prompts=text_prompts(files) if is_embedding and config.score_template != "none" else ("", ""),
        use_sep_token=_use_sep_token(checkpoint, head),
        max_model_len=max_model_len,
        vocab_size=vocab_size,
        decision=_decision(checkpoint, architecture, head, template, max_model_len),
    )
    logger.info("%s", spec.decision)
    return spec


def _check_adapters(config: ModelConfig) -> None:
    """Their folders are there, and their names tell them from the model."""
    for name, path in config.lora_modules.items():
        if not (Path(path) / "adapter_config.json").is_file():
            raise ConfigError(
                f"--lora-modules {name}={path}: this is no folder of a LoRA adapter; it holds no adapter_config.json.",
                param="lora_modules",
            )
        if name in (config.model, *config.served_model_name):
            raise ConfigError(f"--lora-modules {name}={path}: the model itself has this name.", param="lora_modules")


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


def _check_scorable(checkpoint: Checkpoint, head: HeadSpec) -> None:
    """One value a pair, or vectors to compare."""
    files, label, count = checkpoint.files, checkpoint.label, head.num_labels
    if checkpoint.task == "ForMaskedLM" and not files.modules:
        raise ConfigError(
            f"{label} fills gaps in texts ({checkpoint.config['architectures'][0]}): it has no head for pairs, and no "
            "modules.json says that it embeds. Serve a checkpoint that was trained to rank, such as one that ends in "
            f"{checkpoint.family.body}ForSequenceClassification.",
            param="model",
        )
    if head.kind == "embedding" or count == 1:
        return
    names = head.tokens or tuple(str(name) for name in (checkpoint.config.get("id2label") or {}).values())
    raise ConfigError(
        f"{label} gives {count} values a pair ({', '.join(names) or 'labels without names'}), and a score is one "
        "value. Serve a checkpoint with one label. Two labels become one without loss: keep row 1 minus row 0 of the "
        "classifier's weight and bias as its only row, and set num_labels to 1.",
        param="model",
    )


def _template(checkpoint: Checkpoint, score_template: str) -> str | None:
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
    if has_saved_template(checkpoint.files):
        return _saved_or_known(checkpoint)
    if checkpoint.recipe is None:
        logger.warning(
            "%s: no template is known for this model, so query and document are joined as they are. "
            "If it was trained with one, give it with --score-template.",
            checkpoint.label,
        )
        return None
    return checkpoint.recipe.template


def _saved_or_known(checkpoint: Checkpoint) -> str:
    """The template that lies beside the weights; by its published name where it is that one word for word."""
    folder = checkpoint.files.folder.resolve()
    recipe = checkpoint.recipe
    if recipe is not None and load_saved(folder).says_the_same(TEMPLATES[recipe.template]):
        return recipe.template
    return f"{SAVED}{folder}"


def _use_sep_token(checkpoint: Checkpoint, head: HeadSpec) -> bool:
    if not checkpoint.family.causal:
        return head.kind != "embedding"
    stated = checkpoint.config.get("use_sep_token")
    return bool(stated) if stated is not None else head.kind == "classifier"


def _max_model_len(checkpoint: Checkpoint, asked: int | None) -> int:
    limit = _position_limit(checkpoint)
    if asked is None:
        return limit
    if not 1 <= asked <= limit:
        raise ConfigError(
            f"--max-model-len {asked} is not possible: {checkpoint.label} was made for 1 to {limit} tokens.",
            param="max_model_len",
        )
    return asked


def _position_limit(checkpoint: Checkpoint) -> int:
    config = checkpoint.config
    limit = position_limit(config["model_type"], config)
    if limit is None:
        stated = config.get("max_position_embeddings")
        raise ModelLoadError(f"config.json of {checkpoint.label} has no usable max_position_embeddings: {stated!r}.")
    if not checkpoint.family.causal:  # a decoder's tokenizer states the length of its largest sibling
        stated = checkpoint.files.tokenizer_config.get("model_max_length")
        if isinstance(stated, int | float) and 0 < stated < _UNLIMITED:
            limit = min(limit, int(stated))
        limit = min(limit, max_text_len(checkpoint.files) or limit)
    return limit


def _vocab_size(checkpoint: Checkpoint) -> int:
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
    checkpoint: Checkpoint, architecture: str, head: HeadSpec, template: str | None, max_model_len: int
) -> str:
    how = {
        "from_2_way_softmax": "head = lm_head[{1!r}] - lm_head[{0!r}]",
        "no_post_processing": "head = lm_head rows of " + ", ".join(repr(token) for token in head.tokens),
        "classifier": f"head = its own classifier of {head.num_labels} label(s)",
        "embedding": f"no head, a bi-encoder: query and document are embedded one by one ({head.pooling} pooling)",
    }[head.kind].format(*head.tokens)
    ids = f" (ids {', '.join(map(str, head.token_ids))})" if head.token_ids else ""
    known = f", recognised as {checkpoint.recipe.name} by {checkpoint.recipe_place}" if checkpoint.recipe else ""
    plain = "pairs by the tokenizer" if _use_sep_token(checkpoint, head) else "query and document joined"
    prompt = template or ("the texts alone" if head.kind == "embedding" else plain)
    return (
        f"{checkpoint.label}: {architecture}{known}; {how}{ids}, {head.activation}; "
        f"prompt {prompt}; up to {max_model_len} tokens."
    )
