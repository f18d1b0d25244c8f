"""config.json under the usual names: families that call a key otherwise, and files that leave their family out.

Everything behind ``usual_config`` may take for granted that ``model_type`` is a row of ``FAMILIES``, if the engine has
the network at all, and that a hidden size is called ``hidden_size``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.checkpoint.families import FAMILIES, OF_ARCHITECTURE, TASKS
from engine.errors import ConfigError


def usual_config(label: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with ``model_type`` and keys as ``families.py`` has them; the values are those of the file.

    Raises ``ConfigError`` for a number that stands under two names with two values.
    """
    found = _with_text_config(label, config)
    model_type = _model_type(found)
    if model_type is None or model_type not in FAMILIES:
        return found
    found["model_type"] = model_type
    for architecture in found.get("architectures") or ():
        found = OF_ARCHITECTURE.get(architecture, {}) | found
    for own, usual in FAMILIES[model_type].own_keys.items():
        if own not in found:
            continue
        value = found.pop(own)
        if found.setdefault(usual, value) != value:
            raise ConfigError(
                f"config.json of {label} says {own} = {value!r} and {usual} = {found[usual]!r}, which are two names of "
                "one number. Correct one of them.",
                param="model",
            )
    return found


_USUAL_LABELS = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
"""What every config class has where nothing is said of labels; whole files state it of the text network too."""
_OF_THE_WHOLE = ("model_type", "architectures", "tie_word_embeddings", "dtype", "torch_dtype")
"""Keys that the parts of a model may state for themselves; those of the whole count."""


def _with_text_config(label: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A model for pictures and texts, as the text network that it has: ``text_config`` holds its keys."""
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        return dict(config)
    found = {key: value for key, value in config.items() if key != "text_config"}
    for key, value in text.items():
        if key in _OF_THE_WHOLE or value == _USUAL_LABELS.get(key):
            continue
        if value is not None and found.get(key, value) not in (value, None):
            raise ConfigError(
                f"config.json of {label} says {key} = {found[key]!r}, its text_config {value!r}. Correct one of them.",
                param="model",
            )
        found[key] = value if found.get(key) is None else found[key]
    return found


def _model_type(config: Mapping[str, Any]) -> str | None:
    """As the file says; where it says nothing, or the name of the network that it was made of, by its class."""
    stated, architectures = config.get("model_type"), config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else ""
    body = next((architecture.removesuffix(task) for task in TASKS if str(architecture).endswith(task)), None)
    if stated == "bert" and (body == "JinaBert" or config.get("position_embedding_type") == "alibi"):
        return "jina_bert"  # saved as bert by its authors, who computed it with code beside the weights
    if stated is None and body is not None:
        named = [model_type for model_type, family in FAMILIES.items() if family.body == body]
        return named[0] if len(named) == 1 else None
    return stated if isinstance(stated, str) else None
