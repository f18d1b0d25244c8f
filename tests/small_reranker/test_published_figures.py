"""What the packaged model's README says of its quality is what the raw file says, and what the model still does."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.small_reranker.evaluate import model_scores, sets_of
from benchmarks.small_reranker.metrics import rank_of_positive
from engine import LLM
from engine.checkpoint.hub import PACKAGED_MODEL

ROOT = Path(__file__).parents[2]
README = (PACKAGED_MODEL / "README.md").read_text(encoding="utf-8")
(RAW,) = re.findall(r"raw:\s+`(benchmarks/results/\S+\.json)`", README)
SETS = json.loads((ROOT / RAW).read_text())["sets"]


def test_the_table_is_that_of_the_raw_file() -> None:
    shown = re.findall(
        r"^\|[^|]*\| this model \| (\S+) \(.*?\) \| (\S+) \(.*?\) \| (\d+) of (\d+) \|$", README, re.MULTILINE
    )
    expected = []
    for name in ("documentation", "definitions", "other", "handwritten", "handwritten_plain", "multilingual"):
        means = {metric: interval["mean"] for metric, interval in SETS[name]["model"].items()}
        count = SETS[name]["num_queries"]
        row = (f"{means['MRR@10']:.3f}", f"{means['nDCG@10']:.3f}", str(round(means["first"] * count)), str(count))
        expected.append(row)
    assert shown == expected


@pytest.mark.parametrize("name", ["documentation", "other"])
def test_it_is_above_bm25_with_an_interval_clear_of_zero(name: str) -> None:
    difference = SETS[name]["model_minus_bm25_MRR@10"]
    assert 0 < difference["low"] < difference["mean"]
    assert f"{difference['mean']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})" in README


def test_the_hand_written_sets_come_out_as_published() -> None:
    with LLM(device="cpu", cpu_threads=1) as llm:
        for name, lists in sets_of(None).items():
            ranks = [rank_of_positive(own, e.positive) for own, e in zip(model_scores(llm, lists), lists, strict=True)]
            right = sum(rank == 1 for rank in ranks)
            assert right == round(SETS[name]["model"]["first"]["mean"] * len(lists)), name
