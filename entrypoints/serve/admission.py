"""Which calls are admitted: one decision a call, in seconds, pairs and tokens, with limits that are on by default.

The decision is made when the body has been read, before anything is tokenised; tokens are estimated from the texts
then, and counted exactly once they are known. A call that was admitted is never refused later.

**Seconds.** A call that would wait longer than three quarters of ``max_queue_seconds``, or than its caller does, is
refused at once: the wait is what is queued over the measured speed (``waiting.py``), and what is left is for the call's
own steps. Its own size does not matter: large calls are refused no more often than small ones.

**Fair shares.** The last eighth of each limit is for callers (API key or address) that have nothing in flight, so one
caller cannot fill the queue. What a caller already has in flight, in calls that are no longer, is passed on with each
call (``backlog_tokens``), and the scheduler puts the call behind others by that much.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from engine.config import ServerConfig
from engine.core.replicas import work_tokens
from engine.entrypoints.serve.waiting import FULL_SHARE, ModelQueue
from engine.errors import OverloadedError, TooLargeError
from engine.messages import EngineCoreRequest
from engine.request import RerankCall

NEW_CALLERS_SHARE = 8
"""One part in so many of each limit is for callers with nothing in flight."""
MAX_RETRY_AFTER_S = 600.0


@dataclass(frozen=True, slots=True)
class CallSize:
    """How much a call asks for."""

    num_pairs: int
    num_tokens: int
    """Of all pairs, each as a whole: what is kept in memory."""
    work: int
    """Tokens to be computed: what the pairs share counts once."""


def estimated_size(call: RerankCall, min_pair_tokens: int, max_pair_tokens: int, *, shares: bool) -> CallSize:
    """A cheap estimate of the size of a call, before it is tokenised.

    About four characters a token, one where a text is not ASCII, and ``min_pair_tokens`` for the template of each pair;
    no text counts more than the ``max_pair_tokens`` to which it will be cut. ``shares``: the model computes once what
    the pairs of a call have in common.
    """
    num_pairs = call.num_pairs
    longest = max_pair_tokens if call.chunks is None else None
    template = num_pairs * min_pair_tokens
    if call.prompts is not None:
        num_tokens = template + sum(
            _text_tokens(p, longest) if isinstance(p, str) else min(len(p), max_pair_tokens) for p in call.prompts
        )
        return CallSize(num_pairs, num_tokens, num_tokens)
    queries = sum(_text_tokens(text, longest) for text in call.queries)
    documents = sum(_text_tokens(text, longest) for text in call.documents)
    if call.every_query:
        queries_in_pairs, documents = queries * len(call.documents), documents * len(call.queries)
    else:
        queries_in_pairs = queries if len(call.queries) > 1 else queries * len(call.documents)
    num_tokens = template + queries_in_pairs + documents
    work = len(call.queries) * min_pair_tokens + queries + documents if shares else num_tokens
    return CallSize(num_pairs, num_tokens, min(work, num_tokens))


def known_size(request: EngineCoreRequest, *, shares: bool) -> CallSize:
    """The size of a call whose texts are tokens; ``shares`` as for ``estimated_size``."""
    num_tokens = len(request.token_ids)
    return CallSize(request.num_pairs, num_tokens, work_tokens(request) if shares else num_tokens)


def _text_tokens(text: str, longest: int | None) -> int:
    num_tokens = len(text) // 4 if text.isascii() else len(text)
    return num_tokens if longest is None else min(num_tokens, longest)


class Permit(Protocol):
    """The part of the queue that one call holds, as a context: leaving it releases all of it."""

    backlog_tokens: int
    """Work that its caller had in flight before it, in calls that are short or no longer."""

    def settle(self, size: CallSize) -> None:
        """Says the real numbers, once the texts are cut into pairs and tokens."""
        ...

    def answered(self, num_pairs: int) -> None:
        """Releases what pairs held that have been answered."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *raised: object) -> None: ...


