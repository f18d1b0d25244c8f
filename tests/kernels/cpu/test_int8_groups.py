"""int8 weights in rotated groups of 128, with activations of 8 and 16 bits, against the same arithmetic in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.kernels.cpu import _C
from engine.kernels.cpu.ops import CpuOps
from tests.kernels.cpu.helpers import both, distance

GROUP = 128
KINDS = {"8 bits": (_C.Kind.I8R, 127), "16 bits": (_C.Kind.I16R, 32767)}
"""Of the activations, and their largest integer."""


@pytest.fixture(params=KINDS)
def bits(request: pytest.FixtureRequest) -> str:
    return request.param


def rotated(x: np.ndarray) -> np.ndarray:
    """(rows, K) -> (rows, groups, 128): H x of each group, zeros behind the last value; sums in the kernels' order."""
    groups = -(-x.shape[1] // GROUP)
    y = np.zeros((len(x), groups * GROUP), np.float32)
    y[:, : x.shape[1]] = x
    for step in (1, 2, 4, 8, 16, 32, 64):
        pairs = y.reshape(len(x), -1, 2, step)
        y = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2).reshape(len(x), -1)
    return y.reshape(len(x), groups, GROUP)


def quantised(x: torch.Tensor, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers of at most ``limit`` and the scale of each group."""
    groups = rotated(x.numpy())
    largest = np.abs(groups).max(-1)
    inverse = np.float32(limit) / np.where(largest > 0, largest, np.float32(1))
    exact = groups.astype(np.float64) * inverse[..., None]
    return np.rint(exact).astype(np.int64), (largest / np.float32(limit)).astype(np.float32)


def sums(bits: str, x: torch.Tensor, rows: torch.Tensor) -> np.ndarray:
    """What each group adds, (T, outputs, groups): an exact integer times both scales, each product rounded to fp32."""
    (a, a_scales), (w, w_scales) = quantised(x, KINDS[bits][1]), quantised(rows, 127)
    integers = np.einsum("tgk,ogk->tog", a, w).astype(np.float32)
    return integers * (w_scales / np.float32(GROUP))[None] * a_scales[:, None]


def product(isa: str, bits: str, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    ops = CpuOps(1, "int8", isa=isa)
    ops.weight_kind = KINDS[bits][0]
    return ops.linear(x, both(ops, rows)[0])


def assert_alike(isa: str, actual: torch.Tensor, expected: np.ndarray) -> None:
    """Bit by bit; without fused multiply-adds, a tie may be rounded the other way."""
    if isa == "portable":
        assert distance(actual, torch.from_numpy(expected)) < 1e-5
    else:
        assert np.array_equal(actual.numpy(), expected)


@pytest.mark.parametrize("inputs", [1, 77, 128])
def test_one_group_has_the_bits_of_the_plain_form(isa: str, bits: str, inputs: int) -> None:
    x, rows = torch.randn(13, inputs), torch.randn(70, inputs)
    assert_alike(isa, product(isa, bits, x, rows), sums(bits, x, rows)[..., 0])


@pytest.mark.parametrize("inputs", [130, 512, 777, 1664])
def test_groups_are_added_in_fp32(isa: str, bits: str, inputs: int) -> None:
    x, rows = torch.randn(9, inputs), torch.randn(40, inputs)
    expected = np.zeros((9, 40), np.float32)
    for part in np.moveaxis(sums(bits, x, rows), -1, 0):
        expected += part
    assert_alike(isa, product(isa, bits, x, rows), expected)


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
def test_full_scale_in_every_position(isa: str, bits: str, signs: tuple[int, int]) -> None:
    """All integers of a group are +-127 on both sides, and all their products have one sign."""
    x = torch.from_numpy(rotated(np.eye(1, GROUP, 5, dtype=np.float32))[:, 0]) * signs[0]
    rows = torch.from_numpy(rotated(np.eye(1, GROUP, 5, dtype=np.float32))[:, 0]) * signs[1]
    pattern = torch.from_numpy(rotated(torch.rand(1, GROUP).numpy())[:, 0].copy()).sign()
    for a, w in ((x, rows), (pattern * signs[0], pattern * signs[1])):
        back = [torch.from_numpy(rotated(side.numpy())[:, 0] / np.float32(GROUP)) for side in (a, w)]
        exact = float(back[0].double() @ back[1].double().T)
        assert float(product(isa, bits, *back)) == pytest.approx(exact, rel=1e-6)


def test_outliers_cost_what_is_beside_them_little(isa: str, bits: str) -> None:
    """Two columns of a hundred times the rest: without the rotation the others would have a step or none."""
    x, rows = torch.randn(20, 1024), torch.randn(30, 1024)
    x[:, [5, 700]] *= 100
    rows[:, [5, 700]] /= 100
    assert distance(product(isa, bits, x, rows), x.double() @ rows.double().T) < 0.06


def test_an_activation_can_be_read_back(isa: str) -> None:
    ops = CpuOps(1, "int8", isa=isa)
    x = torch.randn(5, 300)
    packed = ops.rms_norm(x, torch.ones(300), 1e-6)
    expected = x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt()
    assert distance(ops.unpack(packed), expected) < 1e-2


def test_the_sensitive_stays_in_int16(isa: str) -> None:
    """The first two layers, and in all of them the projections to queries, keys and values."""
    ops = CpuOps(1, "int8", isa=isa)
    kinds = [ops.of_layer(index).new_linear(8, 8).kind for index in range(4)]
    assert kinds[:2] == [_C.Kind.I16] * 2
    assert kinds[2] == kinds[3] == ops.weight_kind
    assert ops.of_layer(3).of_qkv().new_linear(8, 8).kind == _C.Kind.I16
    for other in (None, "int16"):
        plain = CpuOps(1, other, isa=isa)
        assert plain.of_layer(0) is plain.of_qkv() is plain
