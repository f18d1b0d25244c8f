"""From a ``RerankCall`` to its scores: admission, tokenisation in threads, the core, and the one place that ranks.

``run`` yields what happens to a call in the order it happens: ``Accepted`` once its texts are valid, the pairs of each
finished step, and at last the ``CallResult``. Closing the iterator gives up what has not run. Handlers that do not
stream use ``score``, which waits for the end.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from engine.config import ServerConfig
from engine.entrypoints.collect import PairCollector, PairScore, core_request, ranked, shifted
from engine.entrypoints.serve.admission import Admission
from engine.entrypoints.serve.dialects.base import CallResult
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.errors import EngineDeadError, NotFoundError, NotReadyError, RequestError, ShuttingDownError
from engine.messages import EngineCoreOutput, EngineCoreRequest, SchedulerStats
from engine.model_spec import ModelSpec
from engine.request import EncodedPair, PairOptions, RerankCall
from engine.step import WorkerInfo

State = Literal["starting", "ready", "draining", "refusing", "stopped"]
"""``draining``: not ready, but calls that still come are taken; ``refusing``: only what is inside is finished."""
ENCODE_SLICE = 256
"""Documents tokenised per turn of a thread, so that a long call does not keep a short one waiting."""


class Processor(Protocol):
    """What the service needs of ``engine.inputs.InputProcessor``."""

    def encode(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        options: PairOptions,
        instructions: Sequence[str | None] | None = None,
    ) -> list[EncodedPair]: ...

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def detokenize(self, ids: Sequence[int]) -> str: ...

    def token_strings(self, ids: Sequence[int]) -> list[str]: ...


class CoreClient(Protocol):
    """What the service needs of ``engine.client.AsyncMPClient``."""

    @property
    def info(self) -> WorkerInfo: ...

    @property
    def healthy(self) -> bool: ...

    @property
    def stats(self) -> SchedulerStats: ...

    def run(self, request: EngineCoreRequest) -> AsyncGenerator[EngineCoreOutput, None]: ...

    async def shutdown(self, timeout_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Accepted:
    """The call is valid and has its place; scores follow."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """What exists once the model is loaded."""

    spec: ModelSpec
    processor: Processor
    client: CoreClient
    served_names: tuple[str, ...] = ()
    """Empty: the name that the user gave."""

    @property
    def names(self) -> tuple[str, ...]:
        return self.served_names or (self.spec.name,)


Progress = Accepted | list[PairScore] | CallResult
T = TypeVar("T")


class RerankService:
    """The model behind the routes, and the state of the process that serves it."""

    def __init__(self, config: ServerConfig, metrics: ServerMetrics) -> None:
        self.config = config
        self.metrics = metrics
        self.state: State = "starting"
        self.started_at = int(time.time())
        self.admission = Admission(config)
        self.cut_off = asyncio.Event()
        """Set when the drain deadline has passed: what still runs is answered with an error."""
        self._engine: LoadedEngine | None = None
        self._threads = ThreadPoolExecutor(config.tokenizer_threads, thread_name_prefix="tokenizer")
        metrics.running_calls.set_function(lambda: self.admission.num_calls)
        metrics.queued_pairs.set_function(lambda: self.admission.num_pairs)

    def attach(self, engine: LoadedEngine) -> None:
        """The model is loaded: calls are taken from now on."""
        self._engine = engine
        self.metrics.watch_core(lambda: engine.client.stats)
        if self.state == "starting":
            self.state = "ready"

    @property
    def engine(self) -> LoadedEngine:
        if self._engine is None:
            raise NotReadyError("The model is still loading.", retry_after_s=5)
        return self._engine

    @property
    def default_model(self) -> str:
        return self._engine.names[0] if self._engine else ""

    @property
    def stopping(self) -> bool:
        return self.state in ("draining", "refusing", "stopped")

    def check_accepting(self) -> None:
        """Raises what a call would be refused with. While a lost core restarts, calls wait for it."""
        if self.state in ("refusing", "stopped"):
            raise ShuttingDownError("The server is shutting down.", retry_after_s=5)
        _ = self.engine

    def check_ready(self) -> None:
        """Raises why a load balancer should send calls elsewhere."""
        if self.stopping:
            raise ShuttingDownError("The server is shutting down.", retry_after_s=5)
        if not self.engine.client.healthy:
            raise EngineDeadError("The engine cannot run a step now.", retry_after_s=5)

    def served_name(self, name: str | None) -> str:
        served = self.engine.names
        if not name:
            return served[0]
        if name in served or name == self.engine.spec.name:
            return name
        message = f"The model `{name}` does not exist. Served here: {', '.join(served)}."
        raise NotFoundError(message, param="model", code="model_not_found")

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def score(self, call: RerankCall, request_id: str) -> CallResult:
        async with aclosing(self.run(call, request_id)) as progress:
            async for item in progress:
                if isinstance(item, CallResult):
                    return item
        raise EngineDeadError("The engine ended before the call did.")

    async def run(self, call: RerankCall, request_id: str) -> AsyncGenerator[Progress, None]:
        started = time.monotonic()
        self.check_accepting()
        model = self.served_name(call.model)
        with self.admission.enter(call.num_pairs) as ticket:
            pairs = await self._encode(call)
            num_tokens = sum(len(pair.token_ids) for pair in pairs)
            ticket.take_tokens(num_tokens)
            encode_s = time.monotonic() - started
            yield Accepted(num_tokens)
            collector = PairCollector(self.engine.spec.head, pairs, raw_scores=call.raw_scores)
            request = core_request(
                # Two clients may choose the same request id; the core's ids are ours alone.
                f"{request_id}.{uuid.uuid4().hex[:8]}",
                pairs,
                arrival_s=started,
                priority=call.priority,
                deadline_s=None if call.timeout_s is None else started + call.timeout_s,
                cache_scope=call.caller,
            )
            async with aclosing(self.engine.client.run(request)) as outputs:
                async for output in outputs:
                    ticket.answered(len(output.indices) + len(output.errors))
                    yield collector.add(output)
        stats = collector.stats
        result = CallResult(
            request_id=request_id,
            model=model,
            created=int(time.time()),
            call=call,
            pairs=ranked(collector.in_order(), top_n=call.top_n, min_score=call.min_score),
            in_order=collector.in_order(),
            errors=collector.errors,
            prompt_tokens=num_tokens,
            computed_tokens=stats.computed_tokens if stats else 0,
            truncated_documents=sum(pair.truncated for pair in pairs),
            encode_s=encode_s,
            queue_s=stats.queue_s if stats else 0.0,
            compute_s=stats.compute_s if stats else 0.0,
            total_s=time.monotonic() - started,
        )
        self.metrics.count_result(result)
        yield result

    async def _encode(self, call: RerankCall) -> list[EncodedPair]:
        pairs: list[EncodedPair] = []
        pairwise = len(call.queries) > 1
        num_pairs = call.num_pairs
        for start in range(0, num_pairs, ENCODE_SLICE):
            part = slice(start, start + ENCODE_SLICE)
            try:
                pairs += await self.in_thread(
                    self.engine.processor.encode,
                    call.queries[part] if pairwise else call.queries,
                    call.documents[part],
                    call.options,
                    call.instructions[part] if call.instructions else None,
                )
            except RequestError as error:
                raise shifted(error, start) from error
        return pairs

    async def drain(self) -> None:
        """Finish what was accepted; after the deadline, the rest is answered with an error."""
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
        """Do not wait for anything any more."""
        self.cut_off.set()

    async def stop(self) -> None:
        self.state = "stopped"
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._engine:
            await self._engine.client.shutdown(timeout_s=2.0)
