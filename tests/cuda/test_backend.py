"""What is refused before loading, in sentences: no GPU, too old, too little memory, dtype and quantisation."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import pytest
import torch

from engine.backends.cuda.backend import CudaBackend
from engine.backends.cuda.linear import Fp8Linear
from engine.backends.cuda.memory import GIB, LIBRARIES, kv_cache_tokens, memory_limit
from engine.backends.registry import choose_backend
from engine.config import DeviceConfig
from engine.entrypoints.settings.options import build_configs
from engine.errors import ConfigError, DeviceError

TOTAL = 141 * GIB


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU as torch describes it; tests change the facts."""
    facts: dict[str, Any] = {"cuda": "13.0", "available": True, "capability": (9, 0), "count": 2}
    monkeypatch.setattr(torch.version, "cuda", facts["cuda"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: facts["available"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: facts["capability"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Some GPU")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: facts["count"])
    return facts


def test_a_usable_gpu_has_no_objection(gpu: dict[str, Any]) -> None:
    assert CudaBackend().why_unavailable() is None
    assert CudaBackend().device(1) == torch.device("cuda", 1)


def test_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in (CudaBackend().why_unavailable() or "")
    with pytest.raises(DeviceError, match="device 'cuda' was asked for but is not usable: this torch is built without"):
        choose_backend("cuda")


def test_no_gpu(gpu: dict[str, Any]) -> None:
    gpu["available"] = False
    assert "no NVIDIA GPU" in (CudaBackend().why_unavailable() or "")


def test_a_gpu_that_is_too_old(gpu: dict[str, Any]) -> None:
    gpu["capability"] = (7, 5)
    assert CudaBackend().why_unavailable() == (
        "Some GPU has compute capability 7.5, but 8.0 (Ampere) or newer is needed"
    )


def test_triton_missing(gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'triton" in (CudaBackend().why_unavailable() or "")


def test_more_workers_than_gpus(gpu: dict[str, Any]) -> None:
    with pytest.raises(DeviceError, match="worker 2 needs a GPU of its own, but torch sees 2"):
        CudaBackend().device(2)


def test_fp8_needs_a_gpu_that_has_it(gpu: dict[str, Any]) -> None:
    gpu["capability"] = (8, 6)
    with pytest.raises(DeviceError, match=r"fp8 needs compute capability 8\.9 .* this GPU has 8\.6"):
        CudaBackend().make_ops(torch.device("cpu"), torch.bfloat16, "fp8")


def test_fp8_gives_bfloat16(gpu: dict[str, Any]) -> None:
    with pytest.raises(DeviceError, match="fp8 products give bfloat16, not float16"):
        CudaBackend().make_ops(torch.device("cpu"), torch.float16, "fp8")


def test_fp8_needs_sides_that_are_multiples_of_16() -> None:
    with pytest.raises(ConfigError, match="this model has a weight of 24 x 16"):
        Fp8Linear(24, 16, bias=False, device=torch.device("cpu"), dtype=torch.bfloat16)


def test_auto_dtype_is_bfloat16_unless_the_checkpoint_is_float16() -> None:
    assert [CudaBackend().auto_dtype(name) for name in ("float32", "bfloat16", "float16")] == [
        "bfloat16",
        "bfloat16",
        "float16",
    ]


def test_by_default_all_that_is_free_may_be_used() -> None:
    limit, note = memory_limit(DeviceConfig(), 100 * GIB, TOTAL)
    assert limit == 100 * GIB - LIBRARIES
    assert note == "may use 99.5 GiB, all that is free of 141.0 GiB"


@pytest.mark.parametrize(
    "config", [DeviceConfig(gpu_memory_bytes=6 * GIB), DeviceConfig(gpu_memory_utilization=6 / 141)]
)
def test_a_limit_that_was_asked_for(config: DeviceConfig) -> None:
    limit, note = memory_limit(config, 100 * GIB, TOTAL)
    assert limit == pytest.approx(6 * GIB, rel=1e-6)
    assert note == "may use 6.0 GiB of 141.0 GiB, as asked"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("6GiB", 6 * GIB), ("1.5GiB", 3 * GIB // 2), ("6GB", 6 * 10**9), ("6G", 6 * GIB), ("800m", 8 * 10**8)],
)
def test_the_limit_is_written_as_people_write_sizes(text: str, expected: int) -> None:
    engine, _ = build_configs({"gpu_memory": text})
    assert engine.device.gpu_memory_bytes == expected


@pytest.mark.parametrize("text", ["0", "-1GiB", "6GiBs", "six", "0.3B"])
def test_sizes_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        build_configs({"gpu_memory": text})


def test_limits_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(DeviceError, match="but the GPU has 141"):
        memory_limit(DeviceConfig(gpu_memory_bytes=200 * GIB), TOTAL, TOTAL)
    with pytest.raises(DeviceError, match=r"only 20\.0 of 141\.0 GiB are free"):
        memory_limit(DeviceConfig(gpu_memory_utilization=0.9), 20 * GIB, TOTAL)
    for share in (0.0, 1.2, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="gpu_memory_utilization must be above 0"):
            memory_limit(DeviceConfig(gpu_memory_utilization=share), TOTAL, TOTAL)


def test_the_pool_gets_what_is_wanted_or_half_of_what_is_free() -> None:
    assert kv_cache_tokens(10_000, 20, 100) == 20
    assert kv_cache_tokens(10_000, 1_000, 100) == 50
    assert kv_cache_tokens(0, 1_000, 100) == 0


def test_out_of_memory_is_recognised_however_it_is_said() -> None:
    backend = CudaBackend()
    assert backend.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert backend.is_out_of_memory(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert not backend.is_out_of_memory(RuntimeError("an illegal memory access was encountered"))


def test_a_fault_in_a_kernel_loses_the_device_and_lack_of_memory_does_not() -> None:
    backend = CudaBackend()
    assert backend.is_lost(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    assert not backend.is_lost(torch.OutOfMemoryError("CUDA out of memory."))
    assert not backend.is_lost(RuntimeError("shape mismatch"))


def test_looking_for_a_gpu_does_not_import_triton() -> None:
    code = (
        "import sys; from engine.backends.registry import choose_backend; choose_backend('cpu'); "
        "from engine.backends.cuda.backend import backend; backend().why_unavailable(); print('triton' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
