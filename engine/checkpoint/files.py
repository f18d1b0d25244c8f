"""Reads a checkpoint's small files: configs, metadata, tokenizer and the names of its tensors. Decides nothing.

What a file holds is data: ``auto_map`` and everything else that names code is dropped on reading.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from engine.checkpoint.gguf.folder import TOKENIZER_PROBLEM
from engine.checkpoint.gguf.names import stored_tensors
from engine.checkpoint.safetensors_header import StoredTensor, check_fetched
from engine.errors import ModelLoadError

METADATA = ("config_sentence_transformers.json", "1_LogitScore")
"""Evidence that says a model is a reranker, but not which."""
_CODE_KEYS = ("auto_map", "custom_pipelines")


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

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """What the weight files hold, by name; raises ``ModelLoadError`` as ``stored_tensors`` does."""
        return stored_tensors(self.folder)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of ``tokenizer.json``, without the padding and truncation that some files carry."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        problem = folder / TOKENIZER_PROBLEM
        if problem.is_file():
            raise ModelLoadError(problem.read_text(encoding="utf-8"))
        raise ModelLoadError(
            f"{folder} has no tokenizer.json. Make one: load its tokenizer with transformers (AutoTokenizer) and call "
            "save_pretrained(folder)."
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no narrower type
        check_fetched(path)
        size = path.stat().st_size
        raise ModelLoadError(f"{path}, a file of {size:,} bytes, cannot be read as a tokenizer: {error}.") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
