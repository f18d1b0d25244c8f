"""Several models in one server: common settings, and what is one model's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine.config import EngineConfig, ServerConfig
from engine.entrypoints.settings.options import ALIASES, OPTIONS, build_configs, nearest
from engine.errors import ConfigError

OWN = (
    *("tokenizer", "revision", "tokenizer_revision", "served_model_name", "hf_overrides", "max_model_len"),
    *("score_template", "ignore_config_key", "instruction", "lora_modules"),
)
"""Settings of the first model that the others do not share."""


def build_several(values: Mapping[str, Any]) -> tuple[list[EngineConfig], ServerConfig]:
    """``model`` and ``also_model`` are names or JSON objects of settings; the rest holds for all models.

    Raises ``ConfigError`` for another number of names than of models.
    """
    common = dict(values)
    models = [_settings(item) for item in (common.pop("model", ""), *common.pop("also_model", ()))]
    first = models[0]
    engine, server = build_configs(common | first)
    names = engine.model.served_model_name
    if len(models) > 1 and names and "served_model_name" not in first:
        if len(names) != len(models):
            raise ConfigError(
                f"--served-model-name gives {len(names)} name(s) for {len(models)} models: with several models, one "
                "name each, in their order.",
                param="served_model_name",
            )
        models = [{"served_model_name": (name,)} | model for name, model in zip(names, models, strict=True)]
        engine = replace(engine, model=replace(engine.model, served_model_name=names[:1]))
    shared = {name: value for name, value in common.items() if ALIASES.get(name, name) not in OWN}
    others = [build_configs(shared | model)[0] for model in models[1:]]
    return [engine, *others], server


def _settings(item: str) -> dict[str, Any]:
    """A name, or a JSON object of model settings."""
    if not item.lstrip().startswith("{"):
        return {"model": item}
    try:
        given = json.loads(item)
    except ValueError as error:
        raise ConfigError(f"--model {item} is not valid JSON: {error}.", param="model") from error
    known = [option.name for option in OPTIONS.values() if option.section == "model"]
    for name in given:
        if ALIASES.get(name, name) not in known:
            raise ConfigError(
                f"--model {item}: {name!r} is no setting of a model.{nearest(name, known)}", param="model"
            )
    if not given.get("model"):
        raise ConfigError(f'--model {item}: "model" is missing.', param="model")
    return dict(given)
