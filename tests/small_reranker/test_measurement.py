"""The data and the measurement of the small reranker: no leaks in the split, frozen lists, right metrics."""

import json
import math
import random
import zlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.small_reranker.candidates import (
    LIST_SIZE,
    build_lists,
    freeze,
    handwritten_lists,
    held_out,
    read_frozen,
    split,
)
from benchmarks.small_reranker.evaluate import OWN_SETS, by_topic, sets_of
from benchmarks.small_reranker.metrics import (
    bootstrap,
    ndcg,
    paired_difference,
    random_ranks,
    rank_of_positive,
    reciprocal_rank,
    summarise,
)
from benchmarks.small_reranker.pool import build_pool, find_negatives
from benchmarks.small_reranker.queries import cut_sentence, keywords, query_of, unworded
from benchmarks.small_reranker.texts import Pair

ANIMALS = ("cat", "dog", "horse", "whale", "eagle", "spider", "salmon", "turtle", "rabbit", "beetle")


def some_pairs(count: int = 60) -> list[Pair]:
    rng = random.Random(1)
    pairs = []
    for number in range(count):
        animal, other = rng.sample(ANIMALS, 2)
        body = f"Text {number} tells how a {animal} lives. It eats in the morning. It is seldom seen with a {other}."
        pairs.append(Pair("made", f"made:{number // 3}", "phrase", f"Habits of the {animal} {number}", body))
    return pairs


@pytest.mark.parametrize(
    ("scores", "positive", "rank"),
    [([3.0, 2.0, 1.0], 0, 1), ([3.0, 2.0, 1.0], 2, 3), ([1.0, 1.0, 1.0], 0, 2), ([2.0, 2.0, 5.0], 1, 2.5)],
)
def test_rank_counts_ties_as_half(scores: list[float], positive: int, rank: float) -> None:
    assert rank_of_positive(scores, positive) == rank


def test_metric_values_worked_out_by_hand() -> None:
    assert [reciprocal_rank(rank) for rank in (1, 2, 10, 11)] == [1, 0.5, 0.1, 0]
    assert ndcg(1) == 1
    assert ndcg(3) == pytest.approx(0.5)
    assert ndcg(7) == pytest.approx(1 / 3)
    assert ndcg(11) == 0
    summary = summarise([1, 2, 4, 20])
    assert summary["MRR@10"].mean == pytest.approx((1 + 0.5 + 0.25 + 0) / 4)
    assert summary["nDCG@10"].mean == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(5)) / 4)
    assert summary["first"].mean == 0.25


def test_bootstrap_encloses_the_mean_and_repeats() -> None:
    values = [0.0, 1.0] * 50
    interval = bootstrap(values)
    assert interval == bootstrap(values)
    assert interval.mean == 0.5
    assert 0.38 < interval.low < 0.5 < interval.high < 0.62
    assert bootstrap([0.7] * 9) == pytest.approx((0.7, 0.7, 0.7))


def test_paired_difference_is_sharper_than_the_intervals() -> None:
    theirs = [random.Random(seed).random() for seed in range(50)]
    ours = [value + 0.01 for value in theirs]
    assert paired_difference(ours, theirs) == pytest.approx((0.01, 0.01, 0.01))


def test_random_order_is_uniform() -> None:
    ranks = random_ranks([4] * 4000)
    assert {1.0, 2.0, 3.0, 4.0} == set(ranks)
    assert sum(ranks) / len(ranks) == pytest.approx(2.5, abs=0.1)


def test_split_keeps_a_source_document_together() -> None:
    pairs = some_pairs(300)
    train, held = split(pairs, share=0.3)
    assert len(train) + len(held) == len(pairs)
    assert 0.15 < len(held) / len(pairs) < 0.45
    assert not {pair.group for pair in train} & {pair.group for pair in held}


def test_a_larger_share_contains_the_smaller_one() -> None:
    groups = [f"group {number}" for number in range(500)]
    assert {g for g in groups if held_out(g, 0.01)} <= {g for g in groups if held_out(g, 0.05)}


