"""From a configured model to a ``ModelSpec``: what the checkpoint is, which head it gets, how its prompts look.

Each decision is made by the strongest statement about it (``authority.py``). Where nobody states it the load stops and
says what to pass, since a reranker with the wrong head or without its template gives scores that look like scores.
Everything is checked before any weight is read.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from engine.checkpoint.chain import read_chain
from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.config_keys import complete_config
from engine.checkpoint.config_names import usual_config
from engine.checkpoint.config_numbers import MOST_POSITIONS, check_config_numbers
from engine.checkpoint.embedding import HEADLESS, text_prompts
from engine.checkpoint.families import FAMILIES, RANKERS, TASKS, Family, Task, position_limit, supported
from engine.checkpoint.files import CheckpointFiles, load_tokenizer
from engine.checkpoint.fingerprint import files_of, fingerprint, written
from engine.checkpoint.head import Head, resolve_head
from engine.checkpoint.hub import resolve_folder
from engine.checkpoint.identity import identify, unless_flags_differ
from engine.checkpoint.late_interaction import late_texts
from engine.checkpoint.library_model import library_family, library_position_limit
from engine.checkpoint.metadata import read_metadata
from engine.checkpoint.overrides import apply_overrides
from engine.checkpoint.prompt import NO_TEMPLATE, Prompt, asked_built_in, resolve_prompt
from engine.checkpoint.remote_code import check_remote_code
from engine.config import ModelConfig
from engine.errors import ConfigError, ModelLoadError
from engine.model_spec import ModelSpec

logger = logging.getLogger(__name__)

_UNLIMITED = 10**9


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
    is_embedding = head.spec.kind == "embedding"
    if head.spec.kind in ("listwise", "late_interaction"):
        check_own_prompt(checkpoint, config.score_template)
    has_own_prompt = head.spec.kind in ("embedding", "listwise", "late_interaction")
    prompt = (
        Prompt(None, False, None, "")
        if has_own_prompt
        else resolve_prompt(checkpoint, config.score_template, head.spec)
    )
    max_model_len = _max_model_len(checkpoint, config.max_model_len)
    late = late_texts(checkpoint, max_model_len) if head.spec.kind == "late_interaction" else None
    if late is not None:  # no text is longer than its side may be
        max_model_len = max(late.query.length, late.document.length)
    identity, chain = checkpoint.identity, checkpoint.chain
    folders = files_of(checkpoint.files.folder, head.spec, config.lora_modules.values())
    stamp = fingerprint(folders) if checkpoint.has_weights else ""
    spec = ModelSpec(
        name=config.model or root.name,
        path=str(checkpoint.files.folder),
        tokenizer_path=str(tokenizer_folder),
        model_type=checkpoint.config["model_type"],
        config=checkpoint.config,
        head=head.spec,
        by_library=checkpoint.by_library,
        causal=checkpoint.causal,
        template=prompt.template,
        known_template=identity.model.template if identity else None,
        text_prompts=text_prompts(checkpoint) if is_embedding and config.score_template != "none" else ("", ""),
        late=late,
        pair_prompt=prompt.pair_prompt,
        lower_case=chain is not None and chain.transformer.lower_case,
        use_sep_token=prompt.use_sep_token,
        max_model_len=max_model_len,
        vocab_size=_vocab_size(checkpoint),
        fingerprint=stamp,
        written=written(folders) if stamp else "",
        decision=_decision(checkpoint, head, prompt, max_model_len, stamp),
    )
    logger.info("%s", spec.decision)
    return spec


def open_checkpoint(config: ModelConfig, root: Path) -> Checkpoint:
    """Everything that the decisions look at, read and checked for itself."""
    metadata = read_metadata(CheckpointFiles(root, config.model), config.ignore_config_key)
    chain = read_chain(root, metadata, is_decided="classifier_from_token" in config.hf_overrides)
    files = CheckpointFiles(chain.transformer.folder if chain else root, config.model, root)
    if config.load_format != "dummy" and not files.tensors:
        raise ModelLoadError(f"{files.folder}: its safetensors files hold no tensors.")
    hf_config, family, task = _network(config, files)
    stored = (files.config.get("architectures") or [hf_config["architectures"][0]])[0]
    identity = identify(files, stored, config.ignore_config_key)
    if config.model_impl == "auto":
        check_remote_code(files, family, identity, config.ignore_config_key)
    tokenizer = load_tokenizer(_tokenizer_folder(config, files.folder))
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
    _check_task(checkpoint)
    return checkpoint


def _network(config: ModelConfig, files: CheckpointFiles) -> tuple[dict[str, Any], Family, Task]:
    """config.json after overrides, with what it leaves out, and which network it describes."""
    hf_config = apply_overrides(files.config, config.hf_overrides)
    ignored = config.ignore_config_key
    if config.model_impl == "transformers":
        _check_library_settings(config)
        takes_template = config.score_template not in NO_TEMPLATE
        return hf_config, *library_family(files, hf_config, ignored, takes_template=takes_template)
    hf_config = usual_config(files.label, hf_config)
    if "is_causal" in ignored:
        hf_config.pop("is_causal", None)
    family, task = _family(hf_config, files.folder)
    check_config_numbers(files.label, hf_config)
    hf_config = complete_config(files.label, hf_config, ignored)
    check_config_numbers(files.label, hf_config)  # again, with the defaults of what it leaves out
    return hf_config, family, task


def _check_library_settings(config: ModelConfig) -> None:
    """What the engine does with its own networks only."""
    for flag, value in (
        ("quantization", config.quantization),
        ("lora_modules", config.lora_modules),
        ("load_format", config.load_format == "dummy"),
    ):
        if value:
            raise ConfigError(
                f"--{flag.replace('_', '-')} is not supported with --model-impl transformers: the library runs the "
                "network, with the weights as the files have them.",
                param=flag,
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
    length = config.get("max_position_embeddings") or _UNLIMITED
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


def _family(config: dict[str, Any], folder: Path) -> tuple[Family, Task]:
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise ModelLoadError(f'{folder / "config.json"} names no architecture ("architectures": [...]).')
    if len(architectures) > 1:
        raise ConfigError(
            f"config.json names several architectures ({', '.join(map(str, architectures))}), and only one of them can "
            'be the network. Say which with --hf-overrides \'{"architectures": ["..."]}\'.',
            param="hf_overrides.architectures",
        )
    architecture: str = architectures[0]
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    task = next((task for task in TASKS if architecture.endswith(task)), None)
    if family is not None and architecture == f"{family.body}{family.language_model}":
        task, architecture = "ForCausalLM", f"{family.body}ForCausalLM"
    if family is not None and RANKERS.get(architecture, ("", ""))[0] == model_type:
        return family, RANKERS[architecture][1]
    if (
        family is None
        or task is None
        or architecture not in {f"{body}{task}" for body in (family.body, *family.aliases)}
    ):
        other = " Or let the installed transformers run it, several times slower: --model-impl transformers."
        raise ConfigError(
            f"The architecture {architecture} (model_type {model_type}) is not supported. These are: {supported()}."
            f"{other if architecture.endswith('ForSequenceClassification') else ''}",
            param="model",
        )
    if not family.decoder and task == "ForCausalLM":
        raise ConfigError(f"{architecture} is not a reranker: it has no classification head.", param="model")
    return family, task


def _check_task(checkpoint: Checkpoint) -> None:
    """The architecture is one that can score pairs, or embed."""
    if checkpoint.task == "ForMaskedLM" and checkpoint.chain is None:
        raise ConfigError(
            f"{checkpoint.label} fills gaps in texts ({checkpoint.architecture}): it has no head for pairs, and no "
            "modules.json says that it embeds. Serve a checkpoint that was trained to rank, such as one that ends in "
            f"{checkpoint.family.body}ForSequenceClassification.",
            param="model",
        )
    chain = checkpoint.chain
    reads_logits = chain is not None and chain.transformer.task == "text-generation"
    if reads_logits and checkpoint.task in HEADLESS:
        raise ConfigError(
            f"modules.json of {checkpoint.label} reads the next token of a language model, and config.json calls it a "
            f"{checkpoint.architecture}, which predicts none. Correct one of the two.",
            param="model",
        )


def _max_model_len(checkpoint: Checkpoint, asked: int | None) -> int:
    """As asked; else what the chain says, or what is published, within what the network can read."""
    limit = _position_limit(checkpoint, asked)
    if asked is None:
        chain, identity = checkpoint.chain, checkpoint.identity
        stated = chain.transformer.max_len if chain else identity.model.max_len if identity else None
        if checkpoint.is_late:  # the sides have limits of their own
            stated = None
        return min(limit, stated or limit)
    if not 1 <= asked <= limit:
        raise ConfigError(
            f"--max-model-len {asked} is not possible: {checkpoint.label} was made for 1 to {limit} tokens.",
            param="max_model_len",
        )
    return asked


def _position_limit(checkpoint: Checkpoint, asked: int | None) -> int:
    if checkpoint.by_library:
        return library_position_limit(checkpoint.files, checkpoint.config, asked)
    config, family = checkpoint.config, checkpoint.family
    limit = position_limit(config["model_type"], config)
    if limit is None:
        stated = config.get("max_position_embeddings")
        raise ModelLoadError(f"config.json of {checkpoint.label} has no usable max_position_embeddings: {stated!r}.")
    if limit > MOST_POSITIONS:
        raise ModelLoadError(
            f"config.json of {checkpoint.label} scales its positions to {limit}; at most {MOST_POSITIONS} are possible."
        )
    if checkpoint.is_late:
        return limit
    if not family.decoder or checkpoint.chain is not None:  # a decoder's tokenizer states its largest sibling's length
        stated = checkpoint.files.tokenizer_config.get("model_max_length")
        if isinstance(stated, int | float) and 0 < stated < _UNLIMITED:
            limit = min(limit, int(stated))
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


def _decision(checkpoint: Checkpoint, head: Head, prompt: Prompt, max_model_len: int, stamp: str) -> str:
    """One line for the log: what was decided, and who said so."""
    spec, identity = head.spec, checkpoint.identity
    how = {
        "from_2_way_softmax": "head = lm_head[{1!r}] - lm_head[{0!r}]",
        "no_post_processing": "head = lm_head[{0!r}]",
        "expectation": "head = the position among " + ", ".join(repr(token) for token in spec.tokens) + " as expected",
        "classifier": f"head = its own classifier of {spec.stored_rows} label(s)",
        "modules": f"head = {spec.pooling} pooling and {len(spec.modules)} module(s)",
        "embedding": f"no head, query and document are embedded apart ({spec.pooling} pooling)",
        "listwise": "documents are read together, and the projector's vectors are compared",
        "late_interaction": "query and document are embedded apart, and vectors of their tokens are compared",
    }[spec.kind].format(*spec.tokens)
    ids = f" (ids {', '.join(map(str, spec.token_ids))})" if spec.token_ids else ""
    known = ""
    if identity is not None:
        known = f", {'made from' if identity.is_base else 'known as'} {identity.id} by {identity.origin}"
    scaled = f"(logit - {spec.logit_mean:g}) / {spec.logit_sigma:g}"
    mask = ", every token sees all of its pair" if checkpoint.family.decoder and not checkpoint.causal else ""
    known += ", computed by transformers itself (--model-impl transformers)" if checkpoint.by_library else ""
    calibrated = f" of {scaled}" if (spec.logit_mean, spec.logit_sigma) != (0.0, 1.0) else ""
    plain = "pairs by the tokenizer" if prompt.use_sep_token else "query and document joined"
    own = {"embedding": "the texts alone", "listwise": "many documents", "late_interaction": "the texts, marked"}
    text = prompt.template or own.get(spec.kind, plain)
    by = f" by {prompt.origin}" if prompt.origin else ""
    return (
        f"{checkpoint.label}: {checkpoint.architecture}{known}{mask}; {how}{ids} by {head.origin}; "
        f"{spec.activation}{calibrated} by {head.range_origin}; prompt {text}{by}; up to {max_model_len} tokens"
        f"{f'; fingerprint {stamp}' if stamp else ''}."
    )
