"""What callers hand to ``LLM``: constructor arguments, the two sides of ``score``, and options in vLLM's wrappings."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, islice, repeat
from typing import Any, NoReturn

import numpy as np

from engine.checkpoint.resolve import resolve_model
from engine.config import EngineConfig, ModelConfig
from engine.entrypoints.settings.options import ALIASES, OPTIONS, build_configs, nearest
from engine.entrypoints.settings.peer_flags import PeerFlag, find, known_names, read
from engine.inputs.contents import other_media, parts_content, shown_content, shows
from engine.inputs.spans import MIN_CHUNK_TOKENS
from engine.request import ChunkOptions, Content, PairOptions

logger = logging.getLogger(__name__)

Prompt = str | list[int] | Content
_LENGTHS = "Input lengths must be either 1:1, 1:N or N:N"
_OPTIONS = frozenset(f.name for f in fields(PairOptions))
_CHUNK_OPTIONS = ("long_document", "chunk_tokens", "chunk_overlap", "max_chunks_per_doc")
_NUMBERS = {
    "max_tokens_per_doc": 0,
    "max_tokens_per_query": 0,
    "truncate_prompt_tokens": 0,
    "chunk_tokens": MIN_CHUNK_TOKENS,
    "chunk_overlap": 0,
    "max_chunks_per_doc": 0,
}
"""Options that are whole numbers, each with its least value."""
_SERVER_ONLY = ("disable_log_stats", "disable_custom_all_reduce", "max_seq_len_to_capture", "limit_mm_per_prompt")
_UNUSED = ("lora_request", "tokenization_kwargs", "pooling_params", "chat_template")


def engine_config(settings: Mapping[str, Any]) -> EngineConfig:
    """Keyword arguments of ``LLM`` -> ``EngineConfig``.

    Raises ``TypeError`` for an unknown one, with the nearest name, and ``ConfigError`` for a wrong value.
    """
    values = {}
    for name, value in settings.items():
        field = ALIASES.get(name, name)
        if field in OPTIONS and OPTIONS[field].section != "server":
            if value is not None:
                values[field] = value
        elif name in _SERVER_ONLY:
            continue  # vLLM's LLM takes them too, and they concern nobody here
        elif field not in OPTIONS and (flags := find(f"--{name}")):
            values |= _of_peers(flags, name, value)
        else:
            known = [o.name for o in OPTIONS.values() if o.section != "server"]
            known += [*ALIASES, *(name.lstrip("-").replace("-", "_") for name in known_names())]
            raise TypeError(f"LLM() got an unexpected keyword argument {name!r}.{nearest(name, known)}")
    return build_configs(values)[0]


def _of_peers(flags: Sequence[PeerFlag], name: str, value: Any) -> dict[str, Any]:
    """What an argument of another engine sets here; a line in the log where it has no effect."""
    if value in (None, False, "", 0) or value == [] or value == {}:
        return {}  # not asked for
    reading = read(flags, name, value)
    for notice in reading.notices:
        logger.info("%s", notice)
    os.environ.update(reading.environment)
    found: dict[str, Any] = {}
    for option, item in reading.settings.items():
        key, _, inner = option.partition(".")
        if OPTIONS[ALIASES.get(key, key)].section != "server":
            found[key] = {**found.get(key, {}), inner: item} if inner else item
    return found


class _Attributes(dict[str, Any]):
    """config.json as vLLM's callables expect it: attributes that can be read and set."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def update(self, *args: Any, **kwargs: Any) -> None:
        super().update(*args, **kwargs)


def resolve_callable_overrides(model: ModelConfig, change: Callable[[Any], Any]) -> ModelConfig:
    """``hf_overrides`` as a function: the model with what the function changes in config.json.

    Raises ``TypeError`` where it does not return the config.
    """
    before = resolve_model(model).config
    after = change(_Attributes(before))
    if not isinstance(after, Mapping):
        raise TypeError(f"hf_overrides must return the config it was given, got {type(after).__name__}")
    changed = {key: value for key, value in after.items() if key not in before or before[key] != value}
    return replace(model, hf_overrides=changed)


