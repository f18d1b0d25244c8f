"""Frozen dataclasses as command lines: one field is one flag, declared beside it with cyclopts' ``Parameter``.

The bench must read command lines that were written for other benches, whose parsers accept the beginning of a flag
(``--random-input 200``): ``expand`` writes such words out before cyclopts sees them.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any, TypeVar

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError

from engine.entrypoints.flag_kinds import FLAT
from engine.errors import ConfigError

T = TypeVar("T")

DEFAULTS = Parameter(
    negative=(),
    allow_repeating=True,
    show_default=lambda value: None if value in (None, False, (), "") else value,
)
"""What holds for every flag of the bench: no ``--no-x``, the last of several wins, no default where it says nothing."""
NO_EFFECT = "Accepted for other benches' command lines; "


def ignored(because: str) -> Parameter:
    """A flag of other benches that has no effect here; whoever gives it is told so."""
    return Parameter(help=f"{NO_EFFECT}{because}.", show_default=False)


def parameters(options: type[Any]) -> dict[str, list[Parameter]]:
    """Field -> what its annotation says about the flag."""
    hints = typing.get_type_hints(options, include_extras=True)
    return {
        field.name: [part for part in typing.get_args(hints[field.name])[1:] if isinstance(part, Parameter)]
        for field in fields(options)
    }


def flag_names(options: type[Any]) -> dict[str, str]:
    """Spelling -> field, aliases included."""
    return {
        spelling: name
        for name, settings in parameters(options).items()
        for spelling in (f"--{name.replace('_', '-')}", *(alias for part in settings for alias in part.alias or ()))
    }


def say_what_is_ignored(options: Any) -> None:
    """Print one line for each flag that was given and has no effect."""
    settings = parameters(type(options))
    for field in fields(options):
        text = next((part.help for part in settings[field.name] if part.help), "")
        if text.startswith(NO_EFFECT) and getattr(options, field.name) != field.default:
            because = text.removeprefix(NO_EFFECT)
            print(f"--{field.name.replace('_', '-')} is accepted and has no effect: {because}")


def expand(words: Sequence[str], *options: type[Any]) -> list[str]:
    """``words`` with abbreviated flags written out; the flags of the first class go before those of the next.

    Raises ``ConfigError`` where a beginning fits several flags.
    """
    return [_expanded(word, options) for word in words]


def _expanded(word: str, options: Sequence[type[Any]]) -> str:
    if not word.startswith("--") or word == "--":
        return word
    begin, sign, value = word.partition("=")
    begin = begin.replace("_", "-")
    for cls in options:
        names = flag_names(cls)
        fits = {field: spelling for spelling, field in names.items() if spelling.startswith(begin)}
        if begin in names or not fits:
            if begin in names:
                break
            continue
        if len(fits) > 1:
            raise ConfigError(f"{begin} is the beginning of several flags: {', '.join(sorted(fits.values()))}.")
        return next(iter(fits.values())) + sign + value
    return begin + sign + value


def parse(options: type[T], words: Sequence[str]) -> T:
    """``options`` from words alone; raises ``ConfigError`` for a word that is no flag of it, or a wrong value."""

    def take(*, made: T) -> T:
        return made

    take.__annotations__["made"] = Annotated[options, FLAT]
    take.__kwdefaults__ = {"made": options()}
    app = App(default_command=take, default_parameter=DEFAULTS, help_flags=[], version_flags=[])
    try:
        made: T = app(expand(words, options), exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        raise ConfigError(" ".join(str(error).split())) from None
    return made
