"""A call may ask for more than one pair a document: every query with every document, or a long document in overlapping
chunks. Here it becomes plain pairs, and their scores become one result a document again.

Three things are counted. A **pair** is what the core scores. A **place** is what the caller gets one score for: place
``q * num_documents + d`` where every query meets every document, else the document itself. A chunked document has
several pairs and one place; its score is that of its best chunk.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from engine.errors import EngineError, RequestError, TooLargeError
from engine.inputs.spans import Span
from engine.request import PairOptions, RerankCall
from engine.scoring.result_assembler import PairScore, ScoredSpan

_INDEXED = re.compile(r"(queries|documents|instructions)\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class PairTexts:
    """Texts to encode; ``queries`` has one entry or one a document."""

    queries: list[str]
    documents: list[str]
    options: PairOptions
    instructions: list[str | None] | None = None
    owners: list[int] | None = None
    """Place of each pair; None: the pair's own number."""
    spans: list[Span] | None = None
    """Part of the document that each pair reads."""
    cut_off: frozenset[int] = frozenset()
    """Places whose document has more chunks than may be read."""

    @classmethod
    def of(cls, call: RerankCall) -> PairTexts:
        queries, documents, instructions = call.queries, call.documents, call.instructions
        if call.every_query and len(queries) > 1:
            count = len(queries)
            queries = [query for query in queries for _ in documents]
            documents = documents * count
            instructions = instructions * count if instructions else None
        return cls(queries, documents, call.options, instructions)

    def part(self, start: int, end: int) -> PairTexts:
        return replace(
            self,
            queries=self.queries[start:end] if len(self.queries) > 1 else self.queries,
            documents=self.documents[start:end],
            instructions=self.instructions[start:end] if self.instructions else None,
        )

    def cut(self, chunks: Sequence[Sequence[Span]], most_pairs: int) -> PairTexts:
        """The same with each document read in these chunks."""
        cut_off = frozenset(i for i, spans in enumerate(chunks) if _covers_less(spans, self.documents[i]))
        if not cut_off and all(len(spans) == 1 for spans in chunks):
            return self
        num_pairs = sum(map(len, chunks))
        if num_pairs > most_pairs:
            raise TooLargeError(
                f"The documents make {num_pairs} chunks, more than the {most_pairs} that one call may have "
                "(--max-documents). Ask for longer chunks, or set max_chunks_per_doc.",
                param="documents",
            )
        owners = [place for place, spans in enumerate(chunks) for _ in spans]
        return PairTexts(
            [self.queries[place] for place in owners] if len(self.queries) > 1 else self.queries,
            [self.documents[place][span.start : span.end] for place, spans in enumerate(chunks) for span in spans],
            replace(self.options, max_tokens_per_doc=0),
            [self.instructions[place] for place in owners] if self.instructions else None,
            owners,
            [span for spans in chunks for span in spans],
            cut_off,
        )

    def place(self, pair: int) -> int:
        return pair if self.owners is None else self.owners[pair]


def _covers_less(spans: Sequence[Span], text: str) -> bool:
    return bool(text[: spans[0].start].strip() or text[spans[-1].end :].strip())


class Places:
    """Scores of pairs on their way to scores of places; every place is settled once, whatever order steps finish in."""

    def __init__(self, call: RerankCall, texts: PairTexts | None) -> None:
        self._num_documents = len(call.documents) if call.every_query else call.num_pairs
        self._texts = texts
        self._scores: list[PairScore | None] = [None] * call.num_pairs
        self._parts: dict[int, list[PairScore]] = {}
        owners = texts.owners if texts is not None else None
        self._open: dict[int, int] = {}
        for place in owners or ():
            self._open[place] = self._open.get(place, 0) + 1

    def add(self, scored: Sequence[PairScore]) -> list[PairScore]:
        """The places that these pairs settle."""
        settled = []
        for pair in scored:
            place = pair.index
            if self._texts is not None and self._texts.owners is not None:
                place = self._texts.owners[pair.index]
                self._parts.setdefault(place, []).append(pair)
                if len(self._parts[place]) < self._open[place]:
                    continue
                pair = self._best(place)
            query, document = divmod(place, self._num_documents)
            self._scores[place] = pair = replace(pair, index=document, query_index=query)
            settled.append(pair)
        return settled

    def _best(self, place: int) -> PairScore:
        """The best chunk stands for the document; all of them are remembered, best first."""
        assert self._texts is not None
        assert self._texts.spans is not None
        parts = sorted(self._parts.pop(place), key=lambda pair: (-pair.logit, pair.index))
        spans = [self._texts.spans[pair.index] for pair in parts]
        truncated = place in self._texts.cut_off or any(pair.truncated for pair in parts)
        scored = tuple(ScoredSpan(span.start, span.end, pair.score) for span, pair in zip(spans, parts, strict=True))
        return replace(parts[0], truncated=truncated, spans=scored if len(parts) > 1 else ())

    def in_order(self) -> list[PairScore]:
        return [pair for pair in self._scores if pair is not None]

    def by_query(self, num_queries: int) -> list[list[PairScore]]:
        """The settled places of each query."""
        groups: list[list[PairScore]] = [[] for _ in range(num_queries)]
        for pair in self.in_order():
            groups[pair.query_index].append(pair)
        return groups

    def missing(self) -> list[int]:
        return [place for place, pair in enumerate(self._scores) if pair is None]

    def errors(self, by_pair: dict[int, EngineError]) -> dict[int, EngineError]:
        """The first error of each place."""
        found: dict[int, EngineError] = {}
        for pair, error in sorted(by_pair.items()):
            found.setdefault(pair if self._texts is None else self._texts.place(pair), error)
        return found


def named_by_caller(error: RequestError, call: RerankCall, texts: PairTexts) -> RequestError:
    """An error about pair i, as the caller counts queries and documents."""
    match = _INDEXED.match(error.param or "")
    if match is None or not error.param:
        return error
    place = texts.place(int(match[2]))
    if call.every_query:
        query, document = divmod(place, len(call.documents))
        place = query if match[1] == "queries" else document
    return renamed(error, f"{match[1]}[{place}]{error.param[match.end() :]}")


E = TypeVar("E", bound=EngineError)


def renamed(error: E, param: str) -> E:
    """The same error about a field of another name."""
    if param == error.param or not error.param:
        return error
    message = str(error).replace(error.param, param)
    return type(error)(message, param=param, retry_after_s=error.retry_after_s, code=error.code)
