"""Which segments run in the next step: arithmetic on queues and counters, no torch, no I/O.

**The idea of ``schedule``.** Calls stand in two orders (``call_queues.py``): half of a step is filled with the oldest,
the rest with those that have the least work left. From the front, segments are taken depth-first while the token budget
and the segment limit hold; what does not fit is looked past, so a short call shares the step with a long one. A
parent and its children go into the same step where they fit. Where they do not, the parent's keys and values get slots
in the KV cache, and its children follow in later steps; slots are committed before a path starts, so that no two paths
can wait for each other.

**Results.** ``update`` turns a step's values into answers. Steps come back in the order in which they were planned, so
the next one may be planned while one runs: a segment counts as available from the moment it is scheduled.

**Failures.** Whatever happens to a step (worker died, out of memory), ``replay`` forgets the KV cache, builds the trees
of all unanswered pairs again and halves the number of suspected pairs a step may hold, so that a pair that kills its
worker ends up alone, fails alone, and costs nobody else an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count

import numpy as np

from engine.config import SchedulerConfig
from engine.errors import DeadlineExceededError, EngineError, StepFailedError
from engine.messages import EngineCoreOutput, EngineCoreRequest, SchedulerStats
from engine.scheduling.answers import Answers
from engine.scheduling.call import Call
from engine.scheduling.call_queues import CallQueues
from engine.scheduling.failure_attribution import SuspectedPairs
from engine.scheduling.kv_memory import KVMemory
from engine.scheduling.statistics import Statistics
from engine.scheduling.step_filler import StepFiller
from engine.scheduling.step_plan import StepPlan
from engine.scheduling.step_values import values_of_calls
from engine.scheduling.token_tree import LeafRun, SegmentState
from engine.scheduling.tree_builder import TreeBuilder
from engine.step import Blame, ModelRunnerOutput, SchedulerOutput, WorkerInfo

logger = logging.getLogger(__name__)
MIN_TOKEN_BUDGET = 64


class Scheduler:
    """Owns every accepted call until it is answered. ``clock`` is ``time.monotonic`` outside tests."""

    def __init__(
        self,
        config: SchedulerConfig,
        info: WorkerInfo,
        constant_prefix: np.ndarray | None,
        causal: bool,
        max_model_len: int,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._clock = clock
        self._token_budget = info.max_num_batched_tokens
        self._max_segments = config.max_num_seqs
        self._memory = KVMemory(
            config, info.kv_capacity if causal else 0, constant_prefix, self._token_budget, max_model_len
        )
        self._builder = TreeBuilder(
            max_segment_tokens=min(config.max_segment_tokens or self._token_budget, self._token_budget),
            min_shared_tokens=config.min_shared_tokens,
            share=causal,
            cut_at_query=self._memory.store.keeps_queries,
        )
        self._calls: dict[str, Call] = {}
        self._queues = CallQueues(config, self._token_budget)
        self._step_ids = count()
        self._in_flight: dict[int, StepPlan] = {}
        self._suspects = SuspectedPairs()
        self._filler = StepFiller(self._memory, self._suspects, clock)
        self._statistics = Statistics()
        self._stats = self._statistics.totals
        self._answers = Answers(self._stats, self._suspects, clock)
        self._unplannable: list[EngineCoreOutput] = []

    # -- calls come and go ---------------------------------------------------------------------------------------

    def add(self, request: EngineCoreRequest) -> None:
        """Accept a call; from now on each of its pairs gets exactly one answer."""
        assert request.call_id not in self._calls, "call ids must be unique"
        call = Call(request, self._stats.computed_tokens)
        self._calls[call.call_id] = call
        self._enqueue(call)

    def take_unplannable(self) -> list[EngineCoreOutput]:
        """Answers, once, for calls that ended because planning them raised."""
        outputs, self._unplannable = self._unplannable, []
        return outputs

    def _enqueue(self, call: Call) -> None:
        """Make the call's tree and put it into the queue; a call for which that raises is answered with the error."""
        try:
            self._build_tree(call)
        except Exception as error:
            self._end_unplannable(call, error)

    def _end_unplannable(self, call: Call, error: Exception) -> None:
        """An error of ours while planning one call is nobody else's business: it gets the error and is forgotten."""
        logger.exception("call %s could not be planned", call.call_id)
        failure = StepFailedError(f"this call could not be planned: {type(error).__name__}: {error}")
        self._unplannable.append(self._answers.failed(call, call.unanswered().tolist(), failure))
        call.ready = []
        call.aborted = True  # what it has in a step comes back to nobody
        self._retire_if_done(call)

    def _build_tree(self, call: Call) -> None:
        request = call.request
        roots = self._builder.build(
            request.token_ids,
            request.pair_lens,
            self._memory.constant_prefix if request.adapter is None else None,
            token_types=request.token_type_ids,
            query_lens=None if request.pictures else request.query_lens,  # a picture's ids are those of its call
            key_lens=request.key_lens,
            members=call.unanswered() if call.num_answered else None,
        )
        call.start_from(self._memory.reuse_kept(roots, call))
        self._queues.push(call)

    def abort(self, call_id: str) -> None:
        """Forget a call: what has not entered a step never will, what is in one comes back to nobody."""
        call = self._calls.get(call_id)
        if call is None or call.aborted:
            return
        call.aborted = True
        self._stats.aborted_pairs += call.num_pairs - call.num_answered
        call.ready = []
        self._suspects.clear(call_id, range(call.num_pairs))
        self._retire_if_done(call)

    def expire(self) -> list[EngineCoreOutput]:
        """Answer the waiting pairs of calls whose deadline has passed; pairs already in a step are still scored."""
        now = self._clock()
        outputs = []
        for call in list(self._calls.values()):
            deadline = call.request.deadline_s
            if deadline is None or now < deadline or call.aborted or not call.ready:
                continue
            late = call.waiting_pairs()
            call.ready = []
            error = DeadlineExceededError(f"the deadline passed with {len(late)} of {call.num_pairs} pairs waiting")
            outputs.append(self._answers.failed(call, late, error))
            self._retire_if_done(call)
        return outputs

    # -- schedule -------------------------------------------------------------------------------------------------

    def schedule(self) -> SchedulerOutput | None:
        """Plan one step; None when nothing can run. The idea is told at the head of this module."""
        plan = StepPlan(next(self._step_ids), self._token_budget, self._max_segments)
        self._queues.fill(plan, self._filler, self._end_unplannable)
        if not plan.entries:
            return None
        self._in_flight[plan.step_id] = plan
        self._memory.keep(plan)
        self._statistics.count_step(plan, self._token_budget)
        return plan.to_output(self._memory.capacity)

    # -- results --------------------------------------------------------------------------------------------------

    def update(self, output: ModelRunnerOutput) -> list[EngineCoreOutput]:
        """Take a step's values; returns the answers it completes."""
        plan = self._in_flight.pop(output.step_id, None)
        if plan is None:  # lost and replayed meanwhile
            return []
        self._stats.device_s += output.device_s
        found = values_of_calls(plan, output.values)
        self._settle(plan)
        all_finite = bool(np.isfinite(output.values).all())
        answers = (self._answers.scored(call, parts, all_finite) for call, parts in found.items() if not call.aborted)
        outputs = [answer for answer in answers if answer is not None]
        for owner in dict.fromkeys(plan.calls):
            if owner is not None:
                self._retire_if_done(owner)
        return outputs

    def _settle(self, plan: StepPlan) -> None:
        for segment in plan.inner:
            segment.state = SegmentState.COMPUTED
        for call, entry in zip(plan.calls, plan.entries, strict=True):
            if call is not None:
                call.num_in_flight -= 1
                if isinstance(entry, LeafRun):
                    self._memory.finish(entry, call)

    def _retire_if_done(self, call: Call) -> None:
        """Drop a call that is answered or aborted and has nothing in flight, with all it holds."""
        if call.num_in_flight or not (call.finished or call.aborted) or call.call_id not in self._calls:
            return
        del self._calls[call.call_id]
        self._memory.retire(call)

    # -- failures -------------------------------------------------------------------------------------------------

    def replay(
        self, error: EngineError, *, out_of_memory: bool = False, blame_pairs: bool = True
    ) -> tuple[list[EngineCoreOutput], Blame]:
        """All steps in flight are lost, and so is the KV cache. Returns errors for pairs that are given up, and whether
        pairs are to blame. ``blame_pairs`` False: none is, and what was held against some is forgotten."""
        plans = list(self._in_flight.values())
        self._in_flight.clear()
        self._memory.reset()
        outputs: list[EngineCoreOutput] = []
        blame: Blame = "unknown"
        if plans:
            # Steps run in order, so the first one lost is the one that failed.
            failed = plans[0]
            self._stats.replayed_pairs += sum(len(entry.pairs) for plan in plans for entry in plan.entries)
            if blame_pairs and not (out_of_memory and self._shrink(failed)):
                outputs, blame = self._give_up(failed, error)
        if not blame_pairs:
            self._suspects.forget(self._calls.values())
        self._queues.clear()
        for call in list(self._calls.values()):
            if call.aborted or call.finished:
                del self._calls[call.call_id]
            else:
                self._enqueue(call)
        return outputs, blame

    def _shrink(self, plan: StepPlan) -> bool:
        """Smaller steps from now on; False if they are as small as they get, and some pair is too large by itself."""
        halved = max(MIN_TOKEN_BUDGET, plan.num_tokens // 2)
        if halved >= self._token_budget:
            return False
        self._token_budget = halved
        self._builder.limit(halved)
        return True

    def _give_up(self, plan: StepPlan, error: EngineError) -> tuple[list[EngineCoreOutput], Blame]:
        outputs = []
        given_up, blame = self._suspects.attribute(plan)
        for call, pairs in given_up.items():
            failure = StepFailedError(f"the step with this document failed repeatedly: {error}")
            outputs.append(self._answers.failed(call, pairs, failure))
        return outputs, blame

    # -- state ----------------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether any call waits for an answer."""
        return bool(self._calls)

    @property
    def has_waiting(self) -> bool:
        """Whether some call may have something that is in no step yet."""
        return bool(self._queues)

    @property
    def has_suspects(self) -> bool:
        """Some pairs of a lost step are neither cleared nor given up."""
        return bool(self._suspects)

    @property
    def num_in_flight(self) -> int:
        """Steps that were planned and have not come back."""
        return len(self._in_flight)

    def uses_adapter(self, name: str) -> bool:
        """Whether a call on this adapter waits for an answer, or has something in a step."""
        return any(call.request.adapter == name for call in self._calls.values())

    def forget_kv(self) -> None:
        """The KV cache is new and empty. Only while there is no work."""
        assert not self._calls, "calls would read keys that are gone"
        self._memory.reset()

    def drop_queries(self) -> None:
        """Forget the queries that are kept between calls, except those in use; the constant prefix stays."""
        self._memory.store.drop_queries()

    def stats(self) -> SchedulerStats:
        """Totals since the start, and the present state: the same object each time, brought up to date."""
        return self._statistics.now(self._calls.values(), self._memory)
