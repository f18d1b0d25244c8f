"""Reads a checkpoint's small files: configs, metadata, tokenizer and the names of its tensors. Decides nothing.

What a file holds is data: ``auto_map`` and everything else that names code is dropped on reading.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, normalizers

from engine.checkpoint.gguf.folder import TOKENIZER_PROBLEM
from engine.checkpoint.gguf.names import stored_tensors
from engine.checkpoint.rebuilt_tokenizer import reads_otherwise
from engine.checkpoint.safetensors_header import StoredTensor, check_fetched
from engine.checkpoint.slow_tokenizer import converted_tokenizer
from engine.checkpoint.tokenizer_limits import check_tokenizer_file
from engine.checkpoint.tokenizer_settings import FILE as TOKENIZER_CONFIG
from engine.checkpoint.tokenizer_settings import follow_settings, tell
from engine.errors import ModelLoadError, is_panic

logger = logging.getLogger(__name__)
_CODE_KEYS = ("auto_map", "custom_pipelines")
MAX_JSON_BYTES = 2**26
"""Of a config file."""
MAX_CARD_BYTES = 2**20
"""Of README.md, the rest of which is not read."""


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of one folder, read when asked for."""

    folder: Path
    name: str
    """As the user named the model."""
    root: Path | None = None
    """Of the repository, where README.md lies; None: ``folder``, which is elsewhere only in old chains of modules."""

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object, or None where there is no such file.

        Raises ``ModelLoadError`` for one that is too large or no JSON object.
        """
        path = self.folder / name
        if not path.is_file():
            return None
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise ModelLoadError(f"{path} has {size:,} bytes, and at most {MAX_JSON_BYTES:,} are read.")
        try:
            value = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ModelLoadError(f"{path} is not valid JSON: {error}.") from error
        if not isinstance(value, dict):
            raise ModelLoadError(f"{path} must hold a JSON object, not {type(value).__name__}.")
        return {key: item for key, item in value.items() if key not in _CODE_KEYS}

    @property
    def label(self) -> str:
        """The name by which errors and the log call the model."""
        return self.name or self.folder.name

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json. Raises ``ModelLoadError`` where there is none."""
        config = self.json("config.json")
        if config is None:
            raise ModelLoadError(f"{self.folder} has no config.json: is it the folder of a model?")
        return config

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        return self.json(TOKENIZER_CONFIG) or {}

    @cached_property
    def cross_encoder(self) -> dict[str, Any]:
        """Sentence-Transformers' own metadata, empty where there is none."""
        return self.json("config_sentence_transformers.json") or {}

    @cached_property
    def remote_code(self) -> dict[str, str]:
        """``auto_map`` of config.json: the classes, of files beside the weights, that are the model for its authors."""
        stored = json.loads((self.folder / "config.json").read_bytes()).get("auto_map")
        return {str(k): str(v) for k, v in stored.items()} if isinstance(stored, dict) else {}

    @cached_property
    def _card(self) -> tuple[str, str]:
        """README.md: the metadata at its head, and the text below."""
        path = (self.root or self.folder) / "README.md"
        if not path.is_file():
            return "", ""
        with path.open("rb") as file:
            text = file.read(MAX_CARD_BYTES).decode("utf-8", errors="replace")
        found = re.match(r"\ufeff?---\s*\n(.*?)(?:^|\n)---\s*(?:\n|$)", text, re.DOTALL)
        return (found[1], text[found.end() :]) if found else ("", text)

    @cached_property
    def readme(self) -> dict[str, Any]:
        """``base_model`` and ``model-index`` of README.md's metadata; nothing else of it is read.

        A model index may hold thousands of results, so only the names in it are looked at.
        """
        metadata, found = self._card[0], dict[str, Any]()
        for block in re.split(r"(?m)^(?=[\w-]+:)", metadata):
            key = block.partition(":")[0]
            if key == "base_model":
                with contextlib.suppress(yaml.YAMLError):
                    found[key] = yaml.safe_load(block)[key]
            elif key == "model-index":
                names = re.findall(r"(?m)^ {0,2}- name: *(.+?) *$", block)
                found[key] = [{"name": name.strip("'\"")} for name in names]
        return found

    @cached_property
    def readme_title(self) -> str:
        """The first heading of README.md, whole."""
        found = re.search(r"(?m)^# +(.+?)\s*#*$", self._card[1])
        return found[1].strip() if found else ""

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """The tensors of the weight files, by name; raises ``ModelLoadError`` as ``stored_tensors`` does."""
        return stored_tensors(self.folder)


_UNKNOWN_CHARS = "a \U0010fffd\u4e2d\u0301 \x7f"
"""Letters that hardly any vocabulary has."""


def load_tokenizer(folder: Path, *, lower_case: bool = False, says_so: bool = False) -> Tokenizer:
    """The tokenizer of ``tokenizer.json``, without the padding and truncation that some files carry.

    What tokenizer_config.json says otherwise of case, accents and prefixes counts (``tokenizer_settings.py``), with a
    warning if ``says_so``. ``lower_case``: texts are put into lower case before anything else. Raises
    ``ModelLoadError`` for a file that is missing or damaged.
    """
    path = _tokenizer_file(folder)
    check_tokenizer_file(path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except BaseException as error:  # the library has no narrower type
        check_fetched(path)
        raise _unreadable(path, "cannot be read as a tokenizer", error) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    stated = CheckpointFiles(folder, folder.name).tokenizer_config
    changed = follow_settings(tokenizer, stated)
    if says_so:
        tell(folder, stated, changed)
    if getattr(tokenizer.model, "dropout", None):
        logger.warning("%s drops merges at random, as for training; here it does not.", path)
        tokenizer.model.dropout = None
    try:
        tokenizer.encode(_UNKNOWN_CHARS)
    except BaseException as error:
        raise _unreadable(path, "fails at characters that it does not know", error) from error
    if says_so:
        _tell_of_other_ids(folder, tokenizer, stated)
    if lower_case:
        own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    return tokenizer


def _tell_of_other_ids(folder: Path, tokenizer: Tokenizer, stated: Mapping[str, Any]) -> None:
    """transformers 5 builds some classes without the normaliser and the splitter of ``tokenizer.json``."""
    config = CheckpointFiles(folder, folder.name).json("config.json") or {}
    text = reads_otherwise(tokenizer, stated, config.get("model_type"))
    if text is not None:
        logger.info(
            "%s counts, as in transformers 4 and text-embeddings-inference. transformers 5 builds its class anew, "
            "and gives such texts as %r other tokens; AutoTokenizer.from_pretrained(folder).save_pretrained(folder) "
            "makes a file with those.",
            folder / "tokenizer.json",
            text,
        )


def _tokenizer_file(folder: Path) -> Path:
    path = folder / "tokenizer.json"
    if not path.is_file():
        problem = folder / TOKENIZER_PROBLEM
        if problem.is_file():
            raise ModelLoadError(problem.read_text(encoding="utf-8"))
        made = converted_tokenizer(folder)
        if made is None:
            raise ModelLoadError(
                f"{folder} has no tokenizer.json, and no older files that one can be made of (vocab.txt; vocab.json "
                "and merges.txt; a SentencePiece model). --tokenizer takes that of another model."
            )
        return made
    return path


def _unreadable(path: Path, what: str, error: BaseException) -> ModelLoadError:
    """The error about a tokenizer at which the library fails; what is no failure of the library is raised again."""
    if not isinstance(error, Exception) and not is_panic(error):
        raise error
    problem = str(error).partition("\n")[0][:300]
    return ModelLoadError(f"{path}, a file of {path.stat().st_size:,} bytes, {what}: {problem}.")
