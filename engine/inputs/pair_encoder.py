"""Pairs of texts to token ids, two ways: through a prompt template, or in the tokenizer's own pair form.

One call of the tokenizer per batch; constant ids are never tokenised again, and the words before the document once per
query where that changes nothing. Which token belongs to whom (``roles``) is worked out for over-long pairs only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer

from engine.errors import PARAM, FieldPath, InvalidRequestError
from engine.inputs.checks import no_tokens
from engine.inputs.encoder import TEXTS_PER_BATCH, TextEncoder
from engine.inputs.truncation import Cut, Role, Side, fit, fit_document, fit_longest_first
from engine.prompts.compiled import CompiledPrompt, SpecialIdGuard, TextPart
from engine.prompts.template import Placeholder
from engine.ranges import common_prefix
from engine.request import Encoded, EncodedPair, PairPictures


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts, checked, with the prompt that goes around them (None: the tokenizer's pair form, in which the
    instruction stands before the query)."""

    query: str
    document: str
    instruction: str = ""
    prompt: CompiledPrompt | None = None
    pictures: PairPictures | None = None
    """Before the texts; ``prompt`` then has places for them."""
    list_number: int = 0
    """Of a listwise model: neighbours with the same number are one list."""


@dataclass(slots=True)
class Draft:
    """A pair as ids, before any cut."""

    ids: np.ndarray
    query_len: int
    type_ids: np.ndarray | None = None
    document_len: int = 0
    """Tokens of the part that is the document alone, where there is such a part."""
    roles: np.ndarray | None = None


class PairEncoder(Protocol):
    """Turns pairs of texts into token ids; any thread may call it."""

    def encode(self, pairs: Sequence[Pair]) -> list[Draft]:
        """The pairs as ids, uncut, in order."""
        ...

    def cuts_document_only(self, pair: Pair) -> bool:
        """Whether nothing but its document becomes shorter, should the pair be too long."""
        ...

    def with_roles(self, pair: Pair, draft: Draft, side: Side) -> Draft:
        """The draft with the text that each token belongs to (``Role``), so that it can be cut.

        Where the document loses its end, a token that the end shares with the words behind it is made of those alone.
        """
        ...

    def fit(self, pair: Pair, roles: np.ndarray, limit: int, side: Side) -> Cut | None:
        """The tokens that stay of a pair that is too long; None where query and document would have no room."""
        ...


def encode_all(tokenizer: Tokenizer, texts: Sequence[Any], *, special: bool) -> Iterator[Any]:
    """Encodings in order, made in parallel, without offsets."""
    for start in range(0, len(texts), TEXTS_PER_BATCH):
        batch = list(texts[start : start + TEXTS_PER_BATCH])
        yield from tokenizer.encode_batch_fast(batch, add_special_tokens=special)


