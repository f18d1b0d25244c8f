"""The pairs of one ``LLM`` call travel in slices. A slice is a call like one of the server: the same ``scoring`` turns
it into token ids, and its logits into results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice

import numpy as np

from engine.entrypoints.offline.arguments import PairSettings, Prompt
from engine.errors import FieldPath, InvalidRequestError, RequestError
from engine.inputs.processor import InputProcessor
from engine.model_spec import HeadSpec
from engine.outputs import ScoringOutput, ScoringRequestOutput
from engine.pictures.loader import PictureLoader
from engine.request import Content, CorePrompt, EncodedPair, ImageSource, RerankCall
from engine.scoring.call_encoding import CallEncoding
from engine.scoring.document_store import ScopedStore
from engine.scoring.expansion import PairTexts
from engine.scoring.result_assembler import ResultAssembler

PromptPair = tuple[Prompt, Prompt]
"""The two sides of a pair: texts, or token ids."""


@dataclass(frozen=True, slots=True)
class EncodedSlice:
    """The token ids of a slice, and how its results follow from theirs."""

    texts: PairTexts
    pairs: list[EncodedPair]


@dataclass(frozen=True, slots=True)
class PairSlice:
    """Consecutive pairs of an ``LLM`` call."""

    first: int
    """Number of the first document, as the caller counts."""
    pairs: Sequence[PromptPair]
    pictures: PictureLoader
    """Of the model."""
    one_query: bool = True
    """All documents have the same query as the caller sees it, so a model that reads lists reads them together."""

    def encode(self, processor: InputProcessor, settings: PairSettings) -> EncodedSlice:
        """The token ids of the slice. Raises ``RequestError`` about a field as the caller counts."""
        queries, documents = [query for query, _ in self.pairs], [document for _, document in self.pairs]
        same = all(query is queries[0] for query in queries)
        if same and (self.one_query or not processor.reads_lists):
            del queries[1:]
        num_texts = sum(isinstance(prompt, str | Content) for prompt in (*queries, *documents))
        try:
            if num_texts == 0:
                return _encode_ids(processor, queries, documents, settings)  # type: ignore[arg-type]
            if num_texts < len(queries) + len(documents):
                raise InvalidRequestError("Both sides must be texts, or both token ids.")
            call = RerankCall(
                queries=[_text(query) for query in queries],
                documents=[_text(document) for document in documents],
                query_images=_images(queries),
                document_images=_images(documents),
                options=settings.options,
                chunks=settings.chunks,
            )
            encoding = CallEncoding(call, processor, pictures=self.pictures.load_all(call))
            for _ in encoding.slices(len(documents)):
                pass
        except RequestError as error:
            raise error.at(_counted_from(self.first, error.path)) from error
        return EncodedSlice(encoding.texts.without(encoding.errors), encoding.pairs)

    def running(self, call_id: str, encoding: Future[EncodedSlice], adapter: str | None) -> RunningSlice:
        """The slice in flight."""
        return RunningSlice(call_id, self.first, encoding, adapter)


def _text(prompt: Prompt) -> str:
    assert isinstance(prompt, str | Content)
    return prompt.text if isinstance(prompt, Content) else prompt


def _images(side: Sequence[Prompt]) -> list[tuple[ImageSource, ...]] | None:
    found = [prompt.images if isinstance(prompt, Content) else () for prompt in side]
    return found if any(found) else None


def _encode_ids(
    processor: InputProcessor, queries: list[list[int]], documents: list[list[int]], settings: PairSettings
) -> EncodedSlice:
    if settings.chunks is not None:
        raise InvalidRequestError("Only texts can be read in chunks, and these are token ids.", param="documents")
    call = RerankCall(queries=[], documents=[], prompts=list(documents))
    found = processor.encode_ids_each(queries, documents)
    errors = {i: pair for i, pair in enumerate(found) if isinstance(pair, RequestError)}
    pairs = [pair for pair in found if not isinstance(pair, RequestError)]
    return EncodedSlice(PairTexts.of(call).without(errors), pairs)


def _counted_from(first: int, path: FieldPath) -> FieldPath:
    match path:
        case ("queries" | "documents" as field, int(number), *inside):
            return field, first + number, *inside
    return path


def in_slices(
    pairs: Iterator[PromptPair], size: int | None, pictures: PictureLoader, *, one_query: bool = True
) -> Iterator[PairSlice]:
    """Slices of ``size`` pairs, read from ``pairs`` one slice at a time; None: one slice of all."""
    first = 0
    while part := list(islice(pairs, size)):
        yield PairSlice(first, part, pictures, one_query)
        first += len(part)


class RunningSlice:
    """A slice in flight: encoded by a thread, then scored by the core."""

    def __init__(self, call_id: str, first: int, encoding: Future[EncodedSlice], adapter: str | None) -> None:
        self.call_id = call_id
        self._first = first
        self.encoding = encoding
        self.adapter = adapter
        self.results: ResultAssembler | None = None
        """None until the slice is handed to the core."""

    @property
    def complete(self) -> bool:
        """Whether every pair of the slice is answered."""
        return self.results is not None and self.results.complete

    def start(self, head: HeadSpec, store: ScopedStore | None = None) -> Sequence[CorePrompt | EncodedPair]:
        """The prompts that the core is to compute. Raises ``RequestError`` where the slice cannot be encoded."""
        encoded = self.encoding.result()
        self.results = ResultAssembler(head, encoded.texts, encoded.pairs, store)
        return self.results.prompts

    def outputs(self, next_id: Callable[[], str]) -> Iterator[ScoringRequestOutput]:
        """One for each document, in input order; a pair that failed has no score but an error."""
        assert self.results is not None
        pairs, failed = self.encoding.result().pairs, self.results.failed()
        for number in range(self.results.num_results):
            found = self.results.get(number)
            if found is not None:
                outputs = ScoringOutput(found.score, found.logit)
                ids = pairs[found.pair].token_ids
                yield ScoringRequestOutput(
                    next_id(), outputs, ids, found.truncated, spans=found.spans, unfamiliar=found.unfamiliar
                )
                continue
            error = failed.get(number)
            if error is not None:
                error = error.at(_counted_from(self._first, error.path))
            yield ScoringRequestOutput(
                next_id(),
                ScoringOutput(np.nan, np.nan),
                np.zeros(0, np.int32),
                error=str(error or "no score"),
                cause=error,
            )
