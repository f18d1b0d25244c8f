"""Pairs for a late-interaction model (ColBERT): queries and documents become tokens apart, each with its side's mark,
and which of their tokens are compared is decided here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tokenizers import AddedToken, Tokenizer

from engine.errors import PARAM, FieldPath, InvalidRequestError, RequestError
from engine.inputs.checks import query_path
from engine.inputs.pair_encoder import Pair, TokenizerPairs
from engine.inputs.truncation import Side
from engine.model_spec import Expansion, LateTexts, SideForm
from engine.request import CorePrompt, Encoded, EncodedPair, PairOptions


class LateEncoder:
    """Any thread may call it."""

    def __init__(self, texts: TokenizerPairs, tokenizer: Tokenizer, form: LateTexts) -> None:
        self._texts, self._form = texts, form
        mask = np.array(tokenizer.encode("a").special_tokens_mask, bool)
        text = np.flatnonzero(~mask)
        self._mark_place = int(text[0]) if len(text) else 0
        """Behind the tokens that the tokenizer puts first."""

    def encode(self, pairs: Mapping[int, Pair], limit: int, options: PairOptions) -> dict[int, Encoded]:
        """The pairs, by their numbers, as two texts each.

        A pair of which one text may not be cut and is too long, or has nothing to compare, is an error about that text.
        """
        num_queries = len({pair.query for pair in pairs.values()})
        queries: dict[str, tuple[Side, FieldPath]] = {}
        documents: dict[str, tuple[Side, FieldPath]] = {}
        for i, pair in pairs.items():
            queries.setdefault(pair.query, ("right", query_path(i, num_queries)))
            documents.setdefault(pair.document, (options.truncation_side, ("documents", i)))
        encoded_queries = self._encode_side(queries, self._form.query, limit, options, self._form.expansion)
        encoded_documents = self._encode_side(documents, self._form.document, limit, options, None)
        found: dict[int, Encoded] = {}
        for i, pair in pairs.items():
            query, document = encoded_queries[pair.query], encoded_documents[pair.document]
            if isinstance(query, RequestError):
                found[i] = query.at(query_path(i, num_queries))
            elif isinstance(document, RequestError):
                found[i] = document.at(("documents", i))
            else:
                found[i] = _together(query, document)
        return found

    def _encode_side(
        self,
        texts: Mapping[str, tuple[Side, FieldPath]],
        form: SideForm,
        limit: int,
        options: PairOptions,
        expansion: Expansion | None,
    ) -> dict[str, tuple[CorePrompt, bool] | RequestError]:
        """Each text with whether it was cut."""
        room = min(form.length, limit) - (form.mark_id is not None)
        prompted = {form.prompt + text: place for text, place in texts.items()}
        singles = self._texts.encode_singles(prompted, room, options.truncate)
        found: dict[str, tuple[CorePrompt, bool] | RequestError] = {}
        for text, (_, where) in texts.items():
            single = singles[form.prompt + text]
            if isinstance(single, RequestError):
                found[text] = single
                continue
            prompt = self._prompt(single.token_ids, form, expansion)
            if not len(prompt.read_offsets):
                found[text] = InvalidRequestError(f"{PARAM} has no token that this model compares.", param=where)
            else:
                found[text] = prompt, single.truncated
        return found

    def _prompt(self, ids: np.ndarray, form: SideForm, expansion: Expansion | None) -> CorePrompt:
        if form.mark_id is not None:
            ids = np.insert(ids, self._mark_place, form.mark_id)
        num_keys = 0
        if expansion is not None and len(ids) < expansion.length:
            num_keys = 0 if expansion.attends else len(ids)
            filled = np.full(expansion.length - len(ids), expansion.token_id, ids.dtype)
            ids = np.concatenate([ids, filled])
        compared = ~np.isin(ids, form.skipped_ids)
        return CorePrompt(ids.astype(np.int32, copy=False), np.flatnonzero(compared).astype(np.int32), num_keys)


def _together(query: tuple[CorePrompt, bool], document: tuple[CorePrompt, bool]) -> EncodedPair:
    (query_prompt, query_cut), (document_prompt, document_cut) = query, document
    return EncodedPair(
        np.concatenate([query_prompt.token_ids, document_prompt.token_ids]),
        query_len=len(query_prompt.token_ids),
        truncated_document=document_cut,
        truncated_query=query_cut,
        prompts=(query_prompt, document_prompt),
    )


def make_marks_plain(tokenizer: Tokenizer, form: LateTexts) -> None:
    """Makes the marks of the sides ordinary text where a text spells them. Call it before ``make_plain``."""
    added = tokenizer.get_added_tokens_decoder()
    ids = {form.query.mark_id, form.document.mark_id, form.expansion.token_id if form.expansion else None}
    marks = [
        AddedToken(added[i].content, special=True, normalized=False)
        for i in ids
        if i is not None and i in added and not added[i].special
    ]
    if marks:
        tokenizer.add_special_tokens(marks)
