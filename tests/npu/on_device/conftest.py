"""These tests need a device named "npu", which torch can be given once per process.

Simulated: ``tests/npu/test_simulated.py`` starts them, or ``PYTHONPATH=tests/npu/fake pytest tests/npu/on_device``.
On hardware: ``ENGINE_NPU_TESTS=1 pytest tests/npu/on_device``; what asks the simulator about itself is skipped there.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch


def _is_simulated() -> bool:
    found = importlib.util.find_spec("torch_npu")
    return found is not None and found.origin is not None and "tests/npu/fake" in found.origin


_is_wanted = _is_simulated() or os.environ.get("ENGINE_NPU_TESTS") == "1"
collect_ignore_glob = [] if _is_wanted else ["test_*.py"]

if _is_wanted:
    import torch_npu

    @pytest.fixture(autouse=True, scope="session")
    def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        """What a self-test remembers of one test run is nobody else's business."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
            yield

    @pytest.fixture(autouse=True, scope="session")
    def _replays_are_faster() -> Iterator[None]:
        """Whether a simulated replay is faster says nothing, and would differ from run to run."""
        with pytest.MonkeyPatch.context() as patch:
            if _is_simulated():
                patch.setattr("engine.backends.npu.graphs.is_faster", lambda replay, without: replay() is not None)
            yield

    @pytest.fixture(autouse=True)
    def _settings() -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        torch_npu.npu.config.allow_internal_format = True  # it can be set, but not read, on a real device

    @pytest.fixture
    def npu() -> torch.device:
        return torch.device("npu", 0)

    @pytest.fixture
    def simulator() -> Any:
        """For tests about the simulator, or that change what the device is."""
        if not _is_simulated():
            pytest.skip("this test needs the simulated device")
        return torch_npu.simulator

    if _is_simulated():

        @pytest.fixture(autouse=True)
        def _fresh_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
            """Each test finds the device as after start, and leaves nothing queued."""
            simulator = torch_npu.simulator
            monkeypatch.setattr(simulator, "soc", simulator.soc)
            monkeypatch.setattr(simulator, "memory_bytes", simulator.memory_bytes)
            monkeypatch.setattr(simulator.thread, "current_device", 0)
            for name in ("cann_version", "occupied_bytes", "busy", "num_waits"):
                monkeypatch.setattr(simulator, name, getattr(simulator, name))
            monkeypatch.setattr(simulator, "broken", {})
            yield
            simulator.graph, simulator.waiting_graph, simulator.lost = None, None, None
            with suppress(RuntimeError):  # a test may have left a mistake in the queue, on purpose
                simulator.finish()
            simulator.queue.clear()
