"""The options of ``engine eval``: each field is a flag, explained by the string below it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from engine.entrypoints.flag_kinds import SWITCH

COMPARE = Parameter(
    help="Another setting of the model to measure beside, like quantization=int8 or "
    "dtype=bfloat16,score_template=none. May be given several times.",
    negative=(),
)


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """The judged data of ``engine eval``, its measures, and the files that it writes."""

    data: Path
    """A BEIR folder (corpus.jsonl, queries.jsonl, qrels/*.tsv), or JSON lines with query, positive and negative."""
    qrels: str | None = None
    """Which file of qrels/, by name or path. Default: test, or the only one."""
    first_stage: str = "bm25"
    """What is reranked: bm25, the file of a TREC run, or none (examples only: nothing to compare)."""
    top_k: int = 100
    """Documents of the first stage to rerank for each query."""
    cutoff: int = 10
    """The k of nDCG@k, MRR@k and Recall@k."""
    title: bool = True
    """Put the title before the text, with a space (--no-title: text only)."""
    skip_unknown: Annotated[bool, SWITCH] = False
    """Leave out judgements and run lines with unknown ids, and say how many."""
    max_queries: int | None = None
    """Only that many queries, drawn with a fixed seed."""
    compare: Annotated[tuple[str, ...], COMPARE] = ()
    bootstrap_rounds: int = 2000
    """Draws of the paired bootstrap."""
    cross_check: Annotated[bool, SWITCH] = False
    """Accepted, without effect: ir-measures computes every metric."""
    output: Path | None = None
    """Write the results there as JSON."""
    save_run: Path | None = None
    """Write the model's order there as a TREC run."""
    overwrite: Annotated[bool, SWITCH] = False
    """Replace files of these names that exist."""
    json: Annotated[bool, SWITCH] = False
    """Print JSON instead of the table."""
