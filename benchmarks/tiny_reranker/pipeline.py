"""The stages from titled texts to a measured checkpoint, each reading and writing files of one folder.

``pairs.jsonl`` and ``other_pairs.jsonl`` (collect) -> ``init/``, ``examples.jsonl``, candidate lists (prepare)
-> ``checkpoint/`` (train) -> results (evaluate).
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

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
from benchmarks.tiny_reranker.init import build
from benchmarks.tiny_reranker.mining import mine_all, read_examples
from benchmarks.tiny_reranker.model import TinyConfig
from benchmarks.tiny_reranker.sources_python import STDLIB, docstring_pairs
from benchmarks.tiny_reranker.texts import Pair, read_pairs, unique, write_pairs
from benchmarks.tiny_reranker.tokenizer import train_tokenizer
from benchmarks.tiny_reranker.train import TrainConfig, compile_layers, load_checkpoint, save_checkpoint, train

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
    codes_steps: int = 800
    codes_batch: int = 512
    # How many texts of a source the tokenizer sees; 20,000 of those not named.
    tokenizer_texts: dict[str, int] = field(
        default_factory=lambda: {
            "debian": 40_000, "docstring": 12_000, "man": 6_000, "pydoc": 3_000, "wordnet": 60_000,
            "webster": 60_000, "office": 6_000,
        }
    )  # fmt: skip
    examples: dict[str, int] = field(
        default_factory=lambda: {
            "debian": 10_000, "docstring": 4_500, "man": 4_500, "pydoc": 3_000, "office": 3_000, "handbook": 500,
            "foldoc": 4_500, "wordnet": 5_500, "webster": 4_500,
        }
    )  # fmt: skip
    documentation_lists: int = 300
    definition_lists: int = 150
    other_lists: int = 300


TINY_PLAN = Plan(
    model=TinyConfig(vocab_size=1_600, intermediate_size=256),
    train=TrainConfig(steps=6, queries_per_step=4, negatives=3, chunks=2, warmup=2, save_every=6, limits=(48, 96),
                      limit_shares=(0.5, 0.5)),
    codes_steps=10,
    codes_batch=32,
    examples={"docstring": 120},
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


def prepare(folder: Path, plan: Plan) -> None:
    """Splits, trains the tokenizer, learns the codes, builds the initial checkpoint, mines, freezes."""
    pairs, held = split(read_pairs(folder / "pairs.jsonl"), TEST_SHARE)
    tokenizer = train_tokenizer(tokenizer_texts(pairs, plan.tokenizer_texts), plan.model.vocab_size)
    config = replace(plan.model, vocab_size=tokenizer.get_vocab_size())
    titled = [(pair.title, pair.body[:1500]) for pair in pairs]
    codes = learn_codes(tokenizer, titled, dim=64, steps=plan.codes_steps, batch=plan.codes_batch)
    save_checkpoint(build(tokenizer, codes, config), tokenizer, folder / "init")
    minable = [pair for pair in pairs if pair.source != "webster" or len(pair.body.split()) >= MIN_WEBSTER_WORDS]
    count = mine_all(minable, plan.examples, folder / "examples.jsonl", seed=1)
    print(f"{len(pairs)} training pairs, {len(held)} held out, {count} examples with hard negatives")
    print(json.dumps(write_lists(folder, held, read_pairs(folder / "other_pairs.jsonl"), plan), indent=2))


def run_training(folder: Path, plan: Plan, *, compiled: bool) -> list[float]:
    model, tokenizer = load_checkpoint(folder / "init")
    if compiled:
        compile_layers(model)
    return train(model, tokenizer, read_examples(folder / "examples.jsonl"), plan.train, folder / "checkpoint")


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
    losses = run_training(folder, TINY_PLAN, compiled=False)
    checksums = json.loads((folder / "checksums.json").read_text())
    return {"losses": losses, **run_evaluation(folder, folder / "checkpoint", checksums)}
