"""From 8 to 10,000 devices: routing policies, tails, routers that become the limit, and what a million pairs cost.

The device is the H200 of ``engine plan`` with the 0.6B model (its cost model by arithmetic, not measured end to end);
what a router does is measured here: ``choose_replica`` by the number of replicas, tokenisation by the token.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from benchmarks.scale_sim.cost_model import CostModel
from benchmarks.scale_sim.replica import ReplicaSettings
from benchmarks.scale_sim.simulate import Cluster, Outcome, quantile, simulate
from benchmarks.scale_sim.traffic import Call, Shape, poisson
from engine.backends.cuda.data_sheets import H200
from engine.backends.cuda.planner import StepTime
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.core.replicas import choose_replica
from engine.entrypoints.planning.model_shape import ModelShape
from engine.inputs.processor import InputProcessor
from engine.request import PairOptions
from tests.serve.described import checkpoint

QWEN_0_6B = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 151_669,
    "max_position_embeddings": 40_960,
    "torch_dtype": "bfloat16",
}
LAUNCHES_S = 0.001
"""Of a step, beside its arithmetic: an assumption."""
DEVICE_HOUR = 3.0
"""Price of a device for an hour, in whatever currency; costs are proportional to it."""
SHAPE = Shape(query_tokens=30, document_tokens=190, documents=100, num_queries=100_000, zipf=0.9)
LONG_QUERIES = Shape(query_tokens=400, document_tokens=100, documents=20, num_queries=20_000, zipf=0.9)
STORE_TOKENS = 200_000
LOAD = 0.7
POD = 8
SIZES = (8, 32, 128, 512, 2048, 10_000)
CALLS_PER_REPLICA = 40


def device_cost_model() -> CostModel:
    shape, rate = ModelShape.of(QWEN_0_6B), H200.rates["bfloat16"] * H200.step_share
    return CostModel(StepTime(LAUNCHES_S, shape.token_flop / rate, 2 * shape.attention_flop(1.0) / rate), 0.002)


SETTINGS = ReplicaSettings(
    cost_model=device_cost_model(), token_budget=H200.token_budget, constant_prefix=60, store_tokens=STORE_TOKENS
)


def scale(*, toy: bool = False) -> dict[str, Any]:
    sizes = SIZES[:2] if toy else SIZES
    per_replica = 4 if toy else CALLS_PER_REPLICA
    decisions = {size: decision_s(size) for size in sizes}
    tokenise = tokenise_s()
    return {
        "cost_model": asdict(device_cost_model().step),
        "service_s": service_s(SHAPE),
        "decision_s": decisions,
        "tokenise_s_per_token": tokenise,
        "gains": gains(8 if toy else 64, per_replica),
        "policies": policies(sizes[:3], per_replica),
        "front_ends": front_ends(sizes, per_replica),
        "shared_routers": shared_routers(32 if toy else 128, per_replica),
        "limits": limits(decisions, tokenise),
        "cost": cost(16, per_replica),
    }


def service_s(shape: Shape) -> float:
    """One call in steps of its own, nothing kept."""
    tokens = shape.mean_tokens
    squares = tokens * (SETTINGS.constant_prefix + shape.query_tokens + shape.document_tokens / 2)
    steps = max(1.0, tokens / SETTINGS.token_budget)
    step = SETTINGS.cost_model.step
    return step.seconds(int(tokens), int(squares)) + (steps - 1) * step.fixed_s


def decision_s(num_replicas: int) -> float:
    """Of ``choose_replica``, all replicas usable, a query whose replica is not too far behind."""
    loads, usable = [1000 + 7 * i % 13 for i in range(num_replicas)], [True] * num_replicas
    times = []
    for _ in range(5):
        count = max(3, 20_000 // num_replicas)
        started = time.perf_counter()
        for number in range(count):
            choose_replica(loads, usable, number, 4 * SETTINGS.token_budget)
        times.append((time.perf_counter() - started) / count)
    return min(times)


def tokenise_s() -> float:
    """Of one token, rendered and encoded by a Qwen3-Reranker's tokenizer (3,000 entries) on one thread."""
    config = ModelConfig(model=str(checkpoint()))
    inputs = InputProcessor(resolve_model(config), config)
    documents = [f"Panda number {i} eats bamboo in the mountains of central China. " * 12 for i in range(50)]
    times = []
    for number in range(5):
        started = time.perf_counter()
        pairs = inputs.encode([f"What does panda {number} eat?"], documents, PairOptions())
        times.append((time.perf_counter() - started) / sum(len(pair.token_ids) for pair in pairs))
    return min(times)


def traffic(shape: Shape, num_replicas: int, load: float, per_replica: int) -> list[Call]:
    return poisson(shape, load * num_replicas / service_s(shape), per_replica * num_replicas, seed=num_replicas)


