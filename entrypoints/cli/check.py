"""``engine check MODEL --query Q --document D``: how one pair becomes a score."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from engine.entrypoints.cli.flags import flags


@flags(("model", "scheduler", "device"))
def check(
    values: dict[str, Any],
    *,
    query: Annotated[str, Parameter(help="The query.")],
    document: Annotated[tuple[str, ...], Parameter(help="A document; may be given several times.", negative=())],
    reference: Annotated[
        bool, Parameter(help="Run transformers too, where it is installed and has the architecture.")
    ] = True,
    tokens: Annotated[bool, Parameter(help="List every token with its position and id.", negative=())] = False,
    json: Annotated[bool, Parameter(help="Print everything as JSON.", negative=())] = False,
) -> int:
    """Show how a pair becomes a score: prompt, token ids, cuts, logit, score, and what transformers says.

    Without a model, the small English reranker that comes with the package is checked.
    """
    from engine.entrypoints.cli.loading import announce_model, check_query, check_text, load_model
    from engine.entrypoints.inspection.check import check_pairs
    from engine.entrypoints.inspection.check_view import print_check
    from engine.entrypoints.terminal import console, print_json, tell
    from engine.errors import ConfigError

    if not document:
        raise ConfigError("--document is missing.")
    check_query(query)
    for text in document:
        check_text(text, "A document")
    announce_model(values)
    with load_model(values) as llm:
        report = check_pairs(llm, query, document, with_reference=reference, say=tell)
    if json:
        print_json(report.as_json())
    else:
        print_check(report, console(), tokens=tokens)
    return 0