class AdmissionControl(Protocol):
    """The giver of permits: ``Admission`` itself, or the coordinator's by way of messages."""

    num_calls: int
    """Calls in flight."""
    num_pairs: int
    """Pairs in flight: queued, or on a device."""
    idle: asyncio.Event
    """Set while no call is in flight."""

    @property
    def wait_s(self) -> float:
        """Seconds that what is queued will take; 0 where that is not known."""
        ...

    async def acquire(
        self, call_id: str, size: CallSize, caller: str, *, model: str, client_timeout_s: float | None
    ) -> Permit:
        """A permit for a call. ``call_id`` is what the core will know the call by; ``client_timeout_s``: how long its
        client waits, as far as it has said so.

        Raises ``OverloadedError`` (with the time after which to retry) or ``TooLargeError``.
        """
        ...


class AdmissionPermit:
    """The share of the queue that one call holds, released as its pairs are answered."""

    def __init__(
        self, admission: Admission, caller: str, queue: ModelQueue, size: CallSize, backlog_tokens: int
    ) -> None:
        self._admission = admission
        self._queue = queue
        self.caller = caller
        self.backlog_tokens = backlog_tokens
        """Work that its caller had in flight before it, in calls that are short or no longer."""
        self.open_pairs = self.open_tokens = self.open_work = 0
        self.settle(size)

    def settle(self, size: CallSize) -> None:
        """Takes the real numbers, once the texts are cut into pairs and tokens. They are counted, not judged again."""
        self._size = size
        self._hold(size.num_pairs, size.num_tokens, size.work)

    def answered(self, num_pairs: int) -> None:
        """Releases what pairs held that have been answered."""
        before, size = self.open_work, self._size
        left = max(0, self.open_pairs - num_pairs)
        share = left / max(1, size.num_pairs)
        self._hold(left, min(self.open_tokens, round(size.num_tokens * share)), min(before, round(size.work * share)))
        self._queue.speed.done(before - self.open_work, self._queue.work)

    def release(self) -> None:
        """The call is over; whatever is left of it will not be computed."""
        self._hold(0, 0, 0)
        self._admission.call_ended(self.caller)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()

    def _hold(self, num_pairs: int, num_tokens: int, work: int) -> None:
        self._admission.change(num_pairs - self.open_pairs, num_tokens - self.open_tokens)
        self._admission.change_backlog(self.caller, self.open_work, work)
        self._queue.change(self.open_work, work)
        self.open_pairs, self.open_tokens, self.open_work = num_pairs, num_tokens, work


