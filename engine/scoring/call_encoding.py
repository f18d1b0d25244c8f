"""The way of a call to the core: its texts become token ids, a slice at a time, and the ids become one message."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.errors import RequestError
from engine.inputs.spans import Span
from engine.inputs.windows import EncodingAbortedError
from engine.messages import EngineCoreRequest
from engine.request import CorePrompt, EncodedPair, RerankCall
from engine.scoring.bi_encoder import distinct_texts
from engine.scoring.expansion import PairTexts
from engine.scoring.pair_processor import PairProcessor
from engine.scoring.pictures import LoadedPictures, picture_fields

STEP_CHARS = 2**18
"""Letters after which a step ends; one document is never divided."""


class CallEncoding:
    """The pairs of one call, as far as they are encoded."""

    def __init__(
        self,
        call: RerankCall,
        processor: PairProcessor,
        *,
        max_pairs: int | None = None,
        pictures: LoadedPictures | None = None,
    ) -> None:
        """``max_pairs``: most pairs that long documents may make of the call by being read in chunks. ``pictures``:
        those of the call."""
        self.call = call
        self.texts = PairTexts.of(call, pictures)
        """Chunked once the documents have been looked at."""
        self.pairs: list[EncodedPair] = []
        """In the order of ``texts``, without those that cannot be read; fewer while slices are missing."""
        self.errors: dict[int, RequestError] = {}
        """Why pairs cannot be read, by their numbers in ``texts``."""
        self._processor = processor
        self._max_pairs = max_pairs
        self._given_up = threading.Event()

    def slices(self, size: int) -> Iterator[int]:
        """Each step cuts or tokenises up to ``size`` documents, and says how many pairs there are so far.

        Fewer where documents are long, so that no step takes much longer than another. So a long call can take turns
        with others, and can be left where time is up. Steps may run in any thread, one at a time. Raises
        ``RequestError`` about a field of the call; what is wrong with one pair costs that pair alone. Raises
        ``EncodingAbortedError`` after ``give_up``.
        """
        if self.call.chunks is not None and self.call.prompts is None:
            chunks = replace(self.call.chunks, ceiling=self._max_pairs + 1) if self._max_pairs else self.call.chunks
            spans: list[list[Span]] = []
            for start, end in self._steps(size):
                spans += self.texts.chunk_spans(self._processor, chunks, start, end, self._given_up.is_set)
                yield 0
            self.texts = self.texts.cut(spans, self._max_pairs)
        lists = self._processor.reads_lists and self.call.prompts is None
        for start, end in self._steps(self.texts.list_size if lists else size, divided=not lists):
            if self._given_up.is_set():
                raise EncodingAbortedError
            for number, pair in enumerate(self.texts.encode(self._processor, start, end), start):
                if isinstance(pair, RequestError):
                    self.errors[number] = pair
                else:
                    self.pairs.append(pair)
            yield len(self.pairs)

    def give_up(self) -> None:
        """Gives the call up, since nobody waits for it: the step that runs ends soon, and no other begins."""
        self._given_up.set()

    def _steps(self, size: int, *, divided: bool = True) -> Iterator[tuple[int, int]]:
        """Where each step begins and ends: after ``size`` documents, or ``STEP_CHARS`` if they may be ``divided``."""
        texts: Sequence[Any] = self.texts.documents if self.texts.prompts is None else self.texts.prompts
        start = num_chars = 0
        for number, text in enumerate(texts):
            num_chars += len(text)
            if number + 1 - start == size or (divided and num_chars >= STEP_CHARS):
                yield start, number + 1
                start, num_chars = number + 1, 0
        if start < len(texts):
            yield start, len(texts)

    def scored_texts(self) -> PairTexts:
        """The texts of ``pairs``. Raises ``RequestError`` where slices left no pair to score at all."""
        texts = self.texts.without(self.errors)
        if texts.refused and not self.pairs:
            raise texts.refused[min(texts.refused)]
        return texts


def core_request(
    call_id: str,
    prompts: Sequence[CorePrompt | EncodedPair],
    *,
    arrival_s: float,
    priority: int = 0,
    deadline_s: float | None = None,
    adapter: str | None = None,
    cache_scope: str = "",
    backlog_tokens: int = 0,
) -> EngineCoreRequest:
    """All prompts of a call (``PairCollector.prompts``) as one message of flat arrays; for a bi-encoder the distinct
    texts of its pairs."""
    pairs = [prompt for prompt in prompts if isinstance(prompt, EncodedPair)]
    several = [prompt for prompt in prompts if isinstance(prompt, CorePrompt)]
    is_bi_encoder = bool(pairs) and pairs[0].bi_encoder
    texts = distinct_texts(pairs)[0] if is_bi_encoder else [prompt.token_ids for prompt in prompts]
    types = [pair.token_type_ids for pair in pairs if pair.token_type_ids is not None]
    has_hints = bool(pairs) and not is_bi_encoder
    query_lens = np.fromiter((pair.query_len for pair in pairs), np.int32, len(pairs)) if has_hints else None
    keys = [prompt.num_keys or len(prompt.token_ids) for prompt in several]
    token_ids = np.concatenate(texts).astype(np.int32, copy=False)
    return EngineCoreRequest(
        **({"token_ids": token_ids} | picture_fields(pairs, token_ids)),
        call_id=call_id,
        pair_lens=np.fromiter(map(len, texts), np.int32, len(texts)),
        read_offsets=np.concatenate([prompt.read_offsets for prompt in several]) if several else None,
        read_lens=np.array([len(prompt.read_offsets) for prompt in several], np.int32) if several else None,
        key_lens=np.array(keys, np.int32) if any(prompt.num_keys for prompt in several) else None,
        arrival_s=arrival_s,
        priority=priority,
        token_type_ids=np.concatenate(types).astype(np.int32, copy=False) if types else None,
        query_lens=query_lens,
        deadline_s=deadline_s,
        adapter=adapter,
        cache_scope=cache_scope,
        backlog_tokens=backlog_tokens,
    )
