"""``engine score IN -o OUT``: score a whole data set, overnight if need be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from engine.entrypoints.cli.flags import flags
from engine.entrypoints.datasets.options import ScoreOptions
from engine.entrypoints.flag_kinds import FLAT

if TYPE_CHECKING:
    from engine.entrypoints.datasets.run import ScoreJob, Totals


@flags(("model", "scheduler", "device"), model_as_flag=True, own_flags=ScoreOptions)
def score(
    values: dict[str, Any],
    source: Annotated[
        Path, Parameter(help="JSON lines (.gz too) or Parquet with query and document, or documents, in each row.")
    ],
    *,
    options: Annotated[ScoreOptions, FLAT],
) -> int:
    """Score every row of a file. A run that was interrupted goes on where it stopped when it is started again.

    The result has every column of the input, then score (or scores) and error; a row that could not be scored keeps its
    place. The exit code is 1 when there were such rows.
    """
    from engine.entrypoints.cli.loading import announce_model
    from engine.entrypoints.datasets.run import ScoreJob, check_job
    from engine.entrypoints.terminal import counted, tell

    job = ScoreJob(
        source=source,
        output=options.output,
        model=str(values.get("model") or "packaged"),
        window=max(1, options.window),
        instruction=values.get("instruction"),
        raw_scores=options.raw_scores,
        restart=options.restart,
    )
    check_job(job)
    announce_model(values)
    try:
        totals = _run(job, values, options)
    except KeyboardInterrupt:
        tell("stopped; the same command goes on where it stopped")
        return 130
    resumed = f" (and {counted(totals.resumed_rows, 'row')} by an earlier run)" if totals.resumed_rows else ""
    tell(f"{options.output}: {counted(totals.rows, 'row')} with {counted(totals.pairs, 'pair')} scored{resumed}")
    if totals.failed_rows:
        tell(f"{counted(totals.failed_rows, 'row')} could not be scored: their column error says why")
    return 1 if totals.failed_rows else 0


def _run(job: ScoreJob, values: dict[str, Any], options: ScoreOptions) -> Totals:
    from engine.entrypoints.cli.loading import load_model
    from engine.entrypoints.datasets.run import run_job, score_here

    if options.ray:
        from engine.entrypoints.datasets.on_ray import score_on_ray

        return run_job(job, score_on_ray(job, values, options.ray_actors))
    with load_model(values) as llm:
        return run_job(job, score_here(job, llm))
