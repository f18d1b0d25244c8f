"""The run itself: windows of rows, sorted by query so that equal queries share their computation, scored, put back in
input order, written.

Who scores the windows is a function from the rows that are done already to the results of all others, in order: one
model in this process (``score_here``), or actors of a Ray cluster (``on_ray.py``). Windows are cut by the number of
pairs alone, so they are the same whoever scores them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

from engine.entrypoints.datasets.output import PartFiles, State
from engine.entrypoints.datasets.rows import ScoreRow, encode_line, read_jsonl, read_parquet
from engine.entrypoints.files.writing import check_writable, fingerprint
from engine.entrypoints.progress import LONG_PERIOD_S, Progress
from engine.errors import ConfigError, RequestError
from engine.outputs import ScoringRequestOutput


class Scorer(Protocol):
    """The part of ``LLM`` that the run uses."""

    @property
    def reads_lists(self) -> bool: ...

    def score(
        self, data_1: Any, data_2: Any, /, *, use_tqdm: bool, **options: Any
    ) -> Sequence[ScoringRequestOutput]: ...


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    source: Path
    output: Path
    model: str
    window: int = 4096
    """Pairs that are read, sorted and written together."""
    instruction: str | None = None
    raw_scores: bool = False
    restart: bool = False


@dataclass
class Totals:
    rows: int = 0
    pairs: int = 0
    failed_rows: int = 0
    resumed_rows: int = 0


def check_job(job: ScoreJob) -> None:
    """Raises ``ConfigError`` for whatever can be found wrong before a model is loaded."""
    if not job.source.is_file():
        raise ConfigError(f"{job.source}: no such file.")
    if job.output.suffix not in (".jsonl", ".parquet"):
        raise ConfigError(f"{job.output}: the result is written as .jsonl or .parquet.")
    check_writable(job.output, overwrite=job.restart, flag="--restart", inputs=(job.source,))


@dataclass(frozen=True)
class Scored:
    """A window with its results."""

    first_row: int
    lines: bytes
    """Its output rows as JSON lines, in input order."""
    rows: int
    pairs: int
    failed_rows: int


ScoreFrom = Callable[[int], Iterator[Scored]]
"""From the number of rows that are done."""


def run_job(job: ScoreJob, score_from: ScoreFrom) -> Totals:
    """Score every row that has no result yet; raises ``ConfigError`` for what cannot be read or written."""
    settings = {"instruction": job.instruction, "raw_scores": job.raw_scores}
    state = State(str(job.source.resolve()), fingerprint(job.source), job.model, settings)
    parts = PartFiles(job.output, state, restart=job.restart)
    done = parts.num_rows_done()
    totals = Totals(resumed_rows=done)
    with Progress(None, "pair", period_s=LONG_PERIOD_S) as progress:
        for scored in score_from(done):
            parts.add(scored.first_row, scored.lines)
            totals.rows += scored.rows
            totals.pairs += scored.pairs
            totals.failed_rows += scored.failed_rows
            progress.tick(scored.pairs)
    parts.finish()
    return totals


def score_here(job: ScoreJob, scorer: Scorer) -> ScoreFrom:
    """One model, in this process."""
    return lambda done: (score_window(job, scorer, rows) for rows in windows(job, done))


def windows(job: ScoreJob, done: int) -> Iterator[list[ScoreRow]]:
    """The rows after the first ``done``."""
    read = read_parquet if job.source.suffix == ".parquet" else read_jsonl
    return _windows(read(job.source, done), job.window)


def _windows(rows: Iterator[ScoreRow], pairs: int) -> Iterator[list[ScoreRow]]:
    """Consecutive rows with about ``pairs`` pairs together; a row is never split."""
    for first in rows:
        window, held = [first], len(first.documents)
        while held < pairs and (following := list(islice(rows, 1))):
            window += following
            held += max(1, len(following[0].documents))
        yield window


def score_window(job: ScoreJob, scorer: Scorer, rows: list[ScoreRow]) -> Scored:
    good = sorted((row for row in rows if row.error is None), key=lambda row: row.query)
    scores: dict[int, list[float | None]] = {}
    try:
        scores = _score_rows(job, scorer, good)
    except RequestError:
        # One of them is not acceptable (too long, a lone surrogate ...): find it, and let it fail alone.
        for row in good:
            try:
                scores |= _score_rows(job, scorer, [row])
            except RequestError as error:
                row.error = str(error)
    return Scored(
        first_row=rows[0].number,
        lines=b"".join(encode_line(row.finished(scores.get(row.number, []))) for row in rows),
        rows=len(rows),
        pairs=sum(len(row.documents) for row in rows),
        failed_rows=sum(row.error is not None for row in rows),
    )


def _score_rows(job: ScoreJob, scorer: Scorer, rows: list[ScoreRow]) -> dict[int, list[float | None]]:
    queries = [row.query for row in rows for _ in row.documents]
    documents = [document for row in rows for document in row.documents]
    options = {} if job.instruction is None else {"instruction": job.instruction}
    if scorer.reads_lists:  # the documents of a row are read together
        lists = (scorer.score(row.query, row.documents, use_tqdm=False, **options) for row in rows if row.documents)
        outputs: Iterator[ScoringRequestOutput] = chain.from_iterable(lists)
    else:
        outputs = iter(scorer.score(queries, documents, use_tqdm=False, **options) if documents else ())
    found: dict[int, list[float | None]] = {}
    for row in rows:
        own = list(islice(outputs, len(row.documents)))
        row.error = next((_error_of(output, i) for i, output in enumerate(own) if output.error), None)
        found[row.number] = [
            None if output.error else output.outputs.logit if job.raw_scores else output.outputs.score for output in own
        ]
    return found


def _error_of(output: ScoringRequestOutput, number: int) -> str | None:
    """What is wrong with document ``number`` of a row, counted in the row."""
    if isinstance(output.cause, RequestError) and len(output.cause.path) > 1:
        return str(output.cause.at((output.cause.path[0], number)))
    return output.error
