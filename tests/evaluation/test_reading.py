"""Judged data and runs: what is read, and that every mistake is named with file and line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.entrypoints.evaluation.beir import read_beir
from engine.entrypoints.evaluation.examples import read_examples
from engine.entrypoints.evaluation.first_stage import bm25_ranking, first_stage
from engine.entrypoints.evaluation.trec import check_run_ids, read_run, write_run
from engine.errors import ConfigError


def test_a_folder_is_read(beir: Path) -> None:
    dataset = read_beir(beir)
    assert list(dataset.queries) == ["q1", "q2", "q3"]
    assert dataset.documents["d1"] == "Beijing The capital of China is Beijing."
    assert dataset.qrels["q2"] == {"d3": 1, "d4": 0}
    assert read_beir(beir, join_title=False).documents["d1"] == "The capital of China is Beijing."


def test_packed_files_trec_judgements_and_numbers_as_ids(beir: Path) -> None:
    corpus = [{"_id": 7, "text": "seven"}, {"_id": "8", "title": None, "text": "eight"}]
    with gzip.open(beir / "corpus.jsonl.gz", "wt", encoding="utf-8-sig") as file:
        file.write("\n\n".join(map(json.dumps, corpus)))
    (beir / "corpus.jsonl").unlink()
    (beir / "qrels" / "dev.tsv").write_text("q1 0 7 1\r\nq2 0 8 3\r\n")
    dataset = read_beir(beir, qrels="dev")
    assert dataset.documents == {"7": "seven", "8": "eight"}
    assert dataset.qrels == {"q1": {"7": 1}, "q2": {"8": 3}}
    assert read_beir(beir, qrels=str(beir / "qrels" / "dev.tsv")).qrels == dataset.qrels


QRELS, CORPUS, TOPICS = "qrels/test.tsv", "corpus.jsonl", "queries.jsonl"


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        (
            QRELS,
            "query-id\tcorpus-id\tscore\nq1\td1\t1\nq9\td1\t1\n",
            r"test.tsv:3: the query 'q9' is not in .*queries",
        ),
        (QRELS, "q1\td1\t1\nq1\tdX\t1\n", r"test.tsv:2: the document 'dX' is not in .*corpus.jsonl"),
        (QRELS, "q1\td1\n", "test.tsv:1: query-id, corpus-id and score expected, got 2 columns"),
        (QRELS, "q1\td1\t1\nq1\td2\thigh\n", "test.tsv:2: the score must be a whole number, and is 'high'"),
        (QRELS, "q1\td1\t1\nq1\td1\t0\n", "test.tsv:2: query 'q1' and document 'd1' were judged before"),
        (QRELS, "query-id\tcorpus-id\tscore\n", "test.tsv holds no judgement"),
        (QRELS, "", "test.tsv holds no judgement"),
        (QRELS, "q1\td1\t0\n", "no judgement above 0"),
        (
            CORPUS,
            '{"_id": "d1", "text": "x"}\n{"_id": "d2"}\n',
            "corpus.jsonl:2: the field 'text' must be a text, and is m",
        ),
        (CORPUS, '{"text": "x"}\n', "corpus.jsonl:1: the field '_id' must be a text, and is missing"),
        (CORPUS, '{"_id": "a", "text": 3}\n', "corpus.jsonl:1: .*'text' must be a text, and is a number"),
        (CORPUS, '{"_id": "a", "title": [], "text": ""}\n', "corpus.jsonl:1: .*'title' must be a text, and is a list"),
        (CORPUS, '{"_id": "a", "text": ""}\n{"_id": "a", "text": ""}', "corpus.jsonl:2: the id 'a' was there before"),
        (CORPUS, '{"_id": "a", "text": "x"\n', "corpus.jsonl:1: not valid JSON"),
        (CORPUS, "[1]\n", "corpus.jsonl:1: a JSON object expected, got a list"),
        (CORPUS, "", "corpus.jsonl is empty"),
        (TOPICS, '{"_id": "q1", "text": " "}\n', "queries.jsonl:1: the query 'q1' is empty"),
        (TOPICS, '{"_id": "q1", "text": "\\ud800"}\n', "queries.jsonl:1: not valid JSON"),
    ],
)
def test_mistakes_are_named(beir: Path, file: str, content: str, says: str) -> None:
    (beir / file).write_text(content)
    with pytest.raises(ConfigError, match=says):
        read_beir(beir)


def test_bytes_that_are_no_text_and_files_that_are_not_there(beir: Path) -> None:
    (beir / CORPUS).write_bytes(b'{"_id": "a", "text": "\xff"}\n')
    with pytest.raises(ConfigError, match=r"corpus.jsonl:1: not valid JSON"):
        read_beir(beir)
    (beir / QRELS).write_bytes(b"q1\td1\t1\nq1\t\xe9\t1\n")
    (beir / CORPUS).write_text('{"_id": "d1", "text": "x"}\n')
    with pytest.raises(ConfigError, match=r"test.tsv:2: not UTF-8 text \(byte 0xe9 at position 4 of the line\)"):
        read_beir(beir)
    (beir / CORPUS).unlink()
    with pytest.raises(ConfigError, match=r"corpus.jsonl cannot be read: No such file"):
        read_beir(beir)
    (beir / "corpus.jsonl.gz").write_bytes(b"not packed")
    with pytest.raises(ConfigError, match=r"corpus.jsonl.gz cannot be read: Not a gzipped file"):
        read_beir(beir)


def test_which_judgements(beir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no train in .*; choose one of test"):
        read_beir(beir, qrels="train")
    (beir / "qrels" / "test.tsv").rename(beir / "qrels" / "train.tsv")
    assert read_beir(beir).name == "small (train)"
    (beir / "qrels" / "dev.tsv").write_text("q1\td1\t1\n")
    with pytest.raises(ConfigError, match=r"several sets; choose one of dev, train"):
        read_beir(beir)
    with pytest.raises(ConfigError, match="there is no such folder"):
        read_beir(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="is no BEIR folder"):
        read_beir(tmp_path / "empty")


def test_unknown_ids_are_left_out_only_when_asked(beir: Path) -> None:
    with (beir / QRELS).open("a") as file:
        file.write("q9\td1\t1\nq1\tdX\t1\n")
    with pytest.raises(ConfigError, match=r"test.tsv:7: .*--skip-unknown"):
        read_beir(beir)
    dataset = read_beir(beir, skip_unknown=True)
    assert dataset.notes == ("2 judgements of unknown ids left out",)
    assert dataset.num_judgements == 5


def test_examples(examples: Callable[..., Path]) -> None:
    path = examples(
        {"query": "a", "positive": "right", "negative": ["wrong", "other", "wrong"]},
        {"query": "b", "pos": ["one", "two"], "neg": ["three"]},
        {"query": "c", "positive": ["r"], "negatives": [f"n{i}" for i in range(9)]},
    )
    dataset = read_examples(path)
    assert dataset.queries == {"1": "a", "2": "b", "3": "c"}
    assert sorted(dict(dataset.lists())["a"]) == ["other", "right", "wrong"]
    texts = {name: dataset.documents[name] for name in dataset.qrels["2"]}
    assert {texts[name]: grade for name, grade in dataset.qrels["2"].items()} == {"one": 1, "two": 1, "three": 0}
    assert dataset == read_examples(path)
    assert dict(dataset.lists())["c"][0] != "r"  # the order tells nothing


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"query": "", "positive": "a", "negative": "b"}, "the field 'query' must hold a text"),
        ({"positive": "a", "negative": "b"}, "the field 'query' must hold a text"),
        ({"query": "q", "negative": "b"}, "one field 'positive' expected"),
        ({"query": "q", "positive": "a"}, "one field 'negative' expected"),
        (
            {"query": "q", "positive": "a", "pos": "a", "negative": "b"},
            "one field 'positive' expected, got 'positive' and",
        ),
        ({"query": "q", "positive": [], "negative": "b"}, "'positive' must be a text or a list of texts"),
        (
            {"query": "q", "positive": 1, "negative": "b"},
            "'positive' must be a text or a list of texts, and is a number",
        ),
        ({"query": "q", "positive": "a", "negative": [None]}, "'negative' must hold texts, and holds null"),
        ({"query": "q", "positive": "a", "negative": ["  "]}, "'negative' must hold texts, and holds an empty text"),
        ({"query": "q", "positive": "a", "negative": ["a"]}, "a text is positive and negative"),
        ("{", "not valid JSON"),
        ("3", "a JSON object expected, got a number"),
    ],
)
def test_mistakes_in_examples(examples: Callable[..., Path], row: object, says: str) -> None:
    path = examples({"query": "fine", "positive": "a", "negative": "b"}, "", row)
    with pytest.raises(ConfigError, match=f"examples.jsonl:3: {says}"):
        read_examples(path)


def test_no_example(examples: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="holds no example"):
        read_examples(examples(""))


def test_a_run_is_ordered_by_score_and_then_by_line(beir: Path, tmp_path: Path) -> None:
    run = tmp_path / "first.run"
    lines = ["q1 Q0 d1 2 1.5 x", "q1 Q0 d2 1 2 x", "q1 Q0 d4 3 1.5 x", "", "q4 Q0 d1 1 9 x", "q2\tQ0\td3\t1\t-1e3\tx"]
    run.write_text("\n".join(lines))
    found = first_stage(str(run), read_beir(beir), top_k=2)
    assert found.ranking == {"q1": ["d2", "d1"], "q2": ["d3"]}
    assert found.notes == ("1 judged queries are not in the run and count as zero",)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["q1 Q0 d1 1 2.0 x", "q1 Q0 d2 2 1.0"], "first.run:2: 'query Q0 document rank score tag' expected"),
        (["q1 Q0 d1 1 two x"], "first.run:1: .*with a number as the score .*'two'"),
        (["q1 Q0 d1 1 nan x"], "first.run:1: the score is nan"),
        (["q1 Q0 d1 1 2 x", "q1 Q0 d1 2 1 x"], "first.run:2: the document 'd1' was there before"),
        (["q1 Q0 dX 1 2 x"], "first.run:1: the document 'dX' is not in the corpus"),
        (["q4 Q0 d1 1 2 x"], "ranks no document for any judged query: its 1 lines are about other queries"),
        ([], "ranks no document for any judged query"),
    ],
)
def test_mistakes_in_runs(beir: Path, tmp_path: Path, lines: list[str], says: str) -> None:
    run = tmp_path / "first.run"
    run.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=says):
        read_run(run, read_beir(beir))


def test_unknown_documents_of_a_run_can_be_left_out(beir: Path, tmp_path: Path) -> None:
    run = tmp_path / "first.run"
    run.write_text("q1 Q0 dX 1 2 x\nq1 Q0 d1 2 1 x\nq2 Q0 d3 1 1 x\nq3 Q0 d5 1 1 x\n")
    ranking, notes = read_run(run, read_beir(beir), skip_unknown=True)
    assert ranking["q1"] == ["d1"]
    assert notes == ("1 lines of the run with unknown documents left out",)


def test_a_written_run_has_strict_ranks_and_falling_scores(beir: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.run"
    ranking = {"q1": ["d3", "d1", "d2", "d4"], "q2": ["d3"]}
    logits = {"q1": {"d3": 1.25, "d1": 1.25, "d2": 1.25, "d4": -3.0}, "q2": {"d3": 1e-30}}
    write_run(path, ranking, logits, "tag")
    rows = [line.split() for line in path.read_text().splitlines()]
    assert [(row[0], row[1], row[2], row[3], row[5]) for row in rows] == [
        ("q1", "Q0", "d3", "1", "tag"),
        ("q1", "Q0", "d1", "2", "tag"),
        ("q1", "Q0", "d2", "3", "tag"),
        ("q1", "Q0", "d4", "4", "tag"),
        ("q2", "Q0", "d3", "1", "tag"),
    ]
    scores = [float(row[4]) for row in rows[:4]]
    assert scores == sorted(set(scores), reverse=True)
    assert scores == pytest.approx([1.25, 1.25, 1.25, -3.0], abs=1e-6)
    assert read_run(path, read_beir(beir))[0] == ranking
    with pytest.raises(ConfigError, match="holds white space"):
        check_run_ids({"q1": ["d 1"]})


def test_bm25_finds_words_and_leaves_out_what_shares_none(beir: Path) -> None:
    pytest.importorskip("bm25s", reason="the extra 'eval' is not installed")
    dataset = read_beir(beir)
    ranking = bm25_ranking(dataset, top_k=100)
    assert ranking["q1"][0] == "d1"
    assert ranking["q2"] == ["d3"]
    assert ranking["q3"][0] == "d5"
    assert bm25_ranking(dataset, top_k=1) == {query: best[:1] for query, best in ranking.items()}


def test_bm25_over_texts_without_any_word(examples: Callable[..., Path]) -> None:
    pytest.importorskip("bm25s", reason="the extra 'eval' is not installed")
    dataset = read_examples(examples({"query": "the ?", "positive": "!", "negative": ["?", "..."]}))
    assert bm25_ranking(dataset, top_k=10) == dataset.candidates


def test_bm25_orders_candidates_without_knowing_the_right_one(examples: Callable[..., Path]) -> None:
    pytest.importorskip("bm25s", reason="the extra 'eval' is not installed")
    rows = [{"query": f"word{i}", "positive": "right", "negative": ["wrong", f"about word{i}"]} for i in range(20)]
    dataset = read_examples(examples(*rows))
    ranking = bm25_ranking(dataset, top_k=1)  # top_k is for collections: these lists are ranked whole
    assert all(dataset.documents[documents[0]].startswith("about") for documents in ranking.values())
    assert {dataset.documents[documents[1]] for documents in ranking.values()} == {"right", "wrong"}


def test_first_stages_that_make_no_sense(beir: Path, examples: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--first-stage none: a BEIR folder needs one"):
        first_stage("none", read_beir(beir), 10)
    dataset = read_examples(examples({"query": "q", "positive": "a", "negative": "b"}))
    with pytest.raises(ConfigError, match="belongs to a BEIR folder"):
        first_stage("some.run", dataset, 10)
    with pytest.raises(ConfigError, match=r"no.run cannot be read: No such file"):
        first_stage(str(tmp_path / "no.run"), read_beir(beir), 10)
    assert not first_stage("none", dataset, 10).measured


def test_without_bm25s_the_message_says_what_to_do(beir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.entrypoints.evaluation.first_stage.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install .*bm25s.*--first-stage FILE"):
        first_stage("bm25", read_beir(beir), 10)
