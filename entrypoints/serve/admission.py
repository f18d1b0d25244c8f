"""Which calls are admitted: one atomic decision a call, in pairs and in tokens, with limits that are on by default.

The decision is made when the body has been read, before anything is tokenised; tokens are estimated from the texts
then, and counted exactly once they are known. A call that was admitted is never refused later.

**Fair shares.** The last eighth of the queue is for callers (API key or address) that have nothing in flight, so one
caller cannot fill it. What a caller already has in flight is passed on with each call (``backlog_tokens``), and the
scheduler puts the call behind others by that much.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol, Self

from engine.config import ServerConfig
from engine.errors import OverloadedError, TooLargeError
from engine.request import RerankCall

NEWCOMERS_SHARE = 8
"""One part in so many of each limit is for callers with nothing in flight."""
SPEED_MEMORY_S = 10.0
"""Half of the weight of what was measured is lost in this time."""
MAX_RETRY_AFTER_S = 60.0


def estimated_tokens(call: RerankCall, min_pair_tokens: int) -> int:
    """A cheap estimate of the tokens of a call, before it is tokenised.

    About four characters a token, one where a text is not ASCII, and ``min_pair_tokens`` for the template of each pair.
    """
    template = call.num_pairs * min_pair_tokens
    if call.prompts is not None:
        return template + sum(_text_tokens(p) if isinstance(p, str) else len(p) for p in call.prompts)
    queries, documents = sum(map(_text_tokens, call.queries)), sum(map(_text_tokens, call.documents))
    if call.every_query:
        return template + queries * len(call.documents) + documents * len(call.queries)
    return template + documents + (queries if len(call.queries) > 1 else queries * len(call.documents))


def _text_tokens(text: str) -> int:
    return len(text) // 4 if text.isascii() else len(text)


class Speed:
    """Tokens a second while there is work, as an average that forgets. It tells a refused client when to come back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = 0.0
        self._seconds = 0.0
        self._since_s = clock()

    def start(self) -> None:
        """Starts the clock again after a pause, which says nothing about speed."""
        self._since_s = self._clock()

    def done(self, num_tokens: int) -> None:
        """Counts tokens that were answered since the last call of this method, or since ``start``."""
        now = self._clock()
        elapsed, self._since_s = now - self._since_s, now
        keep = 0.5 ** (elapsed / SPEED_MEMORY_S)
        self._tokens = self._tokens * keep + num_tokens
        self._seconds = self._seconds * keep + elapsed

    def seconds_for(self, num_tokens: int) -> float:
        """How long that many tokens will take; one second while nothing is known."""
        return num_tokens * self._seconds / self._tokens if self._tokens > 0 else 1.0


class Permit(Protocol):
    """The part of the queue that one call holds, as a context: leaving it releases all of it."""

    backlog_tokens: int
    """Tokens that its caller had in flight before it."""

    def settle(self, num_pairs: int, num_tokens: int) -> None:
        """Says the real numbers, once the texts are cut into pairs and tokens."""
        ...

    def answered(self, num_pairs: int) -> None:
        """Releases what pairs held that have been answered."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *raised: object) -> None: ...


class AdmissionControl(Protocol):
    """Who gives permits: ``Admission`` itself, or the coordinator's by way of messages."""

    num_calls: int
    """Calls in flight."""
    num_pairs: int
    """Pairs in flight: queued, or on a device."""
    idle: asyncio.Event
    """Set while no call is in flight."""

    async def acquire(self, call_id: str, num_pairs: int, num_tokens: int, caller: str) -> Permit:
        """A permit for a call. ``call_id`` is what the core will know the call by.

        Raises ``OverloadedError`` (with the time after which to retry) or ``TooLargeError``.
        """
        ...


