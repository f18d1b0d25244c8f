"""From a configured model to a ``ModelSpec``: what the checkpoint is, which head it gets, how its prompts look.

Each decision is made by the strongest statement about it (``authority.py``). Where nobody states it the load stops and
says what to pass, since a reranker with the wrong head or without its template gives scores that look like scores.
Everything is checked before any weight is read.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from engine.checkpoint.chain import read_chain
from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.decision import decision
from engine.checkpoint.embedding import text_prompts
from engine.checkpoint.families import num_token_types
from engine.checkpoint.files import CheckpointFiles, load_tokenizer
from engine.checkpoint.fingerprint import files_of, fingerprint, written
from engine.checkpoint.head import Head, resolve_head
from engine.checkpoint.hub import resolve_folder
from engine.checkpoint.identity import identify, unless_flags_differ
from engine.checkpoint.late_interaction import late_texts
from engine.checkpoint.metadata import read_metadata
from engine.checkpoint.model_length import UNLIMITED, resolve_max_model_len
from engine.checkpoint.network import check_task, read_network
from engine.checkpoint.prompt import Prompt, asked_built_in, resolve_prompt
from engine.checkpoint.remote_code import check_remote_code
from engine.checkpoint.saved_template import SAVED
from engine.checkpoint.tokenizer_settings import check_settings
from engine.checkpoint.vision import vision_of
from engine.config import ModelConfig
from engine.errors import ConfigError, ModelLoadError
from engine.model_spec import HeadSpec, ModelSpec

logger = logging.getLogger(__name__)
OWN_PROMPTS = ("embedding", "listwise", "late_interaction")
"""Kinds of heads whose models put their own words around texts, and no template."""


def resolve_model(config: ModelConfig) -> ModelSpec:
    """Understand the checkpoint, or say in one sentence why not (``ConfigError``, ``ModelLoadError``)."""
    try:
        return _resolved(config)
    except (TypeError, AttributeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        # Its files are anybody's: a list where everybody writes a number is no reason for a traceback.
        raise ModelLoadError(
            f"The files of {config.model} hold a value of a kind that none of them should have "
            f"({type(error).__name__}: {error})."
        ) from error


def _resolved(config: ModelConfig) -> ModelSpec:
    _check_adapters(config)
    root = resolve_folder(config.model, config.revision)
    checkpoint = open_checkpoint(config, root)
    tokenizer_folder = _tokenizer_folder(config, checkpoint.files.folder)
    head = resolve_head(checkpoint)
    if config.disable_sliding_window:
        _refuse_windows(checkpoint)
    prompt = _prompt_of(checkpoint, config, head.spec)
    if head.spec.kind != "listwise":  # which cuts and joins ids itself
        _check_tokenizer(config, checkpoint, tokenizer_folder, prompt.template)
    max_model_len = resolve_max_model_len(checkpoint, config.max_model_len)
    late = late_texts(checkpoint, max_model_len) if head.spec.kind == "late_interaction" else None
    if late is not None:  # no text is longer than its side may be
        max_model_len = max(late.query.length, late.document.length)
    spec = replace(
        _spec(config, checkpoint, head, prompt, max_model_len),
        name=config.model or root.name,
        tokenizer_path=str(tokenizer_folder),
        late=late,
    )
    logger.info("%s", spec.decision)
    return spec


def _prompt_of(checkpoint: Checkpoint, config: ModelConfig, head: HeadSpec) -> Prompt:
    if head.kind in ("listwise", "late_interaction"):
        check_own_prompt(checkpoint, config.score_template)
    if head.kind in OWN_PROMPTS:
        return Prompt(None, False, None, "")
    return resolve_prompt(checkpoint, config.score_template, head)


def _spec(config: ModelConfig, checkpoint: Checkpoint, head: Head, prompt: Prompt, max_model_len: int) -> ModelSpec:
    """What the decisions make of the model, under the name of its folder and with the tokenizer that lies there."""
    identity, chain, folder = checkpoint.identity, checkpoint.chain, checkpoint.files.folder
    is_embedding = head.spec.kind == "embedding"
    is_bare = prompt.use_sep_token and (prompt.template is None or chain is not None)
    reads_prompts = not (head.spec.kind in OWN_PROMPTS or is_bare)
    folders = files_of(folder, head.spec, config.lora_modules.values())
    stamp = fingerprint(folders) if checkpoint.has_weights else ""
    return ModelSpec(
        name=folder.name,
        path=str(folder),
        tokenizer_path=str(folder),
        model_type=checkpoint.config["model_type"],
        config=checkpoint.config,
        head=head.spec,
        by_library=checkpoint.by_library,
        causal=checkpoint.causal,
        template=prompt.template,
        known_template=identity.model.template if identity else None,
        text_prompts=text_prompts(checkpoint) if is_embedding and config.score_template != "none" else ("", ""),
        vision=vision_of(checkpoint, config.max_images_per_pair) if reads_prompts else None,
        pair_prompt=prompt.pair_prompt,
        lower_case=chain is not None and chain.transformer.lower_case,
        cuts_document_only=chain is not None and (chain.transformer.cuts_second_only or prompt.is_message),
        use_sep_token=prompt.use_sep_token,
        max_model_len=max_model_len,
        vocab_size=_vocab_size(checkpoint),
        fingerprint=stamp,
        written=written(folders) if stamp else "",
        decision=decision(checkpoint, head, prompt, max_model_len, stamp),
    )


def open_checkpoint(config: ModelConfig, root: Path) -> Checkpoint:
    """Reads all that the decisions look at; raises ``ConfigError`` or ``ModelLoadError`` for what is wrong."""
    metadata = read_metadata(CheckpointFiles(root, config.model), config.ignore_config_key)
    chain = read_chain(root, metadata, is_decided="classifier_from_token" in config.hf_overrides)
    files = CheckpointFiles(chain.transformer.folder if chain else root, config.model, root)
    if config.load_format != "dummy" and not files.tensors:
        raise ModelLoadError(f"{files.folder}: its safetensors files hold no tensors.")
    hf_config, family, task = read_network(config, files)
    stored = (files.config.get("architectures") or [hf_config["architectures"][0]])[0]
    identity = identify(files, stored, config.ignore_config_key)
    if config.model_impl == "auto":
        check_remote_code(files, family, identity, config.ignore_config_key)
    if (files.folder / "adapter_config.json").is_file():
        logger.warning(
            "%s: adapter_config.json lies beside a whole model, and the adapter is left out (transformers with peft "
            "puts it on). Keep the adapter in a folder of its own, and serve it with --lora-modules NAME=FOLDER.",
            files.label,
        )
    tokenizer = load_tokenizer(_tokenizer_folder(config, files.folder), says_so=True)
    checkpoint = Checkpoint(
        files=files,
        tokenizer=tokenizer,
        config=hf_config,
        overrides=dict(config.hf_overrides),
        metadata=metadata,
        family=family,
        task=task,
        identity=unless_flags_differ(identity, config.hf_overrides, tokenizer),
        chain=chain,
        has_weights=config.load_format != "dummy",
        by_library=config.model_impl == "transformers",
        asked_prompt=asked_built_in(config.score_template),
    )
    check_task(checkpoint)
    return checkpoint


def _check_tokenizer(config: ModelConfig, checkpoint: Checkpoint, folder: Path, template: str | None) -> None:
    """Built-in prompts and files are cut and joined as ids; other texts are read as the tokenizer's settings say."""
    if template is None or template.startswith(SAVED):
        stated = CheckpointFiles(folder, folder.name).tokenizer_config
        has_types = template is None and num_token_types(checkpoint.config["model_type"], checkpoint.config) > 1
        check_settings(
            checkpoint.tokenizer,
            folder,
            stated,
            has_types=has_types,
            encoder=None if checkpoint.family.decoder else checkpoint.config["model_type"],
            ignored=config.ignore_config_key,
        )


