"""From a ``RerankCall`` to its scores: admission, tokenisation in threads, the core, and the ranking.

``run`` yields what happens to a call in the order it happens: ``Accepted`` once its texts are valid, the pairs of each
finished step, and at last the ``CallResult``. Closing the iterator gives up what has not run. Handlers that do not
stream use ``score``, which waits for the end.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from engine.config import ServerConfig
from engine.entrypoints.serve.admission import Admission, AdmissionControl, CallSize, Permit, estimated_size, known_size
from engine.entrypoints.serve.deadline import passed, until
from engine.entrypoints.serve.dialects.base import CallResult
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.served_models import ServedModels
from engine.entrypoints.serve.tracing import trace_result
from engine.errors import EngineDeadError, InvalidRequestError, NotReadyError, RequestError, ShuttingDownError, is_panic
from engine.pictures.loader import num_rows
from engine.request import PairOptions, Picture, RerankCall, all_encoded
from engine.scoring.call_encoding import CallEncoding, core_request
from engine.scoring.pictures import LoadedPictures
from engine.scoring.result_assembler import PairScore, ResultAssembler
from engine.scoring.vectors import Vectors

logger = logging.getLogger(__name__)
State = Literal["starting", "ready", "draining", "refusing", "stopped"]
"""``draining``: not ready, but calls that still come are taken; ``refusing``: only calls in flight are finished."""
ENCODE_SLICE = 256
"""Documents tokenised per turn of a thread, so that a long call does not keep a short one waiting."""
HASTY_SLICE = 32
"""``ENCODE_SLICE`` for a call with a deadline."""
PICTURE_THREADS = 8
"""Pictures that are fetched or decoded at a time."""
INLINE_PAIRS, INLINE_LETTERS = 4, 2048
"""A call of at most so many is tokenised on the event loop, in well under a millisecond."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The call is valid and holds its permit; scores follow."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """The vectors of a call's texts, in input order."""

    model: str
    vectors: list[np.ndarray]
    """(H,) float32 each."""
    prompt_tokens: int


Side = Literal["query", "document"]
"""Which prompt of the model is put before a text."""
Progress = Accepted | list[PairScore] | CallResult
T = TypeVar("T")


