"""Integers: no overflow whatever the numbers are, and damage that stays visible."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels.cpu import _C
from engine.kernels.cpu.ops import CpuOps
from tests.kernels.cpu.helpers import both, distance

ISAS = _C.available_isas()

SHAPES_OF_ROWS = {
    "constant": lambda n: torch.ones(n),
    "alternating": lambda n: torch.ones(n) * (1 - 2 * (torch.arange(n) % 2)),
    "normal": torch.randn,
    "one outlier": lambda n: torch.cat([torch.tensor([1000.0]), torch.ones(n - 1)]),
    "few large": lambda n: torch.where(torch.arange(n) % 64 == 0, 100.0, 0.01),
    "sparse": lambda n: torch.where(torch.arange(n) % 100 == 3, 1.0, 0.0),
    "tiny": lambda n: torch.full((n,), 1e-30),
    "huge": lambda n: torch.full((n,), 1e30),
}


@pytest.mark.parametrize("weight_form", SHAPES_OF_ROWS)
@pytest.mark.parametrize("sign_match", [True, False])
def test_the_largest_sums_do_not_wrap(isa: str, weight_form: str, sign_match: bool) -> None:
    """Every product of a block has the same sign; of constant rows the sum and both norms are at their bounds."""
    ops = CpuOps(1, "int16", isa=isa)
    row = SHAPES_OF_ROWS[weight_form](1024)
    x = row / row.abs().max() * (1 if sign_match else -1)
    weight, _ = both(ops, row[None])
    exact = float(row.double() @ x.double())
    result = float(ops.linear(x[None], weight)[0, 0])
    assert result == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("isa_name", ISAS)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    inputs=st.integers(1, 900),
    weight_tail=st.floats(0, 4),
    activation_tail=st.floats(0, 4),
)
def test_int16_error_is_bounded_by_its_scales(
    isa_name: str, seed: int, inputs: int, weight_tail: float, activation_tail: float
) -> None:
    """Heavy tails included. Bound: per block, half a step of either side against the other's absolute sum."""
    generator = torch.Generator().manual_seed(seed)

    def heavy(rows: int, tail: float) -> torch.Tensor:
        return torch.randn(rows, inputs, generator=generator) * torch.exp(
            tail * torch.randn(rows, inputs, generator=generator)
        )

    rows, x = heavy(5, weight_tail), heavy(3, activation_tail)
    ops = CpuOps(1, "int16", isa=isa_name)
    weight, _ = both(ops, rows)
    bound = torch.zeros(3, 5, dtype=torch.float64)
    for first in range(0, inputs, 256):
        w, a = rows[:, first : first + 256].double().abs(), x[:, first : first + 256].double().abs()
        w_step, a_step = (torch.maximum(t.norm(dim=1) / (46340 - 9), t.max(1).values / 32767) for t in (w, a))
        bound += 0.51 * (a_step[:, None] * w.sum(1) + a.sum(1)[:, None] * w_step) + 128 * a_step[:, None] * w_step
    error = (ops.linear(x, weight).double() - x.double() @ rows.double().T).abs()
    assert (error <= bound + 1e-5 * (x.double().abs() @ rows.double().abs().T)).all()


@pytest.mark.parametrize("name", ["int16", "int8"])
def test_an_outlier_costs_resolution_only_in_its_block(isa: str, name: str) -> None:
    ops = CpuOps(1, name, isa=isa)
    x = torch.randn(4, 2048)
    rows = torch.randn(8, 2048)
    rows[:, :1024] = 0  # the outlier multiplies zeros: all that it can do is to coarsen the scale
    weight, _ = both(ops, rows)
    before = ops.linear(x, weight)
    x[:, 3] = 1e4
    assert torch.equal(ops.linear(x, weight), before)


def test_int8_at_its_extremes(isa: str) -> None:
    """Products at full scale in every position: saturating 16-bit sums would show."""
    ops = CpuOps(1, "int8", isa=isa)
    x = torch.ones(2, 1000)
    x[1] = -1
    weight, _ = both(ops, torch.stack([torch.ones(1000), -torch.ones(1000)]))
    torch.testing.assert_close(
        ops.linear(x, weight), torch.tensor([[1000.0, -1000.0], [-1000.0, 1000.0]]), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_damage_stays_visible(ops: CpuOps, bad: float) -> None:
    """A row with NaN or infinity has a score that is not finite; its neighbours are as they were."""
    rows = torch.randn(40, 600)
    weight, _ = both(ops, rows)
    x = torch.randn(5, 600)
    clean = ops.linear(x, weight)
    x[2, 577] = bad
    dirty = ops.linear(x, weight)
    assert not dirty[2].isfinite().any()
    assert torch.equal(dirty[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])
    rows[7, 599] = bad
    assert not ops.linear(torch.randn(3, 600), both(ops, rows)[0])[:, 7].isfinite().any()


def test_zero_rows_and_zero_weights_give_zero(ops: CpuOps) -> None:
    weight, _ = both(ops, torch.cat([torch.zeros(1, 300), torch.randn(3, 300)]))
    x = torch.randn(4, 300)
    x[1] = 0
    result = ops.linear(x, weight)
    assert (result[1] == 0).all()
    assert (result[:, 0] == 0).all()


@pytest.mark.parametrize("name", ["int16", "int8"])
def test_all_instruction_sets_quantise_alike(name: str) -> None:
    """Integer sums are exact; what differs is a tie here and there, rounded with or without a fused multiply-add."""
    x, rows = torch.randn(9, 700), torch.randn(33, 700)
    results = []
    for isa in ISAS:
        ops = CpuOps(1, name, isa=isa)
        if name == "int16" or ops.runtime.i8_bits == 8:
            results.append(ops.linear(x, both(ops, rows)[0]))
    assert all(distance(result, results[0]) < 2e-5 for result in results)
