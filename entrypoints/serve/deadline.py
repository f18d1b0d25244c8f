"""A call's own deadline: waiting that ends when it passes, and keeps what came before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

T = TypeVar("T")


def passed(deadline_s: float | None) -> bool:
    """Whether ``deadline`` (seconds of ``time.monotonic``) is over; None is never over."""
    return deadline_s is not None and time.monotonic() >= deadline_s


async def until(deadline_s: float | None, items: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """The items that come before the deadline; the iteration then ends, and what still runs is cancelled."""
    while True:
        try:
            # One wait an item: a time limit around the whole loop would also interrupt whoever consumes it.
            item = await asyncio.wait_for(anext(items), _left(deadline_s))
        except (StopAsyncIteration, TimeoutError):
            return
        yield item


def _left(deadline_s: float | None) -> float | None:
    return None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