class TemplatePairs:
    """Pairs through a prompt template: constant ids and tokenised texts, in order."""

    def __init__(
        self, tokenizer: Tokenizer, guard: SpecialIdGuard, encoder: TextEncoder, *, cuts_document_only: bool = False
    ) -> None:
        """``tokenizer``: for the places of tokens; ``encoder``: for the ids, the same ones."""
        self._tokenizer = tokenizer
        self._guard = guard
        self._encoder = encoder
        self._cuts_document_only = cuts_document_only

    def encode(self, pairs: Sequence[Pair]) -> list[Draft]:
        texts: dict[str, int] = {}
        numbers = [self._text_numbers(pair, texts) for pair in pairs]
        all_ids, bounds = self._encoder.encode_batch(list(texts))
        ids = [spelled_out(all_ids[begin:end], self._guard) for begin, end in pairwise(bounds.tolist())]
        return [self._assemble(pair, own, ids) for pair, own in zip(pairs, numbers, strict=True)]

    def _text_numbers(self, pair: Pair, texts: dict[str, int]) -> list[int]:
        """For every text part of the pair's prompt, its number in ``texts``; equal texts are tokenised once."""
        assert pair.prompt is not None
        numbers = []
        for part in pair.prompt.parts:
            if isinstance(part, TextPart):
                if part.has_document and not part.only_document:  # the words before it tell where the query ends
                    numbers.append(texts.setdefault(_before_document(part, pair), len(texts)))
                numbers.append(texts.setdefault(part.fill(pair.instruction, pair.query, pair.document), len(texts)))
        return numbers

    def _assemble(self, pair: Pair, numbers: list[int], ids: list[np.ndarray]) -> Draft:
        assert pair.prompt is not None
        following = iter(numbers)
        chunks: list[np.ndarray] = []
        query_len, document_len = -1, 0
        for part in pair.prompt.parts:
            if not isinstance(part, TextPart):
                chunks.append(part)
                continue
            if part.has_document:
                query_len = sum(map(len, chunks))
                if part.only_document:
                    chunks.append(ids[next(following)])
                    document_len = len(chunks[-1])
                else:
                    before, whole = ids[next(following)], ids[next(following)]
                    query_len += common_prefix(before, whole)
                    chunks.append(whole)
            else:
                chunks.append(ids[next(following)])
        return Draft(np.concatenate(chunks), query_len, document_len=document_len)

    def with_roles(self, pair: Pair, draft: Draft, side: Side) -> Draft:
        assert pair.prompt is not None
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for part in pair.prompt.parts:
            if not isinstance(part, TextPart):
                found.append((part, np.full(len(part), Role.TEMPLATE, np.int8)))
            elif part.only_document:
                own = draft.ids[draft.query_len : draft.query_len + draft.document_len]
                found.append((own, np.full(len(own), Role.DOCUMENT, np.int8)))
            else:
                ids, roles = self._tokens_of(part, pair)
                found.append((ids, roles) if side == "left" else self._with_words_behind(ids, roles, part, pair))
        return replace(
            draft, ids=np.concatenate([ids for ids, _ in found]), roles=np.concatenate([r for _, r in found])
        )

    def cuts_document_only(self, pair: Pair) -> bool:
        return self._cuts_document_only and pair.prompt is not None and pair.prompt.ends_with_document

    def fit(self, pair: Pair, roles: np.ndarray, limit: int, side: Side) -> Cut | None:
        return (fit_document if self.cuts_document_only(pair) else fit)(roles, limit, side)

    def _with_words_behind(
        self, ids: np.ndarray, roles: np.ndarray, part: TextPart, pair: Pair
    ) -> tuple[np.ndarray, np.ndarray]:
        """The words behind the document with the ids that they have behind any, as sentence-transformers finds them."""
        if not part.has_document or part.pieces[-1] is Placeholder.DOCUMENT:
            return ids, roles
        short, roles_of_short = self._tokens_of(part, replace(pair, document="0"))
        other, _ = self._tokens_of(part, replace(pair, document="1 2 3 4"))
        num_behind = common_prefix(short[::-1], other[::-1])
        document = np.flatnonzero(roles == Role.DOCUMENT)
        end = int(document[-1]) + 1 if len(document) else len(ids)
        if num_behind <= len(ids) - end:
            return ids, roles
        behind = slice(len(short) - num_behind, None)
        return np.concatenate([ids[:end], short[behind]]), np.concatenate([roles[:end], roles_of_short[behind]])

    def _tokens_of(self, part: TextPart, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        texts = pair.instruction, pair.query, pair.document
        encoding = self._tokenizer.encode(part.fill(*texts), add_special_tokens=False)
        offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        roles = np.zeros(len(offsets), np.int8)
        for placeholder, role in ((Placeholder.QUERY, Role.QUERY), (Placeholder.DOCUMENT, Role.DOCUMENT)):
            start, end = part.span(placeholder, *texts)
            roles[(offsets[:, 1] > start) & (offsets[:, 0] < end)] = role
        ids = np.array(encoding.ids, np.int32)
        hits = self._guard.find(ids)
        if not len(hits):
            return ids, roles
        return _spelled(ids, hits, self._guard), np.repeat(roles, _spelled_lengths(ids, hits, self._guard))


def _before_document(part: TextPart, pair: Pair) -> str:
    head = TextPart(part.pieces[: part.pieces.index(Placeholder.DOCUMENT)])
    return head.fill(pair.instruction, pair.query, "")


class TokenizerPairs:
    """Pairs in the tokenizer's own form, ``[CLS] query [SEP] document [SEP]``, with token types where it makes them."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        guard: SpecialIdGuard,
        *,
        type_ids: bool,
        causal: bool,
        cuts_document_only: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._cuts_document_only = cuts_document_only
        self._guard = guard
        self._type_ids = type_ids
        self._causal = causal

    def encode(self, pairs: Sequence[Pair]) -> list[Draft]:
        texts = [(pair.instruction + pair.query, pair.document) for pair in pairs]
        return [self._draft(encoding) for encoding in encode_all(self._tokenizer, texts, special=True)]

    def _draft(self, encoding: Any) -> Draft:
        ids = np.array(encoding.ids, np.int32)
        roles = np.array([0 if s is None else s + 1 for s in encoding.sequence_ids], np.int8)
        type_ids = np.array(encoding.type_ids, np.int32) if self._type_ids else None
        hits = self._guard.find(np.where(roles == Role.TEMPLATE, -1, ids))
        if len(hits):
            repeats = _spelled_lengths(ids, hits, self._guard)
            roles = np.repeat(roles, repeats)
            type_ids = None if type_ids is None else np.repeat(type_ids, repeats)
            ids = _spelled(ids, hits, self._guard)
        document = np.flatnonzero(roles == Role.DOCUMENT)
        query_len = int(document[0]) if self._causal and len(document) else 0
        return Draft(ids, query_len, type_ids, roles=roles)

    def with_roles(self, pair: Pair, draft: Draft, side: Side) -> Draft:
        return draft

    def cuts_document_only(self, pair: Pair) -> bool:
        return self._cuts_document_only

    def fit(self, pair: Pair, roles: np.ndarray, limit: int, side: Side) -> Cut | None:
        return (fit_document if self._cuts_document_only else fit_longest_first)(roles, limit, side)

    def encode_single(self, text: str, limit: int, truncate: bool, side: Side, where: FieldPath) -> Encoded:
        """One text by itself, with the tokens that the tokenizer puts around one, or why it cannot be read."""
        return self.encode_singles({text: (side, where)}, limit, truncate)[text]

    def encode_singles(
        self, texts: Mapping[str, tuple[Side, FieldPath]], limit: int, truncate: bool
    ) -> dict[str, Encoded]:
        """Texts by themselves; each comes with the end that may be cut and its path for errors.

        One that has no token, or is too long and may not be cut, is an error.
        """
        encodings = encode_all(self._tokenizer, list(texts), special=True)
        return {
            text: self._single(self._draft(encoding), limit, truncate, side, where)
            for (text, (side, where)), encoding in zip(texts.items(), encodings, strict=True)
        }

    def _single(self, draft: Draft, limit: int, truncate: bool, side: Side, where: FieldPath) -> Encoded:
        if not len(draft.ids):
            return no_tokens(where)
        if len(draft.ids) <= limit:
            return EncodedPair(draft.ids, draft.type_ids)
        if not truncate:
            message = f"{PARAM} has {len(draft.ids)} tokens, and the limit is {limit}."
            return InvalidRequestError(message, param=where)
        own = draft.roles if draft.roles is not None else np.zeros(len(draft.ids), np.int8)
        cut = fit(np.where(own == Role.TEMPLATE, Role.TEMPLATE, Role.DOCUMENT), limit, side)
        if cut is None:
            return InvalidRequestError(f"{PARAM}: a limit of {limit} leaves no room for the text.", param=where)
        type_ids = None if draft.type_ids is None else draft.type_ids[cut.keep]
        return EncodedPair(draft.ids[cut.keep], type_ids, truncated_document=True)


def spelled_out(ids: np.ndarray, guard: SpecialIdGuard) -> np.ndarray:
    """The ids of a text without ids of special tokens."""
    hits = guard.find(ids)
    return ids if not len(hits) else _spelled(ids, hits, guard)


def _spelled_lengths(ids: np.ndarray, hits: np.ndarray, guard: SpecialIdGuard) -> np.ndarray:
    lengths = np.ones(len(ids), np.int64)
    lengths[hits] = [len(guard.spell(int(ids[hit]))) for hit in hits]
    return lengths


def _spelled(ids: np.ndarray, hits: np.ndarray, guard: SpecialIdGuard) -> np.ndarray:
    """``ids`` with the ids at ``hits`` spelled out."""
    chunks, last = [], 0
    for hit in hits:
        chunks += [ids[last:hit], np.array(guard.spell(int(ids[hit])), np.int32)]
        last = int(hit) + 1
    return np.concatenate([*chunks, ids[last:]])
