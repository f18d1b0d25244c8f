"""From a ``RerankCall`` to its scores: a permit, token ids (``call_threads.py``), the core, and the ranking.

``run`` yields what happens to a call in the order it happens: ``Accepted`` once its texts are valid, the pairs of each
finished step, and at last the ``CallResult``. Closing the iterator gives up what has not run. Handlers that do not
stream use ``score``, which waits for the end.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from engine.config import ServerConfig
from engine.entrypoints.serve.admission import Admission, AdmissionControl, estimated_size
from engine.entrypoints.serve.admitted_call import AdmittedCall
from engine.entrypoints.serve.call_threads import CallThreads
from engine.entrypoints.serve.dialects.base import CallResult
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.served_models import ServedModels
from engine.entrypoints.serve.tracing import trace_result
from engine.errors import EngineDeadError, InvalidRequestError, NotReadyError, ShuttingDownError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore, ResultAssembler

State = Literal["starting", "ready", "draining", "refusing", "stopped"]
"""``draining``: not ready, but calls that still come are taken; ``refusing``: only calls in flight are finished."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The call is valid and holds its permit; scores follow."""

    prompt_tokens: int


Progress = Accepted | list[PairScore] | CallResult


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
        self.threads = CallThreads(config.tokenizer_threads)
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

    async def score(self, call: RerankCall, request_id: str, client_timeout_s: float | None = None) -> CallResult:
        """The whole result of a call.

        Raises what ``run`` raises, and ``EngineDeadError`` where the engine ends first.
        """
        async with aclosing(self.run(call, request_id, client_timeout_s)) as progress:
            async for item in progress:
                if isinstance(item, CallResult):
                    return item
        raise EngineDeadError("The engine ended before the call did.")

    async def run(
        self, call: RerankCall, request_id: str, client_timeout_s: float | None = None
    ) -> AsyncGenerator[Progress, None]:
        """Runs a call and yields, in order: ``Accepted``, the results that each step settles, the ``CallResult``.

        ``client_timeout_s``: how long the client waits, where it is known; a call that would wait longer is refused.
        Closing the generator aborts what has not run. Raises ``RequestError`` about a field of the call,
        ``OverloadedError``, ``NotReadyError``, ``ShuttingDownError`` or ``EngineDeadError``; failures of single pairs
        are in the ``CallResult``.
        """
        async with self.admitted(call, request_id, client_timeout_s=client_timeout_s) as admitted:
            most = self.config.max_documents
            encoding = await self.threads.encode(call, admitted.engine, max_pairs=most, deadline_s=admitted.deadline_s)
            pairs, texts = encoding.pairs, encoding.scored_texts()
            pair_tokens = [pair.num_tokens for pair in pairs]
            self.metrics.pair_tokens.observe(pair_tokens)
            admitted.encoded(sum(pair_tokens))
            yield Accepted(admitted.num_tokens)
            with self.metrics.counted(admitted.engine.store):
                results = ResultAssembler(admitted.engine.spec.head, texts, pairs, admitted.store)
            if pairs and not admitted.too_late:
                async with aclosing(admitted.outputs(results.prompts)) as outputs:
                    async for output in outputs:
                        yield results.add(output)
        result = _call_result(request_id, admitted, results)
        self.metrics.count_result(result)
        trace_result(result)
        yield result

    @asynccontextmanager
    async def admitted(
        self, call: RerankCall, request_id: str, *, client_timeout_s: float | None = None, shares: bool | None = None
    ) -> AsyncIterator[AdmittedCall]:
        """A call with its model and its permit, both held until the context is left.

        ``client_timeout_s`` as for ``run``. ``shares``: the model computes once what the call's pairs have in common;
        None: if it can. Raises ``InvalidRequestError``, ``NotFoundError``, ``TooLargeError``, ``OverloadedError``,
        ``NotReadyError`` or ``ShuttingDownError``.
        """
        started_s = time.monotonic()
        self.check_accepting()
        chosen = self.models.choose(call.model)
        engine = chosen.engine
        _check_cut(engine, call.options.truncate_prompt_tokens)
        shares = engine.spec.causal if shares is None else shares
        size = estimated_size(call, engine.processor.min_pair_tokens, engine.spec.max_model_len, shares=shares)
        client_timeout_s = min((s for s in (client_timeout_s, call.timeout_s) if s is not None), default=None)
        call_id = self._call_id(request_id)
        deadline_s = None if call.timeout_s is None else started_s + call.timeout_s
        acquire = self.admission.acquire
        with (
            self.models.using(chosen),
            await acquire(
                call_id, size, call.caller, model=engine.names[0], client_timeout_s=client_timeout_s
            ) as permit,
        ):
            yield AdmittedCall(call, call_id, chosen, permit, shares, started_s, deadline_s)

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
        self.threads.shutdown()
        for engine in self.models:
            engine.pictures.close()
        await asyncio.gather(*(engine.client.shutdown(timeout_s=2.0) for engine in self.models))


def _check_cut(engine: LoadedEngine, asked: int | None) -> None:
    least, most = engine.pair_limits
    if asked is not None and not least <= asked <= most:
        raise InvalidRequestError(
            f"truncate_prompt_tokens is {asked}; possible are -1 (the model's length) and {least} to {most}.",
            param="truncate_prompt_tokens",
        )


def _call_result(request_id: str, admitted: AdmittedCall, results: ResultAssembler) -> CallResult:
    """What became of a call, once its permit is released."""
    stats, in_order = results.stats, results.in_order()
    return CallResult(
        request_id=request_id,
        model=admitted.chosen.name,
        created=int(time.time()),
        call=admitted.call,
        rankings=results.rankings(),
        in_order=in_order,
        errors=results.failed(),
        unscored=results.unscored(),
        prompt_tokens=admitted.num_tokens,
        computed_tokens=stats.computed_tokens if stats else 0,
        num_steps=stats.num_steps if stats else 0,
        truncated_documents=sum(one.truncated for one in in_order),
        unfamiliar_documents=sum(one.unfamiliar for one in in_order),
        encode_s=admitted.encode_s,
        queue_s=stats.queue_s if stats else 0.0,
        compute_s=stats.compute_s if stats else 0.0,
        total_s=time.monotonic() - admitted.started_s,
    )
