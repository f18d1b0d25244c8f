"""``LLM.embed``: vectors of texts, in slices like pairs, from the same network that scores a bi-encoder's pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

from engine.entrypoints.offline.arguments import PairSettings
from engine.errors import RequestError
from engine.inputs.processor import InputProcessor
from engine.model_spec import HeadSpec
from engine.outputs import EmbeddingOutput, EmbeddingRequestOutput
from engine.request import Encoded, EncodedPair
from engine.scoring.document_store import ScopedStore
from engine.scoring.vectors import Vectors

TextSide = Literal["query", "document"]
"""Which prompt of the model is put before a text."""


@dataclass(frozen=True, slots=True)
class TextSlice:
    """Consecutive texts of one call."""

    first: int
    texts: Sequence[str]
    side: TextSide | None

    def encode(self, processor: InputProcessor, settings: PairSettings) -> list[Encoded]:
        """Token ids of the texts, or why one cannot be read. Raises ``RequestError`` for a model that embeds none."""
        return processor.encode_texts(self.texts, self.side, settings.options)

    def running(self, call_id: str, encoding: Future[list[Encoded]], adapter: str | None) -> RunningTexts:
        """The slice in flight."""
        return RunningTexts(call_id, self.first, encoding, adapter)


class RunningTexts:
    """A slice in flight: encoded by a thread, then computed by the core."""

    def __init__(self, call_id: str, first: int, encoding: Future[list[Encoded]], adapter: str | None) -> None:
        self.call_id, self.encoding, self.adapter = call_id, encoding, adapter
        self._first = first
        self.results: Vectors | None = None

    @property
    def complete(self) -> bool:
        """Whether every text of the slice is answered."""
        return self.results is not None and self.results.complete

    def start(self, head: HeadSpec, store: ScopedStore | None = None) -> list[EncodedPair]:
        """The prompts that the core is to compute. Raises ``RequestError`` where nothing can be."""
        readable = [one for one in self.encoding.result() if not isinstance(one, RequestError)]
        self.results = Vectors(len(readable))
        return readable

    def outputs(self, next_id: Callable[[], str]) -> Iterator[EmbeddingRequestOutput]:
        """One for each text, in input order; a text that failed has no vector but an error."""
        assert self.results is not None
        number = 0
        for place, one in enumerate(self.encoding.result()):
            if isinstance(one, RequestError):
                path = ("texts", self._first + place)
                yield EmbeddingRequestOutput(next_id(), EmbeddingOutput([]), [], error=str(one.at(path)))
                continue
            vector, error = self.results.vectors[number], self.results.errors.get(number)
            number += 1
            found = [] if vector is None else vector.tolist()
            why = None if vector is not None else str(error or "no vector")
            ids = one.token_ids.tolist()
            yield EmbeddingRequestOutput(next_id(), EmbeddingOutput(found), ids, one.truncated, error=why)
