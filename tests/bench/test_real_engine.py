"""The bench against this engine itself: a real server with the packaged model, and the offline measurements."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.checkpoint.hub import PACKAGED_MODEL
from engine.entrypoints.demo.demo import free_port, running_server
from tests.bench.command import WRONG_USAGE, main


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    chosen = free_port()
    with running_server(chosen):
        yield chosen


def test_numbers_agree_with_the_servers_own(port: int, tmp_path: Path) -> None:
    words = ["--num-prompts", "360", "--random-batch-size", "120", "--random-input", "200", "--max-concurrency", "1"]
    where = ["--port", str(port), "--save-result", "--result-dir", str(tmp_path), "--result-filename", "r.json"]
    assert main(["serve", "--disable-tqdm", *words, *where]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    server = result["server_metrics"]
    assert result["completed"] == 3 == server["engine_call_seconds_count"]
    assert result["total_input_tokens"] == server["engine_logical_tokens_total"]
    assert result["total_documents"] == server["engine_pairs_total"]
    assert server["engine_computed_tokens_total"] < 0.8 * server["engine_logical_tokens_total"]  # the query is shared
    served_ms = 1000 * server["engine_call_seconds_sum"] / server["engine_call_seconds_count"]
    # The client sees what the server sees, plus the way there and back.
    assert served_ms <= result["mean_e2el_ms"] <= 1.02 * served_ms + 10
    busy_s = server["engine_call_seconds_sum"]
    assert result["total_token_throughput"] == pytest.approx(server["engine_logical_tokens_total"] / busy_s, rel=0.02)


def test_first_score_comes_before_the_last(port: int, tmp_path: Path) -> None:
    words = ["--num-prompts", "160", "--random-batch-size", "160", "--random-input-len", "200"]
    where = ["--port", str(port), "--save-result", "--result-dir", str(tmp_path), "--result-filename", "r.json"]
    assert main(["serve", "--disable-tqdm", "--stream", *words, *where]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["completed"] == 1
    assert result["mean_ttfs_ms"] < 0.8 * result["mean_e2el_ms"]


def test_throughput_and_latency(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAVE_TO_PYTORCH_BENCHMARK_FORMAT", "1")
    common = ["--random-input-len", "60", "--disable-tqdm", "--cpu-threads", "1", "--max_num_batched_tokens", "1024"]
    path = tmp_path / "t.json"
    words = ["--num-prompts", "20", "--random-batch-size", "5", "--num-repeats", "2", "--output-json", str(path)]
    assert main(["throughput", *common, *words]) == 0
    result = json.loads(path.read_text())
    assert (result["num_requests"], result["num_failed"], len(result["passes"])) == (20, 0, 2)
    assert result["requests_per_second"] == pytest.approx(20 / result["elapsed_time"])
    assert result["model_id"] == PACKAGED_MODEL.name
    records = json.loads((tmp_path / "t.pytorch.json").read_text())
    assert {record["metric"]["name"] for record in records} == {"requests_per_second", "tokens_per_second"}
    words = [
        "--overwrite",
        "--batch-size",
        "4",
        "--num-iters",
        "3",
        "--num-iters-warmup",
        "1",
        "--output-json",
        str(path),
    ]
    assert main(["latency", *common, *words]) == 0
    result = json.loads(path.read_text())
    assert len(result["latencies"]) == 3
    assert result["percentiles"]["50"] == sorted(result["latencies"])[1]
    printed = capsys.readouterr().out
    assert "Throughput:" in printed
    assert "Avg latency:" in printed


@pytest.mark.parametrize("what", ["throughput", "latency"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--no-such-flag"], "--no-such-flag"),
        (["extra"], "extra"),
        (["--dtype", "float7"], "float7"),
        (["--random-batch-size", "0"], "at least 1"),
    ],
)
def test_offline_mistakes_are_sentences(what: str, words: list[str], message: str) -> None:
    with pytest.raises(WRONG_USAGE, match=message):
        main([what, "--model", str(PACKAGED_MODEL), *words])
