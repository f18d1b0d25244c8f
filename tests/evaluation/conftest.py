"""A small BEIR folder whose right answers are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

DOCUMENTS = {
    "d1": ("Beijing", "The capital of China is Beijing."),
    "d2": ("Shanghai", "Shanghai is the largest city of China by population."),
    "d3": ("Sky", "Air molecules scatter blue light more than red light, so the sky is blue."),
    "d4": ("Sea", "The sea is salty because rivers carry minerals into it."),
    "d5": ("Git", "git reset --soft HEAD~1 undoes the last commit and keeps the changes."),
    "d6": ("Push", "git push uploads the commits of a branch."),
}
QUERIES = {
    "q1": "What is the capital of China?",
    "q2": "Why is the sky blue?",
    "q3": "How to undo the last git commit but keep the changes?",
    "q4": "Nobody judged this one",
}
QRELS = [("q1", "d1", 2), ("q1", "d2", 1), ("q2", "d3", 1), ("q2", "d4", 0), ("q3", "d5", 1)]


def json_lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": name, "title": title, "text": text} for name, (title, text) in DOCUMENTS.items()]
    (folder / "corpus.jsonl").write_text(json_lines(corpus))
    (folder / "queries.jsonl").write_text(json_lines([{"_id": name, "text": text} for name, text in QUERIES.items()]))
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in QRELS)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def examples(tmp_path: Path) -> Callable[..., Path]:
    def write(*rows: object) -> Path:
        path = tmp_path / "examples.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return write
