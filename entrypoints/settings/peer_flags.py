"""Flags of vLLM, SGLang, text-embeddings-inference, Infinity and llama-server, and what each becomes here.

The flags are data, ``peer_flags.json``: one line a flag, with its spellings, how many words it takes, what it means for
its server, and what happens to it here. It is one of ours (``same``), it sets one of ours (``maps``), it has no effect
(``ignored``, said in one line), or it is refused, because what it asks for would give other scores or another server
than the one that would start. ``read`` decides it for one use of a flag; it never drops a flag or a value in silence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from engine.entrypoints.settings import peer_values
from engine.errors import ConfigError

TABLE = Path(__file__).with_name("peer_flags.json")
SERVERS = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "text-embeddings-router": "text-embeddings-inference",
    "infinity_emb": "Infinity",
    "llama-server": "llama-server",
}
ON, OFF = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
ENVIRONMENT = "env:"
"""A target of this form is a variable of this process, which libraries below read."""


class PeerFlag(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One flag of one server."""

    server: str
    flag: str
    aliases: tuple[str, ...] = ()
    takes: Literal["none", "value", "list", "json"]
    meaning: str
    """What it is for its own server."""
    here: Literal["same", "maps", "ignored", "refused"]
    why: str = ""
    """Of what is ignored or refused: a key of the reasons."""
    to: str = ""
    """Of what maps: an option of ours, ``option=value``, or ``env:VARIABLE``."""
    convert: str = ""
    """The function of ``peer_values`` that turns the value into ours."""
    allowed: tuple[str, ...] = ()
    """Values that agree with what happens here anyway. Of an ignored flag all others are refused."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.flag, *self.aliases)

    @property
    def repeats(self) -> bool:
        """Whether its values are words one after another, up to the next flag."""
        return self.takes == "list" and self.server in ("vllm", "sglang")


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    reasons: dict[str, str]
    flags: tuple[PeerFlag, ...]


@dataclass(frozen=True)
class Reading:
    """The meaning of one use of a flag."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Options of ours, by their names; ``hf_overrides.key`` is one key of that option."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that libraries read."""
    notices: tuple[str, ...] = ()


@cache
def _table() -> _Table:
    return msgspec.json.decode(TABLE.read_bytes(), type=_Table)


@cache
def _by_name() -> dict[str, tuple[PeerFlag, ...]]:
    found: dict[str, tuple[PeerFlag, ...]] = {}
    for flag in _table().flags:
        for name in flag.names:
            found[name] = (*found.get(name, ()), flag)
    return found


def peer_flags() -> tuple[PeerFlag, ...]:
    """Every flag of the table."""
    return _table().flags


def reason(flag: PeerFlag) -> str:
    """Why a flag is ignored or refused, in a sentence without its full stop."""
    return _table().reasons[flag.why]


def find(name: str) -> tuple[PeerFlag, ...]:
    """The flags of that spelling, ``--x-y``, ``-x`` or a unique beginning of one; empty where nobody has one."""
    spelt = spelling(name)
    if found := _by_name().get(spelt):
        return found
    if not spelt.startswith("--") or len(spelt) < 6:
        return ()
    # vLLM and SGLang take beginnings of their flags.
    begun = {flag.flag: flag for flag in peer_flags() if flag.server in ("vllm", "sglang") and _begins(flag, spelt)}
    return _by_name()[next(iter(begun))] if len(begun) == 1 else ()


def _begins(flag: PeerFlag, spelt: str) -> bool:
    return any(name.startswith(spelt) for name in flag.names)


def spelling(name: str) -> str:
    """``--x_y`` as the table writes it."""
    return "--" + name[2:].replace("_", "-") if name.startswith("--") else name


def as_switch(value: Any) -> bool | None:
    """A value that means on or off; None for any other."""
    if isinstance(value, bool) or value is None:
        return value
    text = str(value).lower()
    return True if text in ON else False if text in OFF else None


def read(flags: Sequence[PeerFlag], shown: str, value: Any) -> Reading:
    """Reads a flag, which its user spelt ``shown``, with this value.

    ``value`` is text, what a YAML file or a caller of ``LLM`` gave, or None for a flag without one. Raises
    ``ConfigError`` for what is refused, with what the flag means for its server.
    """
    flags = _of_that_shape(flags, value)
    switches = all(flag.takes == "none" for flag in flags)
    if switches and value is not None and as_switch(value) is None:
        raise ConfigError(f"{shown} {value}: true or false expected.", param=_param(shown))
    acting = [flag for flag in flags if flag.here != "ignored"]
    if acting and switches and (as_switch(value) is False) != _is_negation(flags[0], shown):
        return Reading()  # switched off, as it is anyway
    for flag in acting:
        if flag.here == "refused" and str(value) not in flag.allowed:
            raise ConfigError(_refusal(flags, shown, value), param=_param(shown))
    setting = next((flag for flag in acting if flag.here in ("maps", "same")), None)
    return _ignored(flags, shown, value) if setting is None else _mapped(setting, shown, value)


def _of_that_shape(flags: Sequence[PeerFlag], value: Any) -> Sequence[PeerFlag]:
    """Where servers differ in what a flag takes, JSON means those that take JSON."""
    takers = [flag for flag in flags if flag.takes == "json"]
    if not takers or len(takers) == len(flags):
        return flags
    is_object = isinstance(value, dict) or str(value).lstrip().startswith("{")
    return takers if is_object else [flag for flag in flags if flag.takes != "json"]


def _is_negation(flag: PeerFlag, shown: str) -> bool:
    """``--no-x`` of a flag ``--x``."""
    spelt = spelling(shown)
    return spelt.startswith("--no-") and spelt != flag.flag and not flag.flag.startswith("--no-")


def _refusal(flags: Sequence[PeerFlag], shown: str, value: Any) -> str:
    said = shown if value is None or isinstance(value, bool) else f"{shown} {_text(value)}"
    meanings = dict.fromkeys(f"for {SERVERS[flag.server]} it is: {flag.meaning}" for flag in flags)
    refusing = next(flag for flag in flags if flag.here == "refused")
    allowed = f" ({', '.join(refusing.allowed)} would pass)" if refusing.allowed else ""
    return f"{said} is refused{allowed}: {'; '.join(meanings)}. Here {reason(refusing)}."


def _mapped(flag: PeerFlag, shown: str, value: Any) -> Reading:
    target, fixed, constant = (flag.to or _param(flag.flag)).partition("=")
    if flag.convert:
        settings, notice = peer_values.CONVERTERS[flag.convert](shown, value, target)
        return Reading(settings, notices=(notice,) if notice else ())
    if value is None and target == f"{ENVIRONMENT}HF_TOKEN":
        return Reading()  # vLLM: the token of the login, which is read anyway
    if value is None and not fixed:
        raise ConfigError(f"{shown} needs a value.", param=_param(shown))
    if target.startswith(ENVIRONMENT):
        return Reading(environment={target.removeprefix(ENVIRONMENT): constant if fixed else str(value)})
    return Reading({target: constant if fixed else value})


def _ignored(flags: Sequence[PeerFlag], shown: str, value: Any) -> Reading:
    """The one line for a flag that means nothing here; none where it asks for what happens anyway."""
    flag = next((flag for flag in flags if flag.here == "ignored"), None)
    if flag is None:
        return Reading()
    if flag.allowed:
        if str(value) not in flag.allowed and all(other.allowed for other in flags):
            raise ConfigError(
                f"{shown} {value}: {reason(flag)}; it accepts {', '.join(flag.allowed)}.", param=_param(shown)
            )
        return Reading()
    return Reading(notices=(f"{shown} is accepted and has no effect: {reason(flag)}.",))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _param(shown: str) -> str:
    return shown.lstrip("-").replace("-", "_")


def known_names() -> Iterable[str]:
    """Every spelling of every flag."""
    return _by_name().keys()
