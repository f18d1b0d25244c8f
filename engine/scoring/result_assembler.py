"""The way of a call back from the core: logits of pairs become results as the caller counts them, in whatever order
the steps finish; they are ranked here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import DeadlineExceededError, EngineError
from engine.messages import CallStats, EngineCoreOutput
from engine.model_spec import HeadSpec
from engine.outputs import ScoredSpan
from engine.request import CorePrompt, EncodedPair
from engine.scoring.activation import activate, probabilities, ranking
from engine.scoring.document_store import ScopedStore
from engine.scoring.expansion import PairTexts
from engine.scoring.pair_collector import PairCollector


@dataclass(frozen=True, slots=True)
class PairScore:
    """One result: the score of a document for a query, or of a whole prompt."""

    index: int
    """Number of the document in the call (of the prompt, of the pair where every document has its own query)."""
    logit: float
    """Results are ordered by this."""
    score: float
    """What the caller asked to see: after the head's activation, or the logit itself."""
    truncated: bool
    query_index: int = 0
    """Number of the query, where every query meets every document."""
    spans: tuple[ScoredSpan, ...] = ()
    """Of a document that was read in chunks: all of them, best first."""
    pair: int = 0
    """Number of the encoded pair whose score this is: of a chunked document, its best chunk."""
    unfamiliar: bool = False
    """The tokenizer hardly knows the query or the document, so the score says little."""


class ResultAssembler:
    """The results of one call. Each is settled once, by the output that brings the last of its pairs."""

    def __init__(
        self, head: HeadSpec, texts: PairTexts, pairs: Sequence[EncodedPair], store: ScopedStore | None = None
    ) -> None:
        """``pairs``: the encoded ones of ``texts``, from the first on; what was not encoded stays without a score.
        ``store``: of document vectors, for a late-interaction model."""
        self._head = head
        self._texts = texts
        self._pairs = pairs
        self._collector = PairCollector(head, pairs, store)
        self._scores = np.full(texts.num_pairs, np.nan)
        self._results: list[PairScore | None] = [None] * texts.call.num_pairs
        self._chunks: list[list[int]] | None = None
        """The pairs of each result, where there may be several."""
        if texts.spans is not None and texts.result_numbers is not None:
            self._chunks = [[] for _ in self._results]
            for pair, number in enumerate(texts.result_numbers):
                self._chunks[number].append(pair)
            self._num_missing = [len(chunks) for chunks in self._chunks]

    @property
    def prompts(self) -> Sequence[CorePrompt | EncodedPair]:
        """The prompts that the core is to compute for the call."""
        return self._collector.prompts

    @property
    def complete(self) -> bool:
        """Whether the core has answered every pair that it was given."""
        return self._collector.complete or not self._pairs

    @property
    def stats(self) -> CallStats | None:
        """The cost of the call, once it is complete."""
        return self._collector.stats

    def add(self, output: EngineCoreOutput) -> list[PairScore]:
        """The results that this output settles. Raises ``InvalidRequestError`` for a model with several labels."""
        scored = self._collector.add(output)
        logits = self._collector.logits[scored]
        call = self._texts.call
        activation = probabilities if call.probabilities else activate
        self._scores[scored] = logits if call.raw_scores else activation(logits, self._head)
        return [result for pair in scored if (result := self._settled_by(pair)) is not None]

    def _settled_by(self, pair: int) -> PairScore | None:
        number = self._texts.result_of(pair)
        if self._chunks is None:
            result = self._score(number, pair, self._pairs[pair].truncated)
        else:
            self._num_missing[number] -= 1
            if self._num_missing[number]:
                return None
            result = self._best(number, self._chunks[number])
        self._results[number] = result
        return result

    def _best(self, number: int, chunks: list[int]) -> PairScore:
        """The best chunk stands for the document; all of them are named, best first."""
        assert self._texts.spans is not None
        ordered = [chunks[i] for i in ranking(self._collector.logits[chunks]).tolist()]
        truncated = number in self._texts.cut_off or any(self._pairs[pair].truncated for pair in chunks)
        spans = [(self._texts.spans[pair], float(self._scores[pair])) for pair in ordered]
        named = tuple(ScoredSpan(span.start, span.end, score) for span, score in spans)
        return self._score(number, ordered[0], truncated, named if len(named) > 1 else ())

    def _score(self, number: int, pair: int, truncated: bool, spans: tuple[ScoredSpan, ...] = ()) -> PairScore:
        query, document = self._texts.call.position(number)
        logit, score = float(self._collector.logits[pair]), float(self._scores[pair])
        return PairScore(document, logit, score, truncated, query, spans, pair, self._pairs[pair].unfamiliar)

    @property
    def num_results(self) -> int:
        """Results that the call has, settled or not."""
        return len(self._results)

    def get(self, number: int) -> PairScore | None:
        """The result of that number; None until it is settled."""
        return self._results[number]

    def in_order(self) -> list[PairScore]:
        """The settled results, in the order of their numbers."""
        return [result for result in self._results if result is not None]

    def rankings(self) -> list[list[PairScore]]:
        """The settled results of each query that is ranked, best first, without those below the call's
        ``min_score``, cut to its ``top_n``."""
        call = self._texts.call
        rankings: list[list[PairScore]] = [[] for _ in range(len(call.queries) if call.every_query else 1)]
        for result in self.in_order():
            rankings[result.query_index].append(result)
        return [ranked(one, top_n=call.top_n, min_score=call.min_score) for one in rankings]

    def failed(self) -> dict[int, EngineError]:
        """The first error of each result that has one, about the field of the call; a passed deadline is none."""
        found: dict[int, EngineError] = dict(self._texts.refused)
        for pair, error in sorted(self._collector.errors.items()):
            if not isinstance(error, DeadlineExceededError):
                number = self._texts.result_of(pair)
                found.setdefault(number, error if error.path else error.at(self._texts.result_path(number)))
        return found

    def unscored(self) -> list[int]:
        """Numbers of the results that have neither a score nor an error: the call's own deadline came first."""
        failed = self.failed()
        return [i for i, result in enumerate(self._results) if result is None and i not in failed]


def ranked(
    results: Sequence[PairScore], *, top_n: int | None = None, min_score: float | None = None
) -> list[PairScore]:
    """Best first by the logit, ties by index, without those below ``min_score``, cut to ``top_n``."""
    order = ranking(np.fromiter((result.logit for result in results), np.float32, len(results)))
    kept = (results[i] for i in order.tolist())
    return [result for result in kept if min_score is None or result.score >= min_score][:top_n]
