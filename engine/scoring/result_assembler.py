"""The two ends of a trip through the core, shared by the server and the offline API: encoded pairs become one
``EngineCoreRequest``, and its outputs become scores again, in whatever order the steps finish them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import EngineError, NonFiniteScoreError, RequestError
from engine.messages import CallStats, EngineCoreOutput, EngineCoreRequest
from engine.model_spec import HeadSpec
from engine.request import EncodedPair
from engine.scoring.activation import activate, logits_of, ranking
from engine.scoring.bi_encoder import Cosines, distinct_texts

_INDEX = re.compile(r"\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class ScoredSpan:
    """A chunk of a document: its characters, and its score."""

    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class PairScore:
    """One scored pair. ``score`` is what the caller asked to see: activated, or the logit itself."""

    index: int
    logit: float
    score: float
    truncated: bool
    query_index: int = 0
    spans: tuple[ScoredSpan, ...] = ()
    """Of a document that was read in chunks: all of them, best first."""


def core_request(
    call_id: str,
    pairs: Sequence[EncodedPair],
    *,
    arrival_s: float,
    priority: int = 0,
    deadline_s: float | None = None,
    adapter: str | None = None,
    cache_scope: str = "",
    backlog_tokens: int = 0,
) -> EngineCoreRequest:
    """All pairs of a call as one message of flat arrays; the texts of the pairs where each is embedded by itself."""
    types = [pair.token_type_ids for pair in pairs if pair.token_type_ids is not None]
    apart = pairs[0].apart
    texts = distinct_texts(pairs)[0] if apart else [pair.token_ids for pair in pairs]
    query_lens = None if apart else np.fromiter((pair.query_len for pair in pairs), np.int32, len(pairs))
    return EngineCoreRequest(
        call_id=call_id,
        token_ids=np.concatenate(texts).astype(np.int32, copy=False),
        pair_lens=np.fromiter(map(len, texts), np.int32, len(texts)),
        arrival_s=arrival_s,
        priority=priority,
        token_type_ids=np.concatenate(types).astype(np.int32, copy=False) if types else None,
        query_lens=query_lens,
        deadline_s=deadline_s,
        adapter=adapter,
        cache_scope=cache_scope,
        backlog_tokens=backlog_tokens,
    )


class PairCollector:
    """Gathers the outputs of one call. Every pair ends as a score or as an error."""

    def __init__(self, head: HeadSpec, pairs: Sequence[EncodedPair], *, raw_scores: bool = False) -> None:
        self._head = head
        self._raw_scores = raw_scores
        self._truncated = [pair.truncated for pair in pairs]
        self._scores: list[PairScore | None] = [None] * len(pairs)
        self._cosines = Cosines(pairs) if pairs and pairs[0].apart else None
        self.errors: dict[int, EngineError] = {}
        self.stats: CallStats | None = None

    @property
    def complete(self) -> bool:
        return self.stats is not None

    def add(self, output: EngineCoreOutput) -> list[PairScore]:
        """The pairs that this output scored."""
        self.stats = output.stats or self.stats
        for index, error in output.errors.items():
            for pair in [index] if self._cosines is None else self._cosines.pairs_of(index):
                self.errors[pair] = error.rebuilt()
        if not len(output.indices):
            return []
        if self._cosines is None:
            indices, logits = output.indices.tolist(), logits_of(output.values, self._head)
        else:
            indices, logits = self._cosines.add(output.indices.tolist(), output.values)
        scores = logits if self._raw_scores else activate(logits, self._head)
        scored = []
        for index, logit, score in zip(indices, logits.tolist(), scores.tolist(), strict=True):
            if not np.isfinite(logit):
                self.errors[index] = NonFiniteScoreError(f"The model produced {logit} for pair {index}.")
                continue
            scored.append(PairScore(index, logit, score, self._truncated[index]))
            self._scores[index] = scored[-1]
        return scored

    def in_order(self) -> list[PairScore]:
        return [pair for pair in self._scores if pair is not None]

    def get(self, index: int) -> PairScore | None:
        return self._scores[index]


def ranked(pairs: Sequence[PairScore], *, top_n: int | None = None, min_score: float | None = None) -> list[PairScore]:
    """Best first by the logit, ties by index, without those below ``min_score``, cut to ``top_n``."""
    order = ranking(np.fromiter((pair.logit for pair in pairs), np.float32, len(pairs)))
    kept = (pairs[i] for i in order.tolist())
    return [pair for pair in kept if min_score is None or pair.score >= min_score][:top_n]


def shifted(error: RequestError, start: int) -> RequestError:
    """An error about document i of a slice, as the caller counts documents."""
    if start == 0 or not error.param:
        return error
    param = _INDEX.sub(lambda match: f"[{int(match[1]) + start}]", error.param, count=1)
    message = str(error).replace(error.param, param)
    return type(error)(message, param=param, retry_after_s=error.retry_after_s, code=error.code)