def adapter_of(request: Any, known: Collection[str]) -> str | None:
    """The adapter that ``lora_request`` means: a name of ``lora_modules``, or an object with a ``lora_name``.

    Raises ``ValueError`` for one that was not loaded.
    """
    if request is None:
        return None
    name = request if isinstance(request, str) else getattr(request, "lora_name", None)
    if name not in known:
        named = f"the adapters named there are {', '.join(known)}" if known else "none was named there"
        raise ValueError(f"lora_request: {name!r} was not given to LLM(lora_modules={{name: path}}); {named}")
    return str(name)


@dataclass(frozen=True, slots=True)
class PairSettings:
    """How the pairs of an ``LLM`` call are built."""

    options: PairOptions
    chunks: ChunkOptions | None = None
    """How over-long documents are read in chunks. None: they are cut."""


def pair_settings(given: dict[str, Any]) -> PairSettings:
    """``instruction=...`` and friends, plainly or inside ``pooling_params`` and ``tokenization_kwargs``.

    Raises ``TypeError`` for a name that is unknown, with the nearest one, and ``ValueError`` for a wrong value.
    """
    if given.get("chat_template") is not None:
        raise ValueError("chat_template: pass it to LLM(chat_template=...), so that it is checked once at the start")
    values = {name: value for name, value in given.items() if name not in _UNUSED}
    for wrapping in (given.get("tokenization_kwargs"), given.get("pooling_params")):
        values |= _unwrapped(wrapping)
    values.pop("padding", None)
    if values.pop("truncation", True) is False:
        values["truncate"] = False
    if "max_length" in values:
        values["truncate_prompt_tokens"] = values.pop("max_length")
    if values.get("truncate_prompt_tokens") == -1:
        values["truncate_prompt_tokens"] = None
    for name in values:
        if name not in _OPTIONS and name not in _CHUNK_OPTIONS:
            known = [*_OPTIONS, *_CHUNK_OPTIONS]
            raise TypeError(f"score() got an unexpected keyword argument {name!r}.{nearest(name, known)}")
    for name, minimum in _NUMBERS.items():
        value = values.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < minimum):
            least = f" of at least {minimum}" if minimum else ""
            raise ValueError(f"{name} must be a whole number{least}, got {value!r}")
    values = {name: value for name, value in values.items() if value is not None}
    chunks = _chunks({name: values.pop(name) for name in _CHUNK_OPTIONS if name in values})
    return PairSettings(PairOptions(**values), chunks)


def _chunks(given: dict[str, Any]) -> ChunkOptions | None:
    how = given.get("long_document")
    if how not in (None, "truncate", "chunk"):
        raise ValueError(f"long_document must be 'truncate' or 'chunk', got {how!r}")
    return ChunkOptions.wanted(
        how,
        tokens=given.get("chunk_tokens"),
        overlap=given.get("chunk_overlap"),
        most=given.get("max_chunks_per_doc", 0),
    )


def _unwrapped(wrapping: Any) -> dict[str, Any]:
    """A dict, or an object like vLLM's ``PoolingParams`` with ``extra_kwargs``."""
    if wrapping is None:
        return {}
    if isinstance(wrapping, Mapping):
        return dict(wrapping)
    found = dict(getattr(wrapping, "extra_kwargs", None) or {})
    size = getattr(wrapping, "truncate_prompt_tokens", None)
    return found if size is None else found | {"truncate_prompt_tokens": size}


def has_one_query(data_1: Any) -> bool:
    """Whether the first side is a single text, or a list of one: then it meets every document."""
    return is_prompt(data_1) or (hasattr(data_1, "__len__") and len(data_1) == 1)


