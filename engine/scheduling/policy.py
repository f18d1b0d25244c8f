"""The scheduling policy: which call goes first. Nothing else in the scheduler knows how calls are ordered.

*Least remaining work first, with ageing.* The key of a call is the work it has left plus what its arrival time and
priority weigh in tokens. Every call ages at the same rate, so the order of two calls does not change while they wait:
the key stays the same until the call itself makes progress, and a heap is enough. A call that came
``remaining / ageing_tokens_per_s`` seconds before all others is at the front whatever its size, so none starves. What
its caller already had inside counts as well: who sends much waits behind himself, not in front of others.
"""

from __future__ import annotations

from engine.config import SchedulerConfig
from engine.scheduling.call import Call


def queue_key(call: Call, config: SchedulerConfig) -> float:
    """Tokens; the call with the smallest key goes first. Asked again whenever the call has made progress."""
    request = call.request
    return (
        call.remaining_tokens
        + request.backlog_tokens
        + request.arrival_s * config.ageing_tokens_per_s
        + request.priority * config.priority_tokens
    )
