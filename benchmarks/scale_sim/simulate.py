"""Routers in front of replicas, event by event.

A call comes to a router (an API process), which is busy with one call at a time for ``router_s``; there
``choose_replica`` of ``engine/core/replicas.py`` picks one of the router's replicas from the tokens that *this router*
has outstanding at each. Several routers may share replicas, and then each knows its own part of the load only.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from benchmarks.scale_sim.replica import Replica, ReplicaSettings
from benchmarks.scale_sim.traffic import Call
from engine.core.replicas import AFFINITY_GAIN, affinity_slack, choose_replica

Policy = Literal["affinity", "least", "round_robin"]
FrontEnd = Literal["random", "query"]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    replica: ReplicaSettings
    num_replicas: int
    policy: Policy = "affinity"
    affinity_gain: int = AFFINITY_GAIN
    num_routers: int = 1
    shared: bool = False
    """Every router has all replicas; otherwise each has its own share of them."""
    front: FrontEnd = "random"
    """How calls get to routers: anyhow, or by the hash of their query."""
    router_s: float = 0.0
    """What a router does for one call before it is passed on."""


@dataclass
class Outcome:
    latencies_s: list[float]
    """By call, in the order of arrival."""
    makespan_s: float
    computed_tokens: int
    hits: int
    busy: list[float] = field(default_factory=list)
    """Share of the time each replica was busy."""
    num_steps: int = 0


class _Router:
    def __init__(self, cluster: Cluster, replicas: Sequence[int], turn: int) -> None:
        self._policy = cluster.policy
        self._budget, self._gain = cluster.replica.token_budget, cluster.affinity_gain
        self._usable = [True] * len(replicas)
        self._turn = turn
        self.replicas = replicas
        self.loads = [0] * len(replicas)
        self.free_s = 0.0

    def choose(self, call: Call) -> int:
        """Position among the router's replicas."""
        self._turn += 1
        if self._policy == "round_robin":
            return self._turn % len(self.replicas)
        affinity = query_hash(call.query) if self._policy == "affinity" else None
        slack = affinity_slack(call.query_tokens, self._budget, self._gain)
        return choose_replica(self.loads, self._usable, affinity, slack, self._turn)


def query_hash(query: int) -> int:
    return zlib.crc32(query.to_bytes(8, "little", signed=True))


def simulate(cluster: Cluster, calls: Sequence[Call], *, seed: int = 0) -> Outcome:
    """Every call is answered; the run ends with the last answer."""
    rng = random.Random(seed)
    replicas = [Replica(cluster.replica) for _ in range(cluster.num_replicas)]
    routers = _routers(cluster)
    latencies = [0.0] * len(calls)
    place: list[tuple[_Router, int, int]] = [(routers[0], 0, 0)] * len(calls)
    order = count()
    events: list[tuple[float, int, int, int]] = []
    """(time, tie, kind, number): kind 0 a call reaches its router's replica, 1 a replica's step ends."""
    now = 0.0

    def dispatch(number: int, now: float) -> None:
        call, router = calls[number], place[number][0]
        position = router.choose(call)
        tokens = call.work_tokens(cluster.replica.constant_prefix)
        router.loads[position] += tokens
        place[number] = router, position, tokens
        replica = router.replicas[position]
        end = replicas[replica].add(number, call, now)
        if end is not None:
            heapq.heappush(events, (end, next(order), 1, replica))

    for number, call in enumerate(calls):
        is_hashed = cluster.front == "query"
        router = routers[query_hash(~call.query) % len(routers) if is_hashed else rng.randrange(len(routers))]
        router.free_s = max(router.free_s, call.arrival_s) + cluster.router_s
        place[number] = router, 0, 0
        events.append((router.free_s, next(order), 0, number))
    heapq.heapify(events)
    while events:
        now, _, kind, number = heapq.heappop(events)
        if kind == 0:
            dispatch(number, now)
            continue
        finished, end = replicas[number].step_done(now)
        if end is not None:
            heapq.heappush(events, (end, next(order), 1, number))
        for done in finished:
            router, position, tokens = place[done]
            router.loads[position] -= tokens
            latencies[done] = now - calls[done].arrival_s + cluster.replica.cost_model.overhead_s
    return Outcome(
        latencies_s=latencies,
        makespan_s=now,
        computed_tokens=sum(replica.computed_tokens for replica in replicas),
        hits=sum(replica.hits for replica in replicas),
        busy=[replica.busy_s / now for replica in replicas] if now else [],
        num_steps=sum(replica.num_steps for replica in replicas),
    )


def _routers(cluster: Cluster) -> list[_Router]:
    everybody = range(cluster.num_replicas)
    if cluster.shared:
        return [_Router(cluster, everybody, 17 * number) for number in range(cluster.num_routers)]
    return [_Router(cluster, everybody[first :: cluster.num_routers], 0) for first in range(cluster.num_routers)]


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
