"""Pairs for a model that reads query and document in one prompt: a prompt a pair, cut where it is too long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from engine.errors import PARAM, FieldPath, InvalidRequestError
from engine.inputs.checks import no_tokens
from engine.inputs.pair_encoder import Draft, Pair, PairEncoder, TemplatePairs, TokenizerPairs
from engine.inputs.truncation import MIN_DOCUMENT_TOKENS, Role
from engine.request import Encoded, EncodedPair, PairOptions


class CrossEncoderPairs:
    """Pairs for a cross-encoder, through the prompt that each pair names or in the tokenizer's own form."""

    def __init__(self, by_template: TemplatePairs, by_tokenizer: TokenizerPairs) -> None:
        self._by_template = by_template
        self._by_tokenizer = by_tokenizer

    def encode(self, pairs: Mapping[int, Pair], limit: int, options: PairOptions) -> dict[int, Encoded]:
        """The pairs, by their numbers, of at most ``limit`` tokens each, or why one cannot be read."""
        found: dict[int, Encoded] = {}
        for (i, pair), draft in zip(pairs.items(), self._drafts(list(pairs.values())), strict=True):
            if not len(draft.ids):
                found[i] = no_tokens(("documents", i))
            elif len(draft.ids) <= limit:
                found[i] = EncodedPair(draft.ids, draft.type_ids, draft.query_len)
            else:
                found[i] = self._fitted(pair, draft, limit, options, ("documents", i))
        return found

    def num_tokens(self, pair: Pair) -> int:
        """How many tokens a pair has before any cut."""
        return len(self._drafts([pair])[0].ids)

    def _drafts(self, pairs: Sequence[Pair]) -> list[Draft]:
        """Uncut, in order; a call may mix pairs with and without a prompt, since some bring their own."""
        drafts: dict[int, Draft] = {}
        for encoder in (self._by_template, self._by_tokenizer):
            chosen = [i for i, pair in enumerate(pairs) if self._encoder_of(pair) is encoder]
            drafts.update(zip(chosen, encoder.encode([pairs[i] for i in chosen]), strict=True))
        return [drafts[i] for i in range(len(pairs))]

    def _encoder_of(self, pair: Pair) -> PairEncoder:
        return self._by_tokenizer if pair.prompt is None else self._by_template

    def _fitted(self, pair: Pair, draft: Draft, limit: int, options: PairOptions, where: FieldPath) -> Encoded:
        """An over-long pair, cut to the limit, or why that is not possible."""
        excess, side = len(draft.ids) - limit, options.truncation_side
        if options.truncate and draft.document_len - excess >= MIN_DOCUMENT_TOKENS:  # the common case, without roles
            first = draft.query_len + (0 if side == "left" else draft.document_len - excess)
            ids = np.delete(draft.ids, slice(first, first + excess))
            return EncodedPair(ids, query_len=draft.query_len, truncated_document=True)
        encoder = self._encoder_of(pair)
        draft = encoder.with_roles(pair, draft, side)
        roles = draft.roles
        assert roles is not None
        if not options.truncate:
            message = f"{PARAM}: the pair has {_lengths(roles, limit, pair)}. Shorten it, or let it be truncated."
            return InvalidRequestError(message, param=where)
        cut = encoder.fit(pair, roles, limit, side)
        if cut is None:
            alone = encoder.cuts_document_only(pair)
            whom = "the document, and only that may be cut" if alone else "query and document"
            message = f"{PARAM}: the pair has {_lengths(roles, limit, pair)}, which leaves no room for {whom}."
            return InvalidRequestError(message, param=where)
        return EncodedPair(
            draft.ids[cut.keep],
            None if draft.type_ids is None else draft.type_ids[cut.keep],
            max(0, draft.query_len - cut.num_query_cut),
            cut.num_document_cut > 0,
            cut.num_query_cut > 0,
        )


def _lengths(roles: np.ndarray, limit: int, pair: Pair) -> str:
    """How many tokens are whose, for the error about a pair that is too long."""
    num_query, num_document = int((roles == Role.QUERY).sum()), int((roles == Role.DOCUMENT).sum())
    rest = "template and instruction" if pair.pictures is None else "template, instruction and pictures"
    return (
        f"{len(roles)} tokens (query {num_query}, document {num_document}, "
        f"{rest} {len(roles) - num_query - num_document}), and the limit is {limit}"
    )
