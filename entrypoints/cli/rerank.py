"""``engine rerank QUERY FILES``: the lines, paragraphs or files that answer a question, best first."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from engine.entrypoints.cli.flags import flags
from engine.entrypoints.files.texts import Unit

Format = Literal["table", "json", "tsv"]


@flags(("model", "scheduler", "device"), model_as_flag=True)
def rerank(
    values: dict[str, Any],
    query: Annotated[str, Parameter(help="What is looked for: a question or some words.")],
    files: Annotated[
        tuple[str, ...],
        Parameter(
            help="Text files, .gz too; - is standard input, which is also read when no file is named.",
            allow_leading_hyphen=True,
            negative=(),
        ),
    ] = (),
    *,
    by: Annotated[
        Unit | None,
        Parameter(
            help="What is ranked: each line, each paragraph (between blank lines), each whole file, or a field of each "
            "JSON line. Default: json for files named .jsonl, else line."
        ),
    ] = None,
    field: Annotated[
        str | None, Parameter(help="Field of the JSON lines that holds the text; a.b for nested ones. Default: text.")
    ] = None,
    top: Annotated[
        int | None, Parameter(help="How many of the best to print. Default: 10 in the table, all with --json or --tsv.")
    ] = None,
    json: Annotated[bool, Parameter(help="One JSON object a line, for pipes.", negative=())] = False,
    tsv: Annotated[
        bool, Parameter(help="Tab-separated rank, score, logit, file, line and text, for pipes.", negative=())
    ] = False,
) -> int:
    """Rank lines, paragraphs or files for a query, best first, with no server.

    Without --model, the small English reranker that comes with the package is used.
    """
    from engine.entrypoints.cli.loading import announce_model, check_query, load_model
    from engine.entrypoints.files.texts import read_texts
    from engine.entrypoints.rank.ranking import print_ranking, rank_texts
    from engine.errors import ConfigError

    if json and tsv:
        raise ConfigError("--json and --tsv exclude each other.")
    if top is not None and top < 1:
        raise ConfigError(f"--top {top}: one or more expected.")
    check_query(query)
    if not files and sys.stdin.isatty():
        raise ConfigError("Name files to rank, or - for standard input.")
    for name in files:
        if name.startswith("-") and name != "-":
            raise ConfigError(f"Unknown option {name}. (A file of that name is written ./{name}.)")
    texts = read_texts(files or ("-",), by, field)
    announce_model(values)
    with load_model(values) as llm:
        ranking = rank_texts(llm, query, texts)
    print_ranking(ranking, "json" if json else "tsv" if tsv else "table", top)
    return 0
