"""TREC runs: ``query Q0 document rank score tag``, one line a document.

Evaluation tools order by the score, as a 32-bit float, and break ties by the document id. So a run that is read is
ordered by score, ties by their lines; and one that is written has strictly falling scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from engine.entrypoints.evaluation.dataset import EvaluationSet, Ranking
from engine.entrypoints.files.reading import text_lines, wrong_line
from engine.entrypoints.files.writing import written_whole
from engine.errors import ConfigError


def read_run(path: Path, dataset: EvaluationSet, *, skip_unknown: bool = False) -> tuple[Ranking, tuple[str, ...]]:
    """The run's order for the queries of the set, and notes. Lines of other queries are passed over.

    Raises ``ConfigError`` with the number of the line that cannot be used.
    """
    scores: dict[str, dict[str, float]] = {}
    skipped, other = 0, 0
    for number, (query, document, score) in _scored_documents(path):
        if query not in dataset.queries:
            other += 1
            continue
        if document not in dataset.documents:
            if not skip_unknown:
                problem = f"the document {document!r} is not in the corpus (--skip-unknown leaves such lines out)"
                raise wrong_line(path, number, problem)
            skipped += 1
            continue
        found = scores.setdefault(query, {})
        if document in found:
            raise wrong_line(path, number, f"the document {document!r} was there before for query {query!r}.")
        found[document] = score
    if not scores:
        problem = f": its {other} lines are about other queries" if other else ""
        raise ConfigError(f"{path} ranks no document for any judged query{problem}.")
    notes = [f"{skipped} lines of the run with unknown documents left out"] if skipped else []
    if missing := len(dataset.queries) - len(scores):
        notes.append(f"{missing} judged queries are not in the run and count as zero")
    ranking = {query: sorted(found, key=lambda name: -found[name]) for query, found in scores.items()}
    return ranking, tuple(notes)


class _Lines:
    """The lines of a file as ir-measures takes them, with the number of the last one that it took."""

    read = None
    """That it is there tells ir-measures that this is a file, not the name of one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        for number, line in text_lines(self._path):
            self.number = number
            yield line


def _scored_documents(path: Path) -> Iterator[tuple[int, tuple[str, str, float]]]:
    import ir_measures

    lines = _Lines(path)
    try:
        for scored in ir_measures.read_trec_run(lines):  # type: ignore[no-untyped-call]
            if not math.isfinite(scored.score):
                raise wrong_line(path, lines.number, f"the score is {scored.score}.")
            yield lines.number, scored
    except ValueError as error:
        expected = "'query Q0 document rank score tag' expected, with a number as the score"
        raise wrong_line(path, lines.number, f"{expected} ({error}).") from None


def check_run_ids(ranking: Ranking) -> None:
    """Columns are separated by white space, so an id with any raises ``ConfigError``."""
    for query, documents in ranking.items():
        for name in (query, *documents):
            if len(name.split()) != 1:
                raise ConfigError(f"The id {name!r} holds white space and cannot stand in a TREC run.")


def write_run(path: Path, ranking: Ranking, logits: Mapping[str, Mapping[str, float]], tag: str) -> None:
    """Ranks count from 1 without ties; equal logits are set apart by the smallest step, in the order of the ranking."""
    with written_whole(path) as file:
        for query, documents in ranking.items():
            ceiling = np.float32(np.inf)
            for rank, document in enumerate(documents, 1):
                ceiling = min(np.float32(logits[query][document]), np.nextafter(ceiling, np.float32(-np.inf)))
                file.write(f"{query} Q0 {document} {rank} {float(ceiling):.9g} {tag}\n")
