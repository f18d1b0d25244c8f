"""``engine eval MODEL --data FOLDER``: how well a model ranks, against what it was given to rerank."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from engine.entrypoints.cli.flags import flags
from engine.entrypoints.evaluation.options import EvalOptions
from engine.entrypoints.flag_kinds import FLAT


@flags(("model", "scheduler", "device"), own_flags=EvalOptions)
def eval_(values: dict[str, Any], *, options: Annotated[EvalOptions, FLAT]) -> int:
    """Measure the quality of a model: nDCG, MRR and recall, with paired intervals against the first stage.

    Without a model, the small English reranker that comes with the package is measured.
    """
    from engine.entrypoints.cli.loading import announce_model, load_model
    from engine.entrypoints.evaluation.command import evaluate
    from engine.entrypoints.evaluation.settings import changed_values
    from engine.entrypoints.terminal import tell

    if options.cross_check:
        tell("--cross-check is accepted and has no effect: ir-measures computes every metric.")
    settings = [(Path(str(values.get("model") or "small_reranker")).name, values)]
    settings += [(text, changed_values(values, text)) for text in options.compare]
    announce_model(values)
    evaluate(settings, options, load_model, sys.stdout)
    return 0
