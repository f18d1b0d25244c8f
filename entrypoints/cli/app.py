"""The cyclopts application: commands from the table, settings from flags, then ``ENGINE_*``, then ``--config FILE``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from cyclopts import App, Parameter
from cyclopts.config import Dict, Env

from engine import __version__
from engine.entrypoints.cli.commands import present_commands
from engine.entrypoints.cli.environment import PREFIX, drop_service_addresses
from engine.entrypoints.cli.help_page import HelpPage
from engine.errors import ConfigError

if TYPE_CHECKING:
    from engine.entrypoints.cli.peer_arguments import PeerArguments


def build_app(argv: list[str]) -> App:
    app = App(
        name="engine",
        help="A rerank inference engine: scores (query, document) pairs with a reranker model.",
        version=f"engine {__version__}",
        version_flags=["--version", "-V"],
        help_formatter=HelpPage(),
        help_format="plaintext",
        suppress_keyboard_interrupt=False,  # ``run`` says that it stopped
        default_parameter=Parameter(show_env_var=False),
    )
    for place, (name, (target, help_text)) in enumerate(present_commands().items()):
        asked_for = argv[:1] == [name]  # its page says more than its line in the list
        app.command(target, name=name, help=None if asked_for else help_text, sort_key=place)
    drop_service_addresses()
    app.config = [Env(PREFIX, command=False), *config_file(argv)]
    return app


def with_peer_flags(app: App, argv: list[str]) -> list[str]:
    """``argv``, and the application's settings, with other servers' flags replaced where the command takes them.

    A flag wins over ``ENGINE_*``, that over the variables of other servers, and those over the file.
    """
    command, depth = app, 0
    while depth < len(argv) and argv[depth] in command and not argv[depth].startswith("-"):
        command, depth = command[argv[depth]], depth + 1
    if not getattr(command.default_command, "takes_peer_flags", False):
        return argv
    from engine.entrypoints.cli.peer_arguments import PeerArguments
    from engine.entrypoints.cli.peer_environment import peer_environment

    known = {name for argument in command.assemble_argument_collection() for name in argument.names}
    known |= {"--help", "-h", "--version", "-V"}
    app.config = [Env(PREFIX, command=False)]
    if argv[0] == "serve" and (given := peer_environment(PeerArguments(known))):
        app.config += (Dict(data=given, source="the environment", use_commands_as_keys=False),)
    app.config += tuple(config_file(argv, PeerArguments(known)))
    return [*argv[:depth], *PeerArguments(known).on_command_line(argv[depth:])]


def config_file(argv: list[str], peers: PeerArguments | None = None) -> list[Dict]:
    """``--config FILE``: the same names as the flags; raises ``ConfigError`` for anything else.

    ``peers``: flags of other servers are read too.
    """
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
    if peers is not None:
        settings = peers.in_settings(settings, lambda name: f"{name} in {path}")
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
