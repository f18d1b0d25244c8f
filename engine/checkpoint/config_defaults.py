"""What config.json leaves out: the defaults of the architecture's own config class, as transformers fills them in.

The defaults are data (``config_defaults.json``), so that nothing of transformers is needed to serve; a test compares
them with the installed version. What a class works out from other keys after it has read them is written here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from engine.checkpoint.families import FAMILIES, rope_of
from engine.errors import ConfigError

logger = logging.getLogger(__name__)

DEFAULTS = Path(__file__).with_name("config_defaults.json")
_ROPE_BASES = {
    "gte": 160_000.0,
    "nomic_bert": 1000.0,
    "gemma3_text": 1_000_000.0,
    "qwen2_vl": 1_000_000.0,
    "qwen3_vl": 500_000.0,
}
_USUAL_ROPE_BASE = 10_000.0
_WINDOW = 4096
"""``sliding_window`` of the Qwen classes, who take it back where ``use_sliding_window`` is off."""
_NULLABLE = frozenset(
    {"num_key_value_heads", "sliding_window", "pad_token_id", "attn_logit_softcapping", "final_logit_softcapping"}
)
"""Keys of which a null says something: as many as query heads, or none."""
_HEADS_SHARE_HIDDEN = ("llama", "llama_bidirec", "mistral", "eurobert")
"""Types whose ``head_dim``, left out or null, is the hidden size divided among the heads."""

_OWN_KEY_HEADS = ("llama", "llama_bidirec", "eurobert", "granite", "phi3", "qwen3_vl")
"""Types that have as many key heads as query heads, unless they state fewer."""


_MINISTRAL_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}
"""``rope_parameters`` of Ministral 3's class."""


@cache
def class_defaults(model_type: str) -> Mapping[str, Any]:
    """The defaults of the architecture's own config class, under the usual names; empty where transformers has none."""
    found: dict[str, Mapping[str, Any]] = json.loads(DEFAULTS.read_text(encoding="utf-8"))
    own = FAMILIES[model_type].own_keys
    return {own.get(key, key): value for key, value in found.get(model_type, {}).items()}


def with_defaults(label: str, config: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """``config`` and, of ``keys``, those that it leaves out, with a line in the log that names them.

    ``config``: config.json after overrides, of a family that is supported. Raises ``ConfigError`` for a null where the
    class takes none.
    """
    model_type = str(config["model_type"])
    defaults = class_defaults(model_type)
    for key in keys:
        if key in config and config[key] is None and defaults.get(key) is not None and not _takes_null(model_type, key):
            raise ConfigError(
                f"config.json of {label} has {key} = null, where a {model_type} network needs a value. State it, or "
                f"take the key out: then it is {defaults[key]!r}, the default of the architecture's config class.",
                param="model",
            )
    for key in keys:
        if isinstance(defaults.get(key), bool) and not isinstance(config.get(key), bool | None):
            raise ConfigError(
                f"config.json of {label} has {key} = {config[key]!r}, which must be true or false.", param="model"
            )
    if "rope_theta" in keys and config.get("rope_theta", 0) is None and "rope_theta" not in rope_of(config):
        raise ConfigError(
            f"config.json of {label} has rope_theta = null, where a {model_type} network needs a value. State it, or "
            "take the key out.",
            param="model",
        )
    absent = {key: defaults[key] for key in keys if key not in config and defaults.get(key) is not None}
    absent |= _worked_out(model_type, {**absent, **config}, set(absent))
    stated_base = "rope_theta" in config or "rope_theta" in rope_of({**config, **absent})
    if "rope_theta" in keys and not stated_base:
        absent["rope_theta"] = _ROPE_BASES.get(model_type, _USUAL_ROPE_BASE)
    if absent:
        stated = ", ".join(f"{key} {value!r}" for key, value in absent.items())
        logger.info("%s: config.json leaves out what its class has a default for: %s.", label, stated)
    return {**config, **absent}


def _takes_null(model_type: str, key: str) -> bool:
    return key in _NULLABLE or (key == "head_dim" and model_type in _HEADS_SHARE_HIDDEN)


def _worked_out(model_type: str, config: Mapping[str, Any], absent: set[str]) -> dict[str, Any]:
    """What the classes' own code makes of the other keys. ``config``: with the fixed defaults of ``absent`` keys."""
    found: dict[str, Any] = {}
    if model_type in _HEADS_SHARE_HIDDEN and "head_dim" in absent:
        found["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    if model_type in _OWN_KEY_HEADS and "num_key_value_heads" in absent:
        found["num_key_value_heads"] = config["num_attention_heads"]
    if model_type == "ministral3" and not rope_of(config):
        found["rope_parameters"] = {**_MINISTRAL_ROPE, "max_position_embeddings": config["max_position_embeddings"]}
    if (
        model_type in ("qwen2", "qwen3", "qwen2_vl")
        and config.get("use_sliding_window")
        and "sliding_window" not in config
    ):
        found["sliding_window"] = _WINDOW
    return found
