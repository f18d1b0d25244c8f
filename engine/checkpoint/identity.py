"""Which published model a checkpoint is, or was made from: by exact ids in its name, its folder and its README.md.

Two kinds of statement. *It is X*: the hub id it was asked for by, a folder called exactly like X, a README.md whose
title or model index is X. *It was made from X*: ``base_model`` in README.md, ``_name_or_path`` in config.json. The
first kind goes before the second, and statements of one kind must agree.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from engine.checkpoint.files import CheckpointFiles
from engine.checkpoint.published_models import Published, by_id, by_name
from engine.errors import ConfigError

logger = logging.getLogger(__name__)

README = "README.md"


@dataclass(frozen=True)
class Identity:
    """A published model, and where the checkpoint says that it is that one or was made from it."""

    model: Published
    id: str
    """Of the hub."""
    origin: str
    is_base: bool
    """The checkpoint was made from it, and its README.md or config.json says so."""


def identify(files: CheckpointFiles, architecture: str, ignored: tuple[str, ...] = ()) -> Identity | None:
    """The published model that the checkpoint names, if the entry is for networks of its architecture.

    ``ignored``: keys that do not count (``--ignore-config-key base_model``). Raises ``ConfigError`` for statements that
    contradict each other.
    """
    for claims in (list(_is(files)), list(_was_made_from(files, ignored))):
        fitting = [claim for claim in claims if _fits(claim, architecture, files)]
        if not fitting:
            continue
        first = fitting[0]
        for other in fitting[1:]:
            if other.model.recipe != first.model.recipe:
                raise ConfigError(
                    f"{files.label} names two models that are scored differently: {first.id} by {first.origin}, "
                    f"{other.id} by {other.origin}. Correct one of the two, or decide with --hf-overrides and "
                    "--score-template; --ignore-config-key base_model leaves out what README.md says of the base.",
                    param="model",
                )
        return first
    return None


def unless_flags_differ(
    identity: Identity | None, overrides: Mapping[str, Any], tokenizer: Tokenizer
) -> Identity | None:
    """The same, or None where ``overrides`` name other tokens than the published model's: then it is another model."""
    tokens = overrides.get("classifier_from_token")
    if identity is None or tokens is None:
        return identity
    kind = "from_2_way_softmax" if overrides.get("is_original_qwen3_reranker") else overrides.get("method")
    model = identity.model
    ids = [tokenizer.token_to_id(token) for token in tokens]
    if kind == model.head_kind and (list(tokens) == list(model.tokens) or ids == list(model.token_ids)):
        return identity
    logger.warning(
        "--hf-overrides name other tokens than those of %s (%s), which is named by %s: nothing is taken from what is "
        "published of it.",
        identity.id,
        ", ".join(map(str, model.tokens or model.token_ids)) or "a head of its own",
        identity.origin,
    )
    return None


def _is(files: CheckpointFiles) -> Iterator[Identity]:
    asked = files.name.rstrip("/")
    names = [(by_id(asked), "the name it was asked for by")]
    names += [(_of_folder(folder), "the name of its folder") for folder in _folders(files)]
    title = files.readme_title
    names += [(by_id(title) or by_name(title), f"the title of {README}")]
    for entry in files.readme.get("model-index") or []:
        name = entry.get("name") if isinstance(entry, dict) else None
        names += [(by_id(name) or by_name(name), f"model-index in {README}")] if isinstance(name, str) else []
    for found, origin in names:
        if found is not None:
            yield Identity(*found, origin, is_base=False)


def _folders(files: CheckpointFiles) -> list[Path]:
    """The folder as it was asked for, which may be a link, and as it is."""
    asked = Path(files.name).expanduser()
    return [folder for folder in dict.fromkeys((asked, files.root or files.folder)) if folder.name]


def _of_folder(folder: Path) -> tuple[Published, str] | None:
    """By the folder's own name, or by the repository's in the cache of the hub."""
    if folder.parent.name == "snapshots":
        owner, _, name = folder.parent.parent.name.removeprefix("models--").partition("--")
        return by_id(f"{owner}/{name}")
    return by_name(folder.name)


def _was_made_from(files: CheckpointFiles, ignored: tuple[str, ...]) -> Iterator[Identity]:
    stated: list[tuple[Any, str]] = []
    if "base_model" not in ignored:
        bases = files.readme.get("base_model")
        stated += [(base, f"base_model in {README}") for base in (bases if isinstance(bases, list) else [bases])]
    if "_name_or_path" not in ignored:
        stated.append((files.config.get("_name_or_path"), "_name_or_path in config.json"))
    for name, origin in stated:
        found = by_id(name) if isinstance(name, str) else None
        if found is not None:
            yield Identity(*found, origin, is_base=True)


def _fits(claim: Identity, architecture: str, files: CheckpointFiles) -> bool:
    """Whether the entry is about this network: the same body, whatever stands on it."""
    bodies = {_body(name) for name in claim.model.architectures}
    if _body(architecture) in bodies:
        return True
    logger.warning(
        "%s: %s names %s, which is a %s, and these files hold a %s: nothing is taken from what is published of it.",
        files.label,
        claim.origin,
        claim.id,
        claim.model.architectures[0],
        architecture,
    )
    return False


def _body(architecture: str) -> str:
    for task in ("ForCausalLM", "ForConditionalGeneration", "ForSequenceClassification", "ForMaskedLM", "Model"):
        architecture = architecture.removesuffix(task)
    return architecture
