"""Scores through the simulated device equal those of transformers, on the checkpoints of the CPU backend.

Against transformers in fp32, for the probability: 1e-5 in float32, 2e-3 in float16, 2e-2 in bfloat16, 5e-2 in w8a8.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_npu

from engine.backends.nn.decoder import Decoder
from engine.backends.worker import Worker
from engine.kernels.npu.grouped import NpuGrouped
from engine.kernels.npu.linear import NpuInt8Linear, NpuLinear
from tests.backends.plans import PlanBuilder
from tests.backends.test_parity import CHECKPOINTS, IN_A_BATCH, WITH_TRANSFORMERS, Setting, _score_bias
from tests.backends.test_parity import _transformers_model as transformers_model
from tests.npu.on_device import workers
from tests.npu.on_device.recording import recording
from tests.quantized import packers
from tests.quantized.packers import Packed, quantize_folder
from tests.support.checkpoints import make_qwen3

HEADS_OF_128: dict[str, Any] = {"head_dim": 128, "layers": 3, "heads": 4, "kv_heads": 2}
"""What the published models have: the only heads for which FIA is documented."""
QUANTISED: dict[str, Callable[[torch.Tensor], Packed]] = {
    "awq": packers.awq,
    "gptq symmetric": partial(packers.gptq, symmetric=True),
    "gptq act order": partial(packers.gptq, act_order=True),
}
TOLERANCE = {"float32": WITH_TRANSFORMERS, "float16": 2e-3, "bfloat16": 2e-2, "w8a8": 5e-2}


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Setting]:
    @cache
    def make(name: str, dtype: str, quantization: str | None = None) -> Setting:
        folder = tmp_path_factory.mktemp("qwen3")
        make_qwen3(folder, seed=5, **(CHECKPOINTS | {"heads of 128": HEADS_OF_128})[name])
        prefix, documents = workers.random_texts()
        worker = workers.load_worker(folder, dtype=dtype, quantization=quantization)
        bias = _score_bias(name, folder) if name in CHECKPOINTS else 0.0
        return Setting(worker, transformers_model(folder), bias, prefix, documents)

    return make


def all_ways(setting: Setting) -> dict[str, np.ndarray]:
    """The same pairs whole, behind a prefix of the same step, and behind one of an earlier step."""
    worker, prefix, documents = setting.worker, setting.prefix, setting.documents
    worker.execute(workers.kept_prefix(prefix))
    plans = {
        "whole": workers.whole_pairs(prefix, documents),
        "shared": workers.shared_prefix(prefix, documents),
        "kept": workers.after_kept_prefix(prefix, documents),
    }
    return {name: workers.probabilities(worker, plan) for name, plan in plans.items()}


@pytest.mark.parametrize("name", [*CHECKPOINTS, "heads of 128"])
def test_float32(name: str, settings: Callable[..., Setting]) -> None:
    setting = settings(name, "float32")
    alone = np.array(
        [
            workers.probabilities(setting.worker, workers.whole_pairs([], [setting.prefix + d]))[0]
            for d in setting.documents
        ]
    )
    for way, got in all_ways(setting).items():
        np.testing.assert_allclose(got, setting.expected_of_all, atol=WITH_TRANSFORMERS, rtol=0, err_msg=way)
        np.testing.assert_allclose(got, alone, atol=IN_A_BATCH, rtol=0, err_msg=way)


@pytest.mark.parametrize(("dtype", "quantization"), [("float16", None), ("bfloat16", None), ("bfloat16", "w8a8")])
def test_half_precision(dtype: str, quantization: str | None, settings: Callable[..., Setting]) -> None:
    setting = settings("heads of 128", dtype, quantization)
    for way, got in all_ways(setting).items():
        tolerance = TOLERANCE[quantization or dtype]
        np.testing.assert_allclose(got, setting.expected_of_all, atol=tolerance, rtol=0, err_msg=way)


def test_310p(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, simulator: Any) -> None:
    monkeypatch.setattr(simulator, "soc", "Ascend310P3")
    make_qwen3(tmp_path, seed=5, **HEADS_OF_128)
    prefix, documents = workers.random_texts()
    setting = Setting(workers.load_worker(tmp_path), transformers_model(tmp_path), 0.0, prefix, documents)
    assert setting.worker.info.dtype == "float16"  # type: ignore[attr-defined]
    for way, got in all_ways(setting).items():
        np.testing.assert_allclose(got, setting.expected_of_all, atol=TOLERANCE["float16"], rtol=0, err_msg=way)


def test_long_document_in_chunks(settings: Callable[..., Setting]) -> None:
    setting = settings("heads of 128", "float32")
    ids = np.random.default_rng(4).integers(0, 400, 700).tolist()
    got = np.zeros(0)
    for start in range(0, len(ids), 256):
        is_last = start + 256 >= len(ids)
        plan = PlanBuilder(workers.CAPACITY)
        context = [("slot", 0, start)] if start else []
        plan.add(ids[start : start + 256], context, read=is_last, keep_at=-1 if is_last else start)
        got = workers.probabilities(setting.worker, plan.build()) if is_last else _no_reads(setting.worker, plan)
    assert abs(float(got[0]) - setting.expected(ids)) < WITH_TRANSFORMERS


def _no_reads(worker: Worker, plan: PlanBuilder) -> np.ndarray:
    values = worker.execute(plan.build()).values
    assert values.shape == (0, 1)
    return values


COPIES = {"aten::copy_", "aten::_to_copy"}
FUSED = {
    "npu::npu_rms_norm",
    "npu::npu_add_rms_norm",
    "npu::npu_apply_rotary_pos_emb",
    "npu::npu_rotary_mul",
    "npu::npu_fused_infer_attention_score",
    "npu::npu_swiglu",
}
MATRIX = {"aten::mm", "aten::t"}
LOOK_UPS = {"aten::embedding", "aten::index_select", "aten::index_copy_", "aten::cat"}
VIEWS = {
    "aten::view",
    "aten::split_with_sizes",
    "aten::slice",
    "aten::unsqueeze",
    "aten::squeeze",
}
REST = {
    "aten::add",  # the stream of the read rows in fp32
    "aten::clone",  # the values, cut out of the fused projection, where no gather does it
    "aten::new_empty",  # what a step without reads returns
}
DECLARED = COPIES | FUSED | MATRIX | LOOK_UPS | VIEWS | REST
"""Everything that may reach the device in a step. Whoever needs more says so here, and why it is fast."""


def test_nothing_else_reaches_the_device(settings: Callable[..., Setting]) -> None:
    setting = settings("heads of 128", "bfloat16")
    setting.worker.execute(workers.kept_prefix(setting.prefix))
    with recording() as log:
        setting.worker.execute(workers.after_kept_prefix(setting.prefix, setting.documents))
        setting.worker.execute(workers.shared_prefix(setting.prefix, setting.documents))
        setting.worker.execute(workers.kept_prefix(setting.prefix))
    assert set(log) == DECLARED, sorted(set(log) ^ DECLARED)


def test_a_step_is_one_copy_up_one_down_and_few_operators_a_layer(settings: Callable[..., Setting]) -> None:
    setting = settings("heads of 128", "bfloat16")
    plan = workers.shared_prefix(setting.prefix, setting.documents)
    with recording() as log:
        setting.worker.execute(plan)
    views = VIEWS | {"aten::t"}
    kernels = [op for op in log if op not in views]
    assert log.count("aten::copy_") == 2
    layers = HEADS_OF_128["layers"]
    assert log.count("npu::npu_fused_infer_attention_score") == layers
    # norm, qkv, two head norms, rotation, two gathers, attention, output, norm, up, gate, down; the rest once
    # a step, the casts of two block tables included
    assert len(kernels) <= 13 * layers + 28, kernels


@pytest.mark.parametrize("broken", [None, "wrong", "error"])
def test_symmetric_4_bits_stay_so_when_asked_for(
    broken: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the operator; where it is missing or wrong, dequantised at each use."""
    op = "npu_weight_quant_batchmatmul"
    monkeypatch.setattr(torch_npu.simulator, "broken", {} if broken is None else {op: broken})
    make_qwen3(tmp_path / "m", seed=5, **HEADS_OF_128 | {"intermediate": 192})
    twin = quantize_folder(tmp_path / "m", QUANTISED["gptq symmetric"])
    prefix, documents = workers.random_texts()
    plan = workers.shared_prefix(prefix, documents)
    worker = workers.load_worker(tmp_path / "m", dtype="bfloat16", quantization="int4")
    assert worker.runner is not None
    model = worker.runner.model
    assert isinstance(model, Decoder)
    weight: object = model.last_layer.o_proj.weight
    assert isinstance(weight, NpuGrouped)
    assert weight.num_bytes < 0.6 * weight.in_features * weight.out_features
    with recording() as log:
        found = workers.probabilities(worker, plan)
    assert (f"npu::{op}" in log) == (broken is None)
    plain = workers.load_worker(twin, dtype="bfloat16")
    np.testing.assert_allclose(found, workers.probabilities(plain, plan), atol=TOLERANCE["bfloat16"], rtol=0)


@pytest.mark.parametrize(("name", "quantization"), [("awq", None), ("awq", "w8a8"), ("gptq act order", "w8a8")])
def test_weights_of_4_bits_are_expanded_at_load(name: str, quantization: str | None, tmp_path: Path) -> None:
    """To the dtype or, row by row, to int8: the very scores of the same numbers in a plain checkpoint."""
    folder = tmp_path / "m"
    make_qwen3(folder, seed=5, **HEADS_OF_128)
    twin = quantize_folder(folder, QUANTISED[name])
    prefix, documents = workers.random_texts()
    worker = workers.load_worker(folder, dtype="bfloat16", quantization=quantization)
    assert worker.runner is not None
    model = worker.runner.model
    assert isinstance(model, Decoder)
    assert isinstance(model.last_layer.o_proj.weight, NpuInt8Linear if quantization else NpuLinear)
    plain = workers.load_worker(twin, dtype="bfloat16", quantization=quantization)
    plan = workers.shared_prefix(prefix, documents)
    assert np.array_equal(workers.probabilities(worker, plan), workers.probabilities(plain, plan))
