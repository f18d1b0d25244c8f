"""``--lora-modules name=path`` in the spellings that vLLM takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from engine.errors import ConfigError


def lora_modules(value: Any) -> dict[str, str]:
    """A mapping, or items of the forms ``name=path`` and ``{"name": ..., "path": ...}``.

    Raises ``ConfigError`` for a name that is there twice.
    """
    if isinstance(value, Mapping):
        return {str(name): str(path) for name, path in value.items()}
    found: dict[str, str] = {}
    for item in [value] if isinstance(value, str) else _items(value):
        name, path = _pair(item)
        if name in found:
            raise ConfigError(f"--lora-modules names {name!r} twice.", param="lora_modules")
        found[name] = path
    return found


def _items(value: Any) -> Iterable[Any]:
    return value if isinstance(value, Iterable) else [value]


def _pair(item: Any) -> tuple[str, str]:
    if isinstance(item, str) and item.lstrip().startswith("{"):
        try:
            item = json.loads(item)
        except ValueError as error:
            raise ConfigError(f"--lora-modules {item} is not valid JSON: {error}.", param="lora_modules") from error
    if isinstance(item, Mapping):
        name, path = item.get("name"), item.get("path") or item.get("local_path")
    else:
        name, _, path = str(item).partition("=")
    if not (isinstance(name, str) and isinstance(path, str) and name and path):
        raise ConfigError(
            f'--lora-modules {item!r}: write name=path or {{"name": "...", "path": "..."}}.', param="lora_modules"
        )
    return name, path