class Admission:
    """Counts what is in flight, and decides about each call by it."""

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` is ``time.monotonic`` outside tests."""
        self._config = config
        self.num_calls = 0
        self.num_pairs = 0
        self.num_tokens = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.queues: defaultdict[str, ModelQueue] = defaultdict(lambda: ModelQueue(clock))
        """By model."""
        self._work_of: defaultdict[str, Counter[int]] = defaultdict(Counter)
        """Work in flight of each caller, by the bits of the work that a call has left."""
        self._calls_of: Counter[str] = Counter()

    async def acquire(
        self, call_id: str, size: CallSize, caller: str, *, model: str, client_timeout_s: float | None
    ) -> AdmissionPermit:
        """``admit``, as ``AdmissionControl`` has it. Nothing is waited for: the decision is made in this process."""
        return self.admit(size, caller, model=model, client_timeout_s=client_timeout_s)

    def admit(
        self, size: CallSize, caller: str, *, model: str = "", client_timeout_s: float | None = None
    ) -> AdmissionPermit:
        """A permit for a call, to be released by its ``release``. Raises ``OverloadedError`` or ``TooLargeError``."""
        queue = self.queues[model]
        self._check(size, caller, queue, client_timeout_s)
        self.num_calls += 1
        self._calls_of[caller] += 1
        self.idle.clear()
        return AdmissionPermit(self, caller, queue, size, self._backlog(caller, size.work, queue))

    def _backlog(self, caller: str, work: int, queue: ModelQueue) -> int:
        """Work of the caller's calls in flight that are short, or no longer than one of so much ``work``: behind a
        longer one of its own, or of another caller of the same address, a short call need not stand."""
        short = queue.short_bits(self._config.max_queue_seconds or ServerConfig.max_queue_seconds)
        most = max(work.bit_length(), short)
        return sum(tokens for bits, tokens in self._work_of[caller].items() if bits <= most)

    def call_ended(self, caller: str) -> None:
        """Counts a call that is over."""
        self.num_calls -= 1
        self._calls_of[caller] -= 1
        if not self._calls_of[caller]:  # callers come and go without end
            del self._calls_of[caller], self._work_of[caller]
        if self.num_calls == 0:
            self.idle.set()

    def change(self, num_pairs: int, num_tokens: int) -> None:
        """Counts pairs and tokens that came in, or left where the numbers are negative."""
        self.num_pairs += num_pairs
        self.num_tokens += num_tokens

    def change_backlog(self, caller: str, before: int, after: int) -> None:
        """A call of this caller that had ``before`` tokens of work left has ``after`` now."""
        work_of = self._work_of[caller]
        work_of[before.bit_length()] -= before
        work_of[after.bit_length()] += after

    @property
    def wait_s(self) -> float:
        """Seconds that what is queued for the busiest model will take; 0 while no speed is known."""
        waits = (queue.work / speed for queue in self.queues.values() if (speed := queue.speed.tokens_per_s))
        return max(waits, default=0.0)

    def _check(self, size: CallSize, caller: str, queue: ModelQueue, client_timeout_s: float | None) -> None:
        config = self._config
        if size.num_pairs > config.max_documents:
            raise TooLargeError(
                f"{size.num_pairs} documents are more than the {config.max_documents} that one call may have "
                "(--max-documents).",
                param="documents",
            )
        if not self.num_calls:
            return  # what fits nowhere else fits into an empty server
        kept = 0 if not self._calls_of[caller] else NEW_CALLERS_SHARE
        self._check_wait(size, queue, kept, client_timeout_s)
        limits: Sequence[tuple[str, int, int, int, str]] = (
            ("pairs", self.num_pairs, size.num_pairs, config.max_queued_pairs, "--max-queued-pairs"),
            ("tokens", self.num_tokens, size.num_tokens, config.max_queued_tokens, "--max-queued-tokens"),
        )
        for what, in_flight, more, limit, flag in limits:
            share = limit - limit // kept if kept else limit
            if in_flight + more > share:
                whose = f"; {limit - share} are kept for other callers" if in_flight + more <= limit else ""
                why = f"{in_flight} {what} are waiting, {more} more are asked for ({flag}{whose})"
                raise _overloaded(why, queue.speed.seconds_for(queue.work))

    def _check_wait(self, size: CallSize, queue: ModelQueue, kept: int, client_timeout_s: float | None) -> None:
        """Refuses a call that would wait too long, by the server's limit or its own."""
        limits = list(_wait_limits(self._config.max_queue_seconds, kept, client_timeout_s))
        if not limits:
            return
        limit_s, what = min(limits)
        wait_s = queue.wait_s(size.work, limit_s)
        if wait_s > limit_s:
            # When half of the limit is left: who comes back at the very moment finds others there.
            raise _overloaded(f"this call would wait {wait_s:.1f} s, {what}", wait_s - limit_s / 2)


def _wait_limits(limit_s: float, kept: int, client_timeout_s: float | None) -> Iterable[tuple[float, str]]:
    """Seconds that a call may wait, and the words for each limit."""
    if limit_s:
        max_wait_s = FULL_SHARE * (limit_s - limit_s / kept if kept else limit_s)
        whose = ", of which an eighth is kept for other callers" if kept else ""
        yield max_wait_s, f"longer than lets it be answered within --max-queue-seconds ({limit_s:g} s{whose})"
    if client_timeout_s is not None:
        yield client_timeout_s, f"longer than the {client_timeout_s:g} s that its caller waits"


def _overloaded(why: str, retry_after_s: float) -> OverloadedError:
    return OverloadedError(
        f"The server is overloaded: {why}. Try again later.",
        retry_after_s=min(MAX_RETRY_AFTER_S, max(1.0, retry_after_s)),
    )
