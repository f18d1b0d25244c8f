"""A call may ask for more than one pair a document: every query with every document, or a long document in overlapping
chunks. Here its texts become the texts of plain pairs.

Two things are counted. A **pair** is what the core scores. A **result** is what the caller gets one score for: result
``q * num_documents + d`` where every query meets every document, else the document itself. A chunked document has
several pairs and one result; its score is that of its best chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from engine.errors import PARAM, FieldPath, InvalidRequestError, RequestError, TooLargeError
from engine.inputs.spans import Span
from engine.inputs.windows import never
from engine.request import ChunkOptions, Encoded, ImageSource, PairOptions, PairPictures, Picture, RerankCall
from engine.scoring.pair_processor import PairProcessor
from engine.scoring.pictures import LoadedPictures, pair_pictures, pictures_of_side


@dataclass(frozen=True, slots=True)
class PairTexts:
    """The texts of a call's pairs. ``queries`` has one entry or one a pair; whole prompts have no sides at all."""

    call: RerankCall
    queries: list[str]
    documents: list[str]
    options: PairOptions
    instructions: list[str | None] | None = None
    result_numbers: list[int] | None = None
    """The result that each pair belongs to; None: the pair's own number."""
    spans: list[Span] | None = None
    """Part of the document that each pair reads; None: all of it."""
    cut_off: frozenset[int] = frozenset()
    """Results whose document has more chunks than may be read."""
    prompts: list[str | list[int]] | None = None
    pictures: LoadedPictures | None = None
    """What became of the pictures of the call; None: there are none."""
    refused: Mapping[int, RequestError] = field(default_factory=dict)
    """Why results have no pair here, by their numbers; about fields of the call."""

    @classmethod
    def of(cls, call: RerankCall, pictures: LoadedPictures | None = None) -> PairTexts:
        """The pairs of a call whose documents are read whole."""
        queries, documents, instructions = call.queries, call.documents, call.instructions
        if call.every_query and len(queries) > 1:
            count = len(queries)
            queries = [query for query in queries for _ in documents]
            documents = documents * count
            instructions = instructions * count if instructions else None
        return cls(call, queries, documents, call.options, instructions, prompts=call.prompts, pictures=pictures)

    @property
    def num_pairs(self) -> int:
        """Pairs for the core; more than ``call.num_pairs`` where documents are read in chunks."""
        return len(self.documents if self.prompts is None else self.prompts)

    def result_of(self, pair: int) -> int:
        """The number of the result that a pair belongs to."""
        return pair if self.result_numbers is None else self.result_numbers[pair]

    @property
    def list_size(self) -> int:
        """Pairs that belong together for a model that reads lists: one query's, or one pair where each has its own."""
        call = self.call
        return len(call.documents) if call.every_query or len(call.queries) == 1 else 1

    def encode(self, processor: PairProcessor, start: int, end: int) -> list[Encoded]:
        """The pairs from ``start`` to ``end``: token ids, or why one cannot be read.

        Raises ``RequestError`` about a field of the call that all of them share.
        """
        with self._about_the_call(start):
            if self.prompts is not None:
                found = processor.encode_prompts_each(self.prompts[start:end], self.options)
            else:
                queries, documents, instructions = self._sides(start, end)
                if processor.reads_lists:
                    queries = queries[:1]
                if self.pictures is not None:
                    return self._encode_with_pictures(processor, start, end)
                found = processor.encode_each(queries, documents, self.options, instructions)
        return [self._located(pair, start) if isinstance(pair, RequestError) else pair for pair in found]

    def _encode_with_pictures(self, processor: PairProcessor, start: int, end: int) -> list[Encoded]:
        """As ``encode``; a document whose picture cannot be read has its error, as all of its list have where lists are
        read, and so has a pair with a query of its own. Raises the error about the picture of a query that others use.
        """
        errors: dict[int, Encoded] = {}
        seen: dict[int, PairPictures | None] = {}
        for pair in range(start, end):
            try:
                seen[pair] = self._pictures_of(pair, start)
            except RequestError as error:
                is_shared = error.path[:1] != ("documents",) and not self._has_own_query
                if is_shared or processor.reads_lists:
                    raise
                errors[pair] = error
        if not seen:
            found: Sequence[Encoded] = ()
        else:
            several = len(self.queries) > 1 and not processor.reads_lists
            found = processor.encode_each(
                [self.queries[pair] for pair in seen] if several else self.queries[:1],
                [self.documents[pair] for pair in seen],
                self.options,
                [self.instructions[pair] for pair in seen] if self.instructions else None,
                *([list(seen.values())] if any(seen.values()) else []),
            )
        places = {place: pair - start for place, pair in enumerate(seen)}
        errors |= {
            pair: one.at(_renumbered(one.path, places)) if isinstance(one, RequestError) else one
            for pair, one in zip(seen, found, strict=True)
        }
        encoded = (errors[pair] for pair in range(start, end))
        return [self._located(one, start) if isinstance(one, RequestError) else one for one in encoded]

    def _pictures_of(self, pair: int, start: int) -> PairPictures | None:
        """Raises ``RequestError`` about the query or the document, counted from ``start``."""
        query, document = self._images_of(pair)
        shown = self._shown(query, self._query_path(pair, start))
        found = pair_pictures(shown, self._shown(document, ("documents", pair - start)))
        if found is not None and self.call.chunks is not None:
            raise not_in_chunks(("documents", pair - start))
        return found

    @property
    def _has_own_query(self) -> bool:
        """Each pair has: the call is N:N."""
        return len(self.call.queries) > 1 and not self.call.every_query

    def _query_path(self, pair: int, start: int) -> FieldPath:
        return ("queries", pair - start) if len(self.queries) > 1 else ("query",)

    def _shown(self, sources: Sequence[ImageSource], where: FieldPath) -> tuple[Picture, ...]:
        return pictures_of_side(sources, self.pictures or {}, where)

    def _images_of(self, pair: int) -> tuple[Sequence[ImageSource], Sequence[ImageSource]]:
        """The pictures of a pair's query, and of its document."""
        call = self.call
        query, document = call.position(self.result_of(pair))
        if self._has_own_query:
            query = document
        return (
            call.query_images[query] if call.query_images else (),
            call.document_images[document] if call.document_images else (),
        )

    def chunk_spans(
        self, processor: PairProcessor, chunks: ChunkOptions, start: int, end: int, stop: Callable[[], bool] = never
    ) -> list[list[Span]]:
        """How the documents from ``start`` to ``end`` are cut.

        Raises ``RequestError`` about a field of the call, and ``EncodingAbortedError`` once ``stop`` says so.
        """
        with self._about_the_call(start):
            for pair in range(start, end):
                if self._images_of(pair)[0]:
                    raise not_in_chunks(self._query_path(pair, start))
            queries, documents, instructions = self._sides(start, end)
            return processor.chunk_spans(documents, queries, chunks, self.options, instructions, stop)

    def cut(self, chunks: Sequence[Sequence[Span]], max_pairs: int | None = None) -> PairTexts:
        """These texts with each document read in its chunks.

        Raises ``TooLargeError`` where that makes more than ``max_pairs`` pairs.
        """
        cut_off = frozenset(i for i, spans in enumerate(chunks) if _covers_less(spans, self.documents[i]))
        if not cut_off and all(len(spans) == 1 for spans in chunks):
            return self
        num_pairs = sum(map(len, chunks))
        if max_pairs is not None and num_pairs > max_pairs:
            raise TooLargeError(
                f"The documents make {num_pairs} chunks at least, more than the {max_pairs} that one call may have "
                "(--max-documents). Ask for longer chunks, or set max_chunks_per_doc.",
                param="documents",
            )
        numbers = [number for number, spans in enumerate(chunks) for _ in spans]
        return PairTexts(
            self.call,
            [self.queries[number] for number in numbers] if len(self.queries) > 1 else self.queries,
            [self.documents[number][span.start : span.end] for number, spans in enumerate(chunks) for span in spans],
            replace(self.options, max_tokens_per_doc=0),
            [self.instructions[number] for number in numbers] if self.instructions else None,
            numbers,
            [span for spans in chunks for span in spans],
            cut_off,
            pictures=self.pictures,
        )

    def without(self, errors: Mapping[int, RequestError]) -> PairTexts:
        """The pairs that have none of ``errors``; a result that loses all its pairs is ``refused``."""
        if not errors:
            return self
        kept = [pair for pair in range(self.num_pairs) if pair not in errors]
        numbers = [self.result_of(pair) for pair in kept]
        refused: dict[int, RequestError] = {}
        for pair in sorted(errors):
            refused.setdefault(self.result_of(pair), errors[pair])
        for number in numbers:
            refused.pop(number, None)
        return replace(
            self,
            queries=[self.queries[pair] for pair in kept] if len(self.queries) > 1 else self.queries,
            documents=[] if self.prompts is not None else [self.documents[pair] for pair in kept],
            instructions=[self.instructions[pair] for pair in kept] if self.instructions else None,
            result_numbers=numbers,
            spans=[self.spans[pair] for pair in kept] if self.spans is not None else None,
            prompts=[self.prompts[pair] for pair in kept] if self.prompts is not None else None,
            refused=refused,
        )

    def result_path(self, number: int) -> FieldPath:
        """The field of the call that result ``number`` is about."""
        if self.call.prompts is not None:
            return "prompts", number
        return "documents", self.call.position(number)[1]

    def _sides(self, start: int, end: int) -> tuple[list[str], list[str], list[str | None] | None]:
        queries = self.queries[start:end] if len(self.queries) > 1 else self.queries
        return queries, self.documents[start:end], self.instructions[start:end] if self.instructions else None

    @contextmanager
    def _about_the_call(self, start: int) -> Iterator[None]:
        """An error about a slice that begins with pair ``start`` becomes one about the call."""
        try:
            yield
        except RequestError as error:
            located = self._located(error, start)
            if located is error:
                raise
            raise located from error

    def _located(self, error: RequestError, start: int) -> RequestError:
        path = self._callers_path(error.path, start)
        return error if path == error.path else error.at(path)

    def _callers_path(self, path: FieldPath, start: int) -> FieldPath:
        """``("documents", 0)`` of a slice -> the document's number in the call. Other fields are the call's already."""
        match path:
            case ("prompts", int(i), *inside):
                return "prompts", start + i, *inside
            case ("queries" | "documents" | "instructions" as side, int(i), *inside):
                query, document = self.call.position(self.result_of(start + i))
            case ("query", *inside):
                side = "queries"
                query, document = self.call.position(self.result_of(start))
            case _:
                return path
        if side != "queries":
            return side, document, *inside
        if len(self.call.queries) == 1:
            return "query", *inside
        return side, query if self.call.every_query else document, *inside


def not_in_chunks(where: FieldPath) -> InvalidRequestError:
    """The error about a side with pictures of a call that wants its documents in chunks."""
    return InvalidRequestError(f"{PARAM} is scored with pictures, and then not in chunks.", param=where)


def _renumbered(path: FieldPath, places: Mapping[int, int]) -> FieldPath:
    """A field of some pairs of a slice, as the slice numbers it."""
    match path:
        case ("queries" | "documents" | "instructions" as side, int(place), *inside):
            return side, places[place], *inside
    return path


def _covers_less(spans: Sequence[Span], text: str) -> bool:
    return bool(text[: spans[0].start].strip() or text[spans[-1].end :].strip())