class AdmissionPermit:
    """What one call holds of the queue, released as its pairs are answered."""

    def __init__(self, admission: Admission, caller: str, num_pairs: int, num_tokens: int, backlog_tokens: int) -> None:
        self._admission = admission
        self.caller = caller
        self.open_pairs = num_pairs
        self.open_tokens = num_tokens
        self.backlog_tokens = backlog_tokens
        """Tokens that its caller had in flight before it."""
        self._tokens_per_pair = num_tokens / max(1, num_pairs)

    def settle(self, num_pairs: int, num_tokens: int) -> None:
        """Takes the real numbers, once the texts are cut into pairs and tokens. They are counted, not judged again."""
        self._admission.add(self.caller, num_pairs - self.open_pairs, num_tokens - self.open_tokens)
        self.open_pairs, self.open_tokens = num_pairs, num_tokens
        self._tokens_per_pair = num_tokens / max(1, num_pairs)

    def answered(self, num_pairs: int) -> None:
        """Releases what pairs held that have been answered."""
        pairs, tokens = self._part(num_pairs)
        self._admission.speed.done(tokens)
        self._release(pairs, tokens)

    def release(self) -> None:
        """The call is over; whatever is left of it will not be computed."""
        self._release(self.open_pairs, self.open_tokens)
        self._admission.call_ended(self.caller)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()

    def _part(self, num_pairs: int) -> tuple[int, int]:
        if num_pairs >= self.open_pairs:
            return self.open_pairs, self.open_tokens
        return num_pairs, min(self.open_tokens, round(num_pairs * self._tokens_per_pair))

    def _release(self, num_pairs: int, num_tokens: int) -> None:
        self.open_pairs -= num_pairs
        self.open_tokens -= num_tokens
        self._admission.add(self.caller, -num_pairs, -num_tokens)


class Admission:
    """Counts what is in flight, and decides about each call by it."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self.num_calls = 0
        self.num_pairs = 0
        self.num_tokens = 0
        self.speed = Speed()
        self.idle = asyncio.Event()
        self.idle.set()
        self._tokens_of: Counter[str] = Counter()
        self._calls_of: Counter[str] = Counter()

    async def acquire(self, call_id: str, num_pairs: int, num_tokens: int, caller: str) -> AdmissionPermit:
        """``admit``, as ``AdmissionControl`` has it. Nothing is waited for: the decision is made in this process."""
        return self.admit(num_pairs, num_tokens, caller)

    def admit(self, num_pairs: int, num_tokens: int, caller: str) -> AdmissionPermit:
        """A permit for a call, to be released by its ``release``. Raises ``OverloadedError`` or ``TooLargeError``."""
        self._check(num_pairs, num_tokens, caller)
        if self.num_calls == 0:
            self.speed.start()
        permit = AdmissionPermit(self, caller, num_pairs, num_tokens, self._tokens_of[caller])
        self.num_calls += 1
        self._calls_of[caller] += 1
        self.add(caller, num_pairs, num_tokens)
        self.idle.clear()
        return permit

    def call_ended(self, caller: str) -> None:
        """Counts a call that is over."""
        self.num_calls -= 1
        self._calls_of[caller] -= 1
        if not self._calls_of[caller]:  # callers come and go without end
            del self._calls_of[caller], self._tokens_of[caller]
        if self.num_calls == 0:
            self.idle.set()

    def add(self, caller: str, num_pairs: int, num_tokens: int) -> None:
        """Counts pairs and tokens in flight; negative numbers are what was answered."""
        self.num_pairs += num_pairs
        self.num_tokens += num_tokens
        self._tokens_of[caller] += num_tokens

    def _check(self, num_pairs: int, num_tokens: int, caller: str) -> None:
        config = self._config
        if num_pairs > config.max_documents:
            raise TooLargeError(
                f"{num_pairs} documents are more than the {config.max_documents} that one call may have "
                "(--max-documents).",
                param="documents",
            )
        if not self.num_calls:
            return  # what fits nowhere else fits into an empty server
        newcomer = not self._calls_of[caller]
        limits: Sequence[tuple[str, int, int, int, str]] = (
            ("pairs", self.num_pairs, num_pairs, config.max_queued_pairs, "--max-queued-pairs"),
            ("tokens", self.num_tokens, num_tokens, config.max_queued_tokens, "--max-queued-tokens"),
        )
        for what, in_flight, more, limit, flag in limits:
            share = limit if newcomer else limit - limit // NEWCOMERS_SHARE
            if in_flight + more > share:
                whose = f"; {limit - share} are kept for other callers" if in_flight + more <= limit else ""
                raise self._overloaded(f"{in_flight} {what} are waiting, {more} more are asked for ({flag}{whose})")

    def _overloaded(self, why: str) -> OverloadedError:
        wait_s = self.speed.seconds_for(self.num_tokens)
        return OverloadedError(
            f"The server is overloaded: {why}. Try again later.", retry_after_s=min(MAX_RETRY_AFTER_S, max(1.0, wait_s))
        )
