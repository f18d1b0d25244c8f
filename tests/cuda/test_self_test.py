"""Kernels that are missing or wrong on a GPU: their ops go to plain torch, with a line; what has no form is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.backends import self_test as judging
from engine.backends.crash_records import CrashRecords
from engine.backends.cuda import forms, self_test
from engine.backends.cuda.attention import GatherForm, RangeForm
from engine.backends.cuda.backend import CudaBackend
from engine.backends.cuda.forms import PLAIN, TRITON, Forms
from engine.backends.cuda.ops import CudaOps
from engine.backends.cuda.self_test import try_ops
from engine.errors import DeviceError
from engine.kernels.ops import LayerShape
from engine.kernels.triton.attention import AttentionConfig
from tests.cuda.stand_in import StandIn, needs_interpreter
from tests.cuda.test_forms import dense_flash
from tests.cuda.test_model import expected_logits, load, shared_plan
from tests.support.checkpoints import make_qwen3

pytestmark = [needs_interpreter, pytest.mark.filterwarnings("ignore::RuntimeWarning")]
SHAPE = LayerShape(
    hidden=48, intermediate=32, num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25, causal=True, gated=True,
    hidden_act="silu", rms_norm=True, eps=1e-6,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    """With fewer rows, since the interpreter takes its time."""
    monkeypatch.setattr(self_test, "NUM_TOKENS", 19)
    monkeypatch.setattr(judging, "PREFIX", 19)
    monkeypatch.setattr(judging, "DOCUMENTS", (7, 1))
    for module in (judging, self_test):
        monkeypatch.setattr(module, "KEPT", 5)
    monkeypatch.setattr(self_test, "GatherForm", lambda: GatherForm(flash=dense_flash))
    monkeypatch.setattr(self_test, "default_config", lambda dtype, head_dim: AttentionConfig(16, 32, 1, 1))


def run(ops: CudaOps, tmp_path: Path) -> dict[str, Any]:
    return {
        o.op: o
        for o in try_ops(ops, SHAPE, lambda error: "lost" in str(error), CrashRecords(tmp_path / "crash_records"))
    }


@pytest.mark.parametrize("fp8", [False, True])
def test_what_is_right_is_used(fp8: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "FP8_LIMIT", 0.6)  # the interpreter halves what rounds to the next power of two
    ops = CudaOps(torch.device("cpu"), torch.bfloat16, fp8=fp8)
    outcomes = run(ops, tmp_path)
    assert list(outcomes) == ["norm", "rotation", "score", "gate", "attention", *(["fp8 product"] if fp8 else [])]
    assert all(outcome.form is not None and not outcome.problems for outcome in outcomes.values()), outcomes
    assert ops.forms == Forms()
    assert isinstance(ops.large_form, RangeForm)


def wrong(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        found = function(*arguments, **options)
        return (found[0] * 1.5, *found[1:]) if isinstance(found, tuple) else found * 1.5

    return call


@pytest.mark.parametrize("table", ["NORM", "GATE", "ROTATION", "SCORE"])
def test_a_wrong_kernel_gives_its_op_to_plain_torch(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = getattr(forms, table)
    monkeypatch.setitem(found, TRITON, wrong(found[TRITON]))
    ops = CudaOps(torch.device("cpu"), torch.float32)
    outcome = run(ops, tmp_path)[table.lower()]
    assert outcome.form == PLAIN
    assert "away from plain torch" in outcome.problems[0]
    assert getattr(ops.forms, table.lower()) == PLAIN


def test_attention_that_does_not_compile_is_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: RangeForm, *arguments: Any) -> torch.Tensor:
        raise RuntimeError("ptxas: invalid instruction")

    monkeypatch.setattr(RangeForm, "attend", broken)
    ops = CudaOps(torch.device("cpu"), torch.bfloat16)
    outcome = run(ops, tmp_path)["attention"]
    assert outcome.form == "flash-gather"
    assert outcome.problems == ("triton-16x32: RuntimeError: ptxas: invalid instruction",)
    assert isinstance(ops.large_form, GatherForm)


class SelfTested(StandIn):
    def self_test(self, shape: LayerShape) -> tuple[str, ...]:
        return CudaBackend.self_test(self, shape)


def test_a_model_without_a_kernel_scores_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("NORM", "GATE", "ROTATION", "SCORE"):
        monkeypatch.setitem(getattr(forms, table), TRITON, wrong(getattr(forms, table)[TRITON]))
    folder = make_qwen3(tmp_path / "m", layers=1, hidden=32, heads=2, kv_heads=1, head_dim=16, intermediate=48)
    worker = load(folder, monkeypatch, SelfTested(), dtype="float32")
    values = worker.execute(shared_plan(80)).values[:, 0]
    np.testing.assert_allclose(values, expected_logits(folder), rtol=1e-4, atol=1e-5)


def test_an_op_without_a_form_is_named_with_its_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for form in (TRITON, PLAIN):
        monkeypatch.setitem(forms.SCORE, form, wrong(forms.SCORE[PLAIN]))
    backend = SelfTested()
    backend.make_ops(torch.device("cpu"), torch.float32, None)
    with pytest.raises(DeviceError, match=r"the stand-in fails its self-test: score at \(19, 48\) .*--skip-self-test"):
        backend.self_test(SHAPE)
