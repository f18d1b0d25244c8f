"""What ``throughput`` and ``latency`` share: an engine in this process, its settings from flags, its result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.entrypoints.bench.options import DataOptions
from engine.entrypoints.bench.pytorch_format import write_records
from engine.entrypoints.bench.results import check_writable, data_settings, environment, write_result
from engine.errors import ConfigError

if TYPE_CHECKING:
    from engine.entrypoints.offline.llm import LLM


def engine_settings(words: Sequence[str]) -> dict[str, Any]:
    """``--dtype bfloat16 --enforce-eager`` -> keyword arguments of ``LLM``; which of them exist is its business."""
    settings: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"{word!r} is not an option; the model is given with --model.")
        name, sign, value = word[2:].partition("=")
        if not sign and rest and not rest[0].startswith("--"):
            value, sign = rest.pop(0), "="
        settings[name.replace("-", "_")] = _value(value) if sign else True
    return settings


def _value(text: str) -> Any:
    """JSON where it is JSON (numbers, true, objects), else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


@contextmanager
def loaded_engine(model: str | None, words: Sequence[str]) -> Iterator[LLM]:
    """The engine, closed at the end."""
    settings = engine_settings(words)
    from engine.entrypoints.offline.llm import LLM

    try:
        llm = LLM(model, **settings)
    except TypeError as error:
        raise ConfigError(f"{error}") from error
    with llm:
        yield llm


def check_output(path: str | None) -> Path | None:
    if path is None:
        return None
    check_writable(Path(path).expanduser().parent)
    return Path(path).expanduser()


def save(path: Path | None, result: dict[str, Any], options: DataOptions, model: str) -> None:
    if path is None:
        return
    write_result(path, {**result, "model_id": model, "options": data_settings(options), "environment": environment()})
    print(f"Result: {path}")
    if (beside := write_records(path, result, options, model)) is not None:
        print(f"Result: {beside}")
