"""What users of other engines type, put into the one form that the parser knows.

``--hf_overrides.head_dtype model`` and ``--hf-overrides '{"a": 1}'`` become one JSON value, and the models after the
first are marked. Everything else passes through; flags of other servers were translated before (``peer_arguments.py``).
"""

from __future__ import annotations

import json
from typing import Any

from engine.entrypoints.settings.options import human_int
from engine.errors import ConfigError

JSON_FLAGS = ("--hf-overrides",)
MODEL_FLAGS = ("--model", "--model-path", "--model-id", "--model-name-or-path")


def normalise(argv: list[str]) -> list[str]:
    """``argv`` with dotted and repeated JSON flags merged into one token, and the models after the first marked.

    Raises ``ConfigError`` for a JSON flag without a value.
    """
    merged: dict[str, dict[str, Any]] = {}
    tokens: list[str] = []
    items = iter(_mark_further_models(argv))
    for item in items:
        if item == "--":
            tokens += [item, *items]
            break
        flag, has_value, value = item.partition("=")
        name, _, path = flag.replace("_", "-").partition(".") if flag.startswith("--") else (flag, "", "")
        if name in JSON_FLAGS:
            if not has_value:
                value = next(items, "")
                if not value:
                    raise ConfigError(f"{flag} needs a value.", param="hf_overrides")
            dotted = flag.partition(".")[2]
            _merge(merged.setdefault(name, {}), parse_json(value, name) if not path else nested(dotted, value))
        else:
            tokens.append(item)
    for name, value_object in merged.items():
        tokens += [name, json.dumps(value_object)]
    return tokens


def _mark_further_models(argv: list[str]) -> list[str]:
    """``serve A --model B`` and ``serve --model A --model B`` -> ``--also-model B``."""
    if argv[:1] != ["serve"]:
        return argv
    is_first = len(argv) < 2 or argv[1].startswith("-")
    tokens = []
    for item in argv:
        flag, has_value, value = item.partition("=")
        if flag.replace("_", "-") in MODEL_FLAGS:
            item = item if is_first else f"--also-model{has_value}{value}"
            is_first = False
        tokens.append(item)
    return tokens


def parse_json(text: str, flag: str) -> dict[str, Any]:
    """A JSON object from the command line; raises ``ConfigError``, which shows a mistake with a caret under it."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        line = text.splitlines()[error.lineno - 1] if text.splitlines() else ""
        caret = " " * (error.colno - 1) + "^"
        raise ConfigError(
            f"{flag} is not valid JSON: {error.msg}.\n  {line}\n  {caret}", param="hf_overrides"
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{flag} must be a JSON object like '{{\"key\": value}}', got {text}.", param="hf_overrides")
    return value


def nested(path: str, text: str) -> dict[str, Any]:
    """``a.b`` and ``v`` -> ``{"a": {"b": v}}``; ``a.b+`` appends to a list."""
    appends = path.endswith("+")
    keys = path.rstrip("+").split(".")
    value: Any = [part for item in text.split(",") for part in [_value(item)]] if appends else _value(text)
    for key in reversed(keys):
        value = {key: value}
    return value if isinstance(value, dict) else {path: value}


def _value(text: str) -> Any:
    """JSON, else a human integer, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        return human_int(text)
    except ConfigError:
        return text


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        old = into.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            old += value
        else:
            into[key] = value
