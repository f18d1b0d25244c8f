"""What ``engine eval`` does, from checked arguments to the printed table.

Everything that can be wrong with files is found before a model is loaded, and results are written last and whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.entrypoints.evaluation.beir import read_beir
from engine.entrypoints.evaluation.dataset import EvaluationSet
from engine.entrypoints.evaluation.examples import read_examples
from engine.entrypoints.evaluation.first_stage import FirstStage, first_stage
from engine.entrypoints.evaluation.metrics import check_installed, recall_of_all
from engine.entrypoints.evaluation.options import EvalOptions
from engine.entrypoints.evaluation.report import as_json, print_report
from engine.entrypoints.evaluation.results import System, compare
from engine.entrypoints.evaluation.scoring import Reranked, rerank_all
from engine.entrypoints.evaluation.trec import check_run_ids, write_run
from engine.entrypoints.files.writing import check_writable, written_whole
from engine.entrypoints.terminal import console, json_text, print_json
from engine.errors import ConfigError

if TYPE_CHECKING:
    from engine import LLM

Values = Mapping[str, Any]


def evaluate(
    settings: Sequence[tuple[str, Values]], options: EvalOptions, load: Callable[[Values], LLM], out: Any
) -> None:
    """Evaluates a model. ``settings``: name and values of each setting; the run of the first is written.

    Raises ``ConfigError`` where the first stage finds nothing.
    """
    check_options(options)
    dataset = read_dataset(options)
    first = first_stage(options.first_stage, dataset, options.top_k, skip_unknown=options.skip_unknown)
    if not any(first.ranking.values()):
        raise ConfigError(f"{dataset.name}: the first stage ({first.name}) finds no document for any query.")
    if options.save_run is not None:
        check_run_ids(first.ranking)
    systems = [System(first.name, first.ranking)] if first.measured else []
    runs: list[Reranked] = []
    for name, values in settings:
        with load(values) as llm:
            runs.append(rerank_all(llm, dataset, first.ranking))
            systems.append(System(name, runs[-1].ranking, _facts(llm, values, runs[-1])))
    comparison = compare(dataset, systems, options.cutoff, rounds=options.bootstrap_rounds)
    setup = _setup(options, dataset, first)
    result = as_json(comparison, setup)
    if options.save_run is not None:
        write_run(options.save_run, runs[0].ranking, runs[0].logits, "engine")
    if options.output is not None:
        with written_whole(options.output) as file:
            file.write(json_text(result) + "\n")
    if options.json:
        print_json(result, out)
    else:
        print_report(comparison, setup, console(out))


def check_options(options: EvalOptions) -> None:
    """Raises ``ConfigError`` for a number below one, and for a file that cannot be written."""
    for name in ("top_k", "cutoff", "max_queries", "bootstrap_rounds"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: one or more expected.")
    for path in (options.output, options.save_run):
        if path is not None:
            check_writable(path, overwrite=options.overwrite)
    check_installed()


def read_dataset(options: EvalOptions) -> EvaluationSet:
    """A folder is BEIR's, a file holds examples. Raises ``ConfigError`` for ``--qrels`` with a file."""
    if options.data.is_file():
        if options.qrels is not None:
            raise ConfigError("--qrels belongs to a BEIR folder; a file of examples has its judgements inside.")
        dataset = read_examples(options.data)
    else:
        dataset = read_beir(
            options.data, qrels=options.qrels, join_title=options.title, skip_unknown=options.skip_unknown
        )
    return dataset.sample(options.max_queries)


def _setup(options: EvalOptions, dataset: EvaluationSet, first: FirstStage) -> dict[str, Any]:
    counts = [len(first.ranking.get(query, ())) for query in dataset.queries]
    return {
        "first_stage": first.name,
        "top_k": options.top_k,
        "join_title": options.title,
        "bootstrap_rounds": options.bootstrap_rounds,
        "num_candidates_per_query": float(np.mean(counts)),
        "ceiling": recall_of_all(dataset, first.ranking),
        "notes": [*dataset.notes, *first.notes],
    }


def _facts(llm: LLM, values: Values, run: Reranked) -> dict[str, Any]:
    return {
        "model": llm.spec.name,
        "settings": {name: value for name, value in values.items() if name != "model"},
        "decision": llm.spec.decision,
        "device": llm.info.device,
        "dtype": llm.info.dtype,
        "notes": list(llm.info.notes),
        "num_pairs": run.num_pairs,
        "num_truncated": run.num_truncated,
        "seconds": run.seconds,
        "pairs_per_s": run.num_pairs / run.seconds if run.seconds else None,
    }
