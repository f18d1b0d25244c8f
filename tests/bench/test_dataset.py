"""What is sent: lengths, seeds, files, and what is said about broken ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from engine.entrypoints.bench.call import BenchCall
from engine.entrypoints.bench.dataset import load_calls
from engine.entrypoints.bench.options import ServeOptions
from engine.errors import ConfigError
from tests.support.tokenizer_files import bert_tokenizer_json, qwen_tokenizer_json

WORDS = ServeOptions(skip_tokenizer_init=True, random_input_len=200)


def jsonl(path: Path, *rows: object) -> ServeOptions:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return replace(WORDS, dataset_name="jsonl", dataset_path=str(path))


def test_lengths_split_like_vllms() -> None:
    (call,) = load_calls(WORDS, 1, None)
    assert (len(call.query.split()), len(call.documents[0].split())) == (99, 100)
    assert call.num_tokens == 199


def test_lengths_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(qwen_tokenizer_json())
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    options = replace(WORDS, skip_tokenizer_init=False, tokenizer=str(tmp_path))
    calls = load_calls(options, 40, None)
    lengths = [len(tokenizer.encode(call.query).ids) for call in calls]
    # A cut in the middle of a character, or of what the tokenizer reads as one, costs a few tokens here and there.
    assert all(abs(length - 99) <= 8 for length in lengths)
    assert abs(sum(lengths) / len(lengths) - 99) < 1.5
    assert len({call.query for call in calls}) == 40


def test_special_tokens_are_never_in_the_text(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(bert_tokenizer_json())
    options = replace(WORDS, skip_tokenizer_init=False, tokenizer=str(tmp_path), random_input_len=4000)
    (call,) = load_calls(options, 1, None)
    assert not any(token in call.query for token in ("[CLS]", "[SEP]", "[PAD]", "[MASK]"))


def test_model_of_the_server_gives_the_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(qwen_tokenizer_json())
    assert load_calls(replace(WORDS, skip_tokenizer_init=False), 1, str(tmp_path))


def test_range_ratio_spreads_lengths() -> None:
    calls = load_calls(replace(WORDS, random_range_ratio=0.5), 200, None)
    lengths = [len(call.documents[0].split()) for call in calls]
    assert 50 <= min(lengths) < 60
    assert 140 < max(lengths) <= 150


def test_documents_are_counted_not_calls() -> None:
    calls = load_calls(replace(WORDS, random_batch_size=8), 20, None)
    assert [len(call.documents) for call in calls] == [8, 8, 4]


def test_shared_share_of_queries() -> None:
    calls = load_calls(replace(WORDS, shared_query_ratio=0.5), 400, None)
    queries = [call.query for call in calls]
    most = max(queries, key=queries.count)
    assert 150 < queries.count(most) < 250


def test_documents_may_begin_alike() -> None:
    calls = load_calls(replace(WORDS, random_prefix_len=5), 10, None)
    assert len({" ".join(call.documents[0].split()[:4]) for call in calls}) == 1


def test_jsonl_forms(tmp_path: Path) -> None:
    options = jsonl(
        tmp_path / "d.jsonl",
        {"query": "q1", "documents": ["a b", {"text": "c"}], "instruction": "find"},
        {"query": "q2", "positive": ["p"], "negative": ["n", "m"]},
    )
    assert load_calls(options, 100, None) == [
        BenchCall("q1", ["a b", "c"], 5, "find"),
        BenchCall("q2", ["p", "n", "m"], 6),
    ]
    assert [len(call.documents) for call in load_calls(options, 3, None)] == [2, 1]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", "not JSON"),
        ([1], "an object was expected"),
        ({"documents": ["a"]}, "no text under 'query'"),
        ({"query": "q"}, "no list under 'documents'"),
        ({"query": "q", "documents": "a"}, "no list under 'documents'"),
        ({"query": "q", "documents": []}, "no document"),
        ({"query": "q", "documents": ["a", 3]}, "document 1 is neither"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, row: object, problem: str) -> None:
    options = jsonl(tmp_path / "d.jsonl", {"query": "q", "documents": ["a"]}, row)
    with pytest.raises(ConfigError, match=rf"d\.jsonl:2: {problem}.*[\s\S]*--skip-broken-lines"):
        load_calls(options, 10, None)


def test_broken_lines_may_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = jsonl(
        tmp_path / "d.jsonl", {"query": "q", "documents": ["a"]}, "{", "\ud800".encode(errors="replace").decode()
    )
    assert len(load_calls(replace(options, skip_broken_lines=True), 10, None)) == 1
    assert "Left out 2 broken lines" in capsys.readouterr().out


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_calls(replace(WORDS, dataset_name="jsonl", dataset_path=str(tmp_path / "no")), 1, None)
    with pytest.raises(ConfigError, match="holds no call"):
        load_calls(jsonl(tmp_path / "empty.jsonl", ""), 1, None)


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    corpus = [{"_id": f"d{i}", "title": "T" if i == 0 else "", "text": f"text {i}"} for i in range(30)]
    queries = [{"_id": "q1", "text": "first"}, {"_id": "q2", "text": "second"}, {"_id": "q3", "text": "unjudged"}]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td0\t1\nq1\td1\t2\nq2\td2\t1\nq2\td3\t0\n"
    )
    return tmp_path


def test_beir_folder(beir: Path) -> None:
    options = replace(WORDS, dataset_name="beir", dataset_path=str(beir), random_batch_size=6)
    first, second = load_calls(options, 1000, None)
    assert (first.query, second.query) == ("first", "second")
    assert {"T text 0", "text 1"} <= set(first.documents)
    assert "text 2" in second.documents
    assert [len(set(call.documents)) for call in (first, second)] == [6, 6]


def test_beir_faults(beir: Path) -> None:
    options = replace(WORDS, dataset_name="beir", dataset_path=str(beir))
    with (beir / "qrels" / "test.tsv").open("a") as file:
        file.write("q9\td1\t1\nq1\td1\n")
    with pytest.raises(ConfigError, match=r"test\.tsv:6: unknown query 'q9'[\s\S]*test\.tsv:7: three columns"):
        load_calls(options, 10, None)
    (beir / "qrels" / "test.tsv").unlink()
    with pytest.raises(ConfigError, match=r"holds no \.tsv file"):
        load_calls(options, 10, None)


def test_no_tokenizer_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(WORDS, skip_tokenizer_init=False)
    with pytest.raises(ConfigError, match="no tokenizer is known: give --tokenizer"):
        load_calls(options, 1, None)
    with pytest.raises(ConfigError, match=r"holds no tokenizer\.json"):
        load_calls(replace(options, tokenizer=str(tmp_path)), 1, None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"No tokenizer for 'nobody/nothing': .* not on the hub"):
        load_calls(replace(options, tokenizer="nobody/nothing"), 1, None)
    with pytest.raises(ConfigError, match="not in the hub's local cache"):
        load_calls(options, 1, "what-a-server-calls-itself")
