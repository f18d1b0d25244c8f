"""What /openapi.json says of the fields that every dialect shares: queries, documents, token ids."""

from __future__ import annotations

from typing import Any

from msgspec import Meta

from engine.inputs.contents import IMAGE_KEYS, NEVER_MEDIA, OTHER_MEDIA

EXACT = "x-exact"
"""The key of a schema that replaces what msgspec derives from the Python type."""


def exact(*options: dict[str, Any]) -> Meta:
    """Annotates a type with the schema that it has in /openapi.json: one, or any of several."""
    return Meta(extra_json_schema={EXACT: options[0] if len(options) == 1 else {"anyOf": list(options)}})


NULL = {"type": "null"}
NOT_BLANK = {
    "type": "string",
    "pattern": r"[^\t-\r\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]",
}
"""Something besides what ``str.strip`` takes away; ``\\S`` means another set in each language."""
NEEDS = "x-needs"
"""The key of an option that only some models have; ``PICTURES`` is its one value."""
PICTURES = "pictures"

_ABSENT_OR_NULL: dict[str, Any] = {"type": "null"}
_NO_OTHER_MEDIA = {key: False if key in NEVER_MEDIA else _ABSENT_OR_NULL for key in OTHER_MEDIA}
NO_MEDIA: dict[str, Any] = {**dict.fromkeys(IMAGE_KEYS, False), **_NO_OTHER_MEDIA}
_NO_PICTURE = dict.fromkeys(IMAGE_KEYS, _ABSENT_OR_NULL)
_NULL_MEDIA = dict.fromkeys(OTHER_MEDIA, _ABSENT_OR_NULL)
_NO_PARTS = {"not": {"type": "array"}}

_URL = {
    "type": "string",
    "minLength": 1,
    "format": "picture-url",
    "description": "data:image/png;base64,... (png, jpeg, webp), its base64 alone, or an address on a host that the "
    "server allows (--allowed-image-hosts).",
}
_PICTURE: tuple[dict[str, Any], ...] = (
    _URL,
    {"type": "object", "required": ["url"], "properties": {"url": _URL}},
)
_NO_OTHER_PICTURE = {"anyOf": [{"type": "null"}, *_PICTURE, {"type": "array", "items": {"anyOf": [*_PICTURE]}}]}
_SHOWN = {"anyOf": [*_PICTURE, {"type": "array", "minItems": 1, "items": {"anyOf": [*_PICTURE]}}]}
_PICTURE_OBJECTS = tuple(
    {
        "type": "object",
        NEEDS: PICTURES,
        "required": [key],
        "properties": {
            "text": {"type": ["string", "null"]},
            "instruction": {"type": ["string", "null"]},
            "content": _NO_PARTS,
            **dict.fromkeys(IMAGE_KEYS, _NO_OTHER_PICTURE),
            key: _SHOWN,
            **_NO_OTHER_MEDIA,
        },
    }
    for key in IMAGE_KEYS
)
"""A picture, or several, with or without a text beside them."""
_TEXT_PART = {
    "type": "object",
    "required": ["text"],
    "properties": {"text": {"type": "string"}, "type": {"const": "text"}, **_NO_PICTURE, **_NULL_MEDIA},
}
_PICTURE_PARTS = tuple(
    {
        "type": "object",
        NEEDS: PICTURES,
        "required": [key],
        "properties": {
            "type": {"enum": [*IMAGE_KEYS, None]},
            "text": _ABSENT_OR_NULL,
            **_NO_PICTURE,
            key: {"anyOf": [*_PICTURE]},
            **_NULL_MEDIA,
        },
    }
    for key in IMAGE_KEYS
)
"""OpenAI's ``{"type": "image_url", "image_url": {"url": ...}}``."""
_PARTS = {"type": "array", "items": {"anyOf": [_TEXT_PART, *_PICTURE_PARTS]}}

DOCUMENT_OBJECTS: tuple[dict[str, Any], ...] = (
    {
        "type": "object",
        "required": ["text"],
        "properties": {
            "text": {"type": "string"},
            "instruction": {"type": ["string", "null"]},
            "content": _NO_PARTS,
            **NO_MEDIA,
        },
    },
    {
        "type": "object",
        "required": ["content"],
        "properties": {"content": _PARTS, **_NO_PICTURE, **_NO_OTHER_MEDIA},
    },
    {
        "type": "object",
        "minProperties": 1,
        "properties": {"text": {"not": {"type": "string"}}, "content": _NO_PARTS, **NO_MEDIA},
    },
    *_PICTURE_OBJECTS,
)
DOCUMENT = ({"type": "string"}, *DOCUMENT_OBJECTS)
QUERY = (
    NOT_BLANK,
    {
        "type": "object",
        "required": ["text"],
        "properties": {"text": NOT_BLANK, "content": _NO_PARTS, **_NO_PICTURE, **_NO_OTHER_MEDIA},
    },
    {
        "type": "object",
        "required": ["content"],
        "properties": {
            "content": {
                **_PARTS,
                "contains": {
                    "anyOf": [
                        {"type": "object", "required": ["text"], "properties": {"text": NOT_BLANK}},
                        *_PICTURE_PARTS,
                    ]
                },
            },
            **_NO_PICTURE,
            **_NO_OTHER_MEDIA,
        },
    },
    *_PICTURE_OBJECTS,
)

TOKEN_ID = {"type": "integer", "minimum": 0, "x-bound": "vocab_size"}
TOKEN_IDS = {"type": "array", "minItems": 1, "items": TOKEN_ID}
