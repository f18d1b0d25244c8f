"""Calls read from files: JSONL with one call a line, or a BEIR folder."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from engine.entrypoints.bench.call import BenchCall
from engine.entrypoints.bench.options import DataOptions
from engine.entrypoints.bench.texts import TextMaker
from engine.errors import ConfigError

MAX_SHOWN = 5


class BrokenLines:
    """Collects what is wrong with a file, and decides whether that ends the run."""

    def __init__(self, skip: bool) -> None:
        self._skip = skip
        self._found: list[str] = []

    def add(self, path: Path, number: int, problem: str) -> None:
        self._found.append(f"{path}:{number}: {problem}")

    def settle(self) -> None:
        """Say which lines were left out. Raises ``ConfigError`` for such lines without ``--skip-broken-lines``."""
        if not self._found:
            return
        shown = "\n  ".join(self._found[:MAX_SHOWN])
        more = f"\n  and {len(self._found) - MAX_SHOWN} more" if len(self._found) > MAX_SHOWN else ""
        if not self._skip:
            raise ConfigError(
                f"{len(self._found)} lines of the dataset cannot be used:\n  {shown}{more}\n"
                "Fix them, or leave them out with --skip-broken-lines."
            )
        print(f"Left out {len(self._found)} broken lines:\n  {shown}{more}")


def jsonl_calls(path: Path, options: DataOptions, texts: TextMaker) -> Iterator[BenchCall]:
    """``{"query", "documents"}`` a line, or ``positive`` and ``negative`` lists as training sets have them.

    Raises ``ConfigError`` for a file without a call.
    """
    broken = BrokenLines(options.skip_broken_lines)
    calls = []
    for number, row in _rows(path, broken):
        problem = _row_problem(row)
        if problem:
            broken.add(path, number, problem)
            continue
        calls.append(BenchCall.of(row["query"], _documents(row), texts, row.get("instruction")))
    broken.settle()
    if not calls:
        raise ConfigError(f"{path} holds no call: each line is an object with a query and documents.")
    yield from calls


def beir_calls(path: Path, options: DataOptions, texts: TextMaker) -> Iterator[BenchCall]:
    """Every judged query with its judged documents, filled up at random to ``--random-batch-size`` documents.

    Raises ``ConfigError`` for a folder that is no BEIR set.
    """
    if not path.is_dir():
        raise ConfigError(f"{path} is no folder: a BEIR set has corpus.jsonl, queries.jsonl and qrels/*.tsv.")
    broken = BrokenLines(options.skip_broken_lines)
    corpus = {row["_id"]: _joined(row) for _, row in _identified_rows(path / "corpus.jsonl", broken)}
    queries = {row["_id"]: row["text"] for _, row in _identified_rows(path / "queries.jsonl", broken)}
    judged = _judged(path, queries, corpus, broken)
    broken.settle()
    if not judged:
        raise ConfigError(f"{path}: no query of the qrels is in queries.jsonl with a document of corpus.jsonl.")
    rng = random.Random(options.seed)
    everything = list(corpus)
    for query_id, document_ids in judged.items():
        wanted = max(options.random_batch_size, len(document_ids))
        others = [name for name in rng.sample(everything, min(wanted, len(everything))) if name not in document_ids]
        chosen = [*document_ids, *others[: wanted - len(document_ids)]]
        rng.shuffle(chosen)
        yield BenchCall.of(queries[query_id], [corpus[name] for name in chosen], texts)


READERS: dict[str, Callable[[Path, DataOptions, TextMaker], Iterator[BenchCall]]] = {
    "jsonl": jsonl_calls,
    "beir": beir_calls,
}


def _rows(path: Path, broken: BrokenLines) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = msgspec.json.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    broken.add(path, number, f"not JSON: {error}")
                    continue
                if isinstance(row, dict):
                    yield number, row
                else:
                    broken.add(path, number, f"an object was expected, not {type(row).__name__}")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None


def _row_problem(row: dict[str, Any]) -> str | None:
    if not isinstance(row.get("query"), str):
        return "no text under 'query'"
    lists = [row[key] for key in ("documents", "positive", "negative") if key in row]
    if not lists or not all(isinstance(documents, list) for documents in lists):
        return "no list under 'documents' (or 'positive' and 'negative')"
    texts = [document for documents in lists for document in documents]
    if not texts:
        return "no document"
    for index, text in enumerate(texts):
        if not isinstance(text, str) and not (isinstance(text, dict) and isinstance(text.get("text"), str)):
            return f"document {index} is neither a text nor an object with 'text'"
    return None


def _documents(row: dict[str, Any]) -> list[str]:
    given = row["documents"] if "documents" in row else [*row.get("positive", []), *row.get("negative", [])]
    return [document if isinstance(document, str) else document["text"] for document in given]


def _identified_rows(path: Path, broken: BrokenLines) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in _rows(path, broken):
        if isinstance(row.get("_id"), str) and isinstance(row.get("text"), str):
            yield number, row
        else:
            broken.add(path, number, "'_id' and 'text' must be texts")


def _joined(row: dict[str, Any]) -> str:
    title = row.get("title")
    return f"{title} {row['text']}" if isinstance(title, str) and title else str(row["text"])


def _judged(path: Path, queries: dict[str, str], corpus: dict[str, str], broken: BrokenLines) -> dict[str, list[str]]:
    """query id -> documents with a grade above zero."""
    files = sorted((path / "qrels").glob("*.tsv"))
    if not files:
        raise ConfigError(f"{path / 'qrels'} holds no .tsv file.")
    chosen = next((file for file in files if file.name == "test.tsv"), files[0])
    judged: dict[str, list[str]] = {}
    for number, line in enumerate(chosen.read_text(encoding="utf-8").splitlines(), 1):
        parts = line.split("\t")
        if number == 1 and not parts[-1].lstrip("-").isdigit():
            continue  # the header
        if len(parts) != 3 or not parts[2].lstrip("-").isdigit():
            broken.add(chosen, number, "three columns are expected: query-id, corpus-id, score")
        elif parts[0] not in queries or parts[1] not in corpus:
            broken.add(chosen, number, f"unknown query {parts[0]!r} or document {parts[1]!r}")
        elif int(parts[2]) > 0:
            judged.setdefault(parts[0], []).append(parts[1])
    return judged
