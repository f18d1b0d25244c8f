"""A core and a tokenizer without a model: a pair's logit is a hash of its token ids, so every score can be foretold."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

import numpy as np

from engine.errors import PARAM, EngineDeadError, EngineError, InvalidRequestError
from engine.inputs.spans import Span, TextToken
from engine.inputs.windows import EncodingAbortedError, never
from engine.messages import CallStats, EngineCoreOutput, EngineCoreRequest, Operation, SchedulerStats, WireError
from engine.model_spec import HeadSpec, ModelSpec
from engine.request import ChunkOptions, Encoded, EncodedPair, PairOptions, PairPictures
from engine.step import WorkerInfo

SPEC = ModelSpec(
    name="org/fake-reranker",
    path="",
    tokenizer_path="",
    model_type="qwen3",
    head=HeadSpec(kind="from_2_way_softmax", token_ids=(2152, 9693), tokens=("no", "yes")),
    causal=True,
    max_model_len=4096,
    vocab_size=60_000,
)
INFO = WorkerInfo(
    device="cpu",
    dtype="float32",
    kv_capacity=0,
    kv_bytes_per_token=0,
    max_num_batched_tokens=1024,
    num_outputs=1,
    weight_bytes=0,
    load_s=0.0,
)


def token_of(word: str) -> int:
    return zlib.crc32(word.encode()) % SPEC.vocab_size


def expected_logit(query: str, document: str, instruction: str = "") -> float:
    return float(logit_of(np.array(_ids(instruction, query, document), np.int32)))


def expected_score(query: str, document: str, instruction: str = "") -> float:
    return float(1 / (1 + np.exp(-np.float64(expected_logit(query, document, instruction)))))


def logit_of(ids: np.ndarray) -> np.float32:
    return np.float32(zlib.crc32(ids.tobytes()) % 20_001 / 1000 - 10)


def marked(pictures: PairPictures | None) -> tuple[str, str]:
    """A word for each picture of a query, and of its document: its size."""
    query, document = ("".join(f"{one.num_down}x{one.num_across} " for one in side) for side in pictures or ((), ()))
    return query, document


def _ids(*texts: str) -> list[int]:
    return [1, *(token for text in texts for token in (*map(token_of, text.split()), 2))]


class FakeProcessor:
    """Words are tokens. A document longer than ``max_tokens_per_doc`` words is cut."""

    min_pair_tokens = 5

    reads_lists = False

    def __init__(self) -> None:
        self.num_encoded = 0
        self.constant_prefix = np.array([1], np.int32)

    def encode_texts(self, *arguments: Any) -> list[Any]:
        raise InvalidRequestError("This model scores pairs.")

    def encode_each(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        options: PairOptions,
        instructions: Sequence[str | None] | None = None,
        pictures: Sequence[PairPictures | None] | None = None,
    ) -> list[Encoded]:
        self.num_encoded += len(documents)
        seen = [marked(both) for both in pictures or [None] * len(documents)]
        return [
            self._pair(
                seen[i][0] + queries[i if len(queries) > 1 else 0],
                seen[i][1] + document,
                options,
                i,
                instructions and instructions[i],
            )
            for i, document in enumerate(documents)
        ]

    def _pair(self, query: str, document: str, options: PairOptions, index: int, instruction: str | None) -> Encoded:
        limit = options.max_tokens_per_doc or SPEC.max_model_len
        words = document.split()
        if len(words) > limit and not options.truncate:
            return InvalidRequestError(f"{PARAM} is too long", param=("documents", index))
        ids = _ids(instruction or options.instruction or "", query, " ".join(words[:limit]))
        return EncodedPair(np.array(ids, np.int32), query_len=2, truncated_document=len(words) > limit)

    def encode_prompts_each(self, prompts: Sequence[str | list[int]], options: PairOptions) -> list[EncodedPair]:
        self.num_encoded += len(prompts)
        return [
            EncodedPair(np.array(prompt if isinstance(prompt, list) else self.tokenize(prompt), np.int32))
            for prompt in prompts
        ]

    def chunk_spans(
        self,
        documents: Sequence[str],
        queries: Sequence[str],
        chunks: ChunkOptions,
        options: PairOptions,
        instructions: Sequence[str | None] | None = None,
        stop: Callable[[], bool] = never,
    ) -> list[list[Span]]:
        """Chunks of ``chunks.tokens`` words, each beginning with the last word of the one before."""
        size = chunks.tokens or 100
        return [self._spans(document, size)[: chunks.most or None] for document in documents]

    @staticmethod
    def _spans(document: str, size: int) -> list[Span]:
        words = [match.span() for match in re.finditer(r"\S+", document)]
        if len(words) <= size:
            return [Span(0, len(document))]
        starts = [min(start, len(words) - size) for start in range(0, len(words) - 1, size - 1)]
        return [Span(words[start][0], words[start + size - 1][1]) for start in starts]

    def text_tokens(self, text: str, *, add_special_tokens: bool = True) -> list[TextToken]:
        words = [TextToken(token_of(m[0]), m[0], False, *m.span()) for m in re.finditer(r"\S+", text)]
        return [*([TextToken(1, "<s>", True, None, None)] if add_special_tokens else []), *words]

    def token_windows(
        self, text: str, *, add_special_tokens: bool = True, stop: Callable[[], bool] = never
    ) -> Iterator[list[TextToken]]:
        tokens = self.text_tokens(text, add_special_tokens=add_special_tokens)
        for start in range(0, len(tokens), 1000):
            if stop():
                raise EncodingAbortedError
            yield tokens[start : start + 1000]

    def id_windows(
        self, text: str, *, add_special_tokens: bool = True, stop: Callable[[], bool] = never
    ) -> Iterator[list[int]]:
        for tokens in self.token_windows(text, add_special_tokens=add_special_tokens, stop=stop):
            yield [token.id for token in tokens]

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [*([1] if add_special_tokens else []), *(token_of(word) for word in text.split())]

    def detokenize(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return " ".join(map(str, ids))

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        return [str(i) for i in ids]


class FakeCore:
    """Answers ``pairs_per_step`` pairs after ``step_s``, last pair first, so that order cannot be right by accident."""

    def __init__(self, *, pairs_per_step: int = 4, step_s: float = 0.0) -> None:
        self.info = INFO
        self.healthy = True
        self.why_not_healthy = "the worker process ended"
        self.stats = SchedulerStats()
        self.requests: list[EngineCoreRequest] = []
        self.aborted: list[str] = []
        self.nan_pairs: set[int] = set()
        self.failing: dict[int, WireError] = {}
        self.dead = False
        self.num_resets = 0
        self.operations: list[Operation] = []
        self.refusal: EngineError | None = None
        """What stops every operation."""
        self._pairs_per_step = pairs_per_step
        self._step_s = step_s

    def reset_prefix_cache(self) -> None:
        self.num_resets += 1

    async def operate(self, operation: Operation) -> None:
        self.operations.append(operation)
        if self.refusal is not None:
            raise self.refusal

    async def run(self, request: EngineCoreRequest) -> AsyncGenerator[EngineCoreOutput, None]:
        self.requests.append(request)
        order = list(range(request.num_pairs))[::-1]
        ends = np.cumsum(request.pair_lens)
        finished = False
        try:
            for start in range(0, len(order), self._pairs_per_step):
                await asyncio.sleep(self._step_s)
                if self.dead:
                    raise EngineDeadError("the engine died")
                step = order[start : start + self._pairs_per_step]
                good = [i for i in step if i not in self.failing]
                values = np.array(
                    [[np.nan if i in self.nan_pairs else self._logit(request, ends, i)] for i in good], np.float32
                ).reshape(len(good), 1)
                finished = start + self._pairs_per_step >= len(order)
                stats = CallStats(int(ends[-1]), int(ends[-1]) // 2, 0.001, 0.002, 3) if finished else None
                errors = {i: self.failing[i] for i in step if i in self.failing}
                yield EngineCoreOutput(request.call_id, np.array(good, np.int32), values, errors, stats)
        finally:
            if not finished:
                self.aborted.append(request.call_id)

    @staticmethod
    def _logit(request: EngineCoreRequest, ends: np.ndarray, i: int) -> np.float32:
        return logit_of(request.token_ids[ends[i] - request.pair_lens[i] : ends[i]])

    async def shutdown(self, timeout_s: float) -> None:
        self.dead = True
