"""How a product is cut: no choice changes a result, and a search keeps what it found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine.backends.cpu import task_limits
from engine.backends.cpu.task_limits import Limits, candidates, choose_task_limits, search
from engine.kernels.cpu.ops import CpuOps

KIB = 1 << 10


@pytest.mark.parametrize("quantization", [None, "int16", "int8"])
def test_no_limit_changes_a_result(quantization: str | None) -> None:
    ops = CpuOps(2, quantization)
    generator = torch.Generator().manual_seed(1)
    weight = ops.new_linear(300, 520)
    weight.load_rows(0, torch.randn(300, 520, generator=generator))
    x = torch.randn(150, 520, generator=generator)
    expected = ops.linear(x, weight)
    for limits in [*candidates((256 * KIB, 256)), (1, 1)]:
        ops.runtime.task_limits = limits
        assert ops.runtime.task_limits == limits
        assert torch.equal(ops.linear(x, weight), expected), limits


@pytest.mark.parametrize("limits", [(0, 256), (1024, 0), (-1, -1)])
def test_a_task_has_something_to_do(limits: Limits) -> None:
    with pytest.raises(ValueError, match="at least one byte and one column"):
        CpuOps(1).runtime.task_limits = limits


def test_the_default_follows_the_cache() -> None:
    num_bytes, cols = CpuOps(1).runtime.task_limits
    assert 64 * KIB <= num_bytes <= 1024 * KIB
    assert cols == 256


class Clock:
    """Products that take as long as ``seconds`` says."""

    def __init__(self, seconds: dict[Limits, float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.seconds, self.count = 0.0, seconds, 0
        monkeypatch.setattr(task_limits.time, "perf_counter", lambda: self.now)

    def __call__(self, limits: Limits) -> float:
        self.count += 1
        taken = self.seconds.get(limits, 0.01)
        self.now += taken
        return taken


def test_the_search_takes_what_is_clearly_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = candidates((64 * KIB, 256))
    assert len(set(limits)) == len(limits) == 9
    assert search(limits, Clock({limits[5]: 0.009}, monkeypatch)) == limits[5]
    assert search(limits, Clock({limits[5]: 0.0099}, monkeypatch)) == limits[0]


def test_the_search_ends_in_time_on_a_slow_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = candidates((64 * KIB, 256))
    clock = Clock(dict.fromkeys(limits, 0.5), monkeypatch)
    assert search(limits, clock) == limits[0]
    assert clock.now <= 1.5


def test_what_was_found_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = (32 * KIB, 128)
    searched = []
    monkeypatch.setattr(task_limits, "search", lambda limits, timed: searched.append(limits) or found)
    for _ in range(2):
        ops = CpuOps(1)
        ops.new_linear(2048, 1024)
        note = choose_task_limits(ops, tmp_path)
        assert ops.runtime.task_limits == found
        assert note is not None
        assert "32 KiB and 128 columns" in note
    assert len(searched) == 1
    (tmp_path / "task-limits.json").write_text(json.dumps({"damaged": [1]}))
    choose_task_limits(CpuOps(1), tmp_path)
    ops = CpuOps(1)
    ops.new_linear(2048, 1024)
    choose_task_limits(ops, tmp_path)
    assert len(searched) == 2


def test_small_models_are_not_searched(tmp_path: Path) -> None:
    ops = CpuOps(1)
    ops.new_linear(384, 1536)
    assert choose_task_limits(ops, tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_real_search_leaves_right_results(tmp_path: Path) -> None:
    ops = CpuOps(2)
    weight = ops.new_linear(2048, 1024)
    weight.load_rows(0, torch.ones(2048, 1024))
    choose_task_limits(ops, tmp_path)
    assert torch.equal(ops.linear(torch.ones(3, 1024), weight), torch.full((3, 2048), 1024.0))
    assert len(json.loads((tmp_path / "task-limits.json").read_text())) == 1
