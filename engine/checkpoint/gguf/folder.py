"""A GGUF file as a folder like any other: config, tokenizer and model card from its metadata, and a link to the file.

Everything that understands checkpoints then needs to know nothing of GGUF. The folder lies in the cache and is made
again when the file changes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from engine.checkpoint.gguf.config import MEAN, base_models, config_of, plain_name, title
from engine.checkpoint.gguf.header import GgufFile, read_gguf
from engine.checkpoint.gguf.tokenizer import build_tokenizer, special_tokens
from engine.errors import ModelLoadError

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "ENGINE_CACHE"
TOKENIZER_PROBLEM = "tokenizer.problem.txt"
"""Why there is no tokenizer.json."""
LAYOUT = 1
"""Of the folders made here: raised when they are made in another way."""


def folder_of(path: Path) -> Path:
    """The folder for a GGUF file.

    Raises ``ModelLoadError`` as ``read_gguf``, and where metadata or head are not understood.
    """
    path = path.resolve()
    state = path.stat()
    identity = f"{LAYOUT}:{path}:{state.st_size}:{state.st_mtime_ns}"
    parent = cache_folder() / "gguf" / hashlib.sha256(identity.encode()).hexdigest()[:24]
    folder = parent / plain_name(path.stem)
    if (folder / "config.json").is_file():
        return folder
    file = read_gguf(path)
    config = config_of(file)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=parent))
    except OSError as error:
        raise ModelLoadError(
            f"{path}: there is no place for what is read from its header ({error}); name a folder that can be written "
            f"to in {CACHE_VARIABLE}"
        ) from error
    _fill(fresh, file, config)
    try:
        build_tokenizer(file).save(str(fresh / "tokenizer.json"))
    except ModelLoadError as error:  # of no matter where the user names another one
        (fresh / TOKENIZER_PROBLEM).write_text(str(error), encoding="utf-8")
    try:
        fresh.rename(folder)
    except OSError:  # somebody else was quicker
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def cache_folder() -> Path:
    """The folder for files that are made from checkpoints: ``ENGINE_CACHE``, or a folder in the user's cache."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rerank-engine"


def _fill(folder: Path, file: GgufFile, config: dict[str, Any]) -> None:
    parts = {tensor.file for tensor in file.tensors.values()} | {file.path}
    for part in parts:
        (folder / part.name).symlink_to(part)
    _write(folder / "config.json", config)
    template = file.metadata.get("tokenizer.chat_template")
    _write(
        folder / "tokenizer_config.json",
        special_tokens(file) | ({"chat_template": template} if isinstance(template, str) else {}),
    )
    if config["architectures"][0].endswith("Model"):
        kind = "mean" if file.get("pooling_type") == MEAN else "cls_token"
        modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        entries = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (path, name) in enumerate(modules)
        ]
        _write(folder / "modules.json", entries)
        (folder / "1_Pooling").mkdir()
        pooling = {
            "word_embedding_dimension": config["hidden_size"],
            f"pooling_mode_{kind}{'_tokens' * (kind == 'mean')}": True,
        }
        _write(folder / "1_Pooling" / "config.json", pooling)
    bases = "".join(f"- {name}\n" for name in base_models(file))
    front = f"---\nbase_model:\n{bases}---\n" if bases else ""
    (folder / "README.md").write_text(f"{front}# {title(file)}\n", encoding="utf-8")


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
