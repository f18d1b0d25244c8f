"""What cannot be divided is refused before a process is started or a weight is read, and nobody waits for ever."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from torch.distributed import FileStore  # type: ignore[attr-defined]

from engine import LLM
from engine.backends.cuda.backend import CudaBackend
from engine.backends.tensor_parallel import TPGroup
from engine.errors import ConfigError, DeviceError
from engine.step import TPRank
from tests.e2e.server import COMMAND
from tests.support.checkpoints import make_qwen3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("refusals") / "Qwen3-Reranker", heads=12, kv_heads=4, intermediate=72)


@pytest.mark.parametrize("size", [5, 8, 24])
def test_a_size_that_does_not_divide_the_model(checkpoint: Path, size: int) -> None:
    """Eight divides neither the heads nor is it a multiple that leaves whole ones; possible sizes are named."""
    with pytest.raises(ConfigError, match=rf"tensor_parallel_size {size} does not divide .* use one of 1, 2, 4, 12$"):
        LLM(model=str(checkpoint), device="cpu", tensor_parallel_size=size)


def test_the_command_ends_with_code_2_and_says_what_to_do(checkpoint: Path) -> None:
    command = [*COMMAND, "serve", str(checkpoint), "--port", "0", "--device", "cpu", "-tp", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert "tensor_parallel_size 3 does not divide" in done.stderr
    assert "use one of 1, 2, 4, 12" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_process_cannot_be_two_workers(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="needs 2 worker processes, but the executor uni has none"):
        LLM(model=str(checkpoint), device="cpu", tensor_parallel_size=2, executor="uni")


def test_more_workers_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(DeviceError, match="worker 1 needs a GPU of its own, but torch sees 1; lower --tensor-parallel"):
        CudaBackend().device(1)


def test_a_worker_that_nobody_joins_gives_up(tmp_path: Path) -> None:
    tp_rank = TPRank(0, 2, str(tmp_path / "rendezvous"))
    group = TPGroup(tp_rank.index, tp_rank.size, FileStore(tp_rank.rendezvous_file, tp_rank.size))
    started = time.monotonic()
    with pytest.raises(DeviceError, match=r"worker 0 of 2 waited \d+ s for the others to tell their presence"):
        group.all_reduce_min("presence", 1, 1.0)
    assert time.monotonic() - started < 5
