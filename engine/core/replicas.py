"""Data parallel: several replicas (core and workers each) behind one client.

**Routing.** A call goes to the replica with the fewest outstanding tokens, counted as they will be computed: what its
pairs share once. Where queries are kept between calls, it goes to the replica that its query hashes to, so that the
query is computed once, unless that replica is too far behind the least loaded one: affinity bounded by load (Preble,
arXiv 2407.00023). How far is too far follows from what there is to gain: ``AFFINITY_GAIN`` times the query's tokens.

**A lost replica.** Its open calls fail at once and are run again elsewhere, answers already passed on excepted, while
it is restarted.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import threading
import zlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from itertools import count, zip_longest
from typing import TYPE_CHECKING, Self

import numpy as np

from engine.config import EngineConfig
from engine.core.async_client import AsyncMPClient
from engine.errors import EngineDeadError
from engine.messages import AdapterChange, EngineCoreOutput, EngineCoreRequest, Operation, SchedulerStats
from engine.model_spec import ModelSpec
from engine.step import WorkerInfo

if TYPE_CHECKING:
    from engine.executor.ray_cluster import Reservation

AFFINITY_SLACK = 4
"""Steps that the preferred replica may be behind the least loaded one, whatever there is to gain."""
AFFINITY_GAIN = 8
"""Tokens that it may be behind for each token of the query. More wins little and lengthens the tail, since a popular
query then waits at its own replica (simulated, docs/scaling.md)."""


class Replica:
    def __init__(self, client: AsyncMPClient) -> None:
        self.client = client
        self.outstanding_tokens = 0


def choose_replica(loads: list[int], usable: list[bool], affinity: int | None, slack_tokens: int, turn: int = 0) -> int:
    """Position of the replica for a call; ``affinity`` is the hash of its query, or None.

    ``turn``: where to begin among equally loaded ones. It moves on from call to call, since several routers before the
    same replicas, each with little to do, would otherwise all begin with the first.
    """
    candidates = [i for i, ok in enumerate(usable) if ok] or list(range(len(loads)))
    first = turn % len(candidates)
    least = min(candidates[first:] + candidates[:first], key=loads.__getitem__)
    if affinity is None:
        return least
    preferred = affinity % len(loads)
    if (usable[preferred] or not any(usable)) and loads[preferred] - loads[least] <= slack_tokens:
        return preferred
    return least


def affinity_slack(query_tokens: int, token_budget: int, gain: int = AFFINITY_GAIN) -> int:
    """Tokens that a query's replica may be behind the least loaded one before the call goes there instead."""
    return min(gain * query_tokens, AFFINITY_SLACK * token_budget)


