"""One replica: what ``engine/scheduling/scheduler.py`` does with whole calls, in a few counters.

Least remaining work first with ageing, in place of the engine's two orders (``policy.py``); a step takes the query
(once) and as many whole documents as fit the budget, from several calls; a new step is planned as soon as the pipeline
has room. A query stays in the store, least recently used first out, once its call is done. Memory limits, aborts and
failures are left out.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from dataclasses import dataclass

from benchmarks.scale_sim.cost_model import CostModel
from benchmarks.scale_sim.traffic import Call
from engine.config import SchedulerConfig


@dataclass(frozen=True, kw_only=True)
class ReplicaSettings:
    cost_model: CostModel
    token_budget: int
    constant_prefix: int = 60
    keeps_queries: bool = True
    store_tokens: int = 4096
    pipeline_depth: int = SchedulerConfig.pipeline_depth
    ageing_tokens_per_s: float = SchedulerConfig.ageing_tokens_per_s


class _Open:
    """A call inside a replica."""

    __slots__ = ("call", "documents_left", "in_flight", "needs_query", "number")

    def __init__(self, number: int, call: Call, *, needs_query: bool) -> None:
        self.number, self.call, self.needs_query = number, call, needs_query
        self.documents_left = call.documents
        self.in_flight = 0

    @property
    def remaining_tokens(self) -> int:
        return self.documents_left * self.call.document_tokens + self.needs_query * self.call.query_tokens


class Replica:
    """``add`` a call, ``step_done`` when the running step ends; both return when the next end is due, if it is new."""

    def __init__(self, settings: ReplicaSettings) -> None:
        self._settings = settings
        self._waiting: list[tuple[float, int, _Open]] = []
        self._planned: deque[tuple[float, list[_Open]]] = deque()
        """Steps in order, the running one first: seconds, and the calls that have documents in it."""
        self._store: OrderedDict[int, int] = OrderedDict()
        self._stored_tokens = 0
        self._order = 0
        self.computed_tokens = 0
        self.num_steps = 0
        self.busy_s = 0.0
        self.hits = 0

    def add(self, number: int, call: Call, now: float) -> float | None:
        """The end of a step that this call starts at once."""
        known = call.query in self._store
        if known:
            self._store.move_to_end(call.query)
            self.hits += 1
        self._push(_Open(number, call, needs_query=not known))
        was_idle = not self._planned
        self._plan()
        return now + self._planned[0][0] if was_idle and self._planned else None

    def step_done(self, now: float) -> tuple[list[int], float | None]:
        """Numbers of the calls that are complete, and the end of the next step."""
        _, calls = self._planned.popleft()
        finished = []
        for inside in calls:
            inside.in_flight -= 1
            if not inside.in_flight and not inside.documents_left:
                finished.append(inside.number)
                self._keep(inside.call)
        self._plan()
        return finished, now + self._planned[0][0] if self._planned else None

    def _push(self, inside: _Open) -> None:
        self._order += 1
        key = inside.remaining_tokens + inside.call.arrival_s * self._settings.ageing_tokens_per_s
        heapq.heappush(self._waiting, (key, self._order, inside))

    def _plan(self) -> None:
        while self._waiting and len(self._planned) < self._settings.pipeline_depth:
            self._planned.append(self._next_step())

    def _next_step(self) -> tuple[float, list[_Open]]:
        settings = self._settings
        room, squares, calls = settings.token_budget, 0.0, []
        while self._waiting:
            inside = self._waiting[0][2]
            call, query = inside.call, inside.needs_query * inside.call.query_tokens
            count = min(inside.documents_left, (room - query) // call.document_tokens)
            if count <= 0 and calls:
                break
            count = max(count, 1)  # a document longer than a step is cut; its work is the same
            heapq.heappop(self._waiting)
            before = settings.constant_prefix + call.query_tokens
            squares += query * (settings.constant_prefix + query / 2)
            squares += count * call.document_tokens * (before + call.document_tokens / 2)
            room -= query + count * call.document_tokens
            inside.needs_query, inside.documents_left = False, inside.documents_left - count
            inside.in_flight += 1
            calls.append(inside)
            if inside.documents_left:
                self._push(inside)
                break
        tokens = settings.token_budget - room
        seconds = settings.cost_model.step.seconds(tokens, int(squares))
        self.computed_tokens += tokens
        self.num_steps += 1
        self.busy_s += seconds
        return seconds, calls

    def _keep(self, call: Call) -> None:
        if not self._settings.keeps_queries or call.query in self._store:
            return
        self._store[call.query] = call.query_tokens
        self._stored_tokens += call.query_tokens
        while self._stored_tokens > self._settings.store_tokens:
            self._stored_tokens -= self._store.popitem(last=False)[1]
