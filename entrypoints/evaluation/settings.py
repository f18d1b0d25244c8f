"""``--compare dtype=bfloat16,quantization=int8``: further settings of the model to measure on the same candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.entrypoints.settings.options import ALIASES, OPTIONS, build_configs, nearest
from engine.errors import ConfigError


def changed_values(values: Mapping[str, Any], text: str) -> dict[str, Any]:
    """``values`` with the settings of one ``--compare``, checked before anything is loaded.

    Raises ``ConfigError`` for what is no setting.
    """
    changed = dict(values)
    for item in text.split(","):
        name, equals, value = item.strip().partition("=")
        field = name.strip().lstrip("-").replace("-", "_")
        field = ALIASES.get(field, field)
        known = [option.name for option in OPTIONS.values() if option.section != "server"]
        if not equals or not value:
            raise ConfigError(f"--compare {text}: settings like quantization=int8,dtype=bfloat16 expected.")
        if field not in known:
            raise ConfigError(f"--compare {text}: there is no setting {name!r}.{nearest(field, known)}")
        changed[field] = value
    build_configs(changed)
    return changed
