"""Who may come in: one atomic decision per call, counted in pairs and in tokens, with limits that are on by default."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from engine.config import ServerConfig
from engine.errors import OverloadedError, TooLargeError


class Ticket:
    """The place that one call takes, given back as its pairs are answered."""

    def __init__(self, admission: Admission, num_pairs: int) -> None:
        self._admission = admission
        self.open_pairs = num_pairs
        self.open_tokens = 0
        self._tokens_per_pair = 0.0

    def take_tokens(self, num_tokens: int) -> None:
        """The second half of the decision, once the call's tokens are known; before anything was computed."""
        self._admission.take_tokens(num_tokens)
        self.open_tokens = num_tokens
        self._tokens_per_pair = num_tokens / max(1, self.open_pairs)

    def grow(self, num_pairs: int) -> None:
        """Some documents became several pairs."""
        self._admission.num_pairs += num_pairs
        self.open_pairs += num_pairs

    def answered(self, num_pairs: int) -> None:
        done = min(num_pairs, self.open_pairs)
        tokens = (
            self.open_tokens if done == self.open_pairs else min(self.open_tokens, round(done * self._tokens_per_pair))
        )
        self.open_pairs -= done
        self.open_tokens -= tokens
        self._admission.give_back(done, tokens)


class Admission:
    """Counts what is inside. ``idle`` is set while there is nothing."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self.num_calls = 0
        self.num_pairs = 0
        self.num_tokens = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._tokens_per_s = 0.0
        self._measured_s = time.monotonic()

    @contextmanager
    def enter(self, num_pairs: int) -> Iterator[Ticket]:
        limit = self._config.max_documents
        if num_pairs > limit:
            raise TooLargeError(
                f"{num_pairs} documents are more than the {limit} that one call may have (--max-documents).",
                param="documents",
            )
        if self.num_pairs and self.num_pairs + num_pairs > self._config.max_queued_pairs:
            raise self._overloaded(f"{self.num_pairs} pairs are waiting (--max-queued-pairs)")
        self.num_calls += 1
        self.num_pairs += num_pairs
        self.idle.clear()
        ticket = Ticket(self, num_pairs)
        try:
            yield ticket
        finally:
            ticket.answered(ticket.open_pairs)
            self.num_calls -= 1
            if self.num_calls == 0:
                self.idle.set()

    def take_tokens(self, num_tokens: int) -> None:
        if self.num_tokens and self.num_tokens + num_tokens > self._config.max_queued_tokens:
            raise self._overloaded(f"{self.num_tokens} tokens are waiting (--max-queued-tokens)")
        self.num_tokens += num_tokens

    def give_back(self, num_pairs: int, num_tokens: int) -> None:
        self.num_pairs -= num_pairs
        self.num_tokens -= num_tokens
        # A slow average of the speed at which tokens leave: it tells a refused client when to come back.
        now = time.monotonic()
        elapsed = max(1e-3, now - self._measured_s)
        weight = min(1.0, elapsed / 10.0)
        self._tokens_per_s += weight * (num_tokens / elapsed - self._tokens_per_s)
        self._measured_s = now

    def _overloaded(self, why: str) -> OverloadedError:
        wait_s = self.num_tokens / self._tokens_per_s if self._tokens_per_s > 0 else 1.0
        return OverloadedError(
            f"The server is overloaded: {why}. Try again later.", retry_after_s=min(60.0, max(1.0, wait_s))
        )
