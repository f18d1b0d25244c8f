"""Recognises pairs that already carry the model's whole prompt, as clients of servers without templates send them.

Such a client puts the prefix, instruction and query into the query, and the document and suffix into the document. Both
halves are taken off literally, and what lies between is a caller's text like any other: the ids are those of the plain
pair. Half a prompt in the query is an error; the suffix at the end of a document alone is just text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.errors import FieldPath, InvalidRequestError
from engine.prompts.template import Placeholder, Template, split_placeholders

_OTHER_ENDINGS = ("<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n")
"""Endings that clients are known to send instead of the official one: without the think block, or a newline short."""


@dataclass(frozen=True)
class Unwrapped:
    """A pair without the prompt that it came in."""

    template: Template
    """What to put around it, so that the text is again what the client sent."""
    instruction: str
    query: str
    document: str


class Preformatted:
    """Knows one template's prompt text: prefix, body that ends with the document, suffix."""

    def __init__(self, template: Template) -> None:
        prefix, body, suffix = template.parts
        assert body[-1] == Placeholder.DOCUMENT
        assert isinstance(body[-2], str)
        self._prefix = "".join(prefix)
        self._before_document: str = body[-2]
        lazy = {Placeholder.INSTRUCTION: "?", Placeholder.QUERY: ""}
        head = [f"(?P<{p}>.*{lazy[p]})" if isinstance(p, Placeholder) else re.escape(p) for p in body[:-2]]
        self._head = re.compile("".join(head), re.DOTALL)
        official = "".join(suffix)
        self._endings = sorted({official, *_OTHER_ENDINGS}, key=len, reverse=True)
        self._wrapped = {e: Template(template.name, (prefix, body, (e,))) for e in self._endings}
        raw = split_placeholders("{query}{document}")
        self._raw = {e: Template(f"{template.name}, as sent", (prefix, raw, (e,))) for e in self._endings}

    @property
    def templates(self) -> list[Template]:
        """All that ``unwrap`` may answer with."""
        return [*self._wrapped.values(), *self._raw.values()]

    def matches(self, query: str) -> bool:
        return query.startswith(self._prefix)

    def unwrap(self, query: str, document: str, where: FieldPath) -> Unwrapped:
        """Take the prompt off a pair whose query ``matches`` to be formatted.

        Raises ``InvalidRequestError`` for half a prompt.
        """
        ending = next((ending for ending in self._endings if document.endswith(ending)), None)
        if ending is None:
            raise InvalidRequestError(
                "The query begins with the model's prompt, but the document does not end with it. Send both halves "
                "of the prompt, or neither: then the server adds it.",
                param=where,
            )
        query, document = query[len(self._prefix) :], document[: -len(ending)]
        for cut in range(len(self._before_document) + 1):
            in_query, in_document = self._before_document[:cut], self._before_document[cut:]
            if query.endswith(in_query) and document.startswith(in_document):
                head = self._head.fullmatch(query[: len(query) - cut])
                if head:
                    groups = head.groupdict(default="")
                    return Unwrapped(
                        self._wrapped[ending],
                        groups.get("instruction", ""),
                        groups["query"],
                        document[len(in_document) :],
                    )
        return Unwrapped(self._raw[ending], "", query, document)

    def unwrap_whole(self, text: str, where: FieldPath) -> Unwrapped:
        """The same for a prompt in one piece."""
        cut = text.find(self._before_document)
        if cut < 0:  # a body of another form: all of it counts as the query
            cut = next((len(text) - len(e) for e in self._endings if text.endswith(e)), len(text))
        return self.unwrap(text[:cut], text[cut:], where)
