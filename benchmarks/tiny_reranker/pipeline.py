"""The stages from titled texts to a measured checkpoint, each reading and writing files of one folder.

``pairs.jsonl`` and ``other_pairs.jsonl`` (collect) -> ``tokenizer.json``, ``pool.json``, the teacher's vectors in
``vectors/``, ``init/``, candidate lists (prepare) -> ``checkpoint/`` (train) -> results (evaluate).
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from benchmarks.tiny_reranker.candidates import (
    CandidateList,
    build_lists,
    freeze,
    handwritten_lists,
    held_out,
    split,
    thaw,
)
from benchmarks.tiny_reranker.codes import learn_codes
from benchmarks.tiny_reranker.evaluate import evaluate
from benchmarks.tiny_reranker.init import MEANING_DIM, build
from benchmarks.tiny_reranker.meaning import fit
from benchmarks.tiny_reranker.model import TinyConfig
from benchmarks.tiny_reranker.pool import (
    Pool,
    build_pool,
    embed_shards,
    find_negatives,
    read_pool,
    read_shards,
    write_pool,
)
from benchmarks.tiny_reranker.prompt import PromptEncoder
from benchmarks.tiny_reranker.sources_python import STDLIB, docstring_pairs
from benchmarks.tiny_reranker.teacher import MiniLm, Teacher, WordHashes
from benchmarks.tiny_reranker.texts import Pair, read_pairs, unique, write_pairs
from benchmarks.tiny_reranker.tokenizer import train_tokenizer
from benchmarks.tiny_reranker.train import (
    Batches,
    TrainConfig,
    compile_layers,
    load_checkpoint,
    save_checkpoint,
    train,
)

# The first is the published measure: its wrong passages share the words of the question and its right ones avoid them.
# The second is plainer, as a search engine would bring passages. It was written later, while the shipped model trained.
HANDWRITTEN = Path(__file__).with_name("handwritten.jsonl")
HANDWRITTEN_PLAIN = Path(__file__).with_name("handwritten_plain.jsonl")
DEFINITIONS = ("wordnet", "webster")
TEST_SHARE, DEV_SHARE = 0.05, 0.01  # the development set is the first fifth of the held-out documents
MIN_WEBSTER_WORDS = 10  # shorter entries are mostly etymology


@dataclass(frozen=True)
class Plan:
    """Sizes of everything. The defaults are those of the shipped model."""

    model: TinyConfig = field(default_factory=TinyConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    teacher: Callable[[], Teacher] = MiniLm
    meaning_steps: int = 700
    meaning_batch: int = 512
    # How many texts of a source the tokenizer sees; 20,000 of those not named.
    tokenizer_texts: dict[str, int] = field(
        default_factory=lambda: {
            "debian": 40_000, "docstring": 12_000, "man": 6_000, "pydoc": 3_000, "wordnet": 60_000,
            "webster": 60_000, "office": 6_000,
        }
    )  # fmt: skip
    # How many texts of a source the pool holds, and how many of all of them, shuffled, the teacher is asked about.
    pool: dict[str, int] = field(
        default_factory=lambda: {
            "debian": 13_000, "docstring": 6_000, "man": 4_500, "pydoc": 2_900, "office": 4_000, "handbook": 500,
            "foldoc": 5_000, "wordnet": 14_000, "webster": 6_000,
        }
    )  # fmt: skip
    taught_texts: int = 24_576
    documentation_lists: int = 300
    definition_lists: int = 150
    other_lists: int = 300


TINY_PLAN = Plan(
    model=TinyConfig(vocab_size=1_600, intermediate_size=320),
    train=TrainConfig(steps=6, queries_per_step=4, by_words=1, by_meaning=1, at_random=1, chunks=2, warmup=2,
                      save_every=6, limits=(48, 96), limit_shares=(0.5, 0.5)),
    teacher=WordHashes,
    meaning_steps=10,
    meaning_batch=32,
    pool={"docstring": 120},
    documentation_lists=12,
    other_lists=6,
)  # fmt: skip


def tokenizer_texts(pairs: Sequence[Pair], limits: dict[str, int]) -> list[str]:
    shuffled = list(pairs)
    random.Random(0).shuffle(shuffled)
    seen: dict[str, int] = {}
    texts = []
    for pair in shuffled:
        seen[pair.source] = seen.get(pair.source, 0) + 1
        if seen[pair.source] <= limits.get(pair.source, 20_000):
            texts.append(f" {pair.title}\n {pair.body[:1000]}")
    return texts


def write_lists(folder: Path, held: Sequence[Pair], other: Sequence[Pair], plan: Plan) -> dict[str, str]:
    """Freezes the candidate lists; returns and writes their checksums."""
    test = [pair for pair in held if not held_out(pair.group, DEV_SHARE)]
    dev = [pair for pair in held if held_out(pair.group, DEV_SHARE) and pair.source not in DEFINITIONS]
    definitions = [pair for pair in test if pair.source in DEFINITIONS]
    definitions = random.Random(0).sample(definitions, min(3000, len(definitions)))
    documentation = [pair for pair in test if pair.source not in DEFINITIONS]
    sizes = {
        "dev": (dev, 120),
        "documentation": (documentation, plan.documentation_lists),
        "definitions": (definitions, plan.definition_lists),
        "other": (other, plan.other_lists),
    }
    sets = {name: build_lists(members, count) for name, (members, count) in sizes.items() if members}
    sets |= {path.stem: handwritten_lists(path) for path in (HANDWRITTEN, HANDWRITTEN_PLAIN)}
    checksums = {name: freeze(lists, folder / f"{name}.jsonl") for name, lists in sets.items()}
    (folder / "checksums.json").write_text(json.dumps(checksums, indent=2) + "\n")
    return checksums


def teach(folder: Path, pool: Pool, teacher: Teacher) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's vectors of queries and texts. They are kept in files, so that a stopped run goes on."""
    for name, texts in (("query", pool.queries), ("text", pool.texts)):
        embed_shards(texts, teacher, folder / "vectors", name)
    return read_vectors(folder)


