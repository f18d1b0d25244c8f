"""Documents for a listwise model: many of them in one prompt, each read at a token of its own (``Block``).

Order is part of the input: a document sees those before it, and its number stands in its prompt. A list is filled into
blocks as jina-reranker-v3's own ``rerank`` does: one document after the other, until a block has as many as it may, or
less room than one more long document needs. Here a block also never exceeds the model's length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from tokenizers import Tokenizer

from engine.errors import PARAM, ConfigError, FieldPath, InvalidRequestError, RequestError
from engine.inputs.checks import check_text, no_tokens, query_path
from engine.inputs.encoder import TextEncoder
from engine.inputs.pair_encoder import Pair, spelled_out
from engine.inputs.spans import Span
from engine.inputs.truncation import Side, cut_texts, may_exceed
from engine.model_spec import ModelSpec
from engine.prompts import listwise as prompt
from engine.prompts.compiled import SpecialIdGuard
from engine.prompts.listwise import ListwiseLimits
from engine.request import ChunkOptions, CorePrompt, Encoded, EncodedPair, PairOptions


@dataclass(frozen=True, slots=True, eq=False)
class _List:
    """The texts of one list, cut to the model's limits."""

    key: object
    """Tells the list from others."""
    query: str
    instruction: str
    numbers: list[int]
    """Of the documents in the call."""
    documents: list[str]
    query_len: int
    lens: list[int]
    """Tokens of each document by itself."""
    cut_query: bool
    cut: set[int]
    """Numbers of documents that were cut."""


