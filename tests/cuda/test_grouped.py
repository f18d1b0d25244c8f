"""Weights of 4 bits on a GPU: the kernels against plain torch, the choice between them, and whole models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.backends.crash_records import CrashRecords
from engine.backends.cuda import forms as tables
from engine.backends.cuda import grouped
from engine.backends.cuda.forms import PLAIN, TRITON, Forms
from engine.backends.cuda.grouped import CudaGrouped, GroupedProducts
from engine.backends.cuda.ops import CudaOps
from engine.backends.cuda.self_test import try_ops
from engine.kernels.reference import ReferenceGrouped, ReferenceOps
from engine.kernels.triton.grouped import (
    CONFIGS,
    ProductConfig,
    expand_groups,
    expand_groups_torch,
    fits,
    grouped_product,
)
from engine.kernels.weight_groups import INT4, MADE, UINT4, GroupedRows, GroupLayout, quantize_rows
from tests.cuda.stand_in import StandIn, needs_interpreter
from tests.cuda.test_model import expected_logits, load, shared_plan
from tests.quantized.packers import quantize_folder
from tests.quantized.test_formats import LAYOUTS, PACKAGES
from tests.support.checkpoints import make_qwen3

pytestmark = [needs_interpreter, pytest.mark.filterwarnings("ignore::RuntimeWarning")]
TABLE = tuple(float(code * code - 90) for code in range(16))
CASES = {
    "groups of 32 with offsets": (37, 256, GroupLayout(32, UINT4, has_offsets=True)),
    "groups of 128, a last one that is cut": (20, 192, GroupLayout(128, INT4, has_offsets=False)),
    "whole rows, a table": (9, 100, GroupLayout(1 << 20, TABLE, has_offsets=True)),
    "groups of 16": (33, 320, GroupLayout(16, INT4, has_offsets=False)),
}
SMALL = CONFIGS[0]


def fill(weight: CudaGrouped | ReferenceGrouped, seed: int = 0) -> None:
    """In two runs of rows, and a bias."""
    generator = torch.Generator().manual_seed(seed)
    n, k, layout = weight.out_features, weight.in_features, weight.layout
    size = (n, layout.num_groups(k))
    rows = GroupedRows(
        torch.randint(0, 16, (n, k), generator=generator, dtype=torch.uint8),
        torch.rand(size, generator=generator),
        torch.randn(size, generator=generator) if layout.has_offsets else None,
    )
    weight.load_groups(0, rows.part(slice(0, 3)))
    weight.load_groups(3, rows.part(slice(3, n)))
    weight.load_bias(0, torch.randn(n, generator=generator))


@pytest.mark.parametrize("name", CASES)
def test_both_ways_give_the_product_with_the_widened_weight(name: str) -> None:
    n, k, layout = CASES[name]
    ops, reference = CudaOps(torch.device("cpu"), torch.float32), ReferenceOps()
    mine, theirs = (o.new_grouped_linear(n, k, layout, bias=True) for o in (ops, reference))
    assert isinstance(mine, CudaGrouped)
    assert isinstance(theirs, ReferenceGrouped)
    fill(mine)
    fill(theirs)
    for expand in (expand_groups, expand_groups_torch):
        out = torch.empty(n, k)
        expand(mine.packed, out)
        assert torch.equal(out, theirs.weight)
    x = torch.randn(5, k + 3)[:, :k]  # strided rows
    expected = reference.linear(x, theirs)
    for config in (SMALL, CONFIGS[3]):
        torch.testing.assert_close(
            grouped_product(x, mine.packed, mine.bias, config), expected, rtol=1e-5, atol=1e-5 * k * 100
        )
    for choices in ((), ((16, SMALL),)):
        ops.grouped.choices = choices
        residual = torch.randn(5, n)
        delta, stream = ops.linear_residual(x, mine, residual.clone())
        assert delta is not None
        torch.testing.assert_close(stream + delta, residual + expected, rtol=1e-4, atol=1e-5 * k * 100)


def test_rows_that_the_kernels_do_not_take_are_widened_at_load() -> None:
    assert not fits(96, GroupLayout(48, INT4, has_offsets=False))
    assert not fits(33, GroupLayout(64, INT4, has_offsets=False))
    ops = CudaOps(torch.device("cpu"), torch.bfloat16, fp8=True)
    assert ops.new_grouped_linear(32, 64, CASES["groups of 16"][2]) is None


def example(dtype: torch.dtype = torch.float32) -> tuple[CudaOps, CudaGrouped]:
    ops = CudaOps(torch.device("cpu"), dtype)
    weight = ops.new_grouped_linear(48, 64, GroupLayout(32, INT4, has_offsets=False), bias=True)
    assert isinstance(weight, CudaGrouped)
    fill(weight)
    return ops, weight


def test_what_is_faster_is_measured_and_what_is_wrong_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 64 rows the second tiles are the fastest; the third would be, but give other values."""
    ops, weight = example()
    seconds: dict[ProductConfig | None, float] = {None: 1.0, CONFIGS[0]: 0.9, CONFIGS[1]: 0.5, CONFIGS[2]: 0.1}
    ran: list[tuple[int, ProductConfig]] = []

    def product(x: torch.Tensor, packed: object, bias: torch.Tensor, config: ProductConfig) -> torch.Tensor:
        ran.append((len(x), config))
        if config in CONFIGS[3:]:
            raise RuntimeError("out of resource: shared memory")
        out = torch.empty(48, 64)
        expand_groups_torch(weight.packed, out)
        return torch.nn.functional.linear(x, out, bias) * (2.0 if config == CONFIGS[2] else 1.0)

    monkeypatch.setitem(tables.FUSED, TRITON, product)
    monkeypatch.setitem(tables.EXPAND, TRITON, expand_groups_torch)

    def seconds_of(run: Callable[[], object]) -> float:
        before = len(ran)
        run()
        rows, config = (*ran[-1],) if len(ran) > before else (0, None)
        return seconds[config] * (1 if rows in (0, 16, 64) else 3)

    note = ops.grouped.choose(ops.forms, 1024, seconds_of, lambda error: False)
    assert ops.grouped.choices == ((16, CONFIGS[1]), (64, CONFIGS[1]))
    assert "16 rows fused 16x64x128, 2.00 times as fast; 64 rows fused" in note
    assert note.endswith("256 rows expanded")
    assert ops.grouped.config_for(64, ops.forms) == CONFIGS[1]
    assert ops.grouped.config_for(65, ops.forms) is None


