"""``engine verify MODEL``: every precision of this device against float32 and transformers; ends with a verdict."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from engine.entrypoints.cli.flags import flags


@flags(("model", "scheduler", "device"))
def verify(
    values: dict[str, Any],
    *,
    data: Annotated[
        Path | None,
        Parameter(help="A judged file instead of the built-in pairs: JSON lines with query, positive and negative."),
    ] = None,
    reference: Annotated[
        bool, Parameter(help="Run transformers too, where it is installed and has the architecture.")
    ] = True,
    require_reference: Annotated[bool, Parameter(help="Not to have a reference is a failure.", negative=())] = False,
    json: Annotated[bool, Parameter(help="Print JSON instead of the table.", negative=())] = False,
) -> int:
    """Compare a model with its reference in every dtype and quantization of the device.

    Exit code 0: all within their bounds. 1: not. With --dtype or --quantization only that one is tried. Without a
    model, the small English reranker that comes with the package is verified.
    """
    from engine.entrypoints.cli.loading import announce_model, load_model
    from engine.entrypoints.evaluation.examples import read_examples
    from engine.entrypoints.inspection.pairs import built_in_pairs
    from engine.entrypoints.inspection.verify import verify as verify_model
    from engine.entrypoints.inspection.verify_view import as_json, print_verify
    from engine.entrypoints.terminal import console, print_json, tell

    judged = None if data is None else read_examples(data)
    pairs, grades = (built_in_pairs(), None) if judged is None else (judged.lists(), judged.grades())
    announce_model(values)
    load = partial(load_model, own_texts=judged is None)
    report = verify_model(values, pairs, load, with_reference=reference, grades=grades, say=tell)
    if json:
        print_json(as_json(report))
    else:
        print_verify(report, console())
    if require_reference and not report.has_reference:
        tell(f"--require-reference: {report.reference}")
        return 1
    return 0 if report.ok else 1
