"""The first module of a chain: the network, how it is read, and how texts become its tokens.

``sentence_bert_config.json`` says which head the network is loaded with (``transformer_task``), whether pairs are two
texts or messages of a chat template (``modality_config``), and with which arguments the tokenizer and the template
are called (``processing_kwargs``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.checkpoint.chain_modules import refusal
from engine.errors import ModelLoadError

Task = Literal["feature-extraction", "sequence-classification", "text-generation", "any-to-any"]
READS_LOGITS: tuple[Task, ...] = ("text-generation", "any-to-any")
"""Tasks whose output is the next token of a language model; the second also reads pictures."""
CONFIG = "sentence_bert_config.json"
_OLD_NAMES = ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_OUTPUTS: dict[str, tuple[str, str]] = {
    "feature-extraction": ("last_hidden_state", "token_embeddings"),
    "sequence-classification": ("logits", "scores"),
    "text-generation": ("logits", "causal_logits"),
    "any-to-any": ("logits", "causal_logits"),
}
"""Task -> what is taken of the network's output, and the name that it gets in the chain."""
_WITHOUT_MEANING = ("unpad_inputs", "backend")
"""Kernels."""
_MODEL_ARGUMENTS = ("model_args", "model_kwargs")
_HARMLESS_ARGUMENTS = (
    *("dtype", "torch_dtype", "attn_implementation", "device_map", "low_cpu_mem_usage", "use_safetensors"),
    *("trust_remote_code", "revision", "variant", "file_name", "provider", "export"),
)
"""Where and in which precision a network is loaded, and not what it computes."""
_EMPTY_ONLY = ("tokenizer_args", "processor_kwargs", "config_args", "config_kwargs")
_READ = (
    *("transformer_task", "modality_config", "module_output_name", "processing_kwargs"),
    *("max_seq_length", "do_lower_case", "query_length", "document_length", "query_expansion"),
)
_TEMPLATE_SETTINGS = ("padding", "padding_side", "truncation", "max_length", "return_tensors")
"""Arguments of the chat template that are the tokenizer's."""
_TEMPLATE_REFUSED = ("tokenize", "tools", "continue_final_message", "tokenizer_kwargs", "return_assistant_tokens_mask")
_SETTINGS = ("common", "text", "image", "audio", "video", "chat_template")
_TOKENIZER_SETTINGS = {
    "padding": None,
    "padding_side": None,
    "return_tensors": None,
    "pad_to_multiple_of": None,
    "return_attention_mask": None,
    "return_token_type_ids": None,
    "logits_to_keep": None,
    "verbose": None,
    "truncation": (True, "longest_first", "only_second"),
    "max_length": None,
    "add_special_tokens": (True,),
}
"""Arguments of the tokenizer that mean nothing here, or may have these values only."""


@dataclass(frozen=True)
class TransformerModule:
    """The settings of a Transformer module, as its file states them."""

    folder: Path
    """Of config.json, tokenizer and weights."""
    task: Task
    output: str
    reads_messages: bool
    """Pairs are messages of the saved chat template, and not two texts."""
    max_len: int | None = None
    """Tokens of a text or a pair."""
    lower_case: bool = False
    cuts_second_only: bool = False
    """Of a pair that is too long; else the longer text is cut."""
    query_length: int | None = None
    """Tokens of a query, and of a document, of late-interaction models; bi-encoders cut elsewhere."""
    document_length: int | None = None
    query_expansion: dict[str, Any] | None = None
    """How a late-interaction model fills its queries up."""


