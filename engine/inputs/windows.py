"""Long texts to tokens a window at a time, in bounded memory, and how much of a text is worth tokenising at all.

The library's own objects take about ninety bytes a character, so a text is never handed to it whole once it is long.
Neighbouring windows overlap, and are joined where both begin a token: for a tokenizer that splits texts into words the
tokens are those of the whole text, as long as no word is longer than half an overlap; the tests compare them for all
kinds of tokenizer, also inside endless words.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer

from engine.inputs.truncation import FAR, Side

WINDOW = 2**16
"""Letters that are tokenised at a time."""
OVERLAP = 1024
"""Letters that two windows share."""
MARGIN = FAR
"""Tokens at a cut that may differ from those of the whole text, and are never kept."""
EDGE = 64
"""Letters that stay at the end that is cut, so that what follows them there is tokenised as ever."""
CHARS_PER_TOKEN = 8
"""Shorter texts than this times the limit are tokenised whole."""
MAX_CHARS_PER_TOKEN = 64
MIN_READ = 2**20
"""Letters of a text that are always looked at, however few tokens can be kept."""
_EXTRA = 256
"""Tokens that cutting a text into pieces may add at a cut."""


class EncodingAbortedError(Exception):
    """The caller has gone, so the tokens are not made any more."""


def never() -> bool:
    """Somebody waits."""
    return False


def encoded(tokenizer: Tokenizer, text: str, *, special: bool = False) -> Encoding:
    """The tokens of one text. The library keeps all other threads waiting for a text alone, and not for a batch."""
    return tokenizer.encode_batch([text], add_special_tokens=special)[0]


class _Piece:
    """Some characters of a text, from ``start`` on, as they are tokenised by themselves."""

    def __init__(self, tokenizer: Tokenizer, text: str, start: int) -> None:
        self.encoding = encoded(tokenizer, text[start : start + WINDOW])
        self.start = start

    def first_character(self, token: int) -> int:
        """Finds where a token begins in the text."""
        place = self.encoding.token_to_chars(token)
        return self.start + (place[0] if place else 0)

    def token_from(self, character: int) -> int:
        """The first token that begins at ``character`` or later."""
        return bisect_left(range(len(self.encoding)), character, key=self.first_character)

    def beginnings(self, first: int, last: int) -> set[int]:
        """Characters from ``first`` to ``last`` at which a token begins."""
        return {self.first_character(token) for token in range(self.token_from(first), self.token_from(last + 1))}


class Window:
    """Consecutive tokens of a text. Its lists are made when they are asked for: they cost as much as the tokens."""

    def __init__(self, piece: _Piece, begin: int, end: int | None) -> None:
        """The tokens of ``piece`` that begin at the character ``begin`` or later, and before ``end``."""
        self._piece = piece
        self._low = piece.token_from(begin) if begin else 0
        self._high = len(piece.encoding) if end is None else piece.token_from(end)

    def __len__(self) -> int:
        return max(0, self._high - self._low)

    @property
    def ids(self) -> list[int]:
        """The ids of the tokens."""
        return self._piece.encoding.ids[self._low : self._high]

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """The characters of the text that each token covers: from the first up to the second number."""
        start, own = self._piece.start, self._piece.encoding.offsets[self._low : self._high]
        return [(first + start, end + start) for first, end in own] if start else own


def windows(tokenizer: Tokenizer, text: str, stop: Callable[[], bool] = never) -> Iterator[Window]:
    """The tokens of a text, in order, without special ones. Raises ``EncodingAbortedError`` once ``stop`` says so."""
    begin = 0
    now = _Piece(tokenizer, text, 0)
    while now.start + WINDOW < len(text):
        if stop():
            raise EncodingAbortedError
        then = _Piece(tokenizer, text, now.start + WINDOW - OVERLAP)
        border = _border(now, then, then.start + OVERLAP // 2)
        yield Window(now, begin, border)
        begin, now = border, then
    yield Window(now, begin, None)


def _border(now: _Piece, then: _Piece, middle: int) -> int:
    """Where one window takes over from the other: the character nearest to the middle at which both begin a token."""
    first, last = middle - OVERLAP // 4, middle + OVERLAP // 4
    both = now.beginnings(first, last) & then.beginnings(first, last)
    return min(both, key=lambda character: abs(character - middle)) if both else middle


@dataclass(frozen=True, slots=True)
class Shortened:
    """A text of which no more can be kept than these characters have tokens."""

    text: str
    is_whole: bool
    is_cut: bool = False
    """Letters are left out although no more tokens than the limit are known: it is white space, or an endless word."""


def shortened(tokenizer: Tokenizer, text: str, limit: int, side: Side) -> Shortened:
    """A long text without the characters that a cut to ``limit`` tokens throws away, at the end that ``side`` names.

    What is left has at least ``MARGIN`` more tokens than the limit, so whoever cuts it to the limit gets the tokens of
    the whole text, and its cost is that of what is kept. Of a text with next to no tokens, at most
    ``MAX_CHARS_PER_TOKEN`` characters for each token of the limit are looked at, and a million in any case.
    """
    need = limit + MARGIN
    if len(text) <= need * CHARS_PER_TOKEN:
        return Shortened(text, is_whole=True)
    most = max(MIN_READ, limit * MAX_CHARS_PER_TOKEN)
    read = count = 0
    size = min(WINDOW, need * 4)
    while count < need:
        if read >= len(text) - EDGE:
            return Shortened(text, is_whole=True)
        if read >= most:
            return Shortened(text[:most] if side == "right" else text[-most:], is_whole=False, is_cut=True)
        piece = text[read : read + size] if side == "right" else text[-read - size : -read or None]
        (encoding,) = tokenizer.encode_batch_fast([piece], add_special_tokens=False)
        count += max(0, len(encoding.ids) - _EXTRA)
        read += size
        size = min(WINDOW, size * 2)
    if read >= len(text) - EDGE:
        return Shortened(text, is_whole=True)
    kept = text[:read] + text[-EDGE:] if side == "right" else text[:EDGE] + text[-read:]
    return Shortened(kept, is_whole=False)