def test_lists_hold_the_right_text_once_and_none_of_its_group() -> None:
    pairs = some_pairs()
    groups = {pair.body: pair.group for pair in pairs}
    lists = build_lists(pairs, 12)
    assert lists == build_lists(pairs, 12)
    for entry in lists:
        right = entry.documents[entry.positive]
        assert len(entry.documents) == len(entry.bm25) == LIST_SIZE
        assert [groups[text] for text in entry.documents].count(groups[right]) == 1


def test_frozen_lists_are_checked(tmp_path: Path) -> None:
    lists = build_lists(some_pairs(), 5)
    checksum = freeze(lists, tmp_path / "lists.jsonl")
    assert read_frozen(tmp_path / "lists.jsonl", checksum) == lists
    text = (tmp_path / "lists.jsonl").read_text()
    (tmp_path / "lists.jsonl").write_text(text.replace("morning", "evening", 1))
    with pytest.raises(ValueError, match="expected"):
        read_frozen(tmp_path / "lists.jsonl", checksum)


@pytest.mark.parametrize(("path", "count"), list(zip(OWN_SETS, (60, 40, 60), strict=True)))
def test_handwritten_sets_are_whole(path: Path, count: int) -> None:
    sets = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(sets) == len({entry["id"] for entry in sets}) == count
    assert all(len({entry["positive"], *entry["negatives"]}) == 4 for entry in sets)
    lists = handwritten_lists(path)
    assert [entry.documents[entry.positive] for entry in lists] == [entry["positive"] for entry in sets]


def test_the_published_sets_are_those_of_the_checksums(tmp_path: Path) -> None:
    checksums = json.loads((OWN_SETS[0].parent / "checksums.json").read_text())
    for name, lists in sets_of(None).items():
        assert freeze(lists, tmp_path / name) == checksums[name]


def test_the_multilingual_set_has_four_languages_and_two_kinds_of_passages() -> None:
    topics = by_topic(sets := sets_of(None)["multilingual"], [entry.bm25 for entry in sets])
    assert {topic: of for topic, (_, of) in topics.items()} == {
        f"{language}-{side}": count
        for language in ("de", "fr", "es", "zh")
        for side, count in (("own", 8), ("english", 7))
    }


def some_vectors(texts: list[str]) -> np.ndarray:
    """Unit vectors, each word a random direction."""
    out = np.zeros((len(texts), 64), np.float32)
    for row, text in zip(out, texts, strict=True):
        for word in text.lower().split():
            row += np.random.default_rng(zlib.crc32(word.encode())).standard_normal(64, np.float32)
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def test_negatives_come_from_other_source_documents() -> None:
    pool = build_pool(some_pairs(), {"made": 60})
    find_negatives(pool, some_vectors(pool.queries), some_vectors(pool.texts))
    assert len(pool.queries) == len(pool.positive) == len(pool.shown) > 100
    for own, *found in zip(pool.positive, pool.by_words, pool.by_meaning, strict=True):
        for negatives in found:
            assert negatives
            assert pool.groups[own] not in {pool.groups[other] for other in negatives}


def test_query_forms() -> None:
    rng = random.Random(0)
    pair = Pair("man", "man:sort", "phrase", "Sort lines of text files", "Write sorted concatenation of all files.")
    assert query_of(pair, "title", rng) == "Sort lines of text files"
    assert any(
        query_of(pair, "question", rng) in ("how to sort lines of text files", "how do I sort lines of text files")
        for _ in range(20)
    )
    assert 2 <= len(keywords(pair.title, rng).split()) <= 4
    assert "of" not in keywords(pair.title, rng).split()


def test_a_cut_sentence_is_gone_from_the_text() -> None:
    body = "The cat sleeps on the warm roof. The dog runs through the wet garden. The bird sings in the tall tree."
    pair = Pair("made", "made:1", "phrase", "Animals", body)
    for seed in range(20):
        cut = cut_sentence(pair, random.Random(seed))
        assert cut is not None
        query, rest = cut
        assert rest.count(".") == 2
        assert query not in rest


def test_unworded_text_repeats_no_word_of_the_query() -> None:
    text = "Files are sorted here. The order of lines is changed. Sorting files takes time."
    assert unworded("sort a file", text) == "The order of lines is changed."
