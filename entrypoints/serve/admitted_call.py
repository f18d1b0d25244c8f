"""A call that holds its permit, and its way through the core."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from engine.entrypoints.serve.admission import Permit, known_size
from engine.entrypoints.serve.deadline import passed, until
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.served_models import Chosen
from engine.messages import EngineCoreOutput
from engine.request import CorePrompt, EncodedPair, RerankCall
from engine.scoring.call_encoding import core_request
from engine.scoring.document_store import ScopedStore


@dataclass(slots=True)
class AdmittedCall:
    """A call with its model, its permit and its deadline. Times are those of ``time.monotonic``."""

    call: RerankCall
    call_id: str
    """What the core knows the call by."""
    chosen: Chosen
    permit: Permit
    shares: bool
    """The model computes once what the pairs of a call have in common."""
    started_s: float
    deadline_s: float | None
    num_tokens: int = 0
    """Of all its prompts, each as a whole."""
    encode_s: float = field(default=0.0, init=False)
    """From its arrival to its last token id."""

    @property
    def engine(self) -> LoadedEngine:
        """The model that the call means."""
        return self.chosen.engine

    @property
    def cache_scope(self) -> str:
        """The scope within which keys, values and vectors that are kept between calls are shared."""
        call = self.call
        return f"{call.caller}:{call.cache_salt}" if call.cache_salt else call.caller

    @property
    def store(self) -> ScopedStore | None:
        """The document vectors that the call may use; None unless its model compares such."""
        return self.engine.store_for(self.chosen.adapter or "", self.cache_scope)

    @property
    def too_late(self) -> bool:
        """Whether the call's own deadline has passed."""
        return passed(self.deadline_s)

    def encoded(self, num_tokens: int) -> None:
        """Notes that the call's texts are token ids."""
        self.num_tokens = num_tokens
        self.encode_s = time.monotonic() - self.started_s

    async def outputs(self, prompts: Sequence[CorePrompt | EncodedPair]) -> AsyncGenerator[EngineCoreOutput, None]:
        """Yields the answers of the core as its steps finish, until the call's deadline.

        The permit holds the real size from here on, and less with each answer. Closing the generator aborts the rest.
        Raises ``EngineError``.
        """
        request = core_request(
            self.call_id,
            prompts,
            arrival_s=self.started_s,
            priority=self.call.priority,
            deadline_s=self.deadline_s,
            adapter=self.chosen.adapter,
            backlog_tokens=self.permit.backlog_tokens,
            cache_scope=self.cache_scope,
        )
        self.permit.settle(known_size(request, shares=self.shares))
        async with aclosing(self.engine.client.run(request)) as outputs:
            async for output in until(self.deadline_s, outputs):
                self.permit.answered(len(output.indices) + len(output.errors))
                yield output
