"""JSON lines with a query, its right texts and its wrong ones: each line is a list of its own to rank."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from engine.entrypoints.evaluation.dataset import EvaluationSet, Ranking, judged_set
from engine.entrypoints.files.reading import Row, json_objects, kind_of, wrong_line
from engine.errors import ConfigError

POSITIVE = ("positive", "positives", "pos")
NEGATIVE = ("negative", "negatives", "neg")


def read_examples(path: Path) -> EvaluationSet:
    """Documents get the id ``LINE.PLACE``. Their order is shuffled, always the same way, so that it tells nothing.

    Raises ``ConfigError`` for a file without one, and for lines that are wrong.
    """
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    candidates: Ranking = {}
    for number, row in json_objects(path):
        query = row.get("query")
        if not isinstance(query, str) or not query.strip():
            raise wrong_line(path, number, "the field 'query' must hold a text.")
        right, wrong = _texts(row, POSITIVE, path, number), _texts(row, NEGATIVE, path, number)
        if both := set(right) & set(wrong):
            raise wrong_line(path, number, f"a text is positive and negative: {min(both)[:60]!r}.")
        grades = dict.fromkeys(right, 1) | dict.fromkeys(wrong, 0)
        texts = list(grades)
        random.Random(number).shuffle(texts)
        names = {text: f"{number}.{place}" for place, text in enumerate(texts, 1)}
        queries[str(number)] = query
        documents.update((name, text) for text, name in names.items())
        qrels[str(number)] = {names[text]: grade for text, grade in grades.items()}
        candidates[str(number)] = list(names.values())
    if not queries:
        raise ConfigError(f"{path} holds no example.")
    return judged_set(path.name, queries, documents, qrels, candidates)


def _texts(row: Row, keys: tuple[str, ...], path: Path, number: int) -> list[str]:
    given = [key for key in keys if key in row]
    if len(given) != 1:
        problem = f"one field {keys[0]!r} expected" + (f", got {' and '.join(map(repr, given))}." if given else ".")
        raise wrong_line(path, number, problem)
    value: Any = row[given[0]]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise wrong_line(path, number, f"{given[0]!r} must be a text or a list of texts, and is {kind_of(value)}.")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            what = "an empty text" if isinstance(text, str) else kind_of(text)
            raise wrong_line(path, number, f"{given[0]!r} must hold texts, and holds {what}.")
    return texts
