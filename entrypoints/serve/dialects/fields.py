"""The lenient reading of fields that every dialect shares.

Strict where a mistake would hide ("3" is no number, -1 documents make no sense), lenient where clients differ in form
only: null is absent, 5.0 is 5, "true" is true, one string is a list of one, and a document may be an object. What each
type takes is also said to /openapi.json: ``x-exact`` replaces what msgspec would derive from the Python type.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NoReturn

import msgspec
from msgspec import Meta

from engine.entrypoints.serve.dialects.field_schemas import (
    DOCUMENT,
    NOT_BLANK,
    NULL,
    QUERY,
    TOKEN_ID,
    TOKEN_IDS,
    exact,
)
from engine.entrypoints.serve.dialects.object_text import object_text
from engine.errors import PARAM, FieldPath, InvalidRequestError, TooLargeError
from engine.inputs.contents import IMAGE_KEYS, NEVER_MEDIA, OTHER_MEDIA, parts_content, shown_content, shows
from engine.inputs.spans import MIN_CHUNK_TOKENS
from engine.request import Content, ImageSource

_MAX_COUNT = 2**31 - 1
"""Larger counts mean "no limit" and must still fit the wire."""

Number = int | float | None


def _whole(minimum: int) -> Meta:
    return exact({"type": "integer", "minimum": minimum}, NULL)


Count = Annotated[Number, _whole(0)]
"""0, null and absent: all, or no limit."""
Positive = Annotated[Number, _whole(1)]
Priority = Annotated[Number, _whole(-(2**31))]
ChunkSize = Annotated[Number, _whole(MIN_CHUNK_TOKENS)]
CutTo = Annotated[Number, exact({"const": -1}, {"type": "integer", "minimum": 1, "x-bound": "pair_tokens"}, NULL)]
CutLength = Annotated[Number, exact({"type": "integer", "minimum": 1, "x-bound": "pair_tokens"}, NULL)]
"""``CutTo`` where nothing stands for the model's limit."""
FLAGS = {"true": True, "True": True, "false": False, "False": False}
Bool = Annotated[bool | str | None, exact({"type": "boolean"}, {"enum": list(FLAGS)}, NULL)]
Cut = Annotated[bool | str | None, exact({"type": "boolean"}, {"enum": [*FLAGS, "NONE", "END", "START"]}, NULL)]
"""Whether to cut what is too long: a flag, or at which end."""
Text = Annotated[str, exact(NOT_BLANK)]
Query = Annotated[str | dict[str, Any], exact(*QUERY)]
Queries = Annotated[list[str | dict[str, Any]], exact({"type": "array", "minItems": 1, "items": {"anyOf": [*QUERY]}})]
TextOrQueries = Annotated[
    str | list[str | dict[str, Any]],
    exact(NOT_BLANK, {"type": "array", "minItems": 1, "items": {"anyOf": [*QUERY]}}),
]
"""Where a single object would mean something else."""
QuerySide = Annotated[
    str | dict[str, Any] | list[str | dict[str, Any]],
    exact(*QUERY, {"type": "array", "minItems": 1, "items": {"anyOf": [*QUERY]}}),
]
"""One query, or one for each document."""
Documents = Annotated[
    str | dict[str, Any] | list[str | dict[str, Any]],
    exact(*DOCUMENT, {"type": "array", "minItems": 1, "items": {"anyOf": [*DOCUMENT]}}),
]
TextOrDocuments = Annotated[
    str | list[str | dict[str, Any]],
    exact({"type": "string"}, {"type": "array", "minItems": 1, "items": {"anyOf": [*DOCUMENT]}}),
]
"""Where a single object would mean something else."""
Prompts = Annotated[
    str | list[str | int | float | list[int | float]],
    exact(
        NOT_BLANK,
        {"type": "array", "minItems": 1, "items": NOT_BLANK},
        TOKEN_IDS,
        {"type": "array", "minItems": 1, "items": TOKEN_IDS},
    ),
]
"""A text, token ids, or a list of either."""
TokenIds = Annotated[list[int | float], exact({"type": "array", "items": TOKEN_ID})]

MAX_ITEMS = 2**20
"""Of a list of documents: more are not even looked at. What one call may have is ``--max-documents``."""
Where = str | FieldPath
"""A field of the body: a key of it, or the path to a value further inside."""


def fail(message: str, where: Where, code: str | None = None) -> NoReturn:
    """Raises ``InvalidRequestError`` about the field ``where`` of the body."""
    raise InvalidRequestError(f"{message} at $.{PARAM}.", param=where, code=code)


def inside(where: Where, *parts: str | int) -> FieldPath:
    """The path of a value inside of another field."""
    return (*((where,) if isinstance(where, str) else where), *parts)


def as_int(value: Number, where: Where, minimum: int = 0) -> int | None:
    """A whole number, at most what the wire can carry. Like all readers here it raises ``InvalidRequestError``."""
    if value is None:
        return None
    if isinstance(value, float) and not value.is_integer():
        fail(f"Expected a whole number, got {value}", where)
    if value < minimum:
        got = f"{value:.0f}" if value > -1e15 else "a far smaller one"  # an int of any length has no float
        fail(f"Expected a whole number of at least {minimum}, got {got}", where)
    return min(int(value), _MAX_COUNT)


def as_count(value: Number, where: Where) -> int | None:
    """``top_n`` and its kin: absent, null and 0 all mean "all", which is None."""
    return as_int(value, where) or None


def as_bool(value: bool | str | None, where: Where, default: bool) -> bool:
    """A flag, also as "true" or "false"."""
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    if value in FLAGS:
        return FLAGS[value]
    fail(f"Expected true or false, got {value!r}", where)


