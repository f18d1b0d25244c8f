"""The stages from titled texts to trained weights, each reading and writing files of one folder.

``pairs.jsonl`` and ``other_pairs.jsonl`` (collect) -> ``pool.json``, what the frozen layers say in ``states/``,
candidate lists (prepare) -> ``trained/`` (train) -> how much of the trained weights to take (choose).
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from benchmarks.small_reranker.candidates import (
    CandidateList,
    build_lists,
    freeze,
    handwritten_lists,
    held_out,
    read_frozen,
    split,
)
from benchmarks.small_reranker.evaluate import OWN_SETS
from benchmarks.small_reranker.metrics import rank_of_positive, reciprocal_rank
from benchmarks.small_reranker.network import LateCross, TextIds, published_folder
from benchmarks.small_reranker.pool import Pool, build_pool, find_negatives, read_pool, write_pool
from benchmarks.small_reranker.states import States, write_states
from benchmarks.small_reranker.texts import Pair, read_pairs
from benchmarks.small_reranker.train import Batches, TrainConfig, read_upper, train

DEFINITIONS = ("wordnet", "webster")
TEST_SHARE, DEV_SHARE = 0.05, 0.01  # the development set is the first fifth of the held-out documents
MIN_WEBSTER_WORDS = 10  # shorter entries are mostly etymology
TRAINED_TOKENS, SCORED_TOKENS = 128, 256
DEV_SETS = ("dev.jsonl", "dev_definitions.jsonl")
DEV_QUESTIONS = Path(__file__).with_name("dev_questions.jsonl")
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Plan:
    """Sizes of everything. The defaults are those of two shared cores; on a GPU take four times the texts and steps."""

    weights: Path = field(default_factory=published_folder)
    cross_layers: int = 2
    train: TrainConfig = field(default_factory=TrainConfig)
    # How many texts of a source the pool holds, and how many of all of them, shuffled, are used.
    pool: dict[str, int] = field(
        default_factory=lambda: {
            "debian": 13_000, "docstring": 6_000, "man": 4_500, "pydoc": 2_900, "office": 4_000, "handbook": 500,
            "foldoc": 5_000, "wordnet": 14_000, "webster": 6_000,
        }
    )  # fmt: skip
    texts: int = 12_288
    documentation_lists: int = 300
    definition_lists: int = 150
    other_lists: int = 300


def write_lists(folder: Path, held: Sequence[Pair], other: Sequence[Pair], plan: Plan) -> dict[str, str]:
    """Freezes the candidate lists; returns and writes their checksums."""
    test = [pair for pair in held if not held_out(pair.group, DEV_SHARE)]
    dev = [pair for pair in held if held_out(pair.group, DEV_SHARE)]
    parts = {
        kind: ([p for p in side if p.source not in DEFINITIONS], [p for p in side if p.source in DEFINITIONS])
        for kind, side in (("test", test), ("dev", dev))
    }
    definitions, dev_definitions = (
        random.Random(0).sample(members, min(3000, len(members))) for members in (parts["test"][1], parts["dev"][1])
    )
    sizes = {
        "dev": (parts["dev"][0], 120),
        "dev_definitions": (dev_definitions, 60),
        "documentation": (parts["test"][0], plan.documentation_lists),
        "definitions": (definitions, plan.definition_lists),
        "other": (other, plan.other_lists),
    }
    sets = {name: build_lists(members, count) for name, (members, count) in sizes.items() if members}
    sets |= {path.stem: handwritten_lists(path) for path in OWN_SETS}
    checksums = {name: freeze(lists, folder / f"{name}.jsonl") for name, lists in sets.items()}
    (folder / "checksums.json").write_text(json.dumps(checksums, indent=2) + "\n")
    return checksums


def prepare(folder: Path, plan: Plan, device: str = "cpu") -> None:
    """Splits, draws the pool, computes what the frozen layers say, finds negatives, freezes the candidate lists."""
    pairs, held = split(read_pairs(folder / "pairs.jsonl"), TEST_SHARE)
    print(json.dumps(write_lists(folder, held, read_pairs(folder / "other_pairs.jsonl"), plan), indent=2), flush=True)
    suited = [pair for pair in pairs if pair.source != "webster" or len(pair.body.split()) >= MIN_WEBSTER_WORDS]
    pool = build_pool(suited, plan.pool, seed=2).head(plan.texts)
    network = LateCross(plan.weights, plan.cross_layers).to(device)
    ids = TextIds(plan.weights, TRAINED_TOKENS)
    states = folder / "states"
    write_states(states, "query", ids(pool.queries), network)
    write_states(states, "text", ids([*pool.texts, *pool.variants()]), network)
    queries, texts = (np.load(states / f"{name}-vectors.npy") for name in ("query", "text"))
    find_negatives(pool, queries, texts[: len(pool.texts)])
    write_pool(folder / "pool.json", pool)
    print(f"{len(pairs)} training pairs, {len(held)} held out, {len(pool.texts)} texts, {len(pool.queries)} queries")


def run_training(folder: Path, plan: Plan, device: str = "cpu") -> list[float]:
    network = LateCross(plan.weights, plan.cross_layers).to(device)
    pool: Pool = read_pool(folder / "pool.json")
    batches = Batches(pool, *(States(folder / "states", name) for name in ("query", "text")), plan.train)
    return train(network, batches, folder / "trained")


def list_scores(network: LateCross, ids: TextIds, lists: Sequence[CandidateList]) -> list[list[float]]:
    return [network.score(ids([entry.query])[0], ids(entry.documents)) for entry in lists]


def choose(folder: Path, plan: Plan, checkpoint: Path, device: str = "cpu") -> dict[float, dict[str, float]]:
    """MRR@10 on the development sets for shares of the trained weights."""
    ids, trained = TextIds(plan.weights, SCORED_TOKENS), load_file(checkpoint)
    sets = {path.stem: read_frozen(path) for path in map(folder.joinpath, DEV_SETS) if path.exists()}
    sets |= {DEV_QUESTIONS.stem: handwritten_lists(DEV_QUESTIONS)}
    found: dict[float, dict[str, float]] = {}
    for share in SHARES:
        network = LateCross(plan.weights, plan.cross_layers)
        read_upper(network, trained, share)
        network.to(device)
        found[share] = {}
        for name, lists in sets.items():
            scores = list_scores(network, ids, lists)
            ranks = [rank_of_positive(own, entry.positive) for own, entry in zip(scores, lists, strict=True)]
            found[share][name] = sum(map(reciprocal_rank, ranks)) / len(ranks)
        print(share, found[share], flush=True)
    return found