@pytest.mark.parametrize("broken", ["expand", "fused"])
def test_the_self_test_passes_over_a_wrong_kernel(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.cuda.test_self_test import SHAPE

    ops, _ = example(torch.bfloat16)
    monkeypatch.setattr(grouped, "DEFAULT", ((16, SMALL),))
    ops.grouped.choices = ((16, SMALL),)
    table = tables.EXPAND if broken == "expand" else tables.FUSED

    def fails(*given: object) -> torch.Tensor:
        raise RuntimeError("ptxas: invalid instruction")

    monkeypatch.setitem(table, TRITON, fails)
    shape = SHAPE.__class__(**{**SHAPE.__dict__, "rms_norm": False, "gated": False})
    found = {o.op: o for o in try_ops(ops, shape, lambda error: False, CrashRecords(tmp_path / "crash_records"))}
    assert found[broken].form == PLAIN
    assert found["fused" if broken == "expand" else "expand"].form == TRITON
    assert getattr(ops.forms, broken) == PLAIN
    assert ops.grouped.config_for(8, ops.forms) == (None if broken == "fused" else SMALL)


@pytest.mark.parametrize(("name", "choices"), [("awq", ((18, SMALL),)), ("nf4 1", ())], ids=["fused", "expanded"])
def test_a_checkpoint_in_4_bits_stays_so_and_scores_as_in_transformers(
    name: str, choices: grouped.Choices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a graph, with the weights fused or expanded."""
    make_qwen3(tmp_path / "m", layers=1, hidden=64, heads=2, kv_heads=1, head_dim=32, intermediate=64)
    twin = quantize_folder(tmp_path / "m", (LAYOUTS | PACKAGES)[name])
    backend = StandIn(buckets=[18])
    worker = load(tmp_path / "m", monkeypatch, backend, dtype="float32")
    assert backend.ops is not None
    assert backend.graphed is not None
    assert {kind[:2] for kind in backend.ops.grouped.examples} == {(128, 64), (64, 64)}
    monkeypatch.setattr(GroupedProducts, "config_for", lambda *given: choices[0][1] if choices else None)
    values = worker.execute(shared_plan(80)).values[:, 0]
    assert backend.graphed.num_replays == 1
    np.testing.assert_allclose(values, expected_logits(twin), rtol=1e-4, atol=1e-5)


def test_int4_is_made_at_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_qwen3(tmp_path / "m", layers=1, hidden=64, heads=2, kv_heads=1, head_dim=32, intermediate=128)
    backend = StandIn()
    load(folder, monkeypatch, backend, dtype="float32", quantization="int4")
    assert backend.ops is not None
    weight = backend.ops.grouped.examples[256, 64, MADE]
    assert weight.num_bytes == 256 * 64 // 2 + 256 * 4 + 16 * 4
    stored = load_file(folder / "model.safetensors")
    rows = torch.cat([stored[f"model.layers.0.mlp.{name}_proj.weight"] for name in ("gate", "up")])
    assert torch.equal(backend.ops.grouped.expanded(weight, PLAIN), quantize_rows(rows, MADE.group).dequantized(MADE))


def test_one_buffer_serves_all_weights() -> None:
    products = GroupedProducts(torch.float32)
    layout = GroupLayout(32, INT4, has_offsets=False)
    weights = [
        CudaGrouped(n, k, layout, bias=False, device=torch.device("cpu"), dtype=torch.float32)
        for n, k in ((8, 64), (40, 32))
    ]
    for weight in weights:
        products.add(weight)
    assert products.scratch_bytes == 4 * 40 * 32
    first, second = (products.expanded(weight, PLAIN) for weight in weights)
    assert first.data_ptr() == second.data_ptr()
    assert Forms().expand == TRITON
