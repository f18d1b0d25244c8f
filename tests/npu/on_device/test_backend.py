"""The backend's answers: devices, dtypes, memory, and the reasons for what it refuses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_npu

from engine.backends.npu.backend import NpuBackend
from engine.backends.npu.transfer import Uploader, fetch
from engine.backends.npu.tuning import tune
from engine.backends.worker import Worker
from engine.config import DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine.errors import ConfigError, DeviceError, OutOfMemoryError
from tests.backends.plans import PlanBuilder, spec_of
from tests.npu.on_device import workers
from tests.support.checkpoints import make_qwen3

GIB = 2**30


@pytest.fixture
def backend() -> NpuBackend:
    return NpuBackend()


def test_dtypes(backend: NpuBackend) -> None:
    assert backend.capabilities.dtypes == ("bfloat16", "float16", "float32")
    assert [backend.auto_dtype(stored) for stored in ("bfloat16", "float16", "float32")] == [
        "bfloat16",
        "float16",
        "bfloat16",  # float32 only when asked for
    ]


def test_dtypes_of_310p(backend: NpuBackend, monkeypatch: pytest.MonkeyPatch, simulator: Any) -> None:
    monkeypatch.setattr(simulator, "soc", "Ascend310P3")
    assert backend.capabilities.dtypes == ("float16",)
    assert backend.capabilities.quantizations == ()
    assert backend.auto_dtype("bfloat16") == "float16"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"dtype": "bfloat16"}, "dtype bfloat16 is not available on npu; available: float16"),
        ({"quantization": "w8a8"}, "quantization 'w8a8' is not available on npu; available: none"),
    ],
)
def test_what_310p_cannot_do_is_refused(
    model: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, simulator: Any
) -> None:
    monkeypatch.setattr(simulator, "soc", "Ascend310P3")
    make_qwen3(tmp_path)
    with pytest.raises(DeviceError, match=message):
        workers.load_worker(tmp_path, **model)


def test_w8a8_in_float32_is_refused(tmp_path: Path) -> None:
    make_qwen3(tmp_path)
    with pytest.raises(DeviceError, match="w8a8 computes in bfloat16 or float16"):
        workers.load_worker(tmp_path, dtype="float32", quantization="w8a8")


def test_devices(backend: NpuBackend, monkeypatch: pytest.MonkeyPatch, simulator: Any) -> None:
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,6")
    versions, note = backend.set_up(DeviceConfig(), 1)
    assert versions.endswith(", CANN 9.1.0: a known set")
    assert "Ascend910B3, 2 visible" in note
    assert torch_npu.npu.current_device() == 1
    assert backend.device(1) == torch.device("npu", 1)
    with pytest.raises(DeviceError, match="worker 2 needs an NPU of its own, but 2 are visible"):
        backend.set_up(DeviceConfig(), 2)


def test_a_busy_card_is_named_with_who_holds_it(
    backend: NpuBackend, monkeypatch: pytest.MonkeyPatch, simulator: Any
) -> None:
    monkeypatch.setattr(simulator, "busy", "507033")
    with pytest.raises(
        DeviceError, match=r"npu:1 cannot be opened \(RuntimeError: NPU function error.*507033\)"
    ) as raised:
        backend.set_up(DeviceConfig(), 1)
    assert "`npu-smi info -t proc-mem -i 1` names who does" in str(raised.value)
    assert "[ERROR] busy" not in str(raised.value)
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,6")
    with pytest.raises(DeviceError, match="-i 6` names"):
        backend.set_up(DeviceConfig(), 1)


def test_a_card_that_others_fill_is_said(backend: NpuBackend, monkeypatch: pytest.MonkeyPatch, simulator: Any) -> None:
    monkeypatch.setattr(simulator, "memory_bytes", 8 * GIB)
    monkeypatch.setattr(simulator, "occupied_bytes", 6 * GIB)
    notes = backend.set_up(DeviceConfig(), 0)
    assert any("of 8.0 GiB are taken by other processes: `npu-smi info` lists them" in note for note in notes), notes
    assert backend.memory(backend.device(0)).total_bytes <= 2 * GIB


@pytest.mark.parametrize("soc", ["Ascend910A", "Ascend910ProB", "Ascend310B1", "Ascend310"])
def test_chips_without_the_operators_are_refused(
    soc: str, backend: NpuBackend, monkeypatch: pytest.MonkeyPatch, simulator: Any
) -> None:
    monkeypatch.setattr(simulator, "soc", soc)
    with pytest.raises(DeviceError, match=f"{soc} has none of the operators.*--device cpu"):
        backend.set_up(DeviceConfig(), 0)


@pytest.mark.parametrize(("soc", "known"), [("Ascend910B4", True), ("Ascend910_9391", True), ("Ascend950DT", False)])
def test_chips_that_nobody_compared_are_left_to_the_self_test(
    soc: str, known: bool, backend: NpuBackend, monkeypatch: pytest.MonkeyPatch, simulator: Any
) -> None:
    monkeypatch.setattr(simulator, "soc", soc)
    notes = backend.set_up(DeviceConfig(), 0)
    assert known != any("operators were not compared: the self-test decides" in note for note in notes)


def test_a_switch_that_torch_npu_refuses_costs_a_line(
    backend: NpuBackend, monkeypatch: pytest.MonkeyPatch, simulator: Any
) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("no such option")

    monkeypatch.setattr(torch_npu.npu, "set_compile_mode", refuse)
    notes = backend.set_up(DeviceConfig(), 0)
    assert "torch_npu refused to set jit_compile (RuntimeError: no such option): left as it is" in notes


def test_set_up_makes_the_choices_that_results_depend_on(
    backend: NpuBackend, monkeypatch: pytest.MonkeyPatch, simulator: Any
) -> None:
    monkeypatch.setattr(simulator, "allow_internal_format", False)
    monkeypatch.setattr(torch_npu.npu.matmul, "allow_hf32", True)
    backend.set_up(DeviceConfig(), 0)
    assert simulator.allow_internal_format
    assert not torch_npu.npu.matmul.allow_hf32


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (DeviceConfig(enforce_eager=True), "as asked"),
        (DeviceConfig(tensor_parallel_size=2), "collective"),
    ],
)
def test_why_no_graphs(backend: NpuBackend, config: DeviceConfig, reason: str) -> None:
    assert any("no ACL graphs" in note and reason in note for note in backend.set_up(config, 0))

    def forward() -> None: ...

    assert backend.capture(forward) is forward


def test_memory(backend: NpuBackend, monkeypatch: pytest.MonkeyPatch, simulator: Any) -> None:
    monkeypatch.setattr(simulator, "memory_bytes", 4 * GIB)
    device = backend.device(0)
    backend.set_up(DeviceConfig(), 0)
    assert backend.memory(device).total_bytes == int(4 * GIB * 0.9)
    backend.set_up(DeviceConfig(gpu_memory_bytes=GIB), 0)
    facts = backend.memory(device)
    assert facts.total_bytes == GIB
    assert 0 < facts.free_bytes <= GIB
    assert backend.kv_tokens(device, DeviceConfig(), 100, 1000) == 100
    assert backend.kv_tokens(device, DeviceConfig(), 10**9, 1000) == facts.free_bytes // 2 // 1000
    with pytest.raises(DeviceError, match=r"5\.0 GiB was asked for, but the NPU has 4\.0 GiB"):
        backend.set_up(DeviceConfig(gpu_memory_bytes=5 * GIB), 0)
    with pytest.raises(ConfigError, match="gpu_memory_utilization"):
        backend.set_up(DeviceConfig(gpu_memory_utilization=1.5), 0)


def test_a_step_too_large_is_reported_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, simulator: Any
) -> None:
    make_qwen3(tmp_path)
    worker = workers.load_worker(tmp_path)
    monkeypatch.setattr(simulator, "memory_bytes", simulator.allocated_bytes + 400_000)
    small, large = PlanBuilder(workers.CAPACITY), PlanBuilder(workers.CAPACITY)
    small.add([1, 2, 3], read=True)
    large.add([1] * 1000, read=True)
    with pytest.raises(OutOfMemoryError, match="1000 tokens"):
        worker.execute(large.build())
    assert np.isfinite(worker.execute(small.build()).values).all()


def test_a_model_too_large_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, simulator: Any
) -> None:
    make_qwen3(tmp_path)
    monkeypatch.setattr(simulator, "memory_bytes", 100_000)
    with pytest.raises(DeviceError, match="for its weights in bfloat16"):
        workers.load_worker(tmp_path, dtype="bfloat16")


def test_info(tmp_path: Path) -> None:
    make_qwen3(tmp_path, dtype="bfloat16")
    config = EngineConfig(
        model=ModelConfig(quantization="w8a8"),
        scheduler=SchedulerConfig(kv_cache_tokens=256, max_num_batched_tokens=512),
        device=DeviceConfig(device="npu"),
    )
    info = Worker(config, spec_of(tmp_path, max_model_len=256)).load()
    assert (info.device, info.dtype) == ("npu:0", "bfloat16")
    assert any("int8 weights in FRACTAL_NZ" in note for note in info.notes)
    assert info.peak_memory_bytes > info.weight_bytes > 0


def test_upload_turns_its_buffers_and_waits_for_their_copies(npu: torch.device) -> None:
    uploader = Uploader()
    rng = np.random.default_rng(0)
    steps = [[rng.integers(0, 99, n) for n in (7, 0, 3)] for _ in range(8)]
    on_device = [uploader.upload(arrays, npu) for arrays in steps]
    torch_npu.npu.synchronize()  # finds any buffer that was written while its copy was in flight
    for arrays, tensors in zip(steps, on_device, strict=True):
        for array, tensor in zip(arrays, tensors, strict=True):
            assert np.array_equal(tensor.cpu().numpy(), array)


def test_fetch_waits_when_it_is_asked(npu: torch.device) -> None:
    wait = fetch(torch.full((2, 1), 3.0, device=npu))
    assert np.array_equal(wait(), np.full((2, 1), 3.0, np.float32))


def test_token_budget_is_the_smallest_that_is_nearly_as_good() -> None:
    rates = {1024: 50.0, 2048: 90.0, 4096: 98.0, 8192: 100.0}

    def time_step(lengths: list[int]) -> float:
        size = next(size for size in rates if sum(lengths) <= size)
        return sum(lengths) / rates[size]

    assert tune(time_step, 8192, None) == (4096, ("token budget 4096: 97% of the best measured rate or more",))  # type: ignore[arg-type]
    assert tune(time_step, 512, None) == (512, ())  # type: ignore[arg-type]


def test_steps_may_be_launched_by_another_thread_than_loaded(tmp_path: Path) -> None:
    make_qwen3(tmp_path)
    config = EngineConfig(
        scheduler=SchedulerConfig(kv_cache_tokens=256, max_num_batched_tokens=256), device=DeviceConfig(device="npu")
    )
    worker = Worker(config, spec_of(tmp_path, max_model_len=256), rank=2)
    assert worker.load().device == "npu:2"
    plan = workers.whole_pairs([1, 2, 3], [[4], [5, 6]])
    with ThreadPoolExecutor(1) as other:
        values = other.submit(worker.execute, plan).result().values
    np.testing.assert_allclose(values, worker.execute(plan).values, atol=1e-3)


def test_a_w8a8_checkpoint_is_computed_in_int8_where_the_dtype_allows(backend: NpuBackend) -> None:
    assert backend.quantization_for("w8a8", torch.bfloat16) == "w8a8"
    assert backend.quantization_for("w8a8", torch.float32) is None
    assert backend.quantization_for("fp8", torch.bfloat16) is None
