"""What a prompt template is: fixed parts, and parts with placeholders for a caller's texts.

A part without a placeholder is **fixed**: it is tokenised once, and only there special tokens count. A part with
placeholders is **text**: what a caller wrote and the words between it, tokenised together with special tokens switched
off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Placeholder(StrEnum):
    """A place in a template for a caller's text."""

    INSTRUCTION = "instruction"
    QUERY = "query"
    DOCUMENT = "document"


Piece = str | Placeholder
"""Literal text, or a placeholder for a text of the caller."""

_NAMED = re.compile(r"\{(" + "|".join(Placeholder) + r")\}")


def split_placeholders(text: str, pattern: re.Pattern[str] = _NAMED) -> tuple[Piece, ...]:
    """``"a{query}b"`` -> ("a", Placeholder.QUERY, "b"), so that a query that holds ``{document}`` stays a query."""
    found = pattern.split(text)  # literal, placeholder, literal, ...
    return tuple(Placeholder(piece) if i % 2 else piece for i, piece in enumerate(found) if piece)


@dataclass(frozen=True)
class Template:
    """The text around a pair."""

    name: str
    parts: tuple[tuple[Piece, ...], ...]
    default_instruction: str = ""
    with_instruction: Template | None = None
    """Used instead for a call that gives an instruction; None: ``parts`` has its placeholder, or it takes none."""
    empty_text: str = ""
    """What stands for a query or a document without a character."""
    between_specials: bool = False
    """Whether the tokenizer's own special tokens go around it, as around any text (Llama and Mistral: BOS before)."""
    closing_ids: tuple[int, ...] = ()
    """Ids behind the last part, which no text stands for."""
    strips: frozenset[Placeholder] = frozenset()
    """Texts of the caller that lose the white space at both ends (``| trim`` of a chat template)."""

    @classmethod
    def of(
        cls,
        name: str,
        *parts: str,
        default_instruction: str = "",
        with_instruction: tuple[str, ...] | None = None,
        between_specials: bool = False,
        empty_text: str = "",
        strips: bool = False,
        closing_ids: tuple[int, ...] = (),
    ) -> Template:
        """A template from texts with ``{query}``, ``{document}`` and ``{instruction}``, one text a part."""
        other = None
        if with_instruction:
            other = cls.of(
                f"{name}, with instruction", *with_instruction, between_specials=between_specials, strips=strips
            )
        return cls(
            name=name,
            parts=tuple(split_placeholders(part) for part in parts),
            default_instruction=default_instruction,
            with_instruction=other,
            empty_text=empty_text,
            closing_ids=closing_ids,
            between_specials=between_specials,
            strips=frozenset((Placeholder.QUERY, Placeholder.DOCUMENT)) if strips else frozenset(),
        )

    def stripped(self, placeholder: Placeholder, text: str) -> str:
        """A text of the caller as it goes into the prompt."""
        return text.strip() if placeholder in self.strips else text

    def says_the_same(self, other: Template) -> bool:
        """The same text, however it is cut into parts."""
        mine, its = ([*_flat(template.parts)] for template in (self, other))
        a, b = self.with_instruction, other.with_instruction
        return (
            mine == its
            and (self.strips, self.closing_ids) == (other.strips, other.closing_ids)
            and self.default_instruction == other.default_instruction
            and (a is b or (a is not None and b is not None and a.says_the_same(b)))
        )

    @property
    def takes_instruction(self) -> bool:
        return self.with_instruction is not None or any(Placeholder.INSTRUCTION in part for part in self.parts)

    @property
    def suffix(self) -> str:
        """The pieces behind the last placeholder."""
        tail: list[str] = []
        for piece in reversed([piece for part in self.parts for piece in part]):
            if isinstance(piece, Placeholder):
                break
            tail.append(str(piece))
        return "".join(reversed(tail))


def _flat(parts: tuple[tuple[Piece, ...], ...]) -> Iterator[Piece]:
    """The pieces of all parts, neighbouring texts joined."""
    text = ""
    for piece in (piece for part in parts for piece in part):
        if not isinstance(piece, Placeholder):
            text += piece
            continue
        if text:
            yield text
        yield piece
        text = ""
    if text:
        yield text
