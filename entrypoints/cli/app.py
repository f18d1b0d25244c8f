"""The cyclopts application: commands from the table, settings from flags, then ``ENGINE_*``, then ``--config FILE``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from cyclopts import App
from cyclopts.config import Dict, Env

from engine import __version__
from engine.entrypoints.cli.commands import present_commands
from engine.entrypoints.cli.environment import PREFIX, drop_service_addresses
from engine.errors import ConfigError


def build_app(argv: list[str]) -> App:
    app = App(
        name="engine",
        help="A rerank inference engine: scores (query, document) pairs with a reranker model.",
        version=f"engine {__version__}",
        version_flags=["--version", "-V"],
    )
    for name, (target, help_text) in present_commands().items():
        app.command(target, name=name, help=help_text)
    drop_service_addresses()
    app.config = [Env(PREFIX, command=False), *config_file(argv)]
    return app


def config_file(argv: list[str]) -> list[Dict]:
    """``--config FILE``: the same names as the flags; anything that is no flag is an error."""
    path = _path_of(argv)
    if path is None:
        return []
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--config {path}: a .yaml or .yml file expected.", param="config")
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}.", param="config") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--config {path} is not valid YAML: {' '.join(str(error).split())}.", param="config"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path}: names and values expected, like 'port: 8000'.", param="config")
    settings = {str(name).replace("_", "-"): _as_text(value) for name, value in content.items() if value is not None}
    return [Dict(data=settings, source=str(path), use_commands_as_keys=False)]


def _as_text(value: Any) -> Any:
    """Nested settings are one JSON value, as on the command line."""
    return json.dumps(value) if isinstance(value, dict) else value


def _path_of(argv: list[str]) -> Path | None:
    for position, item in enumerate(argv):
        if item == "--":
            return None
        if item.startswith("--config="):
            return Path(item.removeprefix("--config="))
        if item == "--config":
            if position + 1 == len(argv):
                raise ConfigError("--config needs a file.", param="config")
            return Path(argv[position + 1])
    return None
