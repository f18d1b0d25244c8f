"""Scores frozen candidate lists with a model through this engine, and reports it beside BM25 and a random order."""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.small_reranker.candidates import CandidateList, handwritten_lists, read_frozen
from benchmarks.small_reranker.metrics import (
    METRICS,
    Interval,
    paired_difference,
    random_ranks,
    rank_of_positive,
    summarise,
)
from engine import LLM

HERE = Path(__file__).parent
# The first is the published measure: its wrong passages share the words of the question and its right ones avoid them.
# The second is plainer, as a search engine would bring passages. The third asks in four other languages.
OWN_SETS = tuple(HERE / f"{name}.jsonl" for name in ("handwritten", "handwritten_plain", "multilingual"))
MADE_SETS = ("documentation", "definitions", "other")
CHECKSUMS = HERE / "checksums.json"


def model_scores(llm: LLM, lists: Sequence[CandidateList]) -> list[list[float]]:
    """Documents that are too long for the model are cut at its end, as the engine does unless told otherwise."""
    return [
        [output.outputs.score for output in llm.score(entry.query, entry.documents, use_tqdm=False)] for entry in lists
    ]


def report(lists: Sequence[CandidateList], scores: Sequence[Sequence[float]]) -> dict[str, object]:
    """Summary of the three orders, and the paired difference of model and BM25."""
    orders = {
        "random": random_ranks([len(entry.documents) for entry in lists]),
        "bm25": [rank_of_positive(entry.bm25, entry.positive) for entry in lists],
        "model": [rank_of_positive(own, entry.positive) for own, entry in zip(scores, lists, strict=True)],
    }
    result: dict[str, object] = {"num_queries": len(lists)}
    for name, ranks in orders.items():
        result[name] = {metric: interval._asdict() for metric, interval in summarise(ranks).items()}
    metric = METRICS["MRR@10"]
    difference = paired_difference(
        [metric(rank) for rank in orders["model"]], [metric(rank) for rank in orders["bm25"]]
    )
    result["model_minus_bm25_MRR@10"] = difference._asdict()
    return result


def format_row(set_name: str, result: dict[str, object]) -> list[str]:
    """Lines of the Markdown table of a set."""
    lines = []
    for order in ("random", "bm25", "model"):
        values = result[order]
        assert isinstance(values, dict)
        cells = [f"{(i := Interval(**values[m])).mean:.3f} ({i.low:.3f}-{i.high:.3f})" for m in METRICS]
        lines.append(f"| {set_name} | {order} | " + " | ".join(cells) + " |")
    return lines


def sets_of(folder: Path | None) -> dict[str, list[CandidateList]]:
    """The hand-written sets, and those in ``folder``, all of them as published: another checksum is an error."""
    checksums = json.loads(CHECKSUMS.read_text())
    sets = {path.stem: handwritten_lists(path) for path in OWN_SETS}
    if folder is None:
        return sets
    return {name: read_frozen(folder / f"{name}.jsonl", checksums[name]) for name in MADE_SETS} | sets


def by_topic(lists: Sequence[CandidateList], scores: Sequence[Sequence[float]]) -> dict[str, list[int]]:
    """topic -> [right first, of]"""
    found: dict[str, list[int]] = {}
    for own, entry in zip(scores, lists, strict=True):
        counts = found.setdefault(entry.source, [0, 0])
        counts[0] += rank_of_positive(own, entry.positive) == 1
        counts[1] += 1
    return found


def evaluate(model: str, folder: Path | None) -> dict[str, object]:
    """``model``: a folder, or empty for the packaged one. Without ``folder``, the hand-written sets alone."""
    results: dict[str, dict[str, object]] = {}
    print("| set | order | " + " | ".join(METRICS) + " |\n|---|---|" + "---|" * len(METRICS))
    with LLM(model, device="cpu") as llm:
        for name, lists in sets_of(folder).items():
            scores = model_scores(llm, lists)
            results[name] = report(lists, scores)
            if name == "multilingual":
                results[name]["first_by_topic"] = by_topic(lists, scores)
            print("\n".join(format_row(name, results[name])), flush=True)
    return {"model": model or "the packaged model", "sets": results}
