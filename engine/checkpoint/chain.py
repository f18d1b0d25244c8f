"""The chain of modules that sentence-transformers saved: read from ``modules.json``, each from its own folder.

A chain is the definition of a score: what it does is executed as saved, and what is not understood is refused by name.
It begins with a Transformer. A cross-encoder ends with ``scores``: those of a classification head, of the modules
behind a pooling, or of a LogitScore. Everything else is a bi-encoder, whose vectors are compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.checkpoint.chain_modules import dense, known_keys, layer_norm, normalize, pooling_mode, refusal
from engine.checkpoint.metadata import METADATA
from engine.checkpoint.transformer_module import TransformerModule, read_transformer
from engine.errors import ConfigError, ModelLoadError
from engine.model_spec import HeadModule, Pooling

MODULES = "modules.json"
_WITHOUT_FILES = ("Normalize", "Dropout")
"""Modules whose folder may be empty, and so missing where folders are copied file by file."""
_ENTRY_KEYS = ("idx", "name", "path", "type", "kwargs")
"""Of a module in the list; ``kwargs`` names arguments that a call may give it, and none is given here."""
_VECTOR, _TOKENS = "sentence_embedding", "token_embeddings"
_LATE_TYPES = ("ColBERT", "MultiVectorEncoder")
_MASK = "MultiVectorMask"
_ALIASES = {"pylate.models.Dense.Dense": "Dense"}
"""Modules of PyLate that are those of sentence-transformers under another name."""


@dataclass(frozen=True)
class LogitScore:
    """The logit of one token, or the difference of two."""

    true_id: int
    false_id: int | None
    origin: str


@dataclass(frozen=True)
class LateMask:
    """The tokens of a late-interaction model that are not compared."""

    skiplist_words: tuple[str, ...] = ()
    skiplist_tasks: tuple[str, ...] = ("document",)


@dataclass(frozen=True)
class Chain:
    """The modules in order, and what they make of a text or a pair."""

    transformer: TransformerModule
    feature: str
    """Name of what the last module made: ``scores``, or a vector."""
    pooling: Pooling | None = None
    include_prompt: bool = True
    logit_score: LogitScore | None = None
    modules: tuple[HeadModule, ...] = ()
    """Behind the pooling; of a late-interaction model, on each token."""
    is_late: bool = False
    """A late-interaction model: vectors of tokens are compared."""
    late: LateMask | None = None
    """Its MultiVectorMask, where there is one."""

    @property
    def is_cross_encoder(self) -> bool:
        return self.feature == "scores"

    @property
    def is_text(self) -> bool:
        """Whether pairs are read in the tokenizer's own form, and not as messages of a chat template."""
        return not self.transformer.reads_messages


def read_chain(root: Path, metadata: Mapping[str, Any], *, is_decided: bool = False) -> Chain | None:
    """The chain of the checkpoint in ``root``; None where there is no ``modules.json``.

    ``metadata``: its config_sentence_transformers.json. ``is_decided``: a flag says which head it gets, so the two may
    contradict each other. Raises ``ModelLoadError`` for files that are damaged,
    ``ConfigError`` for a chain that is not executed here or contradicts its metadata.
    """
    path = root / MODULES
    if not path.is_file():
        return None
    stored = _stored_modules(path)
    chain: Chain | None = None
    is_late = metadata.get("model_type") in _LATE_TYPES or any(
        str(entry.get("type")).endswith(f".{_MASK}") for entry in stored
    )
    for number, entry in enumerate(stored):
        known_keys(path, entry, _ENTRY_KEYS)
        kind = _kind(path, entry)
        if chain is None:
            if kind != "Transformer":
                raise refusal(
                    path,
                    f"module {number} is a {kind}, and a chain that is executed here begins with a Transformer",
                )
            transformer = read_transformer(_folder(path, root, entry))
            chain = Chain(transformer, transformer.output, is_late=is_late)
            if transformer.query_expansion and not is_late:
                reason = f"query_expansion is {transformer.query_expansion!r}, which only late-interaction models have"
                raise refusal(path, reason)
        elif kind in _READERS:
            chain = _READERS[kind](chain, _folder(path, root, entry))
        else:
            readers = ", ".join(_READERS)
            raise refusal(
                path, f"module {number} is a {kind}, which is not executed here; what is: Transformer, {readers}"
            )
    assert chain is not None
    if not is_decided:
        _check(path, chain, metadata)
    return chain


def _stored_modules(path: Path) -> list[dict[str, Any]]:
    try:
        stored = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(stored, list) or not stored or not all(isinstance(entry, dict) for entry in stored):
        raise ModelLoadError(f"{path} must hold a list of modules, each an object with a type and a path.")
    return stored


def _kind(path: Path, entry: Mapping[str, Any]) -> str:
    name = entry.get("type")
    if name in _ALIASES:
        return _ALIASES[name]
    if not isinstance(name, str) or not name.startswith("sentence_transformers."):
        raise refusal(path, f"it names the module {name!r}, which is code of the checkpoint's own and is never run")
    return name.rpartition(".")[2]


def _folder(path: Path, root: Path, entry: Mapping[str, Any]) -> Path:
    name = entry.get("path", "")
    folder = (root / name).resolve() if isinstance(name, str) else None
    if folder is None or not folder.is_relative_to(root.resolve()):
        raise ModelLoadError(f"{path} names the folder {name!r}, which does not lie in the checkpoint.")
    if not folder.is_dir() and _kind(path, entry) not in _WITHOUT_FILES:
        raise ModelLoadError(f"{path} names the folder {name!r}, which is missing; download the whole checkpoint.")
    return folder


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        value = json.loads(path.read_bytes()) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path} must hold a JSON object, not {type(value).__name__}.")
    return value


