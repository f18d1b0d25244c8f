"""Pages of ``--help``: each flag with all its spellings on a line, and below it, indented, what it means.

No spelling is broken, in a terminal of any width or in a pipe, so ``engine serve --help | grep max-model`` finds it.
"""

from __future__ import annotations

import inspect
import re
import textwrap
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

WIDEST = 100
"""Columns beyond which text is tiring to read."""
INDENT, TEXT_INDENT = 2, 6
TITLES = {"Parameters": "Options"}
UNSAID_DEFAULTS = ("False", "()", "None", "")


class HelpPage:
    """The formatter that cyclopts calls for each part of a page, whose texts are plain."""

    show_metavar = True

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Prints one group of commands or flags."""
        if not panel.entries:
            return
        title = str(panel.title)
        _print(console, f"{TITLES.get(title, title)}:", "bold")
        names = [", ".join(entry.all_options) for entry in panel.entries]
        indent = INDENT + max(map(len, names)) + 2
        for entry, name in zip(panel.entries, names, strict=True):
            if panel.format == "command":
                first = (" " * INDENT + name).ljust(indent)
                _print(console, _wrapped(_text(entry.description), console, indent, first=first))
            else:
                labels = ", ".join(entry.display_labels_with_metavar)
                _print(console, _wrapped(labels, console, TEXT_INDENT, first=" " * INDENT), "bold")
                _print(console, _wrapped(_meaning(entry), console, TEXT_INDENT))
        console.print()

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Prints the first line."""
        if usage:
            _print(console, f"Usage: {str(usage).strip()}\n")

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        """Prints what the command does, a paragraph after the other."""
        for paragraph in filter(None, _text(description).split("\n\n")):
            _print(console, f"{_wrapped(paragraph, console)}\n")


def _print(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)


def _wrapped(text: str, console: Console, indent: int = 0, *, first: str | None = None) -> str:
    """Lines of whole words; ``first`` takes the place of the first one's indent."""
    return textwrap.fill(
        text,
        min(console.width, WIDEST),
        initial_indent=" " * indent if first is None else first,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _text(description: Any) -> str:
    """The words of a plain description, without the marks of code."""
    return str(getattr(description, "primary_renderable", description) or "").replace("`", "").strip()


def _meaning(entry: HelpEntry) -> str:
    """The text, then choices, default and whether the flag must be given."""
    parts = [_text(entry.description)]
    parts += [f"Choices: {', '.join(entry.choices)}."] if entry.choices else []
    if entry.default is not None and entry.default not in UNSAID_DEFAULTS:
        parts.append(f"Default: {'on' if entry.default == 'True' else entry.default}.")
    parts += ["Required."] if entry.required else []
    return " ".join(filter(None, parts))


def describe(app: App, words: Sequence[str]) -> None:
    """Names the positional arguments in the usage of the command of ``words``."""
    from cyclopts.help import format_usage

    command, path = app, []
    for word in words:
        if word.startswith("-") or word not in command:
            break
        command = command[word]
        path.append(word)
    if not path or command.default_command is None:
        return
    places = [
        argument.name.lstrip("-").upper() + ("..." if _takes_several(argument.field_info.kind, argument.hint) else "")
        for argument in command.assemble_argument_collection(parse_docstring=False)
        if argument.index is not None and argument.show and not argument.required
    ]
    usage = str(format_usage(app, path)).strip()
    command.usage = re.sub(r"\[ARGS(\.\.\.)?\]", " ".join(f"[{name}]" for name in places), usage)


def _takes_several(kind: Any, hint: Any) -> bool:
    return kind is inspect.Parameter.VAR_POSITIONAL or typing.get_origin(hint) in (tuple, list)
