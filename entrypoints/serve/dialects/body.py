"""The JSON of a body: its keys, which tell dialects apart, and its fields as the struct that a dialect asks for.

What is wrong with it is said in a sentence that names the field, or the byte at which it stops being JSON.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from engine.errors import InvalidRequestError

T = TypeVar("T")
MAX_KEYS = 1000
"""Of a body: no dialect has a tenth of them, and each that nobody knows costs time."""
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_KINDS = {b"{": "object", b"[": "array", b'"': "string", b"t": "boolean", b"f": "boolean", b"n": "null"}

Keys = Mapping[str, str]
"""The keys of a body, each with the JSON type of its value."""


def read_keys(body: bytes) -> Keys:
    """The keys of the body's object, without decoding the values: enough to tell dialects apart.

    Raises ``InvalidRequestError`` for a body that is no JSON object.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    if not body.strip():
        raise InvalidRequestError("The body is empty: a JSON object expected.", code="invalid_json")
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"The body is not UTF-8: byte {error.start} is no character.", code="invalid_json"
        ) from error
    try:
        found = _OBJECT.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _decode_error(body, error) from error
    if len(found) > MAX_KEYS:
        raise InvalidRequestError(f"The body has {len(found)} keys; at most {MAX_KEYS} are read.")
    return {key: _KINDS.get(bytes(memoryview(raw)[:1]), "number") for key, raw in found.items()}


def read(body: bytes, type_: type[T]) -> T:
    """The body as a struct. Raises ``InvalidRequestError`` about the field that is wrong."""
    try:
        return msgspec.json.decode(body.removeprefix(codecs.BOM_UTF8), type=type_)
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
