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

from tokenizers import Tokenizer

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


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive tokens of a text, and the characters of it that each covers."""

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]


def windows(tokenizer: Tokenizer, text: str, stop: Callable[[], bool] = never) -> Iterator[Window]:
    """The tokens of a text, in order, without special ones. Raises ``EncodingAbortedError`` once ``stop`` says so."""
    start = begin = 0
    now = _window(tokenizer, text, start)
    while start + WINDOW < len(text):
        if stop():
            raise EncodingAbortedError
        following = start + WINDOW - OVERLAP
        then = _window(tokenizer, text, following)
        border = _border(now, then, following + OVERLAP // 2)
        yield _between(now, begin, border)
        start, begin, now = following, border, then
    yield _between(now, begin, None)


def _window(tokenizer: Tokenizer, text: str, start: int) -> Window:
    encoding = tokenizer.encode(text[start : start + WINDOW], add_special_tokens=False)
    offsets = [(first + start, end + start) for first, end in encoding.offsets] if start else encoding.offsets
    return Window(encoding.ids, encoding.tokens, offsets)


def _border(now: Window, then: Window, middle: int) -> int:
    """Where one window takes over from the other: the character nearest to the middle at which both begin a token."""
    near = OVERLAP // 4
    both = {first for first, _ in now.offsets[-OVERLAP * 4 :] if abs(first - middle) <= near}
    both &= {first for first, _ in then.offsets[: OVERLAP * 4] if abs(first - middle) <= near}
    return min(both, key=lambda first: abs(first - middle)) if both else middle


def _between(window: Window, begin: int, end: int | None) -> Window:
    """The tokens that begin at ``begin`` or later, and before ``end``."""
    starts = [first for first, _ in window.offsets]
    low = bisect_left(starts, begin) if begin else 0
    high = len(starts) if end is None else bisect_left(starts, end)
    return Window(window.ids[low:high], window.tokens[low:high], window.offsets[low:high])


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