class ReplicaClient:
    """Has the same interface as ``AsyncMPClient``, for several of them. Make one with ``start``."""

    def __init__(
        self, config: EngineConfig, replicas: list[Replica], *, shares: bool = True, constant_prefix_tokens: int = 0
    ) -> None:
        """``shares``: the model computes once what a call's pairs have in common; ``constant_prefix_tokens``:
        tokens of the constant beginning of all prompts, which every replica keeps."""
        self._replicas = replicas
        self._reserved: Reservation | None = None
        self._turns = count(secrets.randbelow(len(replicas)))
        self._shares = shares
        self._constant_prefix_tokens = constant_prefix_tokens
        self._by_query = config.scheduler.prefix_cache == "query"
        self.info: WorkerInfo = replicas[0].client.info

    @classmethod
    async def start(cls, config: EngineConfig, spec: ModelSpec, constant_prefix: np.ndarray) -> Self:
        """Start all replicas at once; raises what stopped the first one that failed."""
        size = config.device.data_parallel_size
        reserved = await asyncio.to_thread(_reserve, config) if config.device.executor == "ray" else None
        if reserved is not None:
            _take_back_sigterm()
        configs = [reserved.config(config, i) if reserved else replica_config(config, i) for i in range(size)]
        starts = [
            asyncio.ensure_future(AsyncMPClient.start(one, spec, constant_prefix, hold_calls=False)) for one in configs
        ]
        done = await asyncio.gather(*starts, return_exceptions=True)
        clients = [client for client in done if isinstance(client, AsyncMPClient)]
        failures = [error for error in done if isinstance(error, BaseException)]
        if failures:
            await asyncio.gather(*(client.shutdown(0.0) for client in clients))
            if reserved is not None:
                await asyncio.to_thread(reserved.release)
            raise failures[0]
        self = cls(
            config,
            [Replica(client) for client in clients],
            shares=spec.causal,
            constant_prefix_tokens=len(constant_prefix),
        )
        self._reserved = reserved
        return self

    async def run(self, request: EngineCoreRequest) -> AsyncGenerator[EngineCoreOutput, None]:
        """A call's answers as they come, from whichever replicas it took.

        Raises ``EngineDeadError`` once all of them are lost, and what ``AsyncMPClient.run`` raises.
        """
        answered = np.zeros(request.num_pairs, bool)
        tokens = work_tokens(request) if self._shares else len(request.token_ids)
        for _ in range(2 * len(self._replicas)):
            replica = self._choose(request)
            replica.outstanding_tokens += tokens
            answers = replica.client.run(request)
            try:
                async for output in answers:
                    yield output.without(answered)
                return
            except EngineDeadError:
                if not any(other.client.healthy for other in self._replicas):
                    raise
            finally:
                replica.outstanding_tokens -= tokens
                await answers.aclose()
        raise EngineDeadError("every replica that took this call was lost")

    def _choose(self, request: EngineCoreRequest) -> Replica:
        position = choose_replica(
            [replica.outstanding_tokens for replica in self._replicas],
            [replica.client.healthy for replica in self._replicas],
            _query_hash(request) if self._by_query else None,
            affinity_slack(_query_end(request) - self._constant_prefix_tokens, self.info.max_num_batched_tokens),
            next(self._turns),
        )
        return self._replicas[position]

    @property
    def healthy(self) -> bool:
        return any(replica.client.healthy for replica in self._replicas)

    @property
    def why_not_healthy(self) -> str:
        """The reason of the first replica in words, while ``healthy`` is False."""
        return self._replicas[0].client.why_not_healthy

    @property
    def alive(self) -> bool:
        return any(replica.client.alive for replica in self._replicas)

    @property
    def last_heartbeat_s(self) -> float:
        return max(replica.client.last_heartbeat_s for replica in self._replicas)

    @property
    def replica_stats(self) -> list[SchedulerStats]:
        return [replica.client.stats for replica in self._replicas]

    @property
    def stats(self) -> SchedulerStats:
        """Sums over the replicas; the fill of a step is their mean."""
        each = self.replica_stats
        total = SchedulerStats()
        for name in SchedulerStats.__struct_fields__:
            values = [getattr(stats, name) for stats in each]
            if isinstance(values[0], list):  # counts of a histogram
                setattr(total, name, [sum(counts) for counts in zip_longest(*values, fillvalue=0)])
            else:
                setattr(total, name, sum(values))
        total.step_fill /= len(each)
        return total

    async def wait_lost(self) -> None:
        """Waits until no replica is left."""
        await asyncio.gather(*(replica.client.wait_lost() for replica in self._replicas))

    def reset_prefix_cache(self) -> None:
        """Drops the keys and values that any replica keeps between calls."""
        for replica in self._replicas:
            replica.client.reset_prefix_cache()

    async def operate(self, operation: Operation) -> None:
        """Has every replica do an operation; where one cannot, those that could undo it.

        Raises the ``EngineError`` of the first that could not.
        """
        clients = [replica.client for replica in self._replicas]
        before = [client.undoing(operation.name) for client in clients] if isinstance(operation, AdapterChange) else []
        done = await asyncio.gather(*(client.operate(operation) for client in clients), return_exceptions=True)
        failures = [error for error in done if error is not None]
        if not failures:
            return
        changed = [
            client.operate(undo) for client, undo, error in zip(clients, before, done, strict=False) if not error
        ]
        await asyncio.gather(*changed, return_exceptions=True)
        raise failures[0]

    def kill(self) -> None:
        for replica in self._replicas:
            replica.client.kill()

    async def shutdown(self, timeout_s: float) -> None:
        await asyncio.gather(*(replica.client.shutdown(timeout_s) for replica in self._replicas))
        if self._reserved is not None:
            await asyncio.to_thread(_give_back, self._reserved)


def _take_back_sigterm() -> None:
    """Ray puts a handler before ours that aborts the process three seconds after SIGTERM, which is no time to drain."""
    ours = signal.getsignal(signal.SIGTERM)
    if ours is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ours)


def _give_back(reserved: Reservation) -> None:
    from engine.executor.ray_cluster import disconnect

    reserved.release()
    disconnect()


def _reserve(config: EngineConfig) -> Reservation:
    """Devices of a Ray cluster for all replicas, before any of them loads its model."""
    from engine.executor.ray_cluster import reserve

    return reserve(config.device, config.device.data_parallel_size)


def replica_config(config: EngineConfig, index: int) -> EngineConfig:
    """Replica ``index`` gets its own devices, or, pinned on a CPU, its own cores."""
    device = config.device
    return replace(config, device=replace(device, first_rank=index * device.tensor_parallel_size))


def work_tokens(request: EngineCoreRequest) -> int:
    """Estimates the tokens that a call costs, to compare replicas: each query once, then the documents."""
    lens = request.query_lens
    if lens is None or len(lens) == 1:
        return len(request.token_ids)
    other_query = np.diff(lens, prepend=0) != 0  # two that follow each other and are equally long count as one
    return int(lens[other_query].sum() + (request.pair_lens - lens).sum())


def _query_hash(request: EngineCoreRequest) -> int:
    """Of the first pair's tokens up to the end of its query: the same for all calls with that query."""
    return zlib.crc32(np.ascontiguousarray(request.token_ids[: _query_end(request)]).tobytes())


def _query_end(request: EngineCoreRequest) -> int:
    return int(request.pair_lens[0] if request.query_lens is None else request.query_lens[0])


async def start_client(
    config: EngineConfig, spec: ModelSpec, constant_prefix: np.ndarray
) -> AsyncMPClient | ReplicaClient:
    """One replica or several, as ``data_parallel_size`` says."""
    if config.device.data_parallel_size == 1:
        return await AsyncMPClient.start(config, spec, constant_prefix)
    return await ReplicaClient.start(config, spec, constant_prefix)