def summary(outcome: Outcome, calls: Sequence[Call]) -> dict[str, float]:
    """The first tenth of the calls finds empty replicas and stores, and is left out of the quantiles."""
    settled = outcome.latencies_s[len(calls) // 10 :]
    pairs = sum(call.documents for call in calls)
    return {
        "mean_s": statistics.fmean(settled),
        "p50_s": quantile(settled, 0.5),
        "p99_s": quantile(settled, 0.99),
        "p999_s": quantile(settled, 0.999),
        "hit_rate": outcome.hits / len(calls),
        "computed_tokens_per_pair": outcome.computed_tokens / pairs,
        "busiest": max(outcome.busy),
        "mean_busy": statistics.fmean(outcome.busy),
    }


def gains(size: int, per_replica: int) -> list[dict[str, Any]]:
    """How far behind a query's replica may be, in tokens for each token of the query; the last is bounded by steps."""
    found = []
    for name, shape in (("short queries", SHAPE), ("long queries", LONG_QUERIES)):
        calls = traffic(shape, size, LOAD, 3 * per_replica)
        for gain in (0, 4, 8, 16, 32, 10**9):
            cluster = Cluster(replica=SETTINGS, num_replicas=size, affinity_gain=gain)
            found.append({"traffic": name, "replicas": size, "gain": gain, **summary(simulate(cluster, calls), calls)})
    return found


def policies(sizes: Sequence[int], per_replica: int) -> list[dict[str, Any]]:
    """Affinity bounded by load, least load, round-robin; queries that matter little and much."""
    found = []
    for name, shape in (("short queries", SHAPE), ("long queries", LONG_QUERIES)):
        for size in sizes:
            calls = traffic(shape, size, LOAD, 5 * per_replica)
            for policy in ("affinity", "least", "round_robin"):
                outcome = simulate(Cluster(replica=SETTINGS, num_replicas=size, policy=policy), calls)
                found.append({"traffic": name, "replicas": size, "policy": policy, **summary(outcome, calls)})
    return found


def front_ends(sizes: Sequence[int], per_replica: int) -> list[dict[str, Any]]:
    """Pods of ``POD`` replicas with a router each, calls spread over pods at random or by query; and one router."""
    found = []
    for size in sizes:
        calls = traffic(SHAPE, size, LOAD, per_replica)
        base = Cluster(replica=SETTINGS, num_replicas=size)
        kinds = {
            "pods, random": replace(base, num_routers=size // POD),
            "pods, by query": replace(base, num_routers=size // POD, front="query"),
        }
        if size <= 512:  # beyond, one router is too slow to be of interest: see ``limits``
            kinds["one router"] = base
        for name, cluster in kinds.items():
            found.append({"replicas": size, "front": name, **summary(simulate(cluster, calls), calls)})
    return found


def shared_routers(size: int, per_replica: int) -> list[dict[str, Any]]:
    """Routers before the same replicas, each knowing what it sent itself."""
    calls = traffic(SHAPE, size, 0.85, 2 * per_replica)
    found = []
    for num_routers in (1, 2, 8, 32):
        cluster = Cluster(replica=SETTINGS, num_replicas=size, num_routers=num_routers, shared=True)
        found.append({"replicas": size, "routers": num_routers, **summary(simulate(cluster, calls), calls)})
    return found


def limits(decisions: dict[int, float], tokenise: float) -> dict[str, Any]:
    """Where one API process is at its end: replicas that it can feed, by what it does for a call."""
    calls_per_s = LOAD / service_s(SHAPE)
    """Of one replica."""
    logical = SHAPE.documents * (SETTINGS.constant_prefix + SHAPE.query_tokens + SHAPE.document_tokens)
    # What is common to all documents is tokenised once.
    tokenised = SETTINGS.constant_prefix + SHAPE.query_tokens + SHAPE.documents * SHAPE.document_tokens
    return {
        "calls_per_s_of_a_replica": calls_per_s,
        "logical_tokens_per_call": logical,
        "tokenise_s_per_call": tokenised * tokenise,
        "replicas_fed_by_one_tokenising_thread": 1 / (calls_per_s * tokenised * tokenise),
        "decision_share_by_replicas": {size: size * calls_per_s * cost for size, cost in decisions.items()},
    }


def cost(size: int, per_replica: int) -> list[dict[str, Any]]:
    """What a million pairs cost at several loads, and the tail that goes with it."""
    found = []
    for load in (0.3, 0.5, 0.7, 0.8, 0.9):
        calls = traffic(SHAPE, size, load, 10 * per_replica)
        outcome = simulate(Cluster(replica=SETTINGS, num_replicas=size), calls)
        pairs = sum(call.documents for call in calls)
        price = size * DEVICE_HOUR * calls[-1].arrival_s / 3600 / pairs * 1e6
        found.append({"load": load, "replicas": size, "per_million_pairs": price, **summary(outcome, calls)})
    return found
