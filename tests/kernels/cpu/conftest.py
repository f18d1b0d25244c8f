"""Every test of this folder runs on each instruction set that this processor has; without the kernels it is skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from engine.kernels.cpu import available

if (reason := available()) is not None:
    pytest.skip(reason, allow_module_level=True)

from engine.kernels.cpu import _C
from engine.kernels.cpu.ops import CpuOps
from engine.kernels.cpu.threads import allowed_cpus
from engine.kernels.reference import ReferenceOps
from tests.kernels.cpu.helpers import PRODUCTS_ONLY

ISAS = [name for name in _C.available_isas() if name not in PRODUCTS_ONLY]
QUANTIZATIONS = (None, "int16", "int8")


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=QUANTIZATIONS, ids=lambda q: q or "fp32")
def quantization(request: pytest.FixtureRequest) -> str | None:
    return request.param


@pytest.fixture
def ops(isa: str, quantization: str | None) -> CpuOps:
    return CpuOps(min(2, len(allowed_cpus())), quantization, isa=isa)


@pytest.fixture
def ops_fp32(isa: str) -> CpuOps:
    return CpuOps(min(2, len(allowed_cpus())), isa=isa)


@pytest.fixture
def reference() -> ReferenceOps:
    return ReferenceOps()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
