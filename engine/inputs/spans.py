"""Where the tokens of a text lie in it, and how a long text is cut into overlapping chunks.

Spans count characters of the text itself, so what a caller gets back can be cut out of what the caller sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from tokenizers import Tokenizer

from engine.inputs.truncation import Side
from engine.inputs.windows import MARGIN, WINDOW, encoded, never, windows

MIN_CHUNK_TOKENS = 16
"""Shorter chunks say nothing about a document, and their number could be huge."""
_EDGE_TOKENS = 8
"""A chunk tokenised by itself may have a few tokens more than inside its text."""


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start`` to ``end`` of a text."""

    start: int
    end: int


class TextToken(msgspec.Struct, frozen=True, gc=False):
    """One token of a text; a token that the tokenizer added lies nowhere in it."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


@dataclass(frozen=True, slots=True)
class Chunking:
    """How to cut one document; all lengths are tokens."""

    size: int
    overlap: int
    most: int = 0
    limit: int = 0
    """The document is cut to this before (0: not at all), at the end that ``side`` names."""
    side: Side = "right"
    ceiling: int = 0
    """Chunks after which the document need not be read on (0: all of it)."""

    @classmethod
    def of(
        cls, room: int, size: int | None, overlap: int | None, *, most: int = 0, limit: int = 0, side: Side = "right"
    ) -> Chunking:
        """The chunks' size and overlap, in tokens. ``room`` is what a prompt leaves for its document."""
        room = max(MIN_CHUNK_TOKENS, room - _EDGE_TOKENS)
        size = min(room, size or room)
        return cls(size, min(size // 2, size // 8 if overlap is None else overlap), most, limit, side)


def chunk_spans(
    tokenizer: Tokenizer, texts: Sequence[str], how: Sequence[Chunking], stop: Callable[[], bool] = never
) -> list[list[Span]]:
    """The chunks of each text, in order; a text of at most ``size`` tokens is one chunk, the whole of it.

    Raises ``EncodingAbortedError`` once ``stop`` says so.
    """
    short = [i for i, text in enumerate(texts) if len(text) <= WINDOW]
    encodings = tokenizer.encode_batch([texts[i] for i in short], add_special_tokens=False)
    offsets = {i: np.array(encoding.offsets, np.int64) for i, encoding in zip(short, encodings, strict=True)}
    return [
        _spans(offsets[i] if i in offsets else _offsets(tokenizer, text, chunking, stop), len(text), chunking)
        for i, (text, chunking) in enumerate(zip(texts, how, strict=True))
    ]


def _offsets(tokenizer: Tokenizer, text: str, how: Chunking, stop: Callable[[], bool]) -> np.ndarray:
    """(n, 2) int64: the characters of each token of a long text, as far as its chunks are wanted."""
    stride = how.size - how.overlap
    most = how.most or how.ceiling
    wanted = most * stride + how.size if most else None
    if how.limit and how.side == "right":
        wanted = min(how.limit, wanted or how.limit)
    parts, count = [], 0
    for window in windows(tokenizer, text, stop):
        parts.append(np.array(window.offsets, np.int64).reshape(-1, 2))
        count += len(window)
        if wanted is not None and count > wanted + MARGIN and not (how.limit and how.side == "left"):
            break
    return np.concatenate(parts)


def _spans(offsets: np.ndarray, length: int, how: Chunking) -> list[Span]:
    first, last = 0, len(offsets)
    if how.limit and last > how.limit:
        first, last = (0, how.limit) if how.side == "right" else (last - how.limit, last)
    if last - first <= how.size:
        whole = first == 0 and last == len(offsets)
        return [Span(0, length) if whole else _span(offsets, first, last)]
    stride = how.size - how.overlap
    # The last chunk reaches back, so that it is as long as the others.
    starts = [min(start, last - how.size) for start in range(first, last - how.overlap, stride)]
    kept = starts[: how.most] if how.most else starts
    return [_span(offsets, start, start + how.size) for start in kept]


def _span(offsets: np.ndarray, first: int, last: int) -> Span:
    return Span(int(offsets[first][0]), int(offsets[last - 1][1]))


def text_tokens(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> list[TextToken]:
    """The tokens of a text, each with the characters that it covers."""
    encoding = encoded(tokenizer, text, special=add_special_tokens)
    return [
        TextToken(token_id, token, True, None, None)
        if special
        else TextToken(token_id, text[start:stop], False, start, stop)
        for token_id, token, special, (start, stop) in zip(
            encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
        )
    ]