def read_transformer(folder: Path) -> TransformerModule:
    """Reads the Transformer module in ``folder``, or what sentence-transformers assumes where nothing is saved.

    Raises ``ModelLoadError`` for a task or an input that is not supported.
    """
    path, config = _config(folder)
    task = config.get("transformer_task", "feature-extraction")
    if task not in _OUTPUTS:
        raise refusal(path, f"transformer_task is {task!r}; supported are {', '.join(_OUTPUTS)}")
    taken, output = _OUTPUTS[task]
    named = config.get("module_output_name") or output
    modalities = config.get("modality_config") or {"text": {"method": "forward", "method_output_name": taken}}
    if not isinstance(modalities, dict):
        raise ModelLoadError(f"{path}: modality_config must be an object.")
    readable = {name: entry for name, entry in modalities.items() if name in ("text", "message")}
    if not readable:
        raise refusal(path, f"it reads {', '.join(modalities)} and no texts")
    for name, entry in readable.items():
        _check_modality(path, name, entry, taken)
    settings = config.get("processing_kwargs") or {}
    text = _tokenizer_settings(path, settings)
    lengths = (
        config.get("max_seq_length"),
        text.get("max_length"),
        (settings.get("chat_template") or {}).get("max_length"),
    )
    limits = [limit for limit in lengths if isinstance(limit, int)]
    return TransformerModule(
        folder=folder,
        task=task,
        output=named,
        reads_messages="message" in readable,
        max_len=min((limit for limit in limits if limit > 0), default=None),
        lower_case=bool(config.get("do_lower_case")),
        cuts_second_only=text.get("truncation") == "only_second",
        query_length=_number(path, config, "query_length"),
        document_length=_number(path, config, "document_length"),
        query_expansion=_object(path, config, "query_expansion"),
    )


def _number(path: Path, config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ModelLoadError(f"{path}: {key} must be a number of tokens, not {value!r}.")
    return value


def _object(path: Path, config: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    value = config.get(key)
    if value and not isinstance(value, dict):
        raise ModelLoadError(f"{path}: {key} must be an object, not {value!r}.")
    return value or None


def _config(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The module's file, which had other names before, and what it holds; its keys are known."""
    names = [CONFIG, *(f"sentence_{name}_config.json" for name in _OLD_NAMES)]
    path = next((folder / name for name in names if (folder / name).is_file()), folder / CONFIG)
    try:
        config = json.loads(path.read_bytes()) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(config, dict):
        raise ModelLoadError(f"{path} must hold a JSON object, not {type(config).__name__}.")
    for key, value in config.items():
        if key in _EMPTY_ONLY and value:
            raise refusal(path, f"{key} is {value!r}, and what it changes is not executed here")
        if key in _MODEL_ARGUMENTS and (changing := sorted(set(value or {}) - set(_HARMLESS_ARGUMENTS))):
            raise refusal(path, f"{key} holds {changing[0]}, and what it changes is not executed here")
        if key not in (*_READ, *_WITHOUT_MEANING, *_MODEL_ARGUMENTS, *_EMPTY_ONLY):
            raise refusal(path, f"its key {key!r} is not known")
    return path, config


def _check_modality(path: Path, name: str, entry: object, taken: str) -> None:
    """The network's usual output is taken; anything else, such as an inner layer, is another model."""
    stated = entry if isinstance(entry, dict) else {}
    method, output = stated.get("method", "forward"), stated.get("method_output_name", taken)
    if method != "forward" or output not in (taken, [taken]):
        raise refusal(path, f"for {name} it takes {output!r} of {method}, and here {taken!r} of forward is taken")


def _tokenizer_settings(path: Path, settings: object) -> Mapping[str, Any]:
    """The arguments of the tokenizer, those for all kinds of input before those for texts."""
    if not isinstance(settings, dict):
        raise ModelLoadError(f"{path}: processing_kwargs must be an object.")
    if unknown := sorted(set(settings) - set(_SETTINGS)):
        raise refusal(path, f"processing_kwargs has the part {unknown[0]!r}; known are {', '.join(_SETTINGS)}")
    text = {**(settings.get("common") or {}), **(settings.get("text") or {})}
    template = settings.get("chat_template") or {}
    for key, value in (*text.items(), *((name, template[name]) for name in _TEMPLATE_SETTINGS if name in template)):
        allowed = _TOKENIZER_SETTINGS.get(key, ())
        if allowed is not None and value not in allowed:
            what = f"may be {' or '.join(map(repr, allowed))}" if allowed else "is not known"
            raise refusal(path, f"processing_kwargs calls the tokenizer with {key}={value!r}, which {what}")
    for key in _TEMPLATE_REFUSED:
        if template.get(key):
            raise refusal(path, f"it calls the chat template with {key}={template[key]!r}, which is not executed here")
    if template.get("restore_suffix", True) is not True:
        raise refusal(
            path,
            f"restore_suffix is {template['restore_suffix']!r}, so that the end of a prompt that is too long is cut "
            "and its score is read inside the document, and here the end of a prompt is always kept",
        )
    return text
