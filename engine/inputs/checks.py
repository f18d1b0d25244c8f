"""What a caller's texts and ids must be. Every error names the field, and the position inside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.errors import PARAM, FieldPath, InvalidRequestError
from engine.request import PairOptions

TokenIds = Sequence[int] | np.ndarray


def query_path(index: int, count: int) -> FieldPath:
    """The path of query ``index`` of ``count``; a single one is called ``query``, as in most callers' bodies."""
    return ("query",) if count == 1 else ("queries", index)


def check_text(text: Any, where: FieldPath) -> None:
    """Raises ``InvalidRequestError`` about the field ``where`` unless ``text`` is a string that has a UTF-8 form."""
    if not isinstance(text, str):
        raise InvalidRequestError(f"{PARAM} must be a string, not {type(text).__name__}.", param=where)
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"{PARAM} is not valid Unicode: half of a surrogate pair stands alone at character {error.start}.",
            param=where,
        ) from error


def check_query(query: Any, where: FieldPath) -> None:
    """``check_text`` for a text that must not be blank either. Raises ``InvalidRequestError`` about ``where``."""
    check_text(query, where)
    if not query.strip():
        raise InvalidRequestError(f"{PARAM} is empty.", param=where)


def no_tokens(where: FieldPath) -> InvalidRequestError:
    """The error about a text, or a pair, of which the tokenizer leaves nothing: no model reads an empty sequence."""
    return InvalidRequestError(f"{PARAM} has no token: nothing is left of it once it is tokenised.", param=where)


def longer_than(limit: int, where: FieldPath) -> InvalidRequestError:
    """The error about a text of which not all tokens were counted, so that only the limit is known."""
    message = f"{PARAM} has more than {limit} tokens, and the limit is {limit}. Shorten it, or let it be truncated."
    return InvalidRequestError(message, param=where)


def token_limit(options: PairOptions, max_model_len: int) -> int:
    """Tokens that a prompt of this call may have.

    Raises ``InvalidRequestError`` about an option whose value is impossible.
    """
    for name in ("max_tokens_per_doc", "max_tokens_per_query"):
        if getattr(options, name) < 0:
            raise InvalidRequestError(f"{name} must be 0 (no limit) or more.", param=name)
    asked = options.truncate_prompt_tokens
    if asked is None or asked == -1:
        return max_model_len
    if not 1 <= asked <= max_model_len:
        raise InvalidRequestError(
            f"truncate_prompt_tokens is {asked}; possible are -1 (the model's length) and 1 to {max_model_len}.",
            param="truncate_prompt_tokens",
        )
    return asked


def wrong_lengths(num_queries: int, num_documents: int) -> InvalidRequestError:
    """The error about sides that are neither 1:1, 1:N nor N:N."""
    return InvalidRequestError(
        f"There are {num_queries} queries for {num_documents} documents: input lengths must be either 1:1, 1:N or N:N.",
        param="queries",
    )


def checked_ids(ids: TokenIds, where: FieldPath, vocab_size: int) -> np.ndarray:
    """(n,) int32 of ids that the vocabulary has; raises ``InvalidRequestError`` about the field ``where``."""
    try:
        whole = all(int(i) == i and not isinstance(i, bool | str) for i in ids)
        array = np.array(ids, dtype=np.int64).reshape(-1) if whole else None
    except (TypeError, ValueError, OverflowError):
        array = None
    if array is None or len(array) != len(ids):
        raise InvalidRequestError(f"{PARAM} must be a list of token ids (integers).", param=where)
    wrong = np.flatnonzero((array < 0) | (array >= vocab_size))
    if len(wrong):
        raise InvalidRequestError(
            f"{PARAM} holds the token id {array[wrong[0]]} at position {wrong[0]}, "
            f"and the vocabulary has ids from 0 to {vocab_size - 1}.",
            param=where,
        )
    return array.astype(np.int32)
