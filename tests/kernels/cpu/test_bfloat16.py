"""bf16 in the linear layers, and instruction sets that only add products: equal bits wherever the order is the same."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.cpu import _C
from engine.kernels.cpu.ops import CpuOps
from engine.kernels.reference import ReferenceOps
from tests.kernels.cpu.helpers import PRODUCTS_ONLY, both, distance

ALL_ISAS = _C.available_isas()
ADDED = [name for name in ALL_ISAS if name in PRODUCTS_ONLY]
SHAPES = [(1, 1, 1), (5, 123, 33), (13, 257, 64), (40, 1030, 96)]


def bf16_ops(isa: str) -> CpuOps:
    return CpuOps(2, dtype=torch.bfloat16, isa=isa)


def same_or_close(isa: str, actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Tiles add in another order."""
    if isa == "amx":
        assert distance(actual, expected) < 1e-6
    else:
        assert torch.equal(actual, expected)


@pytest.fixture(params=ALL_ISAS)
def any_isa(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_of_rounded_operands(any_isa: str, shape: tuple[int, int, int]) -> None:
    rows, inputs, outputs = shape
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    exact = x.bfloat16().double() @ weight.bfloat16().double().T + bias.double()
    results = {}
    for isa in (any_isa, "portable"):
        ops = bf16_ops(isa)
        ours, _ = both(ops, weight, bias)
        assert (
            ours.num_bytes <= (2 * inputs + 6) * -(-outputs // 64) * 64
        )  # 16 bits each, in whole panels, and the bias
        results[isa] = ops.linear(x, ours)
    assert distance(results[any_isa], exact.float()) < 1e-6
    same_or_close(any_isa, results[any_isa], results["portable"])
    single = torch.cat([ops.linear(row[None], ours) for row in x])
    assert torch.equal(single, results["portable"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rows_of_any_type_are_rounded_once(any_isa: str, dtype: torch.dtype) -> None:
    """To the nearest, ties to even, as torch rounds; the rest of a last odd word counts for nothing."""
    ops = bf16_ops(any_isa)
    rows = torch.randn(70, 65).to(dtype)
    rows[0, :4] = torch.tensor([1.00390625, 1.01171875, -1.00390625, 3e38]).to(dtype)  # ties, and one near the largest
    if dtype is torch.float16:
        rows[0, 3] = 60000.0
    weight = ops.new_linear(70, 65)
    weight.load_rows(0, rows[:33])
    weight.load_rows(33, rows[33:])
    assert torch.equal(ops.linear(torch.eye(65), weight), rows.bfloat16().float().T.contiguous())


def test_layers_before_and_after(any_isa: str, reference: ReferenceOps) -> None:
    """Norms and gates write bf16 activations; an odd number of features ends in half a word."""
    x, scale = torch.randn(21, 75), torch.rand(75) + 0.5
    gate_up, down = torch.randn(2 * 45, 75) / 8, torch.randn(20, 45) / 6
    results = {}
    for isa in (any_isa, "portable"):
        ops = bf16_ops(isa)
        (up_ours, up_theirs), (down_ours, down_theirs) = both(ops, gate_up), both(ops, down)
        normed = ops.rms_norm(x, scale, 1e-6)
        assert torch.equal(ops.unpack(normed), ops.unpack(normed).bfloat16().float())
        residual = torch.ones(21, 20)
        ops.linear_residual(ops.linear_swiglu(normed, up_ours), down_ours, residual)
        results[isa] = residual
    theirs = reference.linear_swiglu(reference.rms_norm(x, scale, 1e-6), up_theirs)
    expected = 1 + reference.linear(theirs, down_theirs)
    assert distance(results[any_isa], expected) < 1e-2
    if any_isa == "portable":
        assert distance(results["portable"], expected) > 1e-5


@pytest.mark.parametrize("isa", ADDED)
def test_an_added_set_leaves_the_other_arithmetics_alone(isa: str) -> None:
    x, weight = torch.randn(37, 600), torch.randn(70, 600)
    for quantization in (None, "int16", "int8"):
        ops, base = CpuOps(1, quantization, isa=isa), CpuOps(1, quantization, isa="avx512_vnni")
        assert torch.equal(ops.linear(x, both(ops, weight)[0]), base.linear(x, both(base, weight)[0]))


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"compute in float32 and bfloat16, not torch\.float16"):
        CpuOps(1, dtype=torch.float16)
    assert "bf16 in linear layers" in bf16_ops("portable").description
    assert bf16_ops("portable").ceiling() > 0
