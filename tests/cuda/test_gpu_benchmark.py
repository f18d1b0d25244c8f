"""The GPU benchmark itself, on small shapes: what it runs, imports and writes must not fail at its first contact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import benchmarks.gpu.__main__ as command
import benchmarks.gpu.compile as compiling
from benchmarks.gpu.baseline import measure_baseline
from benchmarks.gpu.ceilings import measure_ceilings, measure_kernels
from benchmarks.gpu.engine_run import Engine
from benchmarks.gpu.pieces import WORTH, all_pieces
from benchmarks.gpu.prepare import run_tests
from benchmarks.gpu.profile import summary
from benchmarks.gpu.report import goal_table, mfu, render
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.shapes import SHAPES
from benchmarks.gpu.workloads import WORKLOADS, Workload, build_calls, logical_tokens, num_pairs
from engine.backends.cpu.backend import CpuBackend
from tests.cuda.stand_in import StandIn, needs_interpreter

ROOT = Path(__file__).parents[2]
ABSENT = ("zmq", "fastapi", "uvicorn", "cyclopts", "prometheus_client", "uvloop", "httptools")
"""Of what the engine is installed with, a bare GPU machine has none of these."""
GUARD = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"{{name}} is not on that machine")
sys.meta_path.insert(0, Absent())
"""


def test_pieces_run_straight_from_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    out = tmp_path / "result.json"
    arguments = ["--device", "cpu", "--seconds", "0.2", "--pieces", "parity,bf16-shared"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments, "--into", str(out)],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert set(report["pieces"]) == {"parity-tiny", "engine-tiny-bf16-shared"}
    assert report["pieces"]["parity-tiny"]["result"]["float32"]["passed"]
    assert report["machines"][0]["versions"]["torch"]
    engine = report["pieces"]["engine-tiny-bf16-shared"]["result"]
    assert set(engine["workloads"]) == set(WORKLOADS)
    for row in engine["workloads"].values():
        assert 0 < row["computed_tokens_per_s"] < row["logical_tokens_per_s"]
        assert row["call_latency_ms"]["p50"] <= row["call_latency_ms"]["p99"]
    assert "parity-tiny float32: probability off by at most" in done.stdout


