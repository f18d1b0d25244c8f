"""Scores frozen candidate lists with the model and reports it beside BM25 and a random order."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

from benchmarks.tiny_reranker.candidates import CandidateList
from benchmarks.tiny_reranker.metrics import (
    METRICS,
    Interval,
    paired_difference,
    random_ranks,
    rank_of_positive,
    summarise,
)
from benchmarks.tiny_reranker.model import TinyReranker
from benchmarks.tiny_reranker.prompt import PromptEncoder
from benchmarks.tiny_reranker.train import load_checkpoint, score_queries

MAX_DOCUMENT_TOKENS = 512


@torch.inference_mode()
def model_scores(model: TinyReranker, tokenizer: Tokenizer, lists: Sequence[CandidateList]) -> list[list[float]]:
    encoder = PromptEncoder(tokenizer, max_document=MAX_DOCUMENT_TOKENS)
    scores = []
    for entry in lists:
        rows = encoder.encode(entry.query, entry.documents)
        scores.append(score_queries(model, [rows], chunks=4).tolist())
    return scores


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


def evaluate(checkpoint: Path, sets: dict[str, Sequence[CandidateList]]) -> dict[str, dict[str, object]]:
    model, tokenizer = load_checkpoint(checkpoint)
    results: dict[str, dict[str, object]] = {}
    print("| set | order | " + " | ".join(METRICS) + " |\n|---|---|" + "---|" * len(METRICS))
    for name, lists in sets.items():
        results[name] = report(lists, model_scores(model, tokenizer, lists))
        print("\n".join(format_row(name, results[name])), flush=True)
    return results
