"""Worker and registry: what is chosen, what is refused before anything heavy, and what is said about it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine.backends import registry
from engine.backends.base import MemoryFacts, OutOfMemory
from engine.backends.cpu.backend import KERNELS_VARIABLE, CpuBackend
from engine.backends.loading.fit import weight_bytes
from engine.backends.loading.safetensors_file import TensorInfo
from engine.backends.worker import Worker
from engine.config import EngineConfig
from engine.errors import ConfigError, DeviceError, ModelLoadError
from engine.step import WorkerInfo
from tests.backends.plans import PlanBuilder, config_of, spec_of
from tests.support.checkpoints import make_qwen3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("worker"), dtype="bfloat16")


def load(folder: Path, config: EngineConfig, **spec) -> tuple[Worker, WorkerInfo]:
    worker = Worker(config, spec_of(folder, **spec))
    return worker, worker.load()


def with_device(config: EngineConfig, **changes) -> EngineConfig:
    return replace(config, device=replace(config.device, **changes))


def whole_pair(capacity: int, ids: list[int]):
    plan = PlanBuilder(capacity)
    plan.add(ids, read=True)
    return plan.build(step_id=17)


def test_info(folder: Path) -> None:
    worker, info = load(folder, config_of())
    assert (info.device, info.dtype, info.num_outputs) == ("cpu", "float32", 1)
    assert (info.kv_capacity, info.max_num_batched_tokens) == (8192, 4096)
    assert info.kv_bytes_per_token == 2 * 2 * 2 * 32 * 4
    num_weights = sum(torch.Size(slot).numel() for slot in _shapes(folder))
    assert 2 * num_weights <= info.weight_bytes <= 4 * num_weights
    assert info.peak_memory_bytes > info.weight_bytes
    assert info.load_s > 0
    assert any("as asked" in note for note in info.notes)
    assert any("kernels" in note for note in info.notes)
    output = worker.execute(whole_pair(8192, [1, 2, 3]))
    assert output.step_id == 17
    assert output.values.dtype == np.float32
    assert output.device_s > 0
    worker.close()
    worker.close()


def _shapes(folder: Path) -> list[tuple[int, ...]]:
    from engine.backends.loading.safetensors_file import find_tensors

    return [info.shape for info in find_tensors(folder).values()]


def test_default_pool_and_budget(folder: Path) -> None:
    config = replace(config_of(), scheduler=replace(config_of().scheduler, kv_cache_tokens=None))
    config = config.with_scheduler(max_num_batched_tokens=None)
    _, info = load(folder, config, max_model_len=3000)
    assert info.max_num_batched_tokens == 1024  # with one thread
    assert info.kv_capacity == 3000 + 8192


def test_more_threads_get_larger_steps() -> None:
    backend = CpuBackend()
    budgets = []
    for backend._num_threads in (1, 4, 16, 200):
        budgets.append(backend.capabilities.default_token_budget)
    assert budgets == [1024, 1024, 4096, 8192]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor")
def test_scores_do_not_depend_on_the_number_of_threads(folder: Path) -> None:
    plan = whole_pair(8192, list(range(200)))
    one, two = (load(folder, with_device(config_of(), cpu_threads=threads))[0] for threads in (1, 2))
    np.testing.assert_allclose(two.execute(plan).values, one.execute(plan).values, atol=1e-6, rtol=0)


def test_pool_too_small_for_the_longest_pair(folder: Path) -> None:
    with pytest.raises(ConfigError, match="1000 tokens cannot hold the longest pair of 3000 tokens"):
        load(folder, config_of(kv_cache_tokens=1000, budget=512), max_model_len=3000)
    with pytest.raises(ConfigError, match="1000 tokens cannot hold"):  # what is shared of two pairs outlives its step
        load(folder, config_of(kv_cache_tokens=1000, budget=3000), max_model_len=3000)
    load(folder, config_of(kv_cache_tokens=3000, budget=512), max_model_len=3000)


def test_made_up_weights_need_no_files(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    results = []
    for seed in (1, 1, 2):
        worker, _ = load(tmp_path, config_of(load_format="dummy", seed=seed))
        results.append(float(worker.execute(whole_pair(8192, [5, 6, 7])).values[0, 0]))
    assert results[0] == results[1] != results[2]
    assert np.isfinite(results).all()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"dtype": "float16"}, "dtype float16 is not available on cpu; available: float32, bfloat16"),
        ({"quantization": "fp8"}, "quantization 'fp8' is not available on cpu; available: int16, int8"),
    ],
)
def test_what_the_device_cannot_do_is_refused(folder: Path, model: dict, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        load(folder, config_of(**model))


def test_bfloat16_when_asked(folder: Path) -> None:
    exact, _ = load(folder, config_of())
    rounded, info = load(folder, config_of(dtype="bfloat16"))
    assert info.dtype == "bfloat16"
    plan = whole_pair(8192, list(range(60)))
    difference = abs(float(exact.execute(plan).values[0, 0]) - float(rounded.execute(plan).values[0, 0]))
    assert 0 < difference < 0.1


def test_kernels_can_be_named(folder: Path, monkeypatch) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, "torch")
    _, info = load(folder, config_of())
    assert any("plain torch kernels" in note for note in info.notes)
    with pytest.raises(DeviceError, match="int8 needs the compiled CPU kernels"):
        load(folder, config_of(quantization="int8"))
    monkeypatch.setenv(KERNELS_VARIABLE, "fastest")
    with pytest.raises(ConfigError, match="can be compiled or torch"):
        load(folder, config_of())


def test_missing_compiled_kernels_are_said_not_hidden(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("engine.backends.cpu.backend.kernels_obstacle", lambda: "not built here")
    _, info = load(folder, config_of())
    assert any("plain torch kernels" in note and "not built here" in note for note in info.notes)
    monkeypatch.setenv(KERNELS_VARIABLE, "compiled")
    with pytest.raises(DeviceError, match="not built here"):
        load(folder, config_of())


def test_more_threads_than_processors(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cpu_threads is 4096"):
        load(folder, with_device(config_of(), cpu_threads=4096))


def test_pinned_worker_stays_on_its_cores(folder: Path) -> None:
    before = os.sched_getaffinity(0)
    try:
        _, info = load(folder, with_device(config_of(), cpu_pin=True))
        assert os.sched_getaffinity(0) == {min(before)}
        assert any("pinned to cores" in note for note in info.notes)
    finally:
        os.sched_setaffinity(0, before)
    with pytest.raises(ConfigError, match="cpu_pin needs 1 cores of its own for worker 99"):
        Worker(with_device(config_of(), cpu_pin=True), spec_of(folder), rank=99).load()


def test_sixteen_bit_weights_may_stay_so(monkeypatch) -> None:
    """What is predicted must be what the kernels keep: else a model that fits would be refused."""
    tensors = {"layers.0.mlp.up_proj.weight": TensorInfo(Path("f"), torch.bfloat16, (1000, 1000), 0)}
    assert weight_bytes(tensors, torch.float32, None, keeps_narrow=True) == 2_000_000
    assert weight_bytes(tensors, torch.float32, None, keeps_narrow=False) == 4_000_000
    assert weight_bytes(tensors, torch.float32, "int8", keeps_narrow=True) == 1_062_500
    monkeypatch.setenv(KERNELS_VARIABLE, "torch")
    assert not CpuBackend().capabilities.keeps_narrow_weights


def test_too_little_memory_is_said_before_reading(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(CpuBackend, "memory", lambda self, device: MemoryFacts(100_000, 50_000))
    monkeypatch.setattr("engine.backends.model_loading.load_weights", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(DeviceError, match=r"needs .* for its weights in float32, but this process may use"):
        load(folder, config_of())


def test_memory_facts() -> None:
    facts = CpuBackend().memory(torch.device("cpu"))
    assert 0 < facts.free_bytes <= facts.total_bytes


def test_out_of_memory_in_a_step_is_recognisable_and_survived(folder: Path, monkeypatch) -> None:
    worker, _ = load(folder, config_of())
    plan = whole_pair(8192, [1, 2, 3])
    before = worker.execute(plan).values
    emptied: list[torch.device] = []
    monkeypatch.setattr(CpuBackend, "empty_cache", lambda self, device: emptied.append(device))
    with monkeypatch.context() as patch:
        # An allocation that cannot succeed, where a too large step would make it.
        patch.setattr(worker.runner, "forward", lambda batch, kv_cache: torch.empty(1 << 60, dtype=torch.uint8))
        with pytest.raises(OutOfMemory, match="a step of 3 tokens did not fit into the memory of cpu"):
            worker.execute(plan)
    assert emptied == [torch.device("cpu")]
    assert np.array_equal(worker.execute(plan).values, before)


def test_other_errors_in_a_step_stay_what_they_are(folder: Path) -> None:
    worker, _ = load(folder, config_of())
    broken = whole_pair(8192, [1, 2, 3])
    broken.token_ids = np.array([1, 2, 10**6], np.int32)
    with pytest.raises(IndexError):
        worker.execute(broken)


def test_non_finite_values_are_passed_through(folder: Path) -> None:
    worker, _ = load(folder, config_of())
    assert worker.runner is not None
    worker.runner.model.embedding.table[40] = torch.nan  # type: ignore[attr-defined]
    plan = PlanBuilder(8192)
    plan.add([1, 40], read=True)
    plan.add([1, 2], read=True)
    values = worker.execute(plan.build()).values
    assert np.isnan(values[0, 0])
    assert np.isfinite(values[1, 0])


def test_settings_that_do_not_exist_here(folder: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"adapter 'a' in absent: there is no adapter_config\.json"):
        load(folder, config_of(lora_modules={"a": "absent"}))
    with pytest.raises(ConfigError, match="tensor_parallel_size"):
        load(folder, with_device(config_of(), tensor_parallel_size=2))


def test_an_absent_device_is_an_error_with_advice() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="device 'cuda' was asked for but is not usable"):
            registry.choose_backend("cuda")
    with pytest.raises(DeviceError, match="no backend named 'tpu'; known are cpu, cuda, npu and auto"):
        registry.choose_backend("tpu")


class Present(CpuBackend):
    name = "npu"


class Absent(CpuBackend):
    name = "cuda"

    def why_unavailable(self) -> str:
        return "no driver"


def test_auto_takes_the_first_that_is_there_and_says_why(monkeypatch) -> None:
    backends = {"npu": Absent(), "cuda": Present(), "cpu": CpuBackend()}
    monkeypatch.setattr(registry, "load_backend", backends.__getitem__)
    monkeypatch.setattr(registry, "DEVICES", [SimpleNamespace(name=name) for name in backends])
    backend, reason = registry.choose_backend("auto")
    assert backend is backends["cuda"]
    assert reason == "device cuda, chosen automatically; not npu: no driver"
    monkeypatch.setattr(registry, "DEVICES", [SimpleNamespace(name="cpu")])
    assert registry.choose_backend("auto")[0] is backends["cpu"]


def test_trial_steps_stay_within_the_longest_pair(tmp_path: Path) -> None:
    folder = make_qwen3(tmp_path)
    worker = Worker(config_of(load_format="dummy"), spec_of(folder, max_model_len=10))
    worker.load()
    assert worker.runner is not None
    for lengths in ([64, 32, 32], [1], [3, 4], [2000]):
        cut = worker.runner._cut(lengths)
        assert sum(cut) == sum(lengths)
        assert min(cut) > 0
        assert cut[0] + max([0, *cut[1:]]) <= 10
    assert worker.runner._cut([3, 4]) == [3, 4]
