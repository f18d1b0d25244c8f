"""``engine eval MODEL --data FOLDER``: how well a model ranks, against what it was given to rerank."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from engine.entrypoints.cli.flags import flags


@flags(("model", "scheduler", "device"))
def eval_(
    values: dict[str, Any],
    *,
    data: Annotated[
        Path,
        Parameter(
            help="A BEIR folder (corpus.jsonl, queries.jsonl, qrels/*.tsv), or JSON lines with query, positive and "
            "negative."
        ),
    ],
    qrels: Annotated[
        str | None, Parameter(help="Which file of qrels/, by name or path. Default: test, or the only one.")
    ] = None,
    first_stage: Annotated[
        str,
        Parameter(help="What is reranked: bm25, the file of a TREC run, or none (examples only: nothing to compare)."),
    ] = "bm25",
    top_k: Annotated[int, Parameter(help="Documents of the first stage to rerank for each query.")] = 100,
    cutoff: Annotated[int, Parameter(help="The k of nDCG@k, MRR@k and Recall@k.")] = 10,
    title: Annotated[
        bool, Parameter(help="Put the title before the text, with a space (--no-title: text only).")
    ] = True,
    skip_unknown: Annotated[
        bool, Parameter(help="Leave out judgements and run lines with unknown ids, and say how many.", negative=())
    ] = False,
    max_queries: Annotated[int | None, Parameter(help="Only that many queries, drawn with a fixed seed.")] = None,
    compare: Annotated[
        tuple[str, ...],
        Parameter(
            help="Another setting of the model to measure beside, like quantization=int8 or dtype=bfloat16,"
            "score_template=none. May be given several times.",
            negative=(),
        ),
    ] = (),
    bootstrap_rounds: Annotated[int, Parameter(help="Draws of the paired bootstrap.")] = 2000,
    cross_check: Annotated[
        bool,
        Parameter(help="Accepted, without effect: ir-measures computes every metric.", negative=()),
    ] = False,
    output: Annotated[Path | None, Parameter(help="Write the results there as JSON.")] = None,
    save_run: Annotated[Path | None, Parameter(help="Write the model's order there as a TREC run.")] = None,
    overwrite: Annotated[bool, Parameter(help="Replace files of these names that exist.", negative=())] = False,
    json: Annotated[bool, Parameter(help="Print JSON instead of the table.", negative=())] = False,
) -> int:
    """Measure the quality of a model: nDCG, MRR and recall, with paired intervals against the first stage.

    Without a model, the small English reranker that comes with the package is measured.
    """
    from engine.entrypoints.cli.loading import announce_model, load_model
    from engine.entrypoints.evaluation.command import EvalOptions, evaluate
    from engine.entrypoints.evaluation.settings import changed_values
    from engine.entrypoints.terminal import tell

    if cross_check:
        tell("--cross-check is accepted and has no effect: ir-measures computes every metric.")
    options = EvalOptions(
        data=data,
        qrels=qrels,
        first_stage=first_stage,
        top_k=top_k,
        cutoff=cutoff,
        join_title=title,
        skip_unknown=skip_unknown,
        max_queries=max_queries,
        bootstrap_rounds=bootstrap_rounds,
        output=output,
        save_run=save_run,
        overwrite=overwrite,
        json=json,
    )
    settings = [(Path(str(values.get("model") or "small_reranker")).name, values)]
    settings += [(text, changed_values(values, text)) for text in compare]
    announce_model(values)
    evaluate(settings, options, load_model, sys.stdout)
    return 0
