"""A pair that was scored before, to tell a broken worker from pairs that break a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.config import SchedulerConfig
from engine.messages import EngineCoreOutput, EngineCoreRequest
from engine.scheduling.scheduler import Scheduler
from engine.step import SchedulerOutput, WorkerInfo


class KnownPair:
    """The first pair that got a score. Run again, alone, when steps fail: a worker that cannot do it is broken."""

    def __init__(self, config: SchedulerConfig, info: WorkerInfo) -> None:
        self._config = config
        self._info = info
        self._open: dict[str, EngineCoreRequest] | None = {}
        """Calls that may be the first to get a score; None once there is one."""
        self._pair: EngineCoreRequest | None = None

    def add(self, request: EngineCoreRequest) -> None:
        """A call has come."""
        if self._open is not None and not request.pictures:
            self._open[request.call_id] = request

    def learn(self, outputs: Sequence[EngineCoreOutput]) -> None:
        """Answers of a step: the first score among them is that of the known pair."""
        if self._open is None:
            return
        for output in outputs:
            request = self._open.get(output.call_id)
            if output.stats is not None:  # its last answer
                self._open.pop(output.call_id, None)
            if request is None or not len(output.indices):
                continue
            pair = int(output.indices[0])
            if request.pair_lens[pair] <= self._info.max_num_batched_tokens:
                self._pair, self._open = _alone(request, pair), None
                return

    def step(self) -> SchedulerOutput | None:
        """A step that computes the known pair and nothing else; None while there is none."""
        if self._pair is None:
            return None
        scheduler = Scheduler(self._config, self._info, None, False, self._info.max_num_batched_tokens, lambda: 0.0)
        scheduler.add(self._pair)
        return scheduler.schedule()


def _alone(request: EngineCoreRequest, pair: int) -> EngineCoreRequest:
    """The pair by the model itself: an adapter that it was scored with may be gone by then."""
    end = int(request.pair_lens[: pair + 1].sum())
    tokens = slice(end - int(request.pair_lens[pair]), end)
    types = request.token_type_ids
    return EngineCoreRequest(
        call_id="known pair",
        token_ids=np.array(request.token_ids[tokens]),
        pair_lens=np.array(request.pair_lens[pair : pair + 1]),
        arrival_s=0.0,
        token_type_ids=None if types is None else np.array(types[tokens]),
        key_lens=None if request.key_lens is None else np.array(request.key_lens[pair : pair + 1]),
    )
