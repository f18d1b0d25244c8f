"""The command line as a page of documentation, generated from the same tables that parse it.

``python -m engine.entrypoints.cli.reference > docs/cli.md`` writes the page, with ``--peers`` that about flags of other
servers, ``docs/peer-flags.md``; a test says when they are out of date.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Iterable
from typing import Any

from cyclopts import App, Argument

from engine.entrypoints.cli.app import build_app
from engine.entrypoints.cli.commands import present_commands
from engine.entrypoints.cli.flags import GROUPS
from engine.entrypoints.settings.peer_flags import ENVIRONMENT, SERVERS, PeerFlag, peer_flags, reason

HEAD = """# The command line

<!-- Generated: python -m engine.entrypoints.cli.reference > docs/cli.md -->

Every flag of a model or a server can also be an environment variable (`--max-num-seqs` is `ENGINE_MAX_NUM_SEQS`) or a
line of a YAML file given with `--config`. A flag wins over the environment, and that over the file. `-` and `_` are the
same in names. Sizes may be written `8k` (8000), `8K` (8192), `6GiB`. Exit codes: 0 for success, 2 for a wrong command
line or setting, 130 after Ctrl-C, 1 for everything else that failed.
"""
PEERS_HEAD = """# Flags of other servers

<!-- Generated: python -m engine.entrypoints.cli.reference --peers > docs/peer-flags.md -->

Commands that load a model take the flags of vLLM, SGLang, text-embeddings-inference (TEI), Infinity and llama-server as
their users type them: `_` for `-`, unique beginnings and dotted JSON keys as vLLM and SGLang have them, values after a
space or `=`, lines of `--config FILE`. Those that are ours already are in [the command line](cli.md). Here is what
becomes of the others; none is dropped in silence, and two that set the same option to different values are an error.

