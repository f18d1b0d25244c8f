"""``engine score IN -o OUT``: score a whole data set, overnight if need be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from engine.entrypoints.cli.flags import flags


@flags(("model", "scheduler", "device"), model_as_flag=True)
def score(
    values: dict[str, Any],
    source: Annotated[
        Path, Parameter(help="JSON lines (.gz too) or Parquet with query and document, or documents, in each row.")
    ],
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="The result: a .jsonl or .parquet file.")],
    window: Annotated[int, Parameter(help="Pairs that are read, sorted by query and written together.")] = 4096,
    raw_scores: Annotated[bool, Parameter(help="Write logits instead of scores.", negative=())] = False,
    restart: Annotated[
        bool, Parameter(help="Begin anew instead of going on with an interrupted run.", negative=())
    ] = False,
    ray: Annotated[
        bool, Parameter(help="Score with the devices of a Ray cluster: RAY_ADDRESS, or this machine.", negative=())
    ] = False,
    ray_actors: Annotated[
        int | None, Parameter(help="Models that Ray places. Not given: as many as the cluster has devices.")
    ] = None,
) -> int:
    """Score every row of a file. A run that was interrupted goes on where it stopped when it is started again.

    The result has every column of the input, then score (or scores) and error; a row that could not be scored keeps its
    place. The exit code is 1 when there were such rows.
    """
    from engine.entrypoints.cli.loading import announce_model, load_model
    from engine.entrypoints.datasets.run import ScoreJob, check_job, run_job, score_here
    from engine.entrypoints.terminal import counted, tell

    job = ScoreJob(
        source=source,
        output=output,
        model=str(values.get("model") or "packaged"),
        window=max(1, window),
        instruction=values.get("instruction"),
        raw_scores=raw_scores,
        restart=restart,
    )
    check_job(job)
    announce_model(values)
    try:
        if ray:
            from engine.entrypoints.datasets.on_ray import score_on_ray

            totals = run_job(job, score_on_ray(job, values, ray_actors))
        else:
            with load_model(values) as llm:
                totals = run_job(job, score_here(job, llm))
    except KeyboardInterrupt:
        tell("stopped; the same command goes on where it stopped")
        return 130
    resumed = f" (and {counted(totals.resumed_rows, 'row')} by an earlier run)" if totals.resumed_rows else ""
    tell(f"{output}: {counted(totals.rows, 'row')} with {counted(totals.pairs, 'pair')} scored{resumed}")
    if totals.failed_rows:
        tell(f"{counted(totals.failed_rows, 'row')} could not be scored: their column error says why")
    return 1 if totals.failed_rows else 0