def read_vectors(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return read_shards(folder / "vectors", "query"), read_shards(folder / "vectors", "text")


def prepare(folder: Path, plan: Plan) -> None:
    """Splits, trains the tokenizer, asks the teacher, builds the initial checkpoint, finds negatives, freezes."""
    pairs, held = split(read_pairs(folder / "pairs.jsonl"), TEST_SHARE)
    tokenizer = train_tokenizer(tokenizer_texts(pairs, plan.tokenizer_texts), plan.model.vocab_size)
    config = replace(plan.model, vocab_size=tokenizer.get_vocab_size())
    codes = learn_codes(tokenizer, [pair.body[:1500] for pair in pairs])
    suited = [pair for pair in pairs if pair.source != "webster" or len(pair.body.split()) >= MIN_WEBSTER_WORDS]
    pool, teacher = build_pool(suited, plan.pool, seed=2).head(plan.taught_texts), plan.teacher()
    queries, texts = teach(folder, pool, teacher)
    meaning = fit(
        tokenizer, teacher, (pool.queries, queries), (pool.texts, texts), pool.positive,
        dim=MEANING_DIM, steps=plan.meaning_steps, batch=plan.meaning_batch,
    )  # fmt: skip
    save_checkpoint(build(tokenizer, codes, meaning, config), tokenizer, folder / "init")
    find_negatives(pool, queries, texts)
    write_pool(folder / "pool.json", pool)
    print(f"{len(pairs)} training pairs, {len(held)} held out, {len(pool.texts)} texts, {len(pool.queries)} queries")
    print(json.dumps(write_lists(folder, held, read_pairs(folder / "other_pairs.jsonl"), plan), indent=2))


def run_training(folder: Path, plan: Plan, *, start: Path | None = None, compiled: bool = False) -> list[float]:
    model, tokenizer = load_checkpoint(start or folder / "init")
    if compiled:
        compile_layers(model)
    encoder = PromptEncoder(Tokenizer.from_str(tokenizer.to_str()))
    batches = Batches(read_pool(folder / "pool.json"), *read_vectors(folder), encoder, plan.train)
    return train(model, tokenizer, batches, folder / "checkpoint")


def frozen_sets(folder: Path, names: Sequence[str], checksums: dict[str, str]) -> dict[str, Sequence[CandidateList]]:
    return {name: thaw(folder / f"{name}.jsonl", checksums[name]) for name in names if name in checksums}


def run_evaluation(folder: Path, checkpoint: Path, checksums: dict[str, str]) -> dict[str, object]:
    names = ("documentation", "definitions", "other", HANDWRITTEN.stem, HANDWRITTEN_PLAIN.stem)
    results = evaluate(checkpoint, frozen_sets(folder, names, checksums))
    return {"checksums": checksums, "sets": results}


def run_tiny(folder: Path) -> dict[str, object]:
    """Every stage at toy size on some docstrings of the standard library: that it runs, not that it learns."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    packages = ("email", "logging", "http", "asyncio", "xml", "unittest", "urllib", "importlib", "tkinter", "wsgiref")
    pairs = list(unique(pair for name in packages for pair in docstring_pairs(name, STDLIB / name)))
    write_pairs(folder / "pairs.jsonl", pairs)
    write_pairs(folder / "other_pairs.jsonl", docstring_pairs("json", STDLIB / "json"))
    prepare(folder, TINY_PLAN)
    losses = run_training(folder, TINY_PLAN)
    checksums = json.loads((folder / "checksums.json").read_text())
    return {"losses": losses, **run_evaluation(folder, folder / "checkpoint", checksums)}