def as_cut(value: bool | str | None, where: Where) -> bool | Literal["left"]:
    """Whether an over-long document may be cut; "left" where that is its beginning."""
    if isinstance(value, str) and value in ("NONE", "END", "START"):
        return "left" if value == "START" else value == "END"
    return as_bool(value, where, default=True)


def as_query(value: str | dict[str, Any], where: Where = "query") -> str | Content:
    """A query: a string, ``{"text"}``, ``{"image"}`` or ``{"content": [parts]}``; ``Content`` only if it shows any."""
    content = value if isinstance(value, str) else _object_query(value, where)
    if isinstance(content, str) and not content.strip():
        fail("The query must not be empty", where)
    return content


def _object_query(value: dict[str, Any], where: Where) -> str | Content:
    _refuse_media(value, "query", where)
    if isinstance(value.get("content"), list):
        return _parts(value, where)
    if shows(value):
        return shown_content(value, inside(where))
    if not isinstance(value.get("text"), str):
        fail("A query is a text, {'text': ...} or {'content': [parts]}", where)
    return str(value["text"])


def as_queries(value: Any, where: Where) -> list[str | Content]:
    """One query or several."""
    if not isinstance(value, list):
        return [as_query(value, where)]
    if not value:
        fail("At least one query is needed", where)
    return [as_query(query, inside(where, i)) for i, query in enumerate(value)]


class DocumentList(msgspec.Struct):
    """Documents as texts, with what their objects said beside the text."""

    texts: list[str]
    instructions: list[str | None] | None
    sources: list[dict[str, Any] | None] | None
    images: list[tuple[ImageSource, ...]] | None = None


def as_documents(value: Any, where: Where = "documents", rank_fields: list[str] | None = None) -> DocumentList:
    """Documents as texts; one by itself is a list of one. ``rank_fields`` are the keys of an object that count.

    Raises ``TooLargeError`` for more items than are read, and ``InvalidRequestError`` for what is no text.
    """
    if isinstance(value, list) and len(value) > MAX_ITEMS:
        raise TooLargeError(f"{PARAM} has {len(value)} items, and at most {MAX_ITEMS} are read.", param=where)
    items = value if isinstance(value, list) else [value]
    if not items:
        fail("At least one document is needed", where)
    if all(isinstance(item, str) for item in items):
        return DocumentList(items, None, None)
    single = not isinstance(value, list)
    texts: list[str] = []
    images: list[tuple[ImageSource, ...]] = []
    instructions: list[str | None] = []
    for i, item in enumerate(items):
        own = where if single else inside(where, i)
        content = item if isinstance(item, str) else _object_content(item, own, rank_fields)
        texts.append(content if isinstance(content, str) else content.text)
        images.append(() if isinstance(content, str) else content.images)
        instructions.append(None if isinstance(item, str) or rank_fields else _own_instruction(item, own))
    sources = [item if isinstance(item, dict) else None for item in items]
    return DocumentList(texts, instructions if any(instructions) else None, sources, images if any(images) else None)


def as_ids(value: list[int | float], where: Where) -> list[int]:
    """Token ids."""
    return [as_int(item, inside(where, i)) or 0 for i, item in enumerate(value)]


def as_prompts(value: Any, where: Where) -> list[str | list[int]]:
    """One prompt or several, each a text or token ids."""
    if isinstance(value, str):
        return [as_prompt(value, where)]
    if not value:
        fail("At least one text is needed", where)
    kinds = {"ids" if isinstance(item, int | float) else type(item).__name__ for item in value}
    if len(kinds) > 1:
        fail("Texts and token ids cannot be mixed", where)
    if kinds == {"ids"}:
        return [as_ids(value, where)]
    return [as_prompt(item, inside(where, i)) for i, item in enumerate(value)]


def as_prompt(value: str | list[int | float], where: Where) -> str | list[int]:
    """A text or token ids."""
    if isinstance(value, list):
        if not value:
            fail("At least one token id is needed", where)
        return as_ids(value, where)
    if not value.strip():
        fail("The text must not be empty", where)
    return value


def _object_content(item: dict[str, Any], where: Where, rank_fields: list[str] | None) -> str | Content:
    """``{"text"}``, ``{"image"}``, ``{"content": [parts]}``, or any object as YAML, which is how Cohere reads one."""
    _refuse_media(item, "document", where)
    if isinstance(item.get("content"), list):
        return _parts(item, where)
    if shows(item):
        return shown_content(item, inside(where))
    for key in IMAGE_KEYS:
        if key in item:
            fail(f"Expected a picture, got null under {key!r}", where)
    if not item:
        fail("The document has no text", where)
    if rank_fields:
        item = {key: item[key] for key in rank_fields if key in item}
        if not item:
            return ""  # none of the fields that count: a document without text, like any empty one
    if isinstance(item.get("text"), str) and (not rank_fields or len(item) == 1):
        return str(item["text"])
    return object_text(item)


def _refuse_media(item: dict[str, Any], what: str, where: Where) -> None:
    if media := next(
        (key for key in OTHER_MEDIA if key in item and (key in NEVER_MEDIA or item[key] is not None)), None
    ):
        fail(f"Only text and pictures can be scored, got a {what} with {media!r}", where)


def _parts(item: dict[str, Any], where: Where) -> str | Content:
    content = parts_content(item, inside(where))
    return content if content.images else content.text


def _own_instruction(item: dict[str, Any], where: Where) -> str | None:
    """``{"text": ..., "instruction": ...}``: what this document is to be judged by. Other objects are all data."""
    if not isinstance(item.get("text"), str) or "instruction" not in item:
        return None
    wanted = item["instruction"]
    if wanted is not None and not isinstance(wanted, str):
        fail("Expected a text", inside(where, "instruction"))
    return wanted or None