class ListwiseEncoder:
    """Any thread may call it."""

    def __init__(self, tokenizer: Tokenizer, limits: ListwiseLimits, max_model_len: int) -> None:
        """Must see the tokenizer while its special tokens still count. Raises ``ConfigError`` where it lacks some."""
        missing = [token for token in prompt.SPECIAL_TOKENS if tokenizer.token_to_id(token) is None]
        if missing:
            raise ConfigError(
                f"The tokenizer has no token {missing[0]!r}, at which the prompt of a listwise model is read. Take the "
                "tokenizer that was published with the model.",
                param="tokenizer",
            )
        self._tokenizer = tokenizer
        self._limits, self._max_model_len = limits, max_model_len
        self._start, self._end, self._document_read, self._query_read = (
            np.array([tokenizer.token_to_id(token)], np.int32) for token in prompt.SPECIAL_TOKENS
        )

    def prepare(self, encoder: TextEncoder, guard: SpecialIdGuard) -> None:
        """Finishes the start once the tokenizer treats special tokens in texts as ordinary text."""
        self._encoder, self._guard = encoder, guard
        system, newline = self._ids([f"system\n{prompt.SYSTEM}", "\n"])
        self._head = np.concatenate([self._start, system, self._end, newline, self._start])

    @property
    def constant_prefix(self) -> np.ndarray:
        """(n,) int32: what every prompt begins with."""
        fixed = prompt.first_piece(1, "", "").partition("1 passages")[0]
        return np.concatenate([self._head, self._ids([fixed.rstrip()])[0]])

    def encode(self, pairs: Mapping[int, Pair], limit: int, options: PairOptions) -> dict[int, Encoded]:
        """The pairs, by their numbers; those with the same ``Pair.list_number`` are one list, in order.

        A document that cannot be read is an error in its place, and the others' list goes on without it.
        """
        lists: dict[int, dict[int, Pair]] = {}
        for i, pair in pairs.items():
            lists.setdefault(pair.list_number, {})[i] = pair
        found: dict[int, Encoded] = {}
        for number, members in lists.items():
            where = query_path(number, len(lists) if number == 0 else number + 1)
            found |= self._encode_list(members, number, where, limit, options)
        return found

    def whole_spans(self, documents: Sequence[str], chunks: ChunkOptions) -> list[list[Span]]:
        """Every document as one chunk. Raises ``InvalidRequestError`` for one that would be several."""
        for i, document in enumerate(documents):
            check_text(document, ("documents", i))
        room = min(chunks.tokens or self._max_model_len, self._limits.document_tokens)
        for i, document in enumerate(documents):
            if may_exceed(document, room) and len(self._ids([document])[0]) > room:
                raise InvalidRequestError(
                    f"{PARAM} is longer than {room} tokens, and this model reads the documents of a call together: "
                    "chunks of one would compete with the other documents. Let it be truncated, or send its parts as "
                    "documents of their own.",
                    param=("documents", i),
                )
        return [[Span(0, len(document))] for document in documents]

    def _encode_list(
        self, pairs: dict[int, Pair], number: int, where: FieldPath, limit: int, options: PairOptions
    ) -> dict[int, Encoded]:
        if len({pair.instruction for pair in pairs.values()}) > 1:
            raise InvalidRequestError(
                "This model reads the documents of a call together, in one prompt with one instruction. Give one "
                "instruction for the call.",
                param="instructions",
            )
        pair = next(iter(pairs.values()))
        query, instruction = prompt.without_marks(pair.query), prompt.without_marks(pair.instruction)
        if not query.strip():
            return dict.fromkeys(pairs, no_tokens(where))
        short = self._cut({0: query}, self._limits.query_tokens, {0: where}, "right", options)[0]
        if isinstance(short, RequestError):
            return dict.fromkeys(pairs, short)
        documents = {i: prompt.without_marks(pair.document) for i, pair in pairs.items()}
        paths: dict[int, FieldPath] = {i: ("documents", i) for i in pairs}
        cut = self._cut(documents, self._limits.document_tokens, paths, options.truncation_side, options)
        found: dict[int, Encoded] = {i: text for i, text in cut.items() if isinstance(text, RequestError)}
        kept = {i: text for i, text in cut.items() if not isinstance(text, RequestError)}
        lens = [len(ids) for ids in self._ids([short, *kept.values()])]
        texts = _List(
            object(),
            short,
            instruction,
            list(kept),
            list(kept.values()),
            lens[0],
            lens[1:],
            query != short,
            {i for i, text in kept.items() if text != documents[i]},
        )
        start = 0
        while start < len(kept):
            encoded = self._next_block(texts, start, limit, options)
            found |= dict(zip(texts.numbers[start:], encoded, strict=False))
            start += len(encoded)
        return found

    def _cut(
        self, texts: dict[int, str], limit: int, paths: Mapping[int, FieldPath], side: Side, options: PairOptions
    ) -> dict[int, str | RequestError]:
        """The texts within ``limit`` tokens, or why one may not be cut."""
        long = [i for i, text in texts.items() if may_exceed(text, limit)]
        short = cut_texts(self._tokenizer, [texts[i] for i in long], limit, side) if long else []
        found: dict[int, str | RequestError] = dict(texts)
        for i, text in zip(long, short, strict=True):
            found[i] = text
            if text != texts[i] and not options.truncate:
                found[i] = InvalidRequestError(
                    f"{PARAM} is longer than the {limit} tokens that this model takes of it. Shorten it, or let it be "
                    "truncated.",
                    param=paths[i],
                )
        return found

    def _next_block(self, texts: _List, start: int, limit: int, options: PairOptions) -> list[Encoded]:
        """The documents from ``start`` on that go into one prompt."""
        end = self._end_of_block(texts, start, limit)
        while True:
            parts = self._parts(texts, start, end)
            lens = np.array([len(part) for part in parts]).cumsum()
            if lens[-1] <= limit:
                return self._pairs(texts, start, parts)
            fitting = int((lens[:-1] <= limit - len(parts[-1])).sum())
            if not fitting:
                return [self._alone(texts, start, limit, options)]
            end = start + min(fitting, end - start - 1)

    def _end_of_block(self, texts: _List, start: int, limit: int) -> int:
        capacity, most = min(self._max_model_len, limit) - 2 * texts.query_len, self._limits.documents
        end = start
        while end < len(texts.documents) and end - start < most:
            capacity -= texts.lens[end]
            end += 1
            if capacity <= self._limits.document_tokens:
                break
        return end

    def _alone(self, texts: _List, start: int, limit: int, options: PairOptions) -> Encoded:
        """A document that does not fit with the query into the limit, cut."""
        where: FieldPath = ("documents", texts.numbers[start])
        document, num_tokens = texts.documents[start], texts.lens[start]
        parts = self._parts(texts, start, start + 1)
        whole = sum(map(len, parts))
        lengths = f"{PARAM}: the prompt with this document alone has {whole} tokens, and the limit is {limit}"
        if not options.truncate:
            return InvalidRequestError(f"{lengths}. Shorten it, or let it be truncated.", param=where)
        while whole > limit:
            num_tokens -= whole - limit
            if num_tokens < 1:
                return InvalidRequestError(f"{lengths}, which leaves no room for query and document.", param=where)
            (document,) = cut_texts(self._tokenizer, [document], num_tokens, options.truncation_side)
            texts.documents[start] = document
            parts = self._parts(texts, start, start + 1)
            whole = sum(map(len, parts))
        texts.cut.add(texts.numbers[start])
        return self._pairs(texts, start, parts)[0]

    def _parts(self, texts: _List, start: int, end: int) -> list[np.ndarray]:
        """The ids of a prompt in parts, one for each document and one for the query; each ends with a token read."""
        documents = texts.documents[start:end]
        pieces = prompt.document_pieces(documents)
        pieces[0] = prompt.first_piece(len(documents), texts.query, texts.instruction) + pieces[0]
        *bodies, query = self._ids([*pieces, prompt.last_piece(texts.query)])
        parts = [np.concatenate([body, self._document_read]) for body in bodies]
        parts[0] = np.concatenate([self._head, parts[0]])
        return [*parts, np.concatenate([query, self._query_read])]

    def _pairs(self, texts: _List, start: int, parts: Sequence[np.ndarray]) -> list[Encoded]:
        lens = np.array([len(part) for part in parts])
        block = CorePrompt(np.concatenate(parts), (lens.cumsum() - 1).astype(np.int32), list_key=texts.key)
        lens[-2] += lens[-1]  # the tokens of the query's part count for the last document
        return [
            EncodedPair(
                block.token_ids,
                truncated_document=texts.numbers[start + i] in texts.cut,
                truncated_query=texts.cut_query,
                prompts=(block,),
                num_own_tokens=int(num_tokens),
            )
            for i, num_tokens in enumerate(lens[:-1])
        ]

    def _ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        ids, bounds = self._encoder.encode_batch(texts)
        return [spelled_out(ids[begin:end], self._guard) for begin, end in pairwise(bounds.tolist())]


def listwise_limits(spec: ModelSpec, documents: int | None) -> ListwiseLimits | None:
    """The limits of a listwise model; None for others.

    ``documents``: ``--max-docs-per-block``. Raises ``ConfigError`` where it is given for another model.
    """
    if spec.head.kind != "listwise":
        if documents is not None:
            raise ConfigError(
                f"--max-docs-per-block is for models that read many documents in one prompt, and {spec.name} does not.",
                param="max_docs_per_block",
            )
        return None
    limits = prompt.V35_LIMITS if spec.config.get("use_sliding_window") else prompt.V3_LIMITS
    return limits if documents is None else replace(limits, documents=documents)
