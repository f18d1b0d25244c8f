"""The command line as a page of documentation, generated from the same tables that parse it.

``python -m engine.entrypoints.cli.reference > docs/cli.md`` writes the page; a test says when it is out of date.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterable
from typing import Any

from cyclopts import App, Argument

from engine.entrypoints.cli.app import build_app
from engine.entrypoints.cli.commands import present_commands
from engine.entrypoints.cli.flags import COMPATIBILITY, GROUPS
from engine.entrypoints.settings.options import IGNORED

HEAD = """# The command line

<!-- Generated: python -m engine.entrypoints.cli.reference > docs/cli.md -->

Every flag of a model or a server can also be an environment variable (`--max-num-seqs` is `ENGINE_MAX_NUM_SEQS`) or a
line of a YAML file given with `--config`. A flag wins over the environment, and that over the file. `-` and `_` are the
same in names. Sizes may be written `8k` (8000), `8K` (8192), `6GiB`. Exit codes: 0 for success, 2 for a wrong command
line or setting, 130 after Ctrl-C, 1 for everything else that failed.
"""
COMPATIBLE = """## Flags of other engines

Commands that load a model accept these flags of vLLM, SGLang and TEI. They have no effect; whoever gives one is told
why.
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
    ignored = [(f"`--{name.replace('_', '-')}`", "", flag.because) for name, flag in IGNORED.items()]
    parts.append(COMPATIBLE + "\n" + _table(ignored, ("flag", "", "why")))
    return "\n".join(parts)


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
        if argument.show is False or group is COMPATIBILITY or argument.names == ("*",):
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
    print(reference(), end="")
