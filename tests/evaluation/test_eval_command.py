"""``engine eval`` from the command line to the table, the JSON and the run, on a real (tiny) model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkpoints import make_qwen3
from tests.support.commands import QUIET, run_apart, run_here

pytest.importorskip("bm25s", reason="the extra 'eval' is not installed")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("eval"), hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16)


def test_table_json_and_run(beir: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The packaged model, against BM25, with everything switched on."""
    pytest.importorskip("ir_measures", reason="the extra 'eval' is not installed")
    output, run = tmp_path / "result.json", tmp_path / "model.run"
    words = ["--data", beir, "--compare", "quantization=int8", "--cross-check", "--output", output, "--save-run", run]
    assert run_here("eval", *words, *QUIET) == 0
    said = capsys.readouterr()
    assert "using the small English reranker of the package, as no model was given" in said.err
    assert "small (test): 3 queries, 6 documents, 5 judgements" in said.out
    assert "--cross-check is accepted and has no effect" in said.err
    for word in ("nDCG@10", "MRR@10", "Recall@10", "BM25", "small_reranker", "quantization=int8"):
        assert word in said.out
    assert "\x1b" not in said.out

    result = json.loads(output.read_text())
    assert [system["name"] for system in result["systems"]] == ["BM25", "small_reranker", "quantization=int8"]
    sides = [(each["system"], each["baseline"]) for each in result["differences"]]
    assert sides == [
        ("small_reranker", "BM25"),
        ("quantization=int8", "BM25"),
        ("quantization=int8", "small_reranker"),
    ]
    assert result["dataset"]["num_queries"] == 3
    by_name = {system["name"]: system["metrics"]["nDCG@10"]["mean"] for system in result["systems"]}
    for each in result["differences"]:
        expected = by_name[each["system"]] - by_name[each["baseline"]]
        assert each["metrics"]["nDCG@10"]["mean"] == pytest.approx(expected)
    assert result["systems"][2]["settings"]["quantization"] == "int8"

    rows = [line.split() for line in run.read_text().splitlines()]
    assert {row[0] for row in rows} == {"q1", "q2", "q3"}
    for query in ("q1", "q2", "q3"):
        own = [row for row in rows if row[0] == query]
        assert [int(row[3]) for row in own] == list(range(1, len(own) + 1))
        assert [float(row[4]) for row in own] == sorted({float(row[4]) for row in own}, reverse=True)
    assert not list(tmp_path.rglob("*.part"))


def test_a_saved_run_is_a_first_stage(beir: Path, checkpoint: Path, tmp_path: Path) -> None:
    """The model's own run gives the model's own numbers, so the difference is exactly nothing."""
    run, output = tmp_path / "model.run", tmp_path / "result.json"
    assert run_here("eval", checkpoint, "--data", beir, "--save-run", run, *QUIET) == 0
    words = ["--data", beir, "--first-stage", run, "--output", output, *QUIET]
    assert run_here("eval", checkpoint, *words) == 0
    result = json.loads(output.read_text())
    assert result["first_stage"] == "model.run"
    (difference,) = result["differences"]
    for metric in difference["metrics"].values():
        assert metric == {"mean": 0.0, "low": 0.0, "high": 0.0, "verdict": "no clear difference"}


def test_examples_without_a_first_stage(
    examples: Callable[..., Path], checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = examples(*({"query": f"q{i}", "positive": f"right {i}", "negative": ["x", "y", "z"]} for i in range(7)))
    words = ["--data", path, "--first-stage", "none", "--cutoff", "1", "--max-queries", "5", "--json"]
    assert run_here("eval", checkpoint, *words, *QUIET) == 0
    result = json.loads(capsys.readouterr().out)
    assert [system["name"] for system in result["systems"]] == [checkpoint.name]
    assert result["differences"] == []
    assert result["ceiling"] == 1.0
    assert result["notes"] == ["5 of 7 queries, drawn with seed 0"]
    assert set(result["systems"][0]["metrics"]) == {"nDCG@1", "MRR@1", "Recall@1"}
    assert result["systems"][0]["num_pairs"] == 20


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--compare", "quantisation=int8"], "there is no setting 'quantisation'. Did you mean 'quantization'"),
        (["--compare", "quantization=int9"], "choose one of"),
        (["--compare", "int8"], "settings like"),
        (["--top-k", "0"], "--top-k 0: one or more"),
        (["--output", "nowhere/result.json"], "there is no folder nowhere"),
        (["--output", "."], "is a folder"),
        (["--qrels", "dev"], "there is no dev in"),
        (["--first-stage", "none"], "a BEIR folder needs one"),
        (["--first-stage", "nothing.run"], "nothing.run cannot be read: No such file"),
    ],
)
def test_wrong_words(beir: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """All of it is found before a model is loaded: this one does not exist."""
    assert run_here("eval", "./no-such-model", "--data", beir, *words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("engine: ")
    assert says in error


def test_a_first_stage_that_finds_nothing(beir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (beir / "queries.jsonl").write_text("".join(f'{{"_id": "q{i}", "text": "xyzzy"}}\n' for i in (1, 2, 3)))
    assert run_here("eval", "--data", beir) == 2
    assert "the first stage (BM25) finds no document for any query" in capsys.readouterr().err


def test_a_named_model_never_becomes_the_packaged_one(beir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("eval", "./no-such-model", "--data", beir) == 2
    said = capsys.readouterr()
    assert "using ./no-such-model" in said.err
    assert "There is no folder ./no-such-model" in said.err
    assert said.out == ""


def test_nothing_half_written(beir: Path, checkpoint: Path, tmp_path: Path) -> None:
    """A broken line, and an older result that must survive it."""
    output = tmp_path / "result.json"
    output.write_text("the older result")
    (beir / "qrels" / "test.tsv").write_text("q1\td1\t1\nq1\tnobody\t1\n")
    done = run_apart("eval", checkpoint, "--data", beir, "--output", output, *QUIET)
    assert done.returncode == 2
    assert b"exists already. --overwrite writes it anew" in done.stderr
    done = run_apart("eval", checkpoint, "--data", beir, "--output", output, "--overwrite", *QUIET)
    assert done.returncode == 2
    assert b"test.tsv:2: the document 'nobody' is not in" in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""
    assert output.read_text() == "the older result"
    assert sorted(os.listdir(tmp_path)) == ["result.json", "small"]
