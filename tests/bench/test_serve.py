"""``engine bench serve`` against stand-ins for each server, over real sockets."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.entrypoints.bench.arrivals import arrival_times
from engine.entrypoints.bench.dialects import DIALECTS
from engine.entrypoints.bench.options import ServeOptions
from engine.entrypoints.cli import run as engine_command
from engine.errors import StartupError
from tests.bench.command import WRONG_USAGE, main
from tests.bench.stand_ins import StandIn, documents_of, running
from tests.support.tokenizer_files import qwen_tokenizer_json

QUICK = ["--skip-tokenizer-init", "--random-input-len", "40", "--disable-tqdm"]


def bench(server: StandIn, *words: str) -> int:
    return main(["serve", "--backend", server.dialect, "--base-url", server.url, *QUICK, *words])


def measure(server: StandIn, folder: Path, *words: str) -> dict[str, Any]:
    assert (
        bench(
            server, "--save-result", "--result-dir", str(folder), "--result-filename", "r.json", "--overwrite", *words
        )
        == 0
    )
    return json.loads((folder / "r.json").read_text())


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_every_dialect_is_measured(dialect: str, tmp_path: Path) -> None:
    with running(StandIn(dialect)) as server:
        model = ["--model", "rerank-v3.5"] if dialect == "cohere" else []
        result = measure(server, tmp_path, "--num-prompts", "12", "--random-batch-size", "3", *model)
    assert (result["completed"], result["failed"]) == (4, 0)
    assert result["total_documents"] == 12
    told = dialect not in ("sglang", "cohere")
    assert result["tokens_counted_by_client"] is not told
    # 12 documents; where the server does not count, the texts are 39 words a pair.
    assert result["total_input_tokens"] == (1200 if told else 12 * 39)
    assert all(len(documents_of(body)) == 3 for body in server.bodies[1:])


def test_tutorial_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text(qwen_tokenizer_json())
    with running(StandIn("vllm-rerank")) as server:
        host, port = server.url.removeprefix("http://").split(":")
        words = (
            f"bench serve --model Qwen3-Reranker-8B --backend vllm-rerank --dataset-name random-rerank --host {host} "
            f"--port {port} --endpoint /v1/rerank --tokenizer {tokenizer} --random-input 200  "
            f"--save-result --result-dir {tmp_path}"
        ).split()
        assert engine_command([*words, "--num-prompts", "20"]) == 0
    body = server.bodies[-1]
    assert body["model"] == "Qwen3-Reranker-8B"
    assert body["truncate_prompt_tokens"] == -1
    printed = capsys.readouterr().out
    for label in (
        "============ Serving Benchmark Result ============",
        "Successful requests:                     20",
        "Failed requests:                         0",
        "Total input tokens:                      2000",
        "----------------End-to-end Latency----------------",
        "==================================================",
    ):
        assert label in printed.splitlines()
    for label in ("Total token throughput (tok/s):", "Mean E2EL (ms):"):
        assert re.search(rf"^{re.escape(label)} +\d+\.\d\d$", printed, re.MULTILINE)
    assert printed.splitlines()[0] == (
        f"Measuring {server.url}/v1/rerank (vllm-rerank, model Qwen3-Reranker-8B): 20 calls with 20 documents, about "
        "200 tokens each with its query"
    )
    assert "[hidden]" not in printed
    (saved,) = tmp_path.glob("vllm-rerank-infqps-Qwen3-Reranker-8B-*.json")
    assert json.loads(saved.read_text())["request_rate"] == "inf"


def test_queries_are_distinct_unless_shared(tmp_path: Path) -> None:
    with running(StandIn("rerank")) as server:
        measure(server, tmp_path, "--num-prompts", "30")
        distinct = {body["query"] for body in server.bodies}
        server.bodies.clear()
        measure(server, tmp_path, "--num-prompts", "30", "--shared-query-ratio", "1")
        shared = {body["query"] for body in server.bodies}
    assert len(distinct) == 30
    assert len(shared) == 1


def test_same_seed_sends_the_same_texts(tmp_path: Path) -> None:
    with running(StandIn("rerank")) as server:
        measure(server, tmp_path, "--num-prompts", "10", "--seed", "5", "--random-range-ratio", "0.5")
        first = sorted(body["query"] for body in server.bodies)
        server.bodies.clear()
        measure(server, tmp_path, "--num-prompts", "10", "--seed", "5", "--random-range-ratio", "0.5")
    assert sorted(body["query"] for body in server.bodies) == first


def test_waiting_behind_a_slow_server_is_counted(tmp_path: Path) -> None:
    """An open loop: with one call at a time the last of ten arrivals waits for nine others."""
    with running(StandIn("rerank", delay_s=0.1)) as server:
        words = ["--num-prompts", "10", "--max-concurrency", "1", "--request-rate", "1000"]
        result = measure(server, tmp_path, *words, "--metric-percentiles", "50,100", "--goodput", "e2el:450")
    assert server.max_in_flight == 1
    # A client that only times its own sending sees nothing wrong.
    assert result["p50_e2el_ms"] < result["p100_queue_inclusive_e2el_ms"] / 5
    assert result["p100_queue_inclusive_e2el_ms"] > 900
    # The same under vLLM's names.
    assert result["p100_e2el_including_client_queue_ms"] == result["p100_queue_inclusive_e2el_ms"]
    assert result["median_client_queue_time_ms"] == result["median_queue_time_ms"]
    assert result["p100_queue_time_ms"] == pytest.approx(
        result["p100_queue_inclusive_e2el_ms"] - result["p50_e2el_ms"], rel=0.2
    )
    assert 0.1 <= result["good_share"] <= 0.4
    assert result["request_goodput"] == pytest.approx(result["good_share"] * 10 / result["duration"])


def test_a_ramp_says_when_its_rate_changed(tmp_path: Path) -> None:
    ramp = ["--ramp-up-strategy", "linear", "--ramp-up-start-rps", "20", "--ramp-up-end-rps", "60"]
    with running(StandIn("rerank")) as server:
        result = measure(server, tmp_path, "--num-prompts", "40", *ramp)
    assert (result["ramp_up_start_rps"], result["ramp_up_end_rps"]) == (20.0, 60.0)
    events = result["rps_change_events"]
    assert [event["rps"] for event in events] == list(range(20, 61))
    times = [datetime.datetime.fromisoformat(event["timestamp"]) for event in events]
    assert times == sorted(times)
    assert 0 < (times[-1] - times[0]).total_seconds() <= result["duration"]


def test_records_for_pytorchs_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(StandIn("rerank")) as server:
        monkeypatch.setenv("SAVE_TO_PYTORCH_BENCHMARK_FORMAT", "1")
        result = measure(server, tmp_path, "--num-prompts", "4", "--model", "m", "--header", "X-Secret=hidden")
        written = (tmp_path / "r.pytorch.json").read_text()
        (tmp_path / "r.pytorch.json").unlink()
        monkeypatch.delenv("SAVE_TO_PYTORCH_BENCHMARK_FORMAT")
        measure(server, tmp_path, "--num-prompts", "4")
    assert "hidden" not in written
    assert not (tmp_path / "r.pytorch.json").exists()
    records = {record["metric"]["name"]: record for record in json.loads(written)}
    for name in ("mean_e2el_ms", "p99_e2el_ms", "request_throughput", "total_token_throughput"):
        assert records[name]["metric"]["benchmark_values"] == [result[name]]
    record = records["mean_e2el_ms"]
    assert record["model"] == {"name": "m"}
    assert record["metric"]["extra_info"]["completed"] == 4
    assert record["benchmark"]["extra_info"]["args"]["request_rate"] == "inf"


def test_arrivals_follow_the_rate(tmp_path: Path) -> None:
    with running(StandIn("rerank")) as server:
        result = measure(server, tmp_path, "--num-prompts", "100", "--request-rate", "200")
    planned = arrival_times(ServeOptions(request_rate=200.0), 100)
    late = np.sort(result["start_times"]) - planned
    assert 0.3 < planned[-1] < 0.7
    assert late.min() > -0.002
    assert result["duration"] >= planned[-1]


def test_time_to_first_score_when_streaming(tmp_path: Path) -> None:
    with running(StandIn("rerank", stream_gap_s=0.02)) as server:
        result = measure(server, tmp_path, "--stream", "--num-prompts", "20", "--random-batch-size", "10")
    assert server.headers[-1]["accept"] == "application/x-ndjson"
    assert result["completed"] == 2
    assert result["median_ttfs_ms"] < result["median_e2el_ms"] - 150


def test_failures_are_counted_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(StandIn("rerank", fail_every=4)) as server:
        result = measure(server, tmp_path, "--num-prompts", "20", "--save-detailed")
    assert (result["completed"], result["failed"]) == (15, 5)
    assert result["error_counts"] == {"HTTP 500: it broke": 5}
    assert sum(bool(error) for error in result["errors"]) == 5
    assert "5 x HTTP 500: it broke" in capsys.readouterr().out


def test_incomplete_answer_is_a_failure() -> None:
    with (
        running(StandIn("rerank", drop_score=True)) as server,
        pytest.raises(StartupError, match="1 scores for 2 documents"),
    ):
        bench(server, "--num-prompts", "4", "--random-batch-size", "2")


def test_server_counters_stand_beside_the_clients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(StandIn("rerank")) as server:
        result = measure(server, tmp_path, "--num-prompts", "10", "--num-warmups", "3")
    assert result["server_metrics"]["engine_logical_tokens_total"] == result["total_input_tokens"] == 1000
    assert result["step_tokens"] == [[128.0, 10.0], [256.0, 0.0], [None, 0.0]]
    assert re.search(r"^Shared tokens \(%\): +50\.00$", capsys.readouterr().out, re.MULTILINE)


def test_probes_are_measured_apart(tmp_path: Path) -> None:
    with running(StandIn("rerank", delay_s=0.02)) as server:
        words = [
            "--num-prompts",
            "40",
            "--random-batch-size",
            "2",
            "--request-rate",
            "60",
            "--probe-request-rate",
            "50",
        ]
        result = measure(server, tmp_path, *words)
    assert result["completed"] == 20
    assert result["probe_completed"] >= 3
    assert result["probe_median_e2el_ms"] >= 20


def test_ready_check_waits(tmp_path: Path) -> None:
    with running(StandIn("rerank", ready_after_calls=1)) as server:
        with pytest.raises(StartupError, match="not ready; --ready-check-timeout-sec"):
            bench(server, "--num-prompts", "2")
        server.bodies.clear()
        result = measure(server, tmp_path, "--num-prompts", "2", "--ready-check-timeout-sec", "20")
    assert result["completed"] == 2


def test_keys_and_headers_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(StandIn("rerank", api_key="k")) as server:
        with pytest.raises(StartupError, match=r"wrong key.*ENGINE_API_KEY"):
            bench(server, "--num-prompts", "1")
        monkeypatch.setenv("ENGINE_API_KEY", "k")
        measure(server, tmp_path, "--num-prompts", "1", "--header", "X-Team=search", "--extra-body", '{"priority": 3}')
    assert server.headers[-1]["x-team"] == "search"
    assert server.headers[-1]["x-request-id"].startswith("bench-")
    assert server.bodies[-1]["priority"] == 3


def test_secrets_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with running(StandIn("rerank")) as server:
        bench(server, "--num-prompts", "1", "--header", "Authorization=Bearer secret-key")
    assert "secret-key" not in capsys.readouterr().out


def test_comparison_says_which_is_faster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(StandIn("rerank", delay_s=0.01)) as fast, running(StandIn("tei", delay_s=0.05)) as slow:
        words = ["--compare", slow.url, "--compare-backend", "tei", "--max-concurrency", "1"]
        result = measure(fast, tmp_path, "--num-prompts", "20", "--compare-rounds", "5", *words)
    ratio, low, high = result["ratios"]["Document throughput"]
    assert 1 < low <= ratio <= high < 6
    assert result["ratios"]["Median E2EL"][2] < 1
    assert result["compared_with"]["backend"] == "tei"
    assert len(fast.bodies) == len(slow.bodies) == 21
    assert "Ratios A/B with 95 % intervals" in capsys.readouterr().out


def test_interrupt_prints_and_saves_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(StandIn("rerank", delay_s=0.05)) as server:

        def interrupt() -> None:
            while len(server.bodies) < 6:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        words = ["--num-prompts", "500", "--max-concurrency", "2", "--save-result", "--result-dir", str(tmp_path)]
        assert bench(server, *words) == 130
        thread.join()
    printed = capsys.readouterr().out
    assert "Interrupted: these are the calls that were finished." in printed
    (saved,) = tmp_path.glob("*.json")
    result = json.loads(saved.read_text())
    assert result["interrupted"]
    assert 1 <= result["completed"] < 20


def test_results_are_appended_as_lines(tmp_path: Path) -> None:
    with running(StandIn("rerank")) as server:
        for _ in range(2):
            words = ["--append-result", "--result-dir", str(tmp_path), "--result-filename", "all.jsonl"]
            assert bench(server, "--num-prompts", "2", "--metadata", "chip=x", *words) == 0
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    assert [json.loads(line)["chip"] for line in lines] == ["x", "x"]


def test_nobody_listens() -> None:
    with pytest.raises(StartupError, match=r"No server answers at http://127.0.0.1:9 \(Connection refused\)\. Start"):
        main(["serve", "--base-url", "http://127.0.0.1:9", "--model", "x", *QUICK])


def test_wrong_route() -> None:
    with (
        running(StandIn("rerank")) as server,
        pytest.raises(StartupError, match=r"404.*Check --endpoint, --model and --backend"),
    ):
        bench(server, "--endpoint", "/v3/rerank")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--base-url", "localhost:8000"], "not an address"),
        (["--endpoint", "/v1/completions"], "rerank route"),
        (["--backend", "openai"], "there are rerank"),
        (["--backend", "tei", "--stream"], "no streamed answers"),
        (["--request-rate", "0"], "above 0"),
        (["--burstiness", "-1"], "above 0"),
        (["--max-concurrency", "0"], "at least 1"),
        (["--ramp-up-strategy", "linear"], "ramp-up-start-rps"),
        (["--ramp-up-start-rps", "3"], "ramp-up-strategy"),
        (["--goodput", "tpot:3"], "e2el:MS"),
        (["--goodput", "e2el"], "e2el:MS"),
        (["--metric-percentiles", "99,x"], "0 to 100"),
        (["--percentile-metrics", "tpot"], "there are e2el"),
        (["--header", "novalue"], "NAME=VALUE"),
        (["--extra-body", "[1]"], "not a JSON object"),
        (["--random-range-ratio", "1"], r"\[0, 1\)"),
        (["--shared-query-ratio", "2"], r"\[0, 1\]"),
        (["--dataset-name", "jsonl"], "needs --dataset-path"),
        (["--random-input-l", "x"], "unable to convert"),
        (["--num-prompt", "0"], "at least 1"),
        (["--comparee", "http://x"], "Did you mean --compare"),
        (["--compare", "http://127.0.0.1:9", "--compare-rounds", "1"], "at least 2"),
        (["--compare", "http://127.0.0.1:9", "--request-rate", "4"], "--request-rate inf"),
    ],
)
def test_wrong_options_are_sentences(words: list[str], message: str) -> None:
    with pytest.raises(WRONG_USAGE, match=message):
        main(["serve", "--model", "x", *QUICK, *words])


def test_result_folder_is_tried_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with running(StandIn("rerank")) as server:
        with pytest.raises(WRONG_USAGE, match="cannot be written"):
            bench(server, "--save-result", "--result-dir", str(tmp_path / "file" / "inside"))
        assert not server.bodies
