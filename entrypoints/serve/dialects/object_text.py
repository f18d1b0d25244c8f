"""The text of a document that is an object: YAML, which is how Cohere reads one.

PyYAML's emitter in Python takes a microsecond for each character, and keeps other threads waiting meanwhile. The one in
C is eight times as fast and writes the same text, but for keys that are empty, long or no printable ASCII, and for
characters that only one of them escapes: such objects are left to the one in Python.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_SAME_KEY = re.compile("[ -~]{1,100}")
_SAME_TEXT = re.compile("[\x00-\x7e\xa1-\u1fff\u3000-\ud7ff]*")
_FAST = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_NO_WIDTH = 2**31 - 1


def object_text(item: dict[str, Any]) -> str:
    """An object as YAML, its keys in their order, no line broken."""
    dumper = _FAST if _is_same_in_both(item) else yaml.SafeDumper
    text: str = yaml.dump(item, Dumper=dumper, sort_keys=False, allow_unicode=True, width=_NO_WIDTH)
    return text.strip()


def _is_same_in_both(value: Any) -> bool:
    """Whether both emitters write this."""
    if isinstance(value, str):
        return _SAME_TEXT.fullmatch(value) is not None
    if isinstance(value, dict):
        return all(_SAME_KEY.fullmatch(key) and _is_same_in_both(inner) for key, inner in value.items())
    return all(map(_is_same_in_both, value)) if isinstance(value, list) else True
