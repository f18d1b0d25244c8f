"""Who may come in: one atomic decision per call, counted in pairs and in tokens, with limits that are on by default.

The decision is made when the body has been read, before anything is tokenised; tokens are estimated from the texts
then, and counted exactly once they are known. A call that was let in is never refused later.

**Fair shares.** The last eighth of the queue is for callers (API key or address) that have nothing inside, so one
caller cannot fill it. What a caller already has inside is passed on with each call (``backlog_tokens``), and the
scheduler puts it behind others by that much.
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
"""One part in so many of each limit is for callers with nothing inside."""
SPEED_MEMORY_S = 10.0
MAX_RETRY_AFTER_S = 60.0


def estimated_tokens(call: RerankCall, min_pair_tokens: int) -> int:
    """About four characters a token, one where a text is not ASCII; the template for each pair."""
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
    """Tokens a second while there is work, as an average that forgets: it tells a refused client when to come back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = 0.0
        self._seconds = 0.0
        self._since_s = clock()

    def start(self) -> None:
        """Work arrived after a pause, which says nothing about speed."""
        self._since_s = self._clock()

    def done(self, num_tokens: int) -> None:
        now = self._clock()
        elapsed, self._since_s = now - self._since_s, now
        keep = 0.5 ** (elapsed / SPEED_MEMORY_S)
        self._tokens = self._tokens * keep + num_tokens
        self._seconds = self._seconds * keep + elapsed

    def seconds_for(self, num_tokens: int) -> float:
        """How long that many tokens will take; one second while nothing is known."""
        return num_tokens * self._seconds / self._tokens if self._tokens > 0 else 1.0


class Place(Protocol):
    """What one call has inside, as a context: leaving it gives everything back."""

    backlog_tokens: int
    """What its caller had inside before it."""

    def settle(self, num_pairs: int, num_tokens: int) -> None: ...

    def answered(self, num_pairs: int) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *raised: object) -> None: ...


class Door(Protocol):
    """Where calls come in: ``Admission`` itself, or the way to it from another process."""

    num_calls: int
    num_pairs: int
    idle: asyncio.Event

    async def enter(self, call_id: str, num_pairs: int, num_tokens: int, caller: str) -> Place:
        """Raises what the call is refused with. ``call_id`` is what the core will know the call by."""
        ...


class Ticket:
    """The place that one call takes, given back as its pairs are answered."""

    def __init__(self, admission: Admission, caller: str, num_pairs: int, num_tokens: int, backlog_tokens: int) -> None:
        self._admission = admission
        self.caller = caller
        self.open_pairs = num_pairs
        self.open_tokens = num_tokens
        self.backlog_tokens = backlog_tokens
        """What its caller had inside before it."""
        self._tokens_per_pair = num_tokens / max(1, num_pairs)

    def settle(self, num_pairs: int, num_tokens: int) -> None:
        """The real numbers, once the texts are cut into pairs and tokens. They are counted, not judged again."""
        self._admission.add(self.caller, num_pairs - self.open_pairs, num_tokens - self.open_tokens)
        self.open_pairs, self.open_tokens = num_pairs, num_tokens
        self._tokens_per_pair = num_tokens / max(1, num_pairs)

    def answered(self, num_pairs: int) -> None:
        pairs, tokens = self._part(num_pairs)
        self._admission.speed.done(tokens)
        self._give_back(pairs, tokens)

    def leave(self) -> None:
        """The call is over; whatever is left of it will not be computed."""
        self._give_back(self.open_pairs, self.open_tokens)
        self._admission.left(self.caller)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.leave()

    def _part(self, num_pairs: int) -> tuple[int, int]:
        if num_pairs >= self.open_pairs:
            return self.open_pairs, self.open_tokens
        return num_pairs, min(self.open_tokens, round(num_pairs * self._tokens_per_pair))

    def _give_back(self, num_pairs: int, num_tokens: int) -> None:
        self.open_pairs -= num_pairs
        self.open_tokens -= num_tokens
        self._admission.add(self.caller, -num_pairs, -num_tokens)


class Admission:
    """Counts what is inside. ``idle`` is set while there is nothing."""

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

    async def enter(self, call_id: str, num_pairs: int, num_tokens: int, caller: str) -> Ticket:
        """See ``Door``. Nothing is waited for here: whoever decides is in this process."""
        return self.admit(num_pairs, num_tokens, caller)

    def admit(self, num_pairs: int, num_tokens: int, caller: str) -> Ticket:
        """The call's place, which its ``leave`` gives back; raises what the call is refused with."""
        self._check(num_pairs, num_tokens, caller)
        if self.num_calls == 0:
            self.speed.start()
        ticket = Ticket(self, caller, num_pairs, num_tokens, self._tokens_of[caller])
        self.num_calls += 1
        self._calls_of[caller] += 1
        self.add(caller, num_pairs, num_tokens)
        self.idle.clear()
        return ticket

    def left(self, caller: str) -> None:
        self.num_calls -= 1
        self._calls_of[caller] -= 1
        if not self._calls_of[caller]:  # callers come and go without end
            del self._calls_of[caller], self._tokens_of[caller]
        if self.num_calls == 0:
            self.idle.set()

    def add(self, caller: str, num_pairs: int, num_tokens: int) -> None:
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
        for what, inside, more, limit, flag in limits:
            share = limit if newcomer else limit - limit // NEWCOMERS_SHARE
            if inside + more > share:
                whose = f"; {limit - share} are kept for other callers" if inside + more <= limit else ""
                raise self._overloaded(f"{inside} {what} are waiting, {more} more are asked for ({flag}{whose})")

    def _overloaded(self, why: str) -> OverloadedError:
        wait_s = self.speed.seconds_for(self.num_tokens)
        return OverloadedError(
            f"The server is overloaded: {why}. Try again later.", retry_after_s=min(MAX_RETRY_AFTER_S, max(1.0, wait_s))
        )
