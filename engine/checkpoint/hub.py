"""From what the user typed to a local folder with the model's files.

A folder is taken as it is; anything else is a hub id. Only data files are fetched: configs, tokenizers, safetensors and
templates, never code and never pickles. Finding out that a model cannot be had takes at most about ten seconds; the
download itself takes as long as it takes.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engine.checkpoint.gguf.folder import folder_of
from engine.checkpoint.gguf.header import find_gguf
from engine.errors import ConfigError, ModelLoadError
from engine.extras import pip_install
from engine.time_limit import within

logger = logging.getLogger(__name__)

PACKAGED_MODEL = Path(__file__).resolve().parents[1] / "assets" / "small_reranker"
PACKAGED_FILES = ("config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json", "model.safetensors")
DATA_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md"]
OTHER_FORMATS = ["onnx/*", "openvino/*", "coreml/*", "original/*", "*.gguf"]
PROBE_TIMEOUT_S = 9.0

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")


def resolve_folder(model: str, revision: str | None = None, *, files: Sequence[str] = DATA_FILES) -> Path:
    """The local folder of ``model``: a folder, a hub id, or empty for the reranker that the package carries.

    ``files``: patterns of what is needed of a model on the hub.
    """
    if not model:
        return _packaged()
    path = _local(model)
    if path is not None:
        return folder_of(path) if path.is_file() else path
    if os.environ.get("ENGINE_USE_MODELSCOPE", "").lower() in ("1", "true", "yes"):
        return _from_modelscope(model, revision)
    return _from_hub(model, revision, files)


def check_local(model: str) -> None:
    """Raises the ``ModelLoadError`` of ``resolve_model``: for a path that is none, and for a folder without a model in
    it.

    Takes no time, so that a server can say it before it says that it listens.
    """
    path = _local(model) if model else None
    if path is None or path.is_file():
        return
    if not any((path / name).is_file() for name in ("config.json", "modules.json")):
        raise ModelLoadError(f"{path} has no config.json: is it the folder of a model?")


def _local(model: str) -> Path | None:
    """The folder or GGUF file that ``model`` names; None: it is a name on the hub."""
    path = Path(os.path.expanduser(model))  # Path.expanduser raises for an unknown user
    if path.is_dir():
        gguf = None if (path / "config.json").is_file() else find_gguf(path)
        return path.resolve() if gguf is None else gguf
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_file():
        raise ConfigError(
            f"{model} is a file. Name the folder that holds config.json, the tokenizer and the safetensors files; of "
            "files by themselves only GGUF is read.",
            param="model",
        )
    if model[0] in "./~" or not _HUB_ID.fullmatch(model):
        raise ConfigError(
            f"There is no folder {model}, and it cannot be the name of a model on the hub ('owner/name').",
            param="model",
        )
    return None


def _packaged() -> Path:
    for name in PACKAGED_FILES:
        if not (PACKAGED_MODEL / name).is_file():
            raise ModelLoadError(
                "No model was named, and the small reranker of this installation is not whole: "
                f"{PACKAGED_MODEL / name} is missing. Install rerank-engine again (pip install --force-reinstall), "
                "or run git checkout -- engine/assets in a checkout. No other model is taken in its place: to use one, "
                "name a folder or a hub id, for example Qwen/Qwen3-Reranker-0.6B.",
                param="model",
            )
    logger.info("No model was named: using the small reranker that comes with the package.")
    return PACKAGED_MODEL


def _from_hub(model: str, revision: str | None, files: Sequence[str]) -> Path:
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    cached = partial(_cached, model, revision, files)
    if constants.HF_HUB_OFFLINE:
        folder = cached()
        if folder is None:
            raise ModelLoadError(
                f"{_label(model, revision)} is not in the local cache, and HF_HUB_OFFLINE is set. {_HINT}"
            )
        return folder
    try:
        within(PROBE_TIMEOUT_S, lambda: HfApi().model_info(model, revision=revision, timeout=PROBE_TIMEOUT_S - 1))
    except errors.GatedRepoError as error:
        raise ModelLoadError(
            f"{model} asks for accepted terms: accept them on its page, then set HF_TOKEN to a token of that account."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelLoadError(f"{model} has no revision {revision!r}.", param="revision") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelLoadError(
            f"The hub has no model {model!r} that is visible to you, and there is no such folder here. "
            "Check the spelling; a private model needs HF_TOKEN."
        ) from error
    except Exception as error:  # the library's versions have different HTTP clients with unrelated errors
        folder = cached()
        if folder is None:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            missing = f"{_label(model, revision)} is not in the local cache"
            raise ModelLoadError(f"{missing}, and the hub cannot be reached ({reason}). {_HINT}") from error
        logger.warning("The hub cannot be reached: using the cached %s as it is.", folder)
        return folder
    return _download(
        model,
        lambda: snapshot_download(model, revision=revision, allow_patterns=[*files], ignore_patterns=OTHER_FORMATS),
    )


def _cached(model: str, revision: str | None, files: Sequence[str]) -> Path | None:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=[*files], local_files_only=True))
    except (OSError, errors.LocalEntryNotFoundError):
        return None


_HINT = (
    "Name a local folder instead, or fetch it where there is a network with `hf download`, "
    "or leave the model out to use the small reranker of the package."
)


def _label(model: str, revision: str | None) -> str:
    return f"{model} (revision {revision})" if revision else model


def _from_modelscope(model: str, revision: str | None) -> Path:
    if find_spec("modelscope") is None:
        raise ConfigError(
            f"ENGINE_USE_MODELSCOPE is set, but modelscope is not installed: {pip_install('modelscope')}."
        )
    from modelscope import snapshot_download

    return _download(
        model,
        lambda: snapshot_download(model, revision=revision, allow_patterns=DATA_FILES, ignore_patterns=OTHER_FORMATS),
    )


def _download(model: str, download: Callable[[], Any]) -> Path:
    try:
        return Path(download())
    except Exception as error:  # as above
        raise ModelLoadError(
            f"The download of {model} failed: {error}. What arrived is kept; start again to go on."
        ) from error
