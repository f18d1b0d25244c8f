"""Pairs that come as token ids: checked, joined, never cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.errors import PARAM, FieldPath, InvalidRequestError
from engine.inputs.bi_encoder import together
from engine.inputs.checks import TokenIds, checked_ids, query_path, wrong_lengths
from engine.request import Encoded, EncodedPair


class IdPairs:
    """The query's ids followed by the document's; for a bi-encoder two texts."""

    def __init__(self, vocab_size: int, max_len: int, *, bi_encoder: bool, type_ids: bool) -> None:
        self._vocab_size = vocab_size
        self._max_len = max_len
        self._bi_encoder = bi_encoder
        self._type_ids = type_ids

    def encode(self, query_ids: Sequence[TokenIds], document_ids: Sequence[TokenIds]) -> list[Encoded]:
        """The pairs in the order of ``document_ids``; the error of one that cannot be read stands in its place.

        Raises ``InvalidRequestError`` about lengths that do not fit, and about the only query.
        """
        if len(query_ids) not in (1, len(document_ids)):
            raise wrong_lengths(len(query_ids), len(document_ids))
        heads: dict[int, np.ndarray] = {}
        found: list[Encoded] = []
        for i, ids in enumerate(document_ids):
            q = i if len(query_ids) > 1 else 0
            where = query_path(q, len(query_ids))
            try:
                if q not in heads:
                    heads[q] = checked_ids(query_ids[q], where, self._vocab_size)
                found.append(self._pair(heads[q], ids, ("documents", i), where))
            except InvalidRequestError as error:
                if error.path == ("query",):
                    raise
                found.append(error)
        return found

    def _pair(self, head: np.ndarray, ids: TokenIds, where: FieldPath, query_where: FieldPath) -> EncodedPair:
        tail = checked_ids(ids, where, self._vocab_size)
        if self._bi_encoder:
            self._check_length(len(head), query_where, "a text")
            self._check_length(len(tail), where, "a text")
            return together(EncodedPair(head), EncodedPair(tail))
        whole = np.concatenate([head, tail])
        self._check_length(len(whole), where, "the pair")
        types = np.zeros_like(whole) if self._type_ids else None
        return EncodedPair(whole, types, query_len=min(len(head), len(whole) - 1))

    def _check_length(self, num_ids: int, where: FieldPath, what: str) -> None:
        if not 1 <= num_ids <= self._max_len:
            raise InvalidRequestError(
                f"{PARAM}: {what} has {num_ids} token ids, and 1 to {self._max_len} are possible. "
                "Pairs of ids are never cut, since only their sender knows what may go.",
                param=where,
            )
