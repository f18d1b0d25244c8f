"""Training examples with hard negatives: texts that BM25 finds for the same query."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.tiny_reranker.candidates import Bm25Index
from benchmarks.tiny_reranker.queries import training_example
from benchmarks.tiny_reranker.texts import Pair

HARD_NEGATIVES = 12
# Definitions rarely contain their headword: mined together with the rest they would only teach to distrust words.
FAMILIES = {"wordnet": "definition", "webster": "definition"}


@dataclass(frozen=True)
class Example:
    """A query with the right text and hard negatives, as texts so that the file stands alone."""

    query: str
    source: str
    positive: str
    negatives: list[str]


def sample(pairs: Sequence[Pair], quota: dict[str, int], rng: random.Random) -> list[Pair]:
    """Up to ``quota[source]`` pairs of each source; small sources are repeated, with other query forms."""
    by_source: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_source.setdefault(pair.source, []).append(pair)
    chosen: list[Pair] = []
    for source, wanted in quota.items():
        own = by_source.get(source, [])
        times, rest = divmod(wanted, len(own)) if own else (0, 0)
        chosen += own * min(times, 3) + rng.sample(own, rest if times < 3 else 0)
    return chosen


def mine(pairs: Sequence[Pair], *, seed: int, batch: int = 2048) -> Iterator[Example]:
    """One example from each pair; all of them must belong to one family."""
    rng = random.Random(seed)
    collection = sorted({pair.body: pair for pair in pairs}.values(), key=lambda pair: (pair.group, pair.body))
    index = Bm25Index([pair.body for pair in collection])
    for start in range(0, len(pairs), batch):
        part = pairs[start : start + batch]
        queries = [training_example(pair, rng) for pair in part]
        found, _ = index.top([query for query, _ in queries], HARD_NEGATIVES + 8)
        for pair, (query, positive), hits in zip(part, queries, found, strict=True):
            others = [collection[int(hit)] for hit in hits]
            negatives = [other.body for other in others if other.group != pair.group][:HARD_NEGATIVES]
            if negatives:
                yield Example(query, pair.source, positive, negatives)


def mine_all(pairs: Sequence[Pair], quota: dict[str, int], output: Path, *, seed: int = 0) -> int:
    """Samples, mines family by family, shuffles and writes the examples."""
    rng = random.Random(seed)
    families: dict[str, list[Pair]] = {}
    for pair in sample(pairs, quota, rng):
        families.setdefault(FAMILIES.get(pair.source, "documentation"), []).append(pair)
    examples = [example for family in families.values() for example in mine(family, seed=seed)]
    rng.shuffle(examples)
    with output.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(example), ensure_ascii=False) + "\n" for example in examples)
    return len(examples)


def read_examples(path: Path) -> list[Example]:
    with path.open(encoding="utf-8") as file:
        return [Example(**json.loads(line)) for line in file]
