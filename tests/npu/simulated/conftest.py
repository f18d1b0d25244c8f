"""These tests run where ``torch_npu`` is the simulator, once per process: ``tests/npu/test_simulated.py`` starts them.

By hand: ``PYTHONPATH=tests/npu/fake pytest tests/npu/simulated``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch


def _is_simulated() -> bool:
    found = importlib.util.find_spec("torch_npu")
    return found is not None and found.origin is not None and "tests/npu/fake" in found.origin


collect_ignore_glob = [] if _is_simulated() else ["test_*.py"]

if _is_simulated():
    import torch_npu

    @pytest.fixture(autouse=True)
    def _fresh_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Each test finds the device as after start, and leaves nothing queued."""
        torch.set_num_threads(1)
        torch.manual_seed(0)
        simulator = torch_npu.simulator
        monkeypatch.setattr(simulator, "soc", simulator.soc)
        monkeypatch.setattr(simulator, "memory_bytes", simulator.memory_bytes)
        monkeypatch.setattr(simulator.thread, "current_device", 0)
        monkeypatch.setattr(simulator, "allow_internal_format", True)
        yield
        simulator.graph = None
        with suppress(RuntimeError):  # a test may have left a mistake in the queue, on purpose
            simulator.finish()
        simulator.queue.clear()

    @pytest.fixture
    def npu() -> torch.device:
        return torch.device("npu", 0)
