"""The smallest body of a dialect, from what its class says about where its texts are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.entrypoints.serve.dialects.base import Dialect, TextPath

QUERY = "what is a panda?"
DOCUMENTS = ("hi", "the giant panda is a bear", "bamboo grows fast")


def example_body(dialect: Dialect, query: Any = QUERY, documents: Sequence[Any] = DOCUMENTS) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for number, document in enumerate(documents):
        _put(body, dialect.text_paths.query, number, query)
        _put(body, dialect.text_paths.document, number, document)
    return body


def _put(body: dict[str, Any], path: TextPath, number: int, text: Any) -> None:
    """``text`` at ``path``; what is missing on the way there is made."""
    parts: list[Any] = [number if part is ... else part for part in path]
    node: Any = body
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        value: Any = text if following is None else ({} if isinstance(following, str) else [])
        if isinstance(node, list):
            if part == len(node):
                node.append(value)
        elif following is None:
            node[part] = value
        else:
            node.setdefault(part, value)
        node = node[part]
