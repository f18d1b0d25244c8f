"""The lenient reading of fields that every dialect shares.

Strict where a mistake would hide ("3" is no number, -1 documents make no sense), lenient where clients differ in form
only: null is absent, 5.0 is 5, "true" is true, one string is a list of one, and a document may be an object.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeVar

import msgspec
import yaml

from engine.errors import InvalidRequestError

Int = int | float | None
Bool = bool | str | None
Document = str | dict[str, Any]
Documents = str | dict[str, Any] | list[str | dict[str, Any]]

_MOST = 2**31 - 1
"""Larger counts mean "no limit" and must still fit the wire."""

T = TypeVar("T")
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_keys(body: bytes) -> frozenset[str]:
    """The keys of the body's object, without decoding the values: enough to tell dialects apart."""
    if not body.strip():
        raise InvalidRequestError("The body is empty: a JSON object expected.", code="invalid_json")
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"The body is not UTF-8: byte {error.start} is no character.", code="invalid_json"
        ) from error
    try:
        return frozenset(_OBJECT.decode(body))
    except (msgspec.DecodeError, RecursionError) as error:
        raise _decode_error(body, error) from error


def read(body: bytes, type_: type[T]) -> T:
    """The body as a struct; every way in which that can fail is the client's 400, with the path of the field."""
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _decode_error(body, error) from error


def _decode_error(body: bytes, error: Exception) -> InvalidRequestError:
    if isinstance(error, RecursionError):
        return InvalidRequestError("The body is nested too deeply.", code="invalid_json")
    text = str(error)
    if isinstance(error, msgspec.ValidationError):
        if "recursion" in text.lower():
            return InvalidRequestError("The body is nested too deeply.", code="invalid_json")
        what, _, path = text.partition(" - at `")
        path = path.rstrip("`")
        if not path:
            return InvalidRequestError(what.replace("Object missing", "The body misses") + ".", param=_missing(what))
        if what.startswith("Object missing"):
            return InvalidRequestError(f"{what} at {path}.", param=_param(path))
        return InvalidRequestError(f"{what} at {path}.", param=_param(path))
    if "truncated" in text:
        if _has_lone_surrogate(body):
            return InvalidRequestError(
                "A lone surrogate escape (\\ud800 to \\udfff) is no character.", code="invalid_json"
            )
        text = f"it ends too early (byte {len(body)})"
    return InvalidRequestError(
        f"The body is not valid JSON: {text.removeprefix('JSON is malformed: ')}.", code="invalid_json"
    )


def _has_lone_surrogate(body: bytes) -> bool:
    # msgspec reports a lone surrogate as truncation; the standard library accepts it.
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _missing(message: str) -> str | None:
    return message.split("`")[1] if message.startswith("Object missing") and "`" in message else None


def _param(path: str) -> str:
    return path.removeprefix("$").removeprefix(".")


def fail(message: str, param: str) -> NoReturn:
    raise InvalidRequestError(f"{message} at $.{param}.", param=param)


def as_int(value: Int, param: str, minimum: int = 0) -> int | None:
    if value is None:
        return None
    if isinstance(value, float) and not value.is_integer():
        fail(f"Expected a whole number, got {value}", param)
    if value < minimum:
        fail(f"Expected a whole number of at least {minimum}, got {value:.0f}", param)
    return min(int(value), _MOST)


def as_count(value: Int, param: str) -> int | None:
    """``top_n`` and its kin: absent, null and 0 all mean "all"."""
    return as_int(value, param) or None


def as_bool(value: Bool, param: str, default: bool) -> bool:
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    fail(f"Expected true or false, got {value!r}", param)


def as_query(value: Any, param: str = "query") -> str:
    text = value if isinstance(value, str) else _object_text(value, param, None)
    if not text.strip():
        fail("The query must not be empty", param)
    return text


def as_documents(value: Documents, param: str = "documents", rank_fields: list[str] | None = None) -> list[str]:
    items = value if isinstance(value, list) else [value]
    if not items:
        fail("At least one document is needed", param)
    single = not isinstance(value, list)
    return [
        item if isinstance(item, str) else _object_text(item, param if single else f"{param}[{i}]", rank_fields)
        for i, item in enumerate(items)
    ]


def _object_text(item: dict[str, Any], param: str, rank_fields: list[str] | None) -> str:
    """``{"text"}``, ``{"content": [parts]}``, or any object as YAML, which is how Cohere reads one."""
    if "content" in item and isinstance(item["content"], list):
        return _parts_text(item["content"], param)
    for key in ("image", "image_url", "video", "audio"):
        if key in item:
            fail(f"Only text can be scored, got a document with {key!r}; nothing is ever fetched", param)
    if rank_fields:
        item = {key: item[key] for key in rank_fields if key in item}
    elif isinstance(item.get("text"), str):
        return str(item["text"])
    if not item:
        fail("The document has no text", param)
    return yaml.safe_dump(item, sort_keys=False, allow_unicode=True, width=2**31 - 1).strip()


def _parts_text(parts: list[Any], param: str) -> str:
    texts = []
    for i, part in enumerate(parts):
        if not isinstance(part, dict) or part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
            fail("Only text can be scored, and this part is none; nothing is ever fetched", f"{param}.content[{i}]")
        texts.append(part["text"])
    return "\n".join(texts)
