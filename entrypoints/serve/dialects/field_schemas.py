"""What /openapi.json says of the fields that every dialect shares: queries, documents, token ids."""

from __future__ import annotations

from typing import Any

from msgspec import Meta

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
_PART = {
    "type": "object",
    "required": ["text"],
    "properties": {"text": {"type": "string"}, "type": {"const": "text"}},
}
NO_MEDIA = dict.fromkeys(("image", "image_url", "video", "audio"), False)
_NO_PARTS = {"not": {"type": "array"}}
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
        "properties": {"content": {"type": "array", "items": _PART}},
    },
    {
        "type": "object",
        "minProperties": 1,
        "properties": {"text": {"not": {"type": "string"}}, "content": _NO_PARTS, **NO_MEDIA},
    },
)
DOCUMENT = ({"type": "string"}, *DOCUMENT_OBJECTS)
QUERY = (
    NOT_BLANK,
    {"type": "object", "required": ["text"], "properties": {"text": NOT_BLANK, "content": _NO_PARTS}},
    {
        "type": "object",
        "required": ["content"],
        "properties": {
            "content": {
                "type": "array",
                "items": _PART,
                "contains": {"type": "object", "properties": {"text": NOT_BLANK}},
            }
        },
    },
)

TOKEN_ID = {"type": "integer", "minimum": 0, "x-bound": "vocab_size"}
TOKEN_IDS = {"type": "array", "minItems": 1, "items": TOKEN_ID}
