"""Command-line flags from the option table: a function whose signature is every setting of the given sections.

Commands that load a model share their flags this way: ``flags(("model", "scheduler", "device"))`` decorates a function
that takes the collected values as one dictionary.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter, Token

from engine.entrypoints.settings.options import JSON_LISTS, OPTIONS, SECTIONS, Option

GROUPS = {
    "model": Group("Model", sort_key=1),
    "scheduler": Group("Steps and memory between them", sort_key=2),
    "device": Group("Device and processes", sort_key=3),
    "server": Group("HTTP server", sort_key=4),
}
SHORT = {
    "tensor_parallel_size": ("-tp",),
    "data_parallel_size": ("-dp",),
    "api_server_count": ("-asc",),
}
Command = Callable[..., int | None]


def flags(
    sections: Sequence[str],
    *,
    compatibility: bool = True,
    model_as_flag: bool = False,
    several_models: bool = False,
    own_flags: type[Any] | None = None,
) -> Callable[[Command], Command]:
    """Gives ``command(values, **own)`` the flags of these sections; ``values`` has what the user set, by field name.

    ``compatibility``: flags of other servers are taken too (``peer_arguments.py``). ``model_as_flag``: the model is
    ``--model`` only, for commands whose own words come first. ``several_models``: ``values["also_model"]`` has those
    after the first. ``own_flags``: a dataclass whose fields are flags of the command itself, which go before ours of
    the same name.
    """
    options = _options_of(sections, own_flags)

    def decorate(command: Command) -> Command:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

        def run(*args: Any, **given: Any) -> int | None:
            bound = signature.bind(*args, **given).arguments
            ours = {name: bound[name] for name in (p.name for p in own) if name in bound}
            values = {option.name: bound[option.name] for option in options if bound.get(option.name) is not None}
            if several_models:
                values["also_model"] = bound.get("also_model") or ()
            return command(values, **ours)

        models = [_model_parameter(model_as_flag)] if "model" in sections else []
        models += [_also_model_parameter()] if several_models else []
        settings = [_parameter(option) for option in options if option.name != "model"]
        parameters = [*models, *settings, *own, _config_parameter()]
        signature = inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.takes_peer_flags = compatibility  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        return run

    return decorate


def _options_of(sections: Sequence[str], own_flags: type[Any] | None) -> list[Option]:
    own_names = {field.name for field in dataclasses.fields(own_flags)} if own_flags else set()
    return [option for option in OPTIONS.values() if option.section in sections and option.name not in own_names]


def switches() -> frozenset[str]:
    """Every spelling of the options that are on or off, ``--no-x`` included."""
    names = [
        name for option in OPTIONS.values() if option.type is bool for name in _spellings(option.name, option.aliases)
    ]
    return frozenset((*names, *(f"--no-{name.removeprefix('--')}" for name in names)))


def _spellings(name: str, aliases: Iterable[str] = ()) -> list[str]:
    flags = [f"--{word.replace('_', '-')}" for word in (name, *aliases)]
    return [*dict.fromkeys(flags), *SHORT.get(name, ())]


def _model_parameter(as_flag: bool) -> inspect.Parameter:
    option = OPTIONS["model"]
    annotation = Annotated[
        str | None,
        Parameter(
            name=_spellings("model", option.aliases), group=GROUPS["model"], help=_help(option), show_default=False
        ),
    ]
    kind = inspect.Parameter.KEYWORD_ONLY if as_flag else inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter("model", kind, default=None, annotation=annotation)


def _also_model_parameter() -> inspect.Parameter:
    settings = Parameter(
        name="--also-model",
        group=GROUPS["model"],
        help="A further model, which calls choose by name; repeating --model does the same. JSON such as "
        '\'{"model": "...", "served_model_name": "..."}\' gives it settings of its own.',
        show_default=False,
        negative_iterable=(),
        consume_multiple=False,
    )
    annotation = Annotated[tuple[str, ...] | None, settings]
    return inspect.Parameter("also_model", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _parameter(option: Option) -> inspect.Parameter:
    """Values stay None unless given: defaults live in the dataclass, and are only shown here."""
    settings: dict[str, Any] = {
        "name": _spellings(option.name, option.aliases),
        "group": GROUPS[option.section],
        "help": _help(option),
        "show_default": False,
        "negative_iterable": (),
    }
    kind = option.type
    if kind is bool:
        annotation: Any = bool | None
    elif option.name == "lora_modules":
        annotation, settings["consume_multiple"], settings["metavar"] = tuple[str, ...] | None, True, "NAME=PATH"
    elif typing.get_origin(kind) is dict:
        annotation, settings["converter"], settings["n_tokens"] = dict[str, Any] | None, _json_object, 1
        settings["accepts_keys"], settings["metavar"] = False, "JSON"
    elif typing.get_origin(kind) is tuple:
        # A key or two are repeated flags: `--api-key KEY MODEL` must not take the model for a second key.
        annotation, settings["consume_multiple"] = tuple[str, ...] | None, option.name not in ("api_key", *JSON_LISTS)
    elif option.name == "dtype":
        annotation, settings["metavar"] = str | None, "DTYPE"  # "half" and "bf16" too: options.convert
    elif option.name == "model_impl":
        annotation, settings["metavar"] = str | None, "IMPL"  # "vllm" and "sglang" too: options.convert
    elif int in (kind, *typing.get_args(kind)):
        annotation, settings["metavar"] = str | None, "INT"  # "16k" and "auto" too: options.convert
        settings["allow_leading_hyphen"] = True
    else:
        annotation = typing.Union[kind, None]  # noqa: UP007
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[annotation, Parameter(**settings)],
    )


def _config_parameter() -> inspect.Parameter:
    text = (
        "YAML file with the same names as the flags. An option can also be an environment variable: --max-model-len is "
        "ENGINE_MAX_MODEL_LEN. A flag wins over the environment, and that over the file."
    )
    annotation = Annotated[Path | None, Parameter(name="--config", help=text)]
    return inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _json_object(type_: Any, tokens: Sequence[Token]) -> dict[str, Any]:
    from engine.entrypoints.cli.arguments import parse_json

    return parse_json(tokens[0].value, tokens[0].keyword or "")


def _help(option: Option) -> str:
    text = field_docs(option.section).get(option.name, "")
    default = option.default
    if default not in (None, "", (), {}, False):
        text += f" Default: {_shown(default)}."
    text = re.sub(r"\b(?:None|Empty): ", "Not given: ", text)  # the words of a command line, not those of Python
    return text.strip().replace("``", "`")


def _shown(default: Any) -> str:
    if default is True:
        return "on"
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return f"{default:.0f}" if isinstance(default, float) and default.is_integer() else str(default)


@cache
def field_docs(section: str) -> dict[str, str]:
    """The strings below the fields of a config class: the one place where a setting is explained."""
    (definition,) = ast.parse(inspect.getsource(SECTIONS[section])).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = " ".join(text.split())
    return docs
