"""The four workloads of the project, as texts whose prompts have the wanted numbers of tokens.

W1: a call of 16 pairs of about 108 tokens with distinct queries. W2: one query (90 tokens shared with its template) and
12 documents of 20 to 600 tokens, 180 on average. W3: one query and 6 documents of 500. W4: a single pair of 150.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

from tests.support.texts import TEXTS

TEMPLATE_TOKENS = 58
"""Before the query in Qwen3-Reranker's template, with the published tokenizer."""
W2_LENGTHS = (20, 45, 70, 90, 110, 130, 150, 175, 200, 240, 330, 600)


@dataclass(frozen=True)
class Workload:
    """Pairs (queries[i], documents[i])."""

    name: str
    title: str
    queries: list[str]
    documents: list[str]


class Writer:
    """Texts of a given number of tokens, made of words that occur in real ones."""

    def __init__(self, model: Path, seed: int = 0) -> None:
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._words = sorted({word for text in TEXTS[:12] for word in text.split() if word.isalpha()})
        self._random = random.Random(seed)

    def write(self, num_tokens: int) -> str:
        words: list[str] = []
        count = 0
        while count < num_tokens:
            words.append(self._random.choice(self._words))
            count += len(self._tokenizer.encode(" " + words[-1], add_special_tokens=False).ids)
        return " ".join(words)


def build_workloads(model: Path) -> list[Workload]:
    writer = Writer(model)
    shared_query = writer.write(90 - TEMPLATE_TOKENS)

    def workload(name: str, title: str, queries: Sequence[str], lengths: Sequence[int]) -> Workload:
        return Workload(name, title, list(queries), [writer.write(length) for length in lengths])

    return [
        workload("W1", "16 pairs of 108, distinct queries", [writer.write(14) for _ in range(16)], [36] * 16),
        workload("W2", "1 query, 12 documents of 20-600", [shared_query] * 12, W2_LENGTHS),
        workload("W3", "1 query, 6 documents of 500", [shared_query] * 6, [500] * 6),
        workload("W4", "a single pair of 150", [writer.write(20)], [72]),
    ]


def growth_workloads(model: Path, documents: Sequence[int], lengths: Sequence[int]) -> list[Workload]:
    """More and more documents of 50 tokens; one document of more and more tokens."""
    writer = Writer(model)
    query = writer.write(14)
    more = [
        Workload(f"{count} documents", "50 tokens each", [query] * count, [writer.write(50) for _ in range(count)])
        for count in documents
    ]
    return more + [Workload(f"{n} tokens", "one document", [query], [writer.write(n)]) for n in lengths]


def save(workloads: Sequence[Workload], path: Path) -> None:
    path.write_text(json.dumps([asdict(workload) for workload in workloads]))


def load(path: Path) -> list[Workload]:
    return [Workload(**item) for item in json.loads(path.read_text())]
