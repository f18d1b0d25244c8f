"""What must not end the start does not: captures, replays and measurements that fail cost a line in the log."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_npu

from engine.backends.npu.backend import NpuBackend
from engine.backends.npu.faults import first_line, is_out_of_memory, lost_code
from engine.backends.npu.tuning import tune
from engine.errors import OutOfMemoryError
from tests.npu.on_device import workers
from tests.support.checkpoints import make_qwen3

CAPTURE_ERROR = "capture_end:NPUGraph.cpp:214 NPU function error: AclmdlRICaptureEnd, error code is 107025\n[ERROR] x"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("qwen3"), seed=5, head_dim=128, layers=2)


def values_of(folder: Path, *, graphs: bool) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """The notes of a worker's start, and the values of the same few steps."""
    worker = workers.load_worker(folder, dtype="float16", graphs=graphs)
    prefix, documents = workers.random_texts()
    plans = [workers.whole_pairs(prefix, documents), workers.shared_prefix(prefix, documents)] * 2
    return worker.info.notes, [worker.execute(plan).values for plan in plans]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("what", "message"), [("capture_error", "107025"), ("replay_error", "AclmdlRIExecuteAsync, error code is 107003")]
)
def test_graphs_that_fail_are_done_without(
    what: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, simulator: Any
) -> None:
    _, expected = values_of(folder, graphs=False)
    monkeypatch.setattr(simulator, what, CAPTURE_ERROR if what == "capture_error" else f"NPU function error: {message}")
    notes, got = values_of(folder, graphs=True)
    (note,) = (note for note in notes if note.startswith("no ACL graphs"))
    assert message in note
    assert "--enforce-eager" in note
    assert "[ERROR] x" not in note  # a line, not torch_npu's page
    np.testing.assert_allclose(np.concatenate(got), np.concatenate(expected), atol=2e-3)


def test_graphs_that_stop_working_later_cost_no_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch, simulator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    worker = workers.load_worker(folder, dtype="float16", graphs=True)
    plan = workers.shared_prefix(*workers.random_texts())
    expected = [worker.execute(plan).values for _ in range(3)][-1]
    assert worker.runner is not None
    assert worker.runner.forward.num_replays > 0
    monkeypatch.setattr(simulator, "replay_error", "NPU function error: AclmdlRIExecuteAsync, error code is 107003")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(worker.execute(plan).values, expected, atol=2e-3)
    assert "no ACL graphs from here on" in caplog.text


def test_a_replay_that_computes_something_else_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, simulator: Any
) -> None:
    _, expected = values_of(folder, graphs=False)
    monkeypatch.setattr(torch_npu.npu.NPUGraph, "replay", lambda self: None)  # its outputs are never written
    notes, got = values_of(folder, graphs=True)
    assert any("no ACL graphs" in note and "first replay is nan away" in note for note in notes), notes
    np.testing.assert_allclose(np.concatenate(got), np.concatenate(expected), atol=2e-3)


def test_a_budget_that_fails_is_not_chosen() -> None:
    def time_step(lengths: list[int]) -> float:
        if sum(lengths) > 4000:
            raise OutOfMemoryError("a step of 4096 tokens did not fit")
        return sum(lengths) ** 0.9

    budget, notes = tune(time_step, 8192, None)  # type: ignore[arg-type]
    assert budget == 2048
    assert notes == (
        "token budget 2048: a step of 4096 tokens failed (OutOfMemoryError: a step of 4096 tokens did not fit)",
    )


LOST = (
    "synchronize:build/NPUStream.cpp:87 NPU function error: aclrtSynchronizeStream, error code is 507018",
    "NPU function error: aclrtSynchronizeStreamWithTimeout, error code is 507015\n[ERROR] aicore exception",
    "NPU function error:  FORCE STOP, error code is 107022",
    "UCE ERROR. [ERROR] 2026-01-01",
    "copy_between_host_and_device_opapi:CopyKernelOpApi.cpp:70 NPU function error: aclrtMemcpy, error code is 507899",
)
ALIVE = (
    CAPTURE_ERROR,
    "AclmdlRICaptureEnd, error code is 507903",
    "NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; 60.97 GiB total capacity; 5070180 KiB already allocated)",
    "call aclnnApplyRotaryPosEmbV2 failed, error code is 161002",
    "Invalid device ID, error code is 107001",
)


@pytest.mark.parametrize("message", LOST)
def test_faults_of_the_device_are_known(message: str) -> None:
    assert NpuBackend().is_lost(RuntimeError(message))
    wrapped = RuntimeError("a step failed")
    wrapped.__cause__ = RuntimeError(message)
    assert NpuBackend().is_lost(wrapped)
    assert first_line(RuntimeError(message)).count("\n") == 0


@pytest.mark.parametrize("message", ALIVE)
def test_other_errors_leave_the_device(message: str) -> None:
    assert lost_code(RuntimeError(message)) is None


def test_memory_that_ran_out_is_known_by_either_of_its_forms() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("NPU out of memory."))
    assert is_out_of_memory(RuntimeError("aclrtMalloc failed, error code is 207001"))
    assert is_out_of_memory(RuntimeError("EL0004: Failed to allocate memory."))
    assert not is_out_of_memory(RuntimeError("error code is 507018"))


def test_a_worker_on_a_lost_device_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch, simulator: Any) -> None:
    worker = workers.load_worker(folder, dtype="float16")
    plan = workers.whole_pairs(*workers.random_texts())
    monkeypatch.setattr(simulator, "lost", "507015")
    with pytest.raises(RuntimeError, match="507015") as raised:
        worker.execute(plan)
    assert worker.is_lost(raised.value)
    monkeypatch.setattr(simulator, "lost", None)