class RerankService:
    """The models behind the routes, and the state of the server that has them."""

    def __init__(self, config: ServerConfig, metrics: ServerMetrics, admission: AdmissionControl | None = None) -> None:
        """``admission``: who gives permits, if not an ``Admission`` of this service's own."""
        self.config = config
        self.metrics = metrics
        self.state: State = "starting"
        self.started_at = int(time.time())
        self.admission: AdmissionControl = admission or Admission(config)
        self.cut_off = asyncio.Event()
        """Set when the drain deadline has passed: what still runs is answered with an error."""
        self.asleep = False
        """Callers had the models give their memory back."""
        self.models = ServedModels()
        self._process = secrets.token_hex(4)
        self._call_numbers = itertools.count()
        self._threads = ThreadPoolExecutor(config.tokenizer_threads, thread_name_prefix="tokenizer")
        self._picture_threads = ThreadPoolExecutor(PICTURE_THREADS, thread_name_prefix="pictures")
        metrics.running_calls.set_function(lambda: self.admission.num_calls)
        metrics.queued_pairs.set_function(lambda: self.admission.num_pairs)
        metrics.queue_wait_s.set_function(lambda: self.admission.wait_s)

    def attach(self, *engines: LoadedEngine) -> None:
        """Adds loaded models: calls are taken from now on. Raises ``ConfigError`` for a name that two have."""
        for engine in engines:
            self.models.add(engine)
            self.metrics.watch_core(engine.client, engine.names[0])
        if self.state == "starting":
            self.state = "ready"

    @property
    def engine(self) -> LoadedEngine:
        """The model of calls that name none. Raises ``NotReadyError`` while none is loaded."""
        return self.models.default

    @property
    def default_model(self) -> str:
        """The name of the model of calls that name none; empty while none is loaded."""
        return self.engine.names[0] if self.models else ""

    @property
    def label_tokens(self) -> tuple[int, ...]:
        """Ids of "no" and "yes", where the model's score is the difference of two tokens."""
        return self.engine.label_tokens if self.models else ()

    @property
    def stopping(self) -> bool:
        """Whether the server has begun to stop."""
        return self.state in ("draining", "refusing", "stopped")

    def check_accepting(self) -> None:
        """Raises ``ShuttingDownError`` or ``NotReadyError`` where a call would be refused with it.

        While a lost core restarts, calls wait for it.
        """
        if self.state in ("refusing", "stopped"):
            raise ShuttingDownError("The server is shutting down.", retry_after_s=5)
        _ = self.engine
        self._check_awake()

    def _check_awake(self) -> None:
        if self.asleep:
            raise NotReadyError(
                "The server sleeps, and has given its memory back: call its route wake_up (POST) first.",
                retry_after_s=5,
                code="asleep",
            )

    def check_ready(self) -> None:
        """Raises why a load balancer should send calls elsewhere: ``ShuttingDownError``, ``NotReadyError`` or
        ``EngineDeadError``.
        """
        if self.stopping:
            raise ShuttingDownError("The server is shutting down.", retry_after_s=5)
        _ = self.engine
        self._check_awake()
        for engine in self.models:
            if not engine.client.healthy:
                why = engine.client.why_not_healthy
                raise EngineDeadError(f"The engine cannot run a step now: {why}.", retry_after_s=5)

    def _call_id(self, request_id: str) -> str:
        """What the core knows a call by: of two clients that choose the same request id, and of two API servers."""
        return f"{request_id}.{self._process}{next(self._call_numbers):x}"

    def served_name(self, name: str | None) -> str:
        """The name of the model that a call means by ``name``. Raises ``NotFoundError`` or ``NotReadyError``."""
        return self.models.choose(name).name

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """``function(*args)`` in a tokenizer thread. Raises ``InvalidRequestError`` where the tokenizer gives up."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, tokenizing, function, *args)

    async def score(self, call: RerankCall, request_id: str, patience_s: float | None = None) -> CallResult:
        """The whole result of a call. Raises what ``run`` raises."""
        async with aclosing(self.run(call, request_id, patience_s)) as progress:
            async for item in progress:
                if isinstance(item, CallResult):
                    return item
        raise EngineDeadError("The engine ended before the call did.")

    async def run(
        self, call: RerankCall, request_id: str, patience_s: float | None = None
    ) -> AsyncGenerator[Progress, None]:
        """Runs a call and yields, in order: ``Accepted``, the results that each step settles, the ``CallResult``.

        ``patience_s``: how long the client waits, where it is known; a call that would wait longer is refused.
        Closing the generator aborts what has not run. Raises ``RequestError`` about a field of the call,
        ``OverloadedError``, ``NotReadyError``, ``ShuttingDownError`` or ``EngineDeadError``; failures of single pairs
        are in the ``CallResult``.
        """
        started = time.monotonic()
        deadline = None if call.timeout_s is None else started + call.timeout_s
        self.check_accepting()
        chosen = self.models.choose(call.model)
        engine = chosen.engine
        self._check_cut(engine, call.options.truncate_prompt_tokens)
        shares = engine.spec.causal
        size = estimated_size(call, engine.processor.min_pair_tokens, engine.spec.max_model_len, shares=shares)
        patience_s = min((s for s in (patience_s, call.timeout_s) if s is not None), default=None)
        call_id = self._call_id(request_id)
        with (
            self.models.using(chosen),
            await self._acquire(call_id, size, call.caller, engine, patience_s) as permit,
        ):
            pictures = await self._pictures(call, engine, deadline)
            encoding = CallEncoding(call, engine.processor, max_pairs=self.config.max_documents, pictures=pictures)
            try:
                await self._encode(encoding, deadline)
            finally:
                encoding.give_up()  # the step that may still run, where the client has gone
            pairs, texts = encoding.pairs, encoding.scored_texts()
            pair_tokens = [pair.num_tokens for pair in pairs]
            num_tokens = sum(pair_tokens)
            self.metrics.pair_tokens.observe(pair_tokens)
            encode_s = time.monotonic() - started
            yield Accepted(num_tokens)
            scope = f"{call.caller}:{call.cache_salt}" if call.cache_salt else call.caller
            with self.metrics.counted(engine.store):
                store = engine.store_for(chosen.adapter or "", scope)
                results = ResultAssembler(engine.spec.head, texts, pairs, store)
            if pairs and not passed(deadline):
                request = core_request(
                    call_id,
                    results.prompts,
                    arrival_s=started,
                    priority=call.priority,
                    deadline_s=deadline,
                    adapter=chosen.adapter,
                    backlog_tokens=permit.backlog_tokens,
                    cache_scope=scope,
                )
                permit.settle(known_size(request, shares=shares))
                async with aclosing(engine.client.run(request)) as outputs:
                    async for output in until(deadline, outputs):
                        permit.answered(len(output.indices) + len(output.errors))
                        yield results.add(output)
        stats, in_order = results.stats, results.in_order()
        result = CallResult(
            request_id=request_id,
            model=chosen.name,
            created=int(time.time()),
            call=call,
            rankings=results.rankings(),
            in_order=in_order,
            errors=results.failed(),
            unscored=results.unscored(),
            prompt_tokens=num_tokens,
            computed_tokens=stats.computed_tokens if stats else 0,
            num_steps=stats.num_steps if stats else 0,
            truncated_documents=sum(one.truncated for one in in_order),
            unfamiliar_documents=sum(one.unfamiliar for one in in_order),
            encode_s=encode_s,
            queue_s=stats.queue_s if stats else 0.0,
            compute_s=stats.compute_s if stats else 0.0,
            total_s=time.monotonic() - started,
        )
        self.metrics.count_result(result)
        trace_result(result)
        yield result

    async def _acquire(
        self, call_id: str, size: CallSize, caller: str, engine: LoadedEngine, patience_s: float | None
    ) -> Permit:
        return await self.admission.acquire(call_id, size, caller, model=engine.names[0], patience_s=patience_s)

    async def embed(
        self, texts: list[str], side: Side | None, options: PairOptions, model: str | None, caller: str, request_id: str
    ) -> EmbeddingResult:
        """The vectors of texts by a bi-encoder, under the limits of any call.

        Raises what ``run`` raises, and ``InvalidRequestError`` for a model that embeds no texts.
        """
        started = time.monotonic()
        self.check_accepting()
        chosen = self.models.choose(model)
        engine = chosen.engine
        self._check_cut(engine, options.truncate_prompt_tokens)
        call = RerankCall(queries=[], documents=[], prompts=list(texts), options=options)
        size = estimated_size(call, engine.processor.min_pair_tokens, engine.spec.max_model_len, shares=False)
        call_id = self._call_id(request_id)
        with (
            self.models.using(chosen),
            await self._acquire(call_id, size, caller, engine, None) as permit,
        ):
            encoded = await self.in_thread(engine.processor.encode_texts, texts, side, options)
            for number, one in enumerate(encoded):
                if isinstance(one, RequestError):
                    raise one.at(("input", number))
            prompts = all_encoded(encoded)
            vectors = Vectors(len(prompts))
            request = core_request(
                call_id, prompts, arrival_s=started, adapter=chosen.adapter, backlog_tokens=permit.backlog_tokens
            )
            permit.settle(known_size(request, shares=False))
            async with aclosing(engine.client.run(request)) as outputs:
                async for output in outputs:
                    permit.answered(len(output.indices) + len(output.errors))
                    vectors.add(output)
        if vectors.errors:
            raise vectors.errors[min(vectors.errors)]
        found = [vector for vector in vectors.vectors if vector is not None]
        return EmbeddingResult(chosen.name, found, sum(prompt.num_tokens for prompt in prompts))

    def _check_cut(self, engine: LoadedEngine, asked: int | None) -> None:
        least, most = engine.pair_limits
        if asked is not None and not least <= asked <= most:
            raise InvalidRequestError(
                f"truncate_prompt_tokens is {asked}; possible are -1 (the model's length) and {least} to {most}.",
                param="truncate_prompt_tokens",
            )

    async def _encode(self, encoding: CallEncoding, deadline: float | None) -> None:
        """Tokenises in threads, a slice at a time; after the call's deadline, no other slice is begun.

        The first one always is: a wrong call is told so, however little time it gave itself. A call of few letters is
        tokenised where it stands: a thread would cost more, and nobody waits long for it.
        """
        slices = encoding.slices(ENCODE_SLICE if deadline is None else HASTY_SLICE)
        if _is_small(encoding.call):
            while tokenizing(next, slices, None) is not None:
                pass
            return
        while await self.in_thread(next, slices, None) is not None:
            if encoding.pairs and passed(deadline):
                return

    async def _pictures(self, call: RerankCall, engine: LoadedEngine, deadline: float | None) -> LoadedPictures | None:
        """The pictures of a call, one after the other, in threads of their own; none is begun after its deadline."""
        if not (wanted := call.image_data):
            return None
        loop, found = asyncio.get_running_loop(), dict[str, Picture | RequestError]()
        for data in wanted:
            if found and passed(deadline):
                break
            before = num_rows(found.values())
            found[data] = await loop.run_in_executor(self._picture_threads, engine.pictures.load, data, before)
        return found

    async def drain(self) -> None:
        """Finishes calls in flight; after the deadline, the rest is answered with an error."""
        self.state = "draining"
        if self.config.drain_delay_s:
            await asyncio.wait((asyncio.ensure_future(self.cut_off.wait()),), timeout=self.config.drain_delay_s)
        self.state = "refusing"
        idle = asyncio.ensure_future(self.admission.idle.wait())
        cut_off = asyncio.ensure_future(self.cut_off.wait())
        await asyncio.wait((idle, cut_off), timeout=self.config.shutdown_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        self.cut_off.set()  # from here on, what is left is answered with an error
        await asyncio.wait((idle,), timeout=1.0)
        idle.cancel()

    def stop_now(self) -> None:
        """Answers calls in flight with an error at once."""
        self.cut_off.set()

    async def stop(self) -> None:
        """Ends the cores and the tokenizer threads."""
        self.state = "stopped"
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._picture_threads.shutdown(wait=False, cancel_futures=True)
        for engine in self.models:
            engine.pictures.close()
        await asyncio.gather(*(engine.client.shutdown(timeout_s=2.0) for engine in self.models))


def tokenizing(function: Callable[..., T], *args: Any) -> T:
    """``function(*args)``. Raises ``InvalidRequestError`` where the tokenizer's library gives up, as at a pattern that
    would take too long for this text."""
    try:
        return function(*args)
    except BaseException as error:
        if not is_panic(error):
            raise
        logger.warning("the tokenizer gave up on a text: %s", error)
        raise InvalidRequestError("The tokenizer of this model cannot read a text of this call.") from error


def _is_small(call: RerankCall) -> bool:
    """Whether tokenising the call costs less than handing it to a thread."""
    if call.num_pairs > INLINE_PAIRS or call.prompts is not None or call.chunks is not None:
        return False
    texts = (*call.queries, *call.documents, call.options.instruction or "", *filter(None, call.instructions or ()))
    return sum(map(len, texts)) <= INLINE_LETTERS
