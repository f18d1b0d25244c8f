"""Whole data sets: order, errors per row, resuming after a kill, both file forms."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.entrypoints.datasets.run import ScoreJob, Totals, check_job, run_job, score_here
from engine.errors import ConfigError, InvalidRequestError
from engine.outputs import ScoringOutput, ScoringRequestOutput
from tests.support.checkpoints import make_qwen3


class Lengths:
    """Scores a pair by the lengths of its texts, and remembers what it was given."""

    reads_lists = False

    def __init__(self, dies_after: int | None = None) -> None:
        self.calls: list[list[str]] = []
        self.dies_after = dies_after

    def score(self, queries: Any, documents: Any, /, *, use_tqdm: bool, **options: Any) -> list[ScoringRequestOutput]:
        import numpy as np

        if self.dies_after is not None and len(self.calls) >= self.dies_after:
            raise KeyboardInterrupt
        if "BAD" in documents:
            raise InvalidRequestError("documents[0] is not acceptable.")
        self.calls.append(list(queries))
        return [
            ScoringRequestOutput("0", ScoringOutput(len(q) / 100 + len(d) / 1000, 1.0), np.zeros(1, np.int32))
            for q, d in zip(queries, documents, strict=True)
        ]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def job(source: Path, **changes: Any) -> ScoreJob:
    return replace(ScoreJob(source=source, output=source.with_name("out.jsonl"), model="m", window=4), **changes)


def run_here(job: ScoreJob, scorer: Lengths) -> Totals:
    return run_job(job, score_here(job, scorer))


ROWS = [{"id": i, "query": f"q{i % 3}", "document": "d" * i} for i in range(1, 20)]


def test_rows_keep_their_order_and_columns(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [*ROWS, {"query": "many", "documents": ["a", "bb"], "note": "kept"}])
    scorer = Lengths()
    totals = run_here(job(source), scorer)
    found = read(tmp_path / "out.jsonl")
    assert [row["score"] for row in found[:-1]] == [pytest.approx(0.02 + i / 1000) for i in range(1, 20)]
    assert found[-1] == {
        "query": "many", "documents": ["a", "bb"], "note": "kept", "scores": [0.041, 0.042], "error": None
    }  # fmt: skip
    assert (totals.rows, totals.pairs, totals.failed_rows) == (20, 21, 0)
    assert all(call == sorted(call) for call in scorer.calls), "equal queries stand together"
    assert not list(tmp_path.glob("*.part*"))


def test_a_bad_row_fails_alone(tmp_path: Path) -> None:
    bad = [{"document": "x"}, {"query": "q"}, 7, {"query": "q", "documents": [1]}, {"query": "q", "document": "BAD"}]
    source = write(tmp_path / "in.jsonl", [ROWS[0], *bad, ROWS[1]])
    with source.open("a") as file:
        file.write('{"query": "torn\n')
    totals = run_here(job(source, window=100), Lengths())
    found = read(tmp_path / "out.jsonl")
    assert totals.failed_rows == len(bad) + 1
    assert [row["error"] is None for row in found] == [True, *[False] * len(bad), True, False]
    assert "not acceptable" in found[5]["error"]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(KeyboardInterrupt):
        run_here(job(source), Lengths(dies_after=3))
    assert not (tmp_path / "out.jsonl").exists()
    second = Lengths()
    totals = run_here(job(source), second)
    assert totals.resumed_rows == 12
    assert sum(map(len, second.calls)) == len(ROWS) - 12
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == [row["id"] for row in ROWS]


def test_parts_of_another_run_are_not_mixed_in(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(KeyboardInterrupt):
        run_here(job(source), Lengths(dies_after=1))
    with pytest.raises(ConfigError, match="another model"):
        run_here(job(source, model="other"), Lengths())
    run_here(job(source, model="other", restart=True), Lengths())
    assert len(read(tmp_path / "out.jsonl")) == len(ROWS)


def test_what_is_wrong_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    for changes, says in [
        ({"output": tmp_path / "out.csv"}, "jsonl or .parquet"),
        ({"output": tmp_path / "no" / "out.jsonl"}, "no folder"),
        ({"output": source}, "is the input itself"),
    ]:
        with pytest.raises(ConfigError, match=says):
            check_job(job(source, **changes))
    with pytest.raises(ConfigError, match="no such file"):
        check_job(job(tmp_path / "none.jsonl"))


def test_parquet_in_and_out(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"id": i, "query": f"q{i % 3}", "documents": ["d" * k for k in range(i % 4)]} for i in range(30)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=7)
    target = job(tmp_path / "in.parquet", output=tmp_path / "out.parquet")
    with pytest.raises(KeyboardInterrupt):
        run_here(target, Lengths(dies_after=4))
    totals = run_here(target, Lengths())
    found = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert totals.resumed_rows > 0
    assert [row["id"] for row in found] == list(range(30))
    assert [len(row["scores"]) for row in found] == [i % 4 for i in range(30)]


def test_the_command_survives_a_kill(tmp_path: Path) -> None:
    """A real model in a real process, killed in the middle; the second run gives what an undisturbed one gives."""
    model = make_qwen3(tmp_path / "model", hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16)
    source = write(tmp_path / "in.jsonl", [{"query": f"q{i % 5}", "document": f"panda {i} " * 40} for i in range(400)])

    def command(output: Path) -> list[str]:
        engine = str(Path(sys.executable).with_name("engine"))
        flags = ["--model", str(model), "--device", "cpu", "--cpu-threads", "1", "--window", "20"]
        return [engine, "score", str(source), "-o", str(output), *flags]

    killed = tmp_path / "killed.jsonl"
    process = subprocess.Popen(command(killed))
    while not list(tmp_path.glob("killed.jsonl.parts/*0.jsonl")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.exists()
    subprocess.run(command(killed), check=True)
    subprocess.run(command(tmp_path / "whole.jsonl"), check=True)
    assert [row["score"] for row in read(killed)] == pytest.approx(
        [row["score"] for row in read(tmp_path / "whole.jsonl")], abs=1e-6
    )
