"""Reads a checkpoint's small files: configs, metadata, tokenizer and the names of its tensors. Decides nothing.

What a file holds is data: ``auto_map`` and everything else that names code is dropped on reading.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from engine.errors import ModelLoadError

METADATA = ("config_sentence_transformers.json", "1_LogitScore")
"""Evidence that says a model is a reranker, but not which."""
_CODE_KEYS = ("auto_map", "custom_pipelines")
_MAX_HEADER_BYTES = 100 * 1024 * 1024
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of one folder, read when asked for."""

    folder: Path
    name: str
    """As the user named the model: its name tells what it is."""

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object, or None where there is no such file."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            value = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ModelLoadError(f"{path} is not valid JSON: {error}.") from error
        if not isinstance(value, dict):
            raise ModelLoadError(f"{path} must hold a JSON object, not {type(value).__name__}.")
        return {key: item for key, item in value.items() if key not in _CODE_KEYS}

    @cached_property
    def config(self) -> dict[str, Any]:
        config = self.json("config.json")
        if config is None:
            raise ModelLoadError(f"{self.folder} has no config.json: is it the folder of a model?")
        return config

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        return self.json("tokenizer_config.json") or {}

    @cached_property
    def cross_encoder(self) -> dict[str, Any]:
        """Sentence-Transformers' own metadata, empty where there is none."""
        return self.json("config_sentence_transformers.json") or {}

    @cached_property
    def modules(self) -> list[dict[str, Any]]:
        """Of Sentence-Transformers' ``modules.json``, in order; empty where there is none."""
        path = self.folder / "modules.json"
        if not path.is_file():
            return []
        try:
            stored = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ModelLoadError(f"{path} is not valid JSON: {error}.") from error
        return [module for module in stored if isinstance(module, dict)] if isinstance(stored, list) else []

    @cached_property
    def logit_score(self) -> tuple[int | None, int] | None:
        """(false, true) token ids of a Sentence-Transformers ``LogitScore`` module."""
        module = self.json("1_LogitScore/config.json")
        if module is None:
            return None
        true_id, false_id = module.get("true_token_id"), module.get("false_token_id")
        if not isinstance(true_id, int) or not isinstance(false_id, int | None):
            raise ModelLoadError(f"{self.folder / '1_LogitScore/config.json'} must hold integer token ids.")
        return false_id, true_id

    @cached_property
    def evidence(self) -> dict[str, str]:
        """Texts that tell which published model this is, by where they were found.

        Of a path only the last part counts (or the repository's in the hub's cache): a folder of rerankers may well
        hold a chat model.
        """
        readme, cross_encoder = self._readme(), self.cross_encoder.get("model_type")
        template = self.tokenizer_config.get("chat_template")
        found = {
            "its name": Path(self.name).name,
            "its folder": self.folder.parts[-3] if "snapshots" in self.folder.parts[-2:-1] else self.folder.name,
            "config.json": Path(str(self.config.get("_name_or_path") or "")).name,
            "README.md": readme,
            "its chat template": template if isinstance(template, str) else "",
            METADATA[0]: "cross-encoder reranker" if cross_encoder == "CrossEncoder" else "",
            METADATA[1]: "reranker" if self.logit_score is not None else "",
        }
        return {place: text for place, text in found.items() if text}

    def _readme(self) -> str:
        """Base model, task and first heading: the text below may well speak of other models."""
        path = self.folder / "README.md"
        if not path.is_file():
            return ""
        text = path.read_text(encoding="utf-8", errors="replace")[:20_000]
        kept = re.findall(r"(?m)^(?:base_model|pipeline_tag):.*(?:\n\s*- .*)*", text.split("\n#", 1)[0])
        return "\n".join([*kept, *re.findall(r"(?m)^# .*", text)[:1]])

    def shape_of(self, tensor: str) -> tuple[int, ...] | None:
        """Shape of a stored tensor, from the files' headers; None where no file has it."""
        for path in self._files_with(tensor):
            entry = _read_header(path).get(tensor)
            if entry is not None:
                return tuple(entry["shape"])
        return None

    def _files_with(self, tensor: str) -> list[Path]:
        index = self.json("model.safetensors.index.json")
        if index is None:
            return sorted(self.folder.glob("*.safetensors"))
        name = index.get("weight_map", {}).get(tensor)
        return [self.folder / name] if isinstance(name, str) and (self.folder / name).is_file() else []

    def check_weights(self) -> None:
        """There are safetensors files here."""
        if any(self.folder.glob("*.safetensors")):
            return
        others = sorted(p.name for p in self.folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".gguf", ".ckpt"))
        if others:
            raise ModelLoadError(
                f"{self.folder} holds its weights as {others[0]}, and only safetensors files are read. Convert them: "
                "load the model with transformers and call save_pretrained(folder, safe_serialization=True)."
            )
        raise ModelLoadError(f"{self.folder} holds no safetensors file. --load-format dummy makes random weights.")


def _read_header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        head = file.read(8)
        size = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= size <= min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise ModelLoadError(f"{path} is not a safetensors file, or it is cut off: {_what_it_is(path)}.")
        try:
            header = json.loads(file.read(size))
        except ValueError as error:
            raise ModelLoadError(f"The header of {path} is damaged: {error}.") from error
    if not isinstance(header, dict):
        raise ModelLoadError(f"The header of {path} is damaged: it is not a JSON object.")
    return header


def _what_it_is(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        return "it is a Git LFS pointer, so the file itself was never fetched (git lfs pull)"
    return f"it has {path.stat().st_size} bytes"


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of ``tokenizer.json``, without the padding and truncation that some files carry."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelLoadError(
            f"{folder} has no tokenizer.json. Make one: load its tokenizer with transformers (AutoTokenizer) and call "
            "save_pretrained(folder)."
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no narrower type
        raise ModelLoadError(f"{path} cannot be read as a tokenizer ({error}): {_what_it_is(path)}.") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