@needs_interpreter
def test_the_engine_on_cuda_ops_scores_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Core, executor threads, uploads and kernels together."""
    constant_prefix, calls = build_calls(
        Workload("w", "", 2, 3, 4, 5), SHAPES["tiny"].vocab_size, constant_prefix_len=9
    )
    monkeypatch.setenv("ENGINE_CPU_KERNELS", "torch")
    scores = []
    for backend in (CpuBackend(), StandIn()):
        monkeypatch.setattr("engine.backends.worker.choose_backend", lambda name, backend=backend: (backend, "test"))
        engine = Engine.start(
            Settings("cpu", "tiny", "float32"), SHAPES["tiny"].spec(64), constant_prefix, sharing=True
        )
        try:
            scores.append(np.concatenate(engine.score(calls)[0]))
        finally:
            engine.close()
    assert len(scores[0]) == 6
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-4, atol=1e-6)


def test_the_baseline_runs_every_workload() -> None:
    result = measure_baseline(Settings("cpu", "tiny", "float32", seconds=0.02), scale=40)
    assert set(result["workloads"]) == set(WORKLOADS)
    assert all(row["pairs_per_s"] > 0 for row in result["workloads"].values())


@needs_interpreter
def test_ceilings_and_kernels_are_measured() -> None:
    settings = Settings("cpu", "tiny", "float32")
    ceilings, kernels = measure_ceilings(settings), measure_kernels(settings)
    assert ceilings["tflops"] > 0
    assert ceilings["fp8_tflops"] > 0
    assert min(kernels["gb_per_s"].values()) > 0
    (forms,) = kernels["attention_us"].values()
    assert forms["triton-16x16"]["us"] > 0


def test_workloads_are_what_their_titles_say() -> None:
    for name, pairs, mean in (("seed", 1024, 108), ("shared", 1200, 270), ("long", 80, 2000), ("single", 64, 108)):
        _, calls = build_calls(WORKLOADS[name], 1000)
        assert num_pairs(calls) == pairs
        assert logical_tokens(calls) / pairs == pytest.approx(mean, rel=0.03)
        for call in calls[:3]:
            shared = {prompt[: call.query_end].tobytes() for prompt in call.prompts}
            assert len(shared) == 1


def test_linear_flops_are_those_of_the_published_parameter_counts() -> None:
    for name, gflop in (("0.6B", 0.88), ("4B", 7.27), ("8B", 13.89)):
        every_token_read = SHAPES[name].linear_flops(1000, 1000) / 1000 / 1e9
        assert every_token_read == pytest.approx(gflop, rel=0.01)
        assert SHAPES[name].linear_flops(1000, 0) < SHAPES[name].linear_flops(1000, 1000)


def engine_piece(quantization: str | None, tflops: float, rate: float) -> dict[str, Any]:
    row = {
        "pairs_per_s": rate,
        "logical_tokens_per_s": 1.0,
        "computed_tokens_per_s": 1.0,
        "linear_tflops": tflops,
        "device_busy": 0.9,
        "call_latency_ms": {"p50": 3.0, "p99": 5.0},
    }
    return {"ok": True, "result": {"quantization": quantization, "workloads": dict.fromkeys(WORKLOADS, row)}}


def test_goals_are_judged_by_what_was_measured() -> None:
    pieces = {
        "ceilings": {
            "ok": True,
            "result": {"tflops": 800.0, "sustained_tflops": 700.0, "fp8_tflops": 1200.0, "copy_gb_per_s": 4000.0},
        },
        "engine-0.6B-bf16-shared": engine_piece(None, 400.0, 100.0),
        "engine-0.6B-bf16-apart": engine_piece(None, 400.0, 65.0),
        "engine-0.6B-fp8-shared": engine_piece("fp8", 600.0, 150.0),
        "baseline-0.6B": {"ok": False, "error": "out of memory"},
    }
    assert mfu(pieces, pieces["engine-0.6B-bf16-shared"]["result"], "seed") == 0.5
    table = [" ".join(line.split()) for line in goal_table(pieces)]
    assert table[1:] == [
        "MFU 0.6B bf16, shared workload 0.6 0.50 missed",
        "sharing 0.6B, 1 x 100 documents 1.42x 1.54x reached",
        "fp8 over bf16 0.6B 1.2x 1.50x reached",
        "single pair 0.6B, median 4 ms 3.00 ms reached",
    ]
    assert "baseline-0.6B FAILED: out of memory" in render(pieces)


def test_a_later_call_goes_on_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, asked = tmp_path / "result.json", []

    def run_piece(piece: Any, device: str, seconds: float, timeout: float, **options: Any) -> dict[str, Any]:
        asked.append(piece.name)
        failed = len(asked) == 2 and piece.kind != "engine"
        return {"ok": False, "error": "no"} if failed else {"ok": True, "result": {}}

    monkeypatch.setattr(command, "run_piece", run_piece)
    monkeypatch.setattr(command, "render", lambda pieces: "")
    names = [piece.name for piece in all_pieces(["tiny"], "cpu")]

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--into", str(out), *arguments])
        return command.main()

    assert call("--budget", "0") == 0
    assert asked == []
    assert call() == 1
    assert asked == names
    assert call() == 0
    assert asked == [*names, names[1]]


def test_an_engine_piece_that_fails_runs_again_without_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had measured before it failed is kept beside."""
    out, asked = tmp_path / "result.json", []

    def run_piece(piece: Any, device: str, seconds: float, timeout: float, *, enforce_eager: bool) -> dict[str, Any]:
        asked.append((piece.name, enforce_eager))
        if enforce_eager:
            return {"ok": True, "result": {"quantization": None, "workloads": {}}}
        return {"ok": False, "error": "capture failed", "result": {"workloads": {"seed": {}}}}

    monkeypatch.setattr(command, "run_piece", run_piece)
    pieces = [piece for piece in all_pieces(["tiny"], "cpu") if piece.name == "engine-tiny-bf16-shared"]
    report: dict[str, Any] = {"pieces": {}}
    command.run_all(pieces, command.parse(["--device", "cpu"]), report, out)
    assert asked == [("engine-tiny-bf16-shared", False), ("engine-tiny-bf16-shared", True)]
    saved = json.loads(out.read_text())["pieces"]
    assert saved["engine-tiny-bf16-shared"]["ok"]
    assert saved["engine-tiny-bf16-shared"]["eager"]
    assert saved["engine-tiny-bf16-shared with graphs"]["result"] == {"workloads": {"seed": {}}}
    assert "engine-tiny-bf16-shared ran without CUDA graphs" in render(saved)