def check_own_prompt(checkpoint: Checkpoint, score_template: str) -> None:
    """Raises ``ConfigError`` where a flag gives a prompt to a model whose prompt is part of what it is."""
    if score_template not in ("auto", "none"):
        raise ConfigError(
            f"--score-template {score_template}: {checkpoint.label} ({checkpoint.architecture}) has a prompt of its "
            "own, which no other can replace. Leave the flag out.",
            param="score_template",
        )


def _refuse_windows(checkpoint: Checkpoint) -> None:
    """``--disable-sliding-window``: vLLM shortens the model to its window; here it is a question to the model."""
    config = checkpoint.config
    length = config.get("max_position_embeddings") or UNLIMITED
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if config["model_type"] == "modernbert":
        window = config.get("local_attention", 128)
    if isinstance(window, int) and window < length:
        raise ConfigError(
            f"--disable-sliding-window: layers of {checkpoint.label} see {window} tokens. vLLM then reads at most as "
            f"many tokens of a pair; here a window is part of the model, and --max-model-len {window} does the same.",
            param="disable_sliding_window",
        )
    logger.info("--disable-sliding-window: %s has no windows that are shorter than its texts.", checkpoint.label)


def _tokenizer_folder(config: ModelConfig, folder: Path) -> Path:
    return resolve_folder(config.tokenizer, config.tokenizer_revision) if config.tokenizer else folder


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
