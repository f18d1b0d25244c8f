"""What a prompt template is: fixed parts, and parts with slots for a caller's texts.

A part without a slot is **fixed**: it is tokenised once, and only there special tokens count. A part with slots is
**text**: what a caller wrote and the words between it, tokenised together with special tokens switched off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Slot(StrEnum):
    """Where a caller's text stands."""

    INSTRUCTION = "instruction"
    QUERY = "query"
    DOCUMENT = "document"


Piece = str | Slot
"""Literal text, or a place for a caller's."""

_NAMED = re.compile(r"\{(" + "|".join(Slot) + r")\}")


def split_slots(text: str, pattern: re.Pattern[str] = _NAMED) -> tuple[Piece, ...]:
    """``"a{query}b"`` -> ("a", Slot.QUERY, "b"), so that a query that holds ``{document}`` stays a query."""
    found = pattern.split(text)  # literal, slot, literal, ...
    return tuple(Slot(piece) if i % 2 else piece for i, piece in enumerate(found) if piece)


@dataclass(frozen=True)
class Template:
    """The text around a pair."""

    name: str
    parts: tuple[tuple[Piece, ...], ...]
    default_instruction: str = ""
    with_instruction: Template | None = None
    """Used instead for a call that gives an instruction; None: it has its place in ``parts``, or none at all."""

    @classmethod
    def of(
        cls, name: str, *parts: str, default_instruction: str = "", with_instruction: tuple[str, ...] | None = None
    ) -> Template:
        other = cls.of(f"{name}, with instruction", *with_instruction) if with_instruction else None
        return cls(name, tuple(split_slots(part) for part in parts), default_instruction, other)

    def says_the_same(self, other: Template) -> bool:
        """The same text, however it is cut into parts."""
        mine, its = ([*_flat(template.parts)] for template in (self, other))
        a, b = self.with_instruction, other.with_instruction
        return (
            mine == its
            and self.default_instruction == other.default_instruction
            and (a is b or (a is not None and b is not None and a.says_the_same(b)))
        )

    @property
    def takes_instruction(self) -> bool:
        return self.with_instruction is not None or any(Slot.INSTRUCTION in part for part in self.parts)

    @property
    def suffix(self) -> str:
        """What follows the last slot."""
        tail: list[str] = []
        for piece in reversed([piece for part in self.parts for piece in part]):
            if isinstance(piece, Slot):
                break
            tail.append(str(piece))
        return "".join(reversed(tail))


def _flat(parts: tuple[tuple[Piece, ...], ...]) -> Iterator[Piece]:
    """The pieces of all parts, neighbouring texts joined."""
    text = ""
    for piece in (piece for part in parts for piece in part):
        if not isinstance(piece, Slot):
            text += piece
            continue
        if text:
            yield text
        yield piece
        text = ""
    if text:
        yield text