def _pooling(chain: Chain, folder: Path) -> Chain:
    config, path = _config(folder), folder / "config.json"
    _reads(path, chain, _TOKENS)
    if chain.is_late:
        raise refusal(path, f"{METADATA} says that this is a late-interaction model, which pools no tokens")
    mode = pooling_mode(path, config)
    include = config.get("include_prompt", True) is not False
    return replace(chain, feature=_VECTOR, pooling=mode, include_prompt=include)


def _dense(chain: Chain, folder: Path) -> Chain:
    config, path = _config(folder), folder / "config.json"
    source = config.get("module_input_name") or (_TOKENS if chain.is_late else _VECTOR)
    _reads(path, chain, source, pooled=True)
    module = dense(folder, config)
    return replace(chain, modules=(*chain.modules, module), feature=config.get("module_output_name") or source)


def _layer_norm(chain: Chain, folder: Path) -> Chain:
    config, path = _config(folder), folder / "config.json"
    _reads(path, chain, _VECTOR, pooled=True)
    return replace(chain, modules=(*chain.modules, layer_norm(folder, config)))


def _normalize(chain: Chain, folder: Path) -> Chain:
    config, path = _config(folder), folder / "config.json"
    known_keys(path, config, ("module_input_name", "module_output_name"))
    source = config.get("module_input_name") or _VECTOR
    _reads(path, chain, source, pooled=True)
    feature = config.get("module_output_name") or source
    return replace(chain, modules=(*chain.modules, normalize()), feature=feature)


def _mask(chain: Chain, folder: Path) -> Chain:
    config, path = _config(folder), folder / "config.json"
    _reads(path, chain, _TOKENS)
    keys = ("skiplist_words", "skiplist_tasks", "keep_only_token_ids")
    known_keys(path, config, keys)
    if config.get("keep_only_token_ids"):
        raise refusal(path, "keep_only_token_ids compares pictures, and texts are read here")
    words, tasks = config.get("skiplist_words") or (), config.get("skiplist_tasks") or ("document",)
    tasks = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    if not all(isinstance(word, str) for word in words) or not set(tasks) <= {"query", "document"}:
        raise ModelLoadError(f"{path}: skiplist_words must be texts, and skiplist_tasks query or document.")
    return replace(chain, late=LateMask(tuple(words), tasks))


def _dropout(chain: Chain, folder: Path) -> Chain:
    known_keys(folder / "config.json", _config(folder), ("dropout",))
    return chain


def _logit_score(chain: Chain, folder: Path) -> Chain:
    config, path = _config(folder), folder / "config.json"
    known_keys(path, config, ("true_token_id", "false_token_id", "module_input_name"))
    _reads(path, chain, config.get("module_input_name") or "causal_logits")
    true_id: Any = config.get("true_token_id")
    false_id = config.get("false_token_id")
    if not _is_id(true_id) or not (false_id is None or _is_id(false_id)):
        raise ModelLoadError(
            f"{path} must hold integer token ids: true_token_id {true_id!r}, false_token_id {false_id!r} (or null)."
        )
    origin = f"{folder.name}/config.json"
    return replace(chain, feature="scores", logit_score=LogitScore(true_id, false_id, origin))


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_READERS: dict[str, Callable[[Chain, Path], Chain]] = {
    "Pooling": _pooling,
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
    "Dropout": _dropout,
    "LogitScore": _logit_score,
    _MASK: _mask,
}
"""Modules that may stand behind the Transformer."""


def _reads(path: Path, chain: Chain, source: str, *, pooled: bool = False) -> None:
    """The module's input is what the one before made."""
    if source != chain.feature:
        raise refusal(path, f"it reads {source!r}, and the module before it makes {chain.feature!r}")
    if pooled and chain.pooling is None and not chain.is_late:
        raise refusal(path, f"it works on {source!r} before a Pooling, and here modules work on pooled vectors only")


def _check(path: Path, chain: Chain, metadata: Mapping[str, Any]) -> None:
    """The chain is what the metadata call it."""
    stated = metadata.get("model_type")
    if chain.is_late:
        if chain.feature != _TOKENS or not any(module.kind == "dense" for module in chain.modules):
            raise refusal(path, "a late-interaction model is made of a Transformer, and Dense modules on its tokens")
        return
    named = {"CrossEncoder": True, "SentenceTransformer": False, None: chain.is_cross_encoder}
    if stated not in named:
        raise refusal(
            path.with_name(METADATA),
            f"model_type {stated!r} is not known; known are CrossEncoder and SentenceTransformer",
        )
    if named[stated] != chain.is_cross_encoder:
        made = "scores" if chain.is_cross_encoder else f"{chain.feature!r} and no scores"
        raise ConfigError(
            f"{path} and {METADATA} contradict each other: the modules make {made}, and model_type is {stated}. "
            "Correct one of the two; a flag decides as well: --hf-overrides with classifier_from_token and method.",
            param="model",
        )
    if not chain.is_cross_encoder and (chain.pooling is None or chain.feature != _VECTOR):
        raise refusal(path, f"its last module makes {chain.feature!r}, which is neither scores nor one vector a text")
