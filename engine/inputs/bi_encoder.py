"""Pairs for a model that embeds texts one by one: both sides tokenised by themselves, every distinct text once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from engine.errors import FieldPath, RequestError
from engine.inputs.checks import query_path
from engine.inputs.pair_encoder import Pair, TokenizerPairs
from engine.inputs.truncation import Side
from engine.request import Encoded, EncodedPair, PairOptions


class EmbeddingEncoder:
    """Pairs for a bi-encoder. ``prompts`` are put before queries and before documents."""

    def __init__(self, texts: TokenizerPairs, prompts: tuple[str, str]) -> None:
        self._texts = texts
        self._query_prompt, self._document_prompt = prompts

    def encode(self, pairs: Mapping[int, Pair], limit: int, options: PairOptions) -> dict[int, Encoded]:
        """The pairs, by their numbers, as two texts each, of at most ``limit`` tokens.

        A pair of which one text has no token, or may not be cut and is too long, is an error about that text.
        """
        num_queries = len({pair.query for pair in pairs.values()})
        names: dict[str, tuple[Side, FieldPath]] = {}
        for i, pair in pairs.items():
            names.setdefault(self._query_prompt + pair.query, ("right", query_path(i, num_queries)))
            names.setdefault(self._document_prompt + pair.document, (options.truncation_side, ("documents", i)))
        encoded = self._texts.encode_singles(names, limit, options.truncate)
        found: dict[int, Encoded] = {}
        for i, pair in pairs.items():
            query = encoded[self._query_prompt + pair.query]
            document = encoded[self._document_prompt + pair.document]
            if isinstance(query, RequestError):
                found[i] = query.at(query_path(i, num_queries))
            elif isinstance(document, RequestError):
                found[i] = document.at(("documents", i))
            else:
                found[i] = together(query, document)
        return found

    def encode_texts(
        self, texts: Sequence[str], side: Literal["query", "document"] | None, limit: int, options: PairOptions
    ) -> list[Encoded]:
        """Texts by themselves, behind the prompt of a side; an error in the place of one that cannot be read."""
        prompt = {"query": self._query_prompt, "document": self._document_prompt, None: ""}[side]
        names: dict[str, tuple[Side, FieldPath]] = {
            prompt + text: (options.truncation_side, ("texts", i)) for i, text in enumerate(texts)
        }
        encoded = self._texts.encode_singles(names, limit, options.truncate)
        return [encoded[prompt + text] for text in texts]


def together(query: EncodedPair, document: EncodedPair) -> EncodedPair:
    """A pair of two encoded texts."""
    return EncodedPair(
        np.concatenate([query.token_ids, document.token_ids]),
        query_len=len(query.token_ids),
        truncated_document=document.truncated,
        truncated_query=query.truncated,
        bi_encoder=True,
    )