def test_a_piece_that_is_cut_off_keeps_what_it_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import json, pathlib, sys, time\n"
        "if '--out' in sys.orig_argv:\n"
        "    pathlib.Path(sys.orig_argv[sys.orig_argv.index('--out') + 1]).write_text(json.dumps({'seed': 1}))\n"
        "    time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (piece,) = [piece for piece in all_pieces(["tiny"], "cpu") if piece.name == "baseline-tiny"]
    outcome = command.run_piece(piece, "cpu", 0.1, 3.0)
    assert outcome == {"ok": False, "error": "took longer than 3 s", "result": {"seed": 1}}


def test_every_piece_knows_its_time_and_the_first_ones_fit_the_budget() -> None:
    pieces = all_pieces(["0.6B", "4B", "8B"], "cuda")
    assert [piece.name for piece in pieces][:3] == ["prepare", "kernels-0.6B", "ceilings"]
    assert all(0 < piece.needs_s < piece.limit_s for piece in pieces)
    assert sum(piece.needs_s for piece in pieces[:12]) <= 470
    names = {piece.name for piece in pieces}
    assert set(WORTH) <= names


def test_gpu_time_is_the_union_of_what_ran() -> None:
    events = [("a", 0.0, 10.0), ("b", 5.0, 15.0), ("a", 30.0, 35.0)]
    result = summary(events, wall_s=40e-6)
    assert result["gpu_busy"] == pytest.approx(20 / 40)
    assert result["launches"] == 3
    assert result["kernels"][0] == {"name": "a", "share": 0.6, "launches": 2, "us_each": 7.5}


@pytest.mark.slow
def test_kernels_are_compiled_beforehand_with_nothing_to_launch_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(compiling, "groups", lambda models: ["rows:tiny:bfloat16", "rows:nothing:bfloat16"])
    result = compiling.compile_all(["tiny"], 90, width=2, timeout=120)
    assert list(result["failed"]) == ["rows:nothing:bfloat16"]
    kernels = {path.stem for path in tmp_path.rglob("*.cubin")}
    assert {"_add_rms_norm_kernel", "_gated_activation_kernel", "_qk_norm_rope_kernel", "_score_kernel"} <= kernels


def test_the_gpu_tests_run_with_nothing_but_pytest() -> None:
    outcome = run_tests(120.0, ("test_planner",))
    assert outcome["ok"], outcome
    assert outcome["counts"]["passed"] > 0


def test_what_is_packed_runs_on_a_machine_without_the_project(tmp_path: Path) -> None:
    """Sources without links and the one wheel; its command lists the pieces from the packed folder alone."""
    folder = tmp_path / "packed"
    script = ROOT / "benchmarks" / "gpu" / "pack.sh"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    subprocess.run([str(script), str(folder), version], check=True, env=environment, timeout=120)
    assert [wheel.name.partition("-")[0] for wheel in (folder / "wheels").iterdir()] == ["msgspec"]
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    environment["PYTHONPATH"] = str(folder / "main")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--list"], cwd=tmp_path, env=environment, capture_output=True,
        text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.split()[0] == "prepare"
