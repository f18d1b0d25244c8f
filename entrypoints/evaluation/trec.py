"""TREC runs: ``query Q0 document rank score tag``, one line a document.

Evaluation tools order by the score, as a 32-bit float, and break ties by the document id. So a run that is read is
ordered by score, ties by its rank column; and one that is written has strictly falling scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from engine.entrypoints.evaluation.dataset import EvaluationSet, Ranking
from engine.entrypoints.files.reading import text_lines, wrong_line
from engine.entrypoints.files.writing import written_whole
from engine.errors import ConfigError

_Line = tuple[float, int, str]
"""(-score, rank, document): sorts best first."""


def read_run(path: Path, dataset: EvaluationSet, *, skip_unknown: bool = False) -> tuple[Ranking, tuple[str, ...]]:
    """The run's order for the queries of the set, and notes. Lines of other queries are passed over."""
    lines: dict[str, dict[str, _Line]] = {}
    skipped, other = 0, 0
    for number, line in text_lines(path):
        if not line.strip():
            continue
        query, document, rank, score = _cells(path, number, line)
        if query not in dataset.queries:
            other += 1
            continue
        if document not in dataset.documents:
            if not skip_unknown:
                problem = f"the document {document!r} is not in the corpus (--skip-unknown leaves such lines out)"
                raise wrong_line(path, number, problem)
            skipped += 1
            continue
        found = lines.setdefault(query, {})
        if document in found:
            raise wrong_line(path, number, f"the document {document!r} was there before for query {query!r}.")
        found[document] = (-score, rank, document)
    if not lines:
        problem = f": its {other} lines are about other queries" if other else ""
        raise ConfigError(f"{path} ranks no document for any judged query{problem}.")
    notes = [f"{skipped} lines of the run with unknown documents left out"] if skipped else []
    if missing := len(dataset.queries) - len(lines):
        notes.append(f"{missing} judged queries are not in the run and count as zero")
    return {query: [document for *_, document in sorted(found.values())] for query, found in lines.items()}, tuple(
        notes
    )


def _cells(path: Path, number: int, line: str) -> tuple[str, str, int, float]:
    cells = line.split()
    if len(cells) != 6:
        raise wrong_line(path, number, f"'query Q0 document rank score tag' expected, got {len(cells)} columns.")
    try:
        rank, score = int(cells[3]), float(cells[4])
    except ValueError:
        raise wrong_line(path, number, f"rank and score must be numbers, got {cells[3]!r} and {cells[4]!r}.") from None
    if not math.isfinite(score):
        raise wrong_line(path, number, f"the score is {cells[4]}.")
    return cells[0], cells[2], rank, score


def check_run_ids(ranking: Ranking) -> None:
    """Columns are separated by white space, so an id must not hold any."""
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
