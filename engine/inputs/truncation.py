"""Cuts over-long pairs, never their template: in a prompt first the document, then the query; the longer text of two.

Two texts in the tokenizer's own form are cut as transformers, sentence-transformers and text-embeddings-inference cut
them (``longest_first``): the longer one to the length of the shorter, then both alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from tokenizers import Tokenizer

Side = Literal["right", "left"]

MIN_DOCUMENT_TOKENS = 32
"""A document is not cut below this while there is a query token left to cut."""
FAR = 1024
"""Tokens behind a limit from which on a text is not read (``windows.py``)."""
_MAX_GROWTH = 3
"""Bytes of a text's NFC form over its own: the bound of Unicode's FAQ on normalisation, and a token has a byte."""


class Role(IntEnum):
    """The text that a token of a prompt belongs to."""

    TEMPLATE = 0
    QUERY = 1
    DOCUMENT = 2


@dataclass(frozen=True)
class Cut:
    """The tokens of a prompt that stay, and how many went of each text."""

    keep: np.ndarray
    """Positions, ascending."""
    num_document_cut: int
    num_query_cut: int


def fit(roles: np.ndarray, limit: int, side: Side) -> Cut | None:
    """Chooses the tokens to keep of a prompt with these roles; None where the template leaves no room for the texts."""
    excess = len(roles) - limit
    document, query = np.flatnonzero(roles == Role.DOCUMENT), np.flatnonzero(roles == Role.QUERY)
    room = limit - (len(roles) - len(document) - len(query))
    kept_at_least = min(len(document), MIN_DOCUMENT_TOKENS, max(room // 2, 1))
    cut_document = max(0, min(excess, len(document) - kept_at_least))
    cut_query = max(0, excess - cut_document)
    return _cut_ends(roles, cut_document, cut_query, side)


def fit_longest_first(roles: np.ndarray, limit: int, side: Side) -> Cut | None:
    """Does as ``fit`` for two texts in the tokenizer's own form.

    One token that is over goes to the longer text. Of texts that both have ``FAR`` tokens more than the limit nobody
    knows which one is longer, since no more of them is read: there it is the document's.
    """
    num_query, num_document = int((roles == Role.QUERY).sum()), int((roles == Role.DOCUMENT).sum())
    room = max(0, limit - (len(roles) - num_query - num_document))
    short, long = sorted((num_query, num_document))
    long = min(long, max(short, room - short))
    if short + long > room:
        short, long = room // 2, room - room // 2
    is_query_longer = min(num_query, limit + FAR) > min(num_document, limit + FAR)
    keep_query, keep_document = (long, short) if is_query_longer else (short, long)
    return _cut_ends(roles, num_document - keep_document, num_query - keep_query, side)


def fit_document(roles: np.ndarray, limit: int, side: Side) -> Cut | None:
    """Does as ``fit``, and cuts the document alone; None where nothing of it would stay.

    So do sentence-transformers with messages of a chat template, and tokenizers with ``only_second``.
    """
    excess = len(roles) - limit
    return _cut_ends(roles, excess, 0, side) if excess < int((roles == Role.DOCUMENT).sum()) else None


def _cut_ends(roles: np.ndarray, cut_document: int, cut_query: int, side: Side) -> Cut | None:
    document, query = np.flatnonzero(roles == Role.DOCUMENT), np.flatnonzero(roles == Role.QUERY)
    if cut_query and cut_query >= len(query):
        return None
    gone = np.concatenate([_end_of(document, cut_document, side), _end_of(query, cut_query, "right")])
    return Cut(np.setdiff1d(np.arange(len(roles)), gone, assume_unique=True), cut_document, cut_query)


def _end_of(positions: np.ndarray, count: int, side: Side) -> np.ndarray:
    return positions[:count] if side == "left" else positions[len(positions) - count :]


def may_exceed(text: str, limit: int) -> bool:
    """Cheap test: False only when the text certainly has at most ``limit`` tokens."""
    return (len(text.encode()) + 1) * _MAX_GROWTH > limit


def cut_texts(tokenizer: Tokenizer, texts: list[str], limit: int, side: Side) -> list[str]:
    """Every text cut to at most ``limit`` tokens on a character border; one that fits comes back as it is."""
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [
        text if len(encoding) <= limit else _cut(tokenizer, text, encoding.offsets, limit, side)
        for text, encoding in zip(texts, encodings, strict=True)
    ]


def _cut(tokenizer: Tokenizer, text: str, offsets: list[tuple[int, int]], limit: int, side: Side) -> str:
    """The border after ``limit`` tokens may move once the rest is gone, or lie inside a character: look again."""
    for count in range(limit, 0, -1):
        part = text[: offsets[count - 1][1]] if side == "right" else text[offsets[-count][0] :]
        if len(tokenizer.encode(part, add_special_tokens=False)) <= limit:
            return part
    return ""