def pair_stream(data_1: Any, data_2: Any) -> tuple[Iterator[tuple[Prompt, Prompt]], int | None]:
    """Both sides as one stream of pairs, and the number of pairs where it is known. At most two items are read ahead.

    Raises ``ValueError`` or ``TypeError`` for sides that do not fit, also while the stream is read.
    """
    first, second = _side(data_1, "data_1"), _side(data_2, "data_2")
    num_first, num_second = _length(data_1), _length(data_2)
    head = list(islice(first, 2))
    if not head:
        raise ValueError("At least one text element must be given")
    start = list(islice(second, 1))
    if not start:
        raise ValueError("At least one text_pair element must be given")
    second = chain(start, second)
    if len(head) == 1:
        return zip(repeat(head[0]), second), num_second
    if num_first is not None and num_second is not None and num_first != num_second:
        raise ValueError(f"{_LENGTHS}, got {num_first}:{num_second}")
    return _pairwise(chain(head, first), second), num_first if num_first is not None else num_second


def _pairwise(first: Iterator[Prompt], second: Iterator[Prompt]) -> Iterator[tuple[Prompt, Prompt]]:
    try:
        yield from zip(first, second, strict=True)
    except ValueError as error:
        if "zip()" not in str(error):
            raise
        raise ValueError(f"{_LENGTHS}: one side ended before the other") from None


def _length(side: Any) -> int | None:
    if is_prompt(side):
        return 1
    return len(side) if hasattr(side, "__len__") else None


def is_prompt(value: Any) -> bool:
    """One text or the token ids of one, not a list of several."""
    return isinstance(value, str | bytes) or _is_token_ids(value) or isinstance(value, Mapping | Content)


def _is_token_ids(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype.kind in "iu"
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], int | np.integer)


def _side(side: Any, name: str) -> Iterator[Prompt]:
    if side is None:
        raise TypeError(f"{name} is missing: a text, token ids, or an iterable of them expected")
    if is_prompt(side):
        return iter([_prompt(side, name)])
    if not isinstance(side, Iterable):
        raise TypeError(f"{name}: a text, token ids, or an iterable of them expected, got {type(side).__name__}")
    return (_prompt(item, f"{name}[{i}]") for i, item in enumerate(side))


def _refuse_object(value: Mapping[Any, Any], where: str) -> NoReturn:
    keys = ", ".join(repr(str(key)) for key in list(value)[:5])
    raise TypeError(
        f"{where}: only text can be scored, and pictures by a model that reads them: a text, a list of token ids or an "
        f"object with 'text', 'image' or 'content' expected, got an object with {keys}"
    )


def _content(value: Mapping[Any, Any]) -> Content | None:
    """A text with pictures; None where the object is something else. Raises ``InvalidRequestError``."""
    if other_media(value):
        return None
    if isinstance(value.get("content"), list):
        return parts_content(value, ())
    if shows(value):
        return shown_content(value, ())
    text = value.get("text")
    return Content(text, ()) if isinstance(text, str) else None


def _prompt(value: Any, where: str) -> Prompt:
    """One text or list of token ids, checked before any compute."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{where} has a lone surrogate at position {error.start}, which is no character") from None
        return str(value)
    if isinstance(value, Content):
        return value
    if isinstance(value, Mapping):
        if (content := _content(value)) is not None:
            return content if content.images else _prompt(content.text, where)
        if not any(isinstance(value.get(key), str | list | np.ndarray) for key in ("prompt", "prompt_token_ids")):
            _refuse_object(value, where)
        value = value.get("prompt_token_ids", value.get("prompt"))
        if isinstance(value, str):
            return _prompt(value, where)
    if value is not None and _is_token_ids(value):
        ids = value.tolist() if isinstance(value, np.ndarray) else [int(i) for i in value]
        return ids
    raise TypeError(f"{where}: a text or a list of token ids expected, got {type(value).__name__}")
