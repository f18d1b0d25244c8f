"""Flags of other servers on the command line, in a YAML file and in the environment: what is ours in their place.

Nothing of a flag is left over: its value goes with it, so that no value becomes the name of a model.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.entrypoints.cli.arguments import MODEL_FLAGS, nested
from engine.entrypoints.cli.flags import switches
from engine.entrypoints.settings.peer_flags import PeerFlag, Reading, as_switch, find, read, spelling
from engine.errors import ConfigError

_NUMBER = re.compile(r"-\.?\d")
_ATTACHED = re.compile(r"-O=?(\d)\Z")
"""vLLM's ``-O3``."""
Tell = Callable[[str], None]


def say(notice: str) -> None:
    """A line on standard error."""
    print(f"engine: {notice}", file=sys.stderr)


@dataclass
class PeerArguments:
    """Translates what one command line, file or environment holds of other servers' flags."""

    known: Collection[str]
    """Spellings that the command has itself."""
    tell: Tell = say
    environment: MutableMapping[str, str] = field(default_factory=lambda: os.environ)
    _origins: dict[str, tuple[str, Any]] = field(default_factory=dict)

    def on_command_line(self, words: Sequence[str]) -> list[str]:
        """The words after the command with every flag of another server replaced. Raises ``ConfigError``."""
        tokens: list[str] = []
        rest = self._without_subcommand(words)
        own_switches = switches()
        names_model = bool(rest) and (not _is_flag(rest[0]) or any(_names_model(word) for word in rest))
        while rest:
            word = rest.pop(0)
            if word == "--":
                return [*tokens, word, *rest]
            name, has_value, value = word.partition("=")
            if not _is_flag(word):
                tokens.append(word)
            elif spelling(name) in own_switches and spelling(name) in self.known:
                tokens.append(_switch(name, value if has_value else _taken_switch(rest)))
            elif spelling(name.partition(".")[0]) in self.known:
                tokens.append(word)
            else:
                tokens += self._foreign(word, rest, names_model)
        return tokens

    def _without_subcommand(self, words: Sequence[str]) -> list[str]:
        """Infinity's command line begins with ``v2``, which is no model where another one is named."""
        named = any(_names_model(word) for word in words) or self.environment.get("INFINITY_MODEL_ID")
        if words[:1] != ["v2"] or not named:
            return list(words)
        self.tell("v2 is a command of Infinity's, and no model here, since another one is named")
        return list(words[1:])

    def _foreign(self, word: str, rest: list[str], names_model: bool) -> list[str]:
        """What stands for ``word`` and its values, which are taken off ``rest``; ``word`` itself if nobody has it."""
        if attached := _ATTACHED.match(word):
            word = f"-O={attached[1]}"
        name, has_value, text = word.partition("=")
        base, _, path = name.partition(".")
        flags = find(name)
        if not flags and path and (flags := find(base)) and not any(flag.takes == "json" for flag in flags):
            flags = ()
        if not flags:
            return [word]
        if all(flag.here == "same" for flag in flags):
            return [flags[0].flag + has_value + text]
        value = text if has_value else _taken(flags, name, rest, names_model)
        if path and isinstance(value, str) and not find(name):
            value = nested(path, value)
        return self._tokens(read(flags, name, value), name)

    def _tokens(self, reading: Reading, shown: str) -> list[str]:
        tokens: list[str] = []
        for option, value in self._settings(reading, shown).items():
            flag = f"--{option.replace('_', '-')}" if "." not in option else f"--{_dotted(option)}"
            for item in value if isinstance(value, list | tuple) else [value]:
                tokens.append(f"{flag}={item if isinstance(item, str) else json.dumps(item)}")
        return tokens

    def in_settings(self, given: Mapping[str, Any], shown: Callable[[str], str]) -> dict[str, Any]:
        """Names and values of a file or an environment, with those of other servers replaced. Raises ``ConfigError``.

        ``shown``: how a name is written where it stands.
        """
        found: dict[str, Any] = {}
        for name, value in given.items():
            flag = f"--{name}"
            flags = () if flag in self.known else find(flag)
            if not flags:
                found[name] = value
                continue
            for option, item in self._settings(read(flags, flag, value), shown(name)).items():
                key, _, inner = option.partition(".")
                found[key.replace("_", "-")] = json.dumps({inner: item}) if inner else _as_setting(item)
        return found

    def _settings(self, reading: Reading, shown: str) -> dict[str, Any]:
        """The settings that are new; two flags that set one option to different values are an error."""
        for notice in reading.notices:
            self.tell(notice)
        self.environment.update(reading.environment)
        new = {}
        for option, value in reading.settings.items():
            before, same = self._origins.setdefault(option, (shown, value))
            if same != value:
                raise ConfigError(
                    f"{before} and {shown} both set --{option.replace('_', '-')}, to different values.", param=option
                )
            if before == shown and option not in new:
                new[option] = value
        return new


def _as_setting(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict) else value


def _dotted(option: str) -> str:
    name, _, key = option.partition(".")
    return f"{name.replace('_', '-')}.{key}"


def _is_flag(word: str) -> bool:
    return len(word) > 1 and word.startswith("-") and not _NUMBER.match(word)


def _names_model(word: str) -> bool:
    name = word.partition("=")[0]
    return spelling(name) in (*MODEL_FLAGS, "-m", "-hf", "-hfr", "--hf-repo")


def _switch(name: str, value: str | None) -> str:
    """``--x``, ``--x=false``; ``--no-x false`` is ``--x``."""
    if value is None:
        return name
    state = as_switch(value)
    if state is None:
        raise ConfigError(f"{name} {value}: true or false expected.", param=name.lstrip("-").replace("-", "_"))
    spelt = spelling(name)
    if spelt.startswith("--no-"):
        spelt, state = f"--{spelt.removeprefix('--no-')}", not state
    return f"{spelt}={str(state).lower()}"


def _taken_switch(rest: list[str]) -> str | None:
    """The next word, if it is the value of a switch."""
    return rest.pop(0) if rest and rest[0].lower() in ("true", "false") else None


def _taken(flags: Sequence[PeerFlag], name: str, rest: list[str], names_model: bool) -> Any:
    """The words that belong to the flag."""
    if all(flag.takes == "none" for flag in flags):
        return _taken_switch(rest)
    if any(flag.repeats for flag in flags):
        words = []
        while rest and not _is_flag(rest[0]):
            words.append(rest.pop(0))
        if len(words) > 1 and not names_model and not _is_item(words[-1]):
            raise ConfigError(
                f"{name} {' '.join(words)}: this flag takes every word up to the next flag, so none of them is the "
                "model: put the model first, or write --model.",
                param="model",
            )
        return words or None
    return rest.pop(0) if rest and not _is_flag(rest[0]) else None


def _is_item(word: str) -> bool:
    return word.isdigit() or "=" in word or word.startswith("{")