`engine serve` also reads `INFINITY_*` and `LLAMA_ARG_*` from the environment, and TEI's variables (`MODEL_ID`, `PORT`,
`HOSTNAME`, ...) where `MODEL_ID` is set; a line names each one that is used. Flags and `ENGINE_*` win over them.
"""
SHARED = {group.name: key for key, group in GROUPS.items() if key != "server"}
"""Groups of flags that every command with a model has: shown once, after the commands."""
Row = tuple[str, str, str]
"""Spellings, values, meaning."""


def reference() -> str:
    app = build_app([])
    parts = [HEAD]
    serve = app["serve"].assemble_argument_collection(parse_docstring=True)
    for name, (_, help_text) in present_commands().items():
        parts.append(_command(app[name], f"engine {name}", help_text))
    parts.append("## Flags of every command with a model\n\n" + "\n".join(_groups(serve, only=SHARED)))
    parts.append("## Flags of other servers\n\nThey have [a page of their own](peer-flags.md).\n")
    return "\n".join(parts)


def peer_reference() -> str:
    """The page about flags of other servers."""
    by_outcome: dict[str, list[PeerFlag]] = {}
    for flag in peer_flags():
        by_outcome.setdefault(flag.here, []).append(flag)
    mapped = [(_names(flag), SERVERS[flag.server], f"`{_target(flag)}`") for flag in by_outcome["maps"]]
    refused = [
        (_names(flag), SERVERS[flag.server], f"There: {flag.meaning}. Here {reason(flag)}{_passes(flag)}.")
        for flag in by_outcome["refused"]
    ]
    same = [(_names(flag), SERVERS[flag.server], "") for flag in by_outcome["same"] if flag.aliases]
    parts = [
        PEERS_HEAD,
        "## Set an option of ours\n\n" + _table(_merged(mapped), ("flag", "of", "here")),
        "## Refused\n\nThey would give other scores, or another server than the one that would start.\n\n"
        + _table(_merged(refused), ("flag", "of", "why")),
        "## The same here, with further spellings\n\n" + _table(_merged(same), ("flag", "of", "")),
        "## Accepted without effect\n\nWhoever gives one is told why in one line.\n",
    ]
    by_reason: dict[str, set[str]] = {}
    for flag in by_outcome["ignored"]:
        by_reason.setdefault(reason(flag), set()).update(flag.names)
    for why, names in sorted(by_reason.items()):
        parts.append(f"* {why}: {', '.join(f'`{name}`' for name in sorted(names))}")
    return "\n".join([*parts, ""]).replace(" |\n## ", " |\n\n## ")


def _names(flag: PeerFlag) -> str:
    return ", ".join(f"`{name}`" for name in flag.names)


def _target(flag: PeerFlag) -> str:
    if flag.to.startswith(ENVIRONMENT):
        return flag.to.removeprefix(ENVIRONMENT)
    name, fixed, value = flag.to.partition("=")
    return f"--{name.replace('_', '-')}" + (f" {value}" if fixed and value != "true" else "")


def _passes(flag: PeerFlag) -> str:
    return f" ({', '.join(flag.allowed)} passes)" if flag.allowed else ""


def _merged(rows: list[Row]) -> list[Row]:
    """Rows that say the same of several servers as one."""
    servers: dict[tuple[str, str], list[str]] = {}
    for names, server, text in rows:
        servers.setdefault((names, text), []).append(server)
    return [(names, ", ".join(dict.fromkeys(of)), text) for (names, text), of in sorted(servers.items())]


def _command(command: App, path: str, help_text: str) -> str:
    lines = [f"## `{path}`", "", _doc(command) or help_text, ""]
    subcommands = [name for name in command if not name.startswith("-")]
    for name in subcommands:
        lines += [f"### `{path} {name}`", "", _doc(command[name]), ""]
        lines += _groups(command[name].assemble_argument_collection(parse_docstring=True))
    if not subcommands:
        lines += _groups(command.assemble_argument_collection(parse_docstring=True))
    return "\n".join(lines)


def _doc(command: App) -> str:
    return inspect.cleandoc(getattr(command.default_command, "__doc__", "") or "")


def _groups(arguments: Iterable[Argument], only: Iterable[str] = ()) -> list[str]:
    """One table a group of flags, the command's own first; of the shared groups only the model itself."""
    tables: dict[str, list[Row]] = {"": []}
    shares = False
    for argument in arguments:
        groups = argument.parameter.group
        group = next(iter(groups), None) if isinstance(groups, tuple) else groups
        if argument.show is False or argument.names == ("*",):
            continue
        title = getattr(group, "name", str(group or ""))
        if only and title not in only:
            continue
        if not only and title in SHARED:
            shares = True
            if "--model" not in argument.names:
                continue
            title = ""
        tables.setdefault("" if title in ("Parameters", "Arguments") else title, []).append(_row(argument))
    lines = []
    for title, rows in tables.items():
        if rows:
            lines += ([f"**{title}**", ""] if title else []) + [_table(rows), ""]
    if shares:
        lines += ["And the [flags of every command with a model](#flags-of-every-command-with-a-model).", ""]
    return lines


def _row(argument: Argument) -> Row:
    own = f"--{argument.field_info.name.replace('_', '-')}"
    spellings = [name for name in argument.names if name == own or not name.startswith(("--no-", "--empty-"))]
    positional = argument.field_info.kind is not inspect.Parameter.KEYWORD_ONLY
    shown = [spellings[0].lstrip("-").upper(), *spellings] if positional else spellings
    help_text = (argument.parameter.help or "").strip()
    default = argument.field_info.default
    unsaid = argument.parameter.show_default is not False and "Default" not in help_text
    if unsaid and default not in (None, "", (), False, inspect.Parameter.empty):
        help_text = f"{help_text} Default: {default}.".strip()
    metavar = argument.parameter.metavar
    return ", ".join(f"`{name}`" for name in shown), metavar or _values(argument.hint), help_text


def _values(hint: Any) -> str:
    """A type in words; choices as they are."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_values(part) for part in inner if part is not type(None))
    if origin in (tuple, list):
        return f"{_values(inner[0])} ..." if inner else "TEXT ..."
    names = {bool: "", str: "TEXT", int: "INT", float: "NUMBER"}
    return names.get(hint, getattr(hint, "__name__", str(hint)).upper())


def _table(rows: list[Row], head: Row = ("flag", "value", "meaning")) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"

    return "\n".join([line(head), "|---|---|---|", *map(line, rows)])


if __name__ == "__main__":
    print(peer_reference() if "--peers" in sys.argv else reference(), end="")
