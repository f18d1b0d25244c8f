"""``engine rerank QUERY FILES``: the lines, paragraphs or files that answer a question, best first."""

from __future__ import annotations

import sys
from typing import Annotated, Any

from cyclopts import Parameter

from engine.entrypoints.cli.flags import flags
from engine.entrypoints.flag_kinds import FLAT
from engine.entrypoints.rank.options import RankOptions

DEFAULTS = RankOptions()


@flags(("model", "scheduler", "device"), model_as_flag=True, own_flags=RankOptions)
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
    options: Annotated[RankOptions, FLAT] = DEFAULTS,
) -> int:
    """Rank lines, paragraphs or files for a query, best first, with no server.

    Without --model, the small English reranker that comes with the package is used.
    """
    from engine.entrypoints.cli.loading import announce_model, check_query, load_model
    from engine.entrypoints.files.texts import read_texts
    from engine.entrypoints.rank.ranking import print_ranking, rank_texts
    from engine.errors import ConfigError

    options.check()
    check_query(query)
    if not files and sys.stdin.isatty():
        raise ConfigError("Name files to rank, or - for standard input.")
    for name in files:
        if name.startswith("-") and name != "-":
            raise ConfigError(f"Unknown option {name}. (A file of that name is written ./{name}.)")
    texts = read_texts(files or ("-",), options.by, options.field)
    announce_model(values)
    with load_model(values) as llm:
        ranking = rank_texts(llm, query, texts)
    print_ranking(ranking, options.form, options.top)
    return 0
