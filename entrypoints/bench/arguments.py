"""Frozen dataclass -> command line. One field is one flag; its default, help and group stand beside it.

argparse, because the bench must read command lines that were written for other benches: unique prefixes of flags are
accepted (``--random-input 200``), ``-`` and ``_`` are equal in flag names.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from engine.errors import ConfigError

T = TypeVar("T")


def flag(
    default: Any,
    help: str,
    *,
    group: str = "run",
    aliases: tuple[str, ...] = (),
    choices: tuple[str, ...] | None = None,
    metavar: str | None = None,
) -> Any:
    """A dataclass field that is a command-line flag."""
    details = {"help": help, "group": group, "aliases": aliases, "choices": choices, "metavar": metavar}
    return dataclasses.field(default=default, metadata=details)


def ignored(default: Any, because: str, *, group: str = "run") -> Any:
    """A flag of other benches that has no effect here; whoever gives it is told so."""
    return dataclasses.field(
        default=default,
        metadata={
            "help": f"Accepted for other benches' command lines; {because}.",
            "group": group,
            "aliases": (),
            "choices": None,
            "metavar": None,
            "ignored": because,
        },
    )


class Parser(argparse.ArgumentParser):
    """Wrong usage is a ``ConfigError`` with the nearest flag, like everywhere else in this project."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}. See {self.prog} --help.")


def parse(cls: type[T], argv: Sequence[str], prog: str, description: str) -> T:
    """``cls`` from ``argv``; every argument must be known."""
    options, rest = parse_known(cls, argv, prog, description)
    if rest:
        raise ConfigError(unknown_flag(rest[0], flag_names(cls), prog))
    return options


def parse_known(cls: type[T], argv: Sequence[str], prog: str, description: str) -> tuple[T, list[str]]:
    """``cls`` and the arguments that are not its own, in order."""
    parser = Parser(prog=prog, usage=f"{prog} [options]", description=description)
    hints = typing.get_type_hints(cls)
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        group = groups.get(field.metadata["group"])
        if group is None:
            group = groups[field.metadata["group"]] = parser.add_argument_group(field.metadata["group"])
        group.add_argument(*_spellings(field), dest=field.name, **_details(field, hints[field.name]))
    values, rest = parser.parse_known_args([_with_hyphens(word) for word in argv])
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(values).items()}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if "ignored" in field.metadata and given[field.name] != field.default:
            print(f"{_spellings(field)[0]} is accepted and has no effect: {field.metadata['ignored']}.")
    return cls(**given), rest


def flag_names(cls: type[Any]) -> list[str]:
    return [spelling for field in dataclasses.fields(cls) for spelling in _spellings(field)]


def unknown_flag(word: str, known: Sequence[str], prog: str) -> str:
    near = difflib.get_close_matches(word.split("=")[0], known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{prog}: {word!r} is not an option.{hint} See {prog} --help."


def _spellings(field: dataclasses.Field[Any]) -> list[str]:
    names = [field.name.replace("_", "-"), *field.metadata["aliases"]]
    return [name if name.startswith("-") else f"--{name}" for name in names]


def _with_hyphens(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, sign, value = word.partition("=")
    return name.replace("_", "-") + sign + value


def _details(field: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    meta = field.metadata
    details: dict[str, Any] = {"default": field.default, "help": _help(field)}
    kind, many = _kind(hint)
    if kind is bool:
        # --no-x exists where x is on by default or can be decided by itself.
        action = argparse.BooleanOptionalAction if field.default is not False else "store_true"
        return {**details, "action": action}
    if many:
        details["nargs"] = "+"
    return {**details, "type": kind, "choices": meta["choices"], "metavar": meta["metavar"]}


def _help(field: dataclasses.Field[Any]) -> str:
    shown = field.default if field.default not in (None, False, (), "") else None
    text = str(field.metadata["help"]).replace("%", "%%")
    return text if shown is None else f"{text} ({shown})"


def _kind(hint: Any) -> tuple[Callable[[str], Any], bool]:
    """What converts one word, and whether several words are taken."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    return hint, False
